//! `inro image resolve`: reads the same files as a pull does, and tells what follows from them.

use std::{fmt::Write, path::Path, sync::Arc};

use anyhow::{Context, anyhow, bail};
use clap::Args;

use crate::{
    config::{self, Config},
    image::{
        ImageError,
        registry::{Candidate, Puller, Registry, Session, Taking},
    },
    model::chain,
};

#[derive(Args)]
pub struct Arguments {
    /// The image, as a pod names it
    #[arg(value_name = "REF")]
    reference: String,
    /// Prints each place that would be asked, the rule that names it and the credentials for it (not the secret itself)
    #[arg(long)]
    explain: bool,
    /// Asks each of them for the digest of the image's manifest
    #[arg(long = "try", requires = "explain")]
    asks: bool,
    /// As for a pod of this namespace: its credentials in `image.namespaced_auth_dir` count
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// # Errors
/// When a file has a fault, or nothing that may be asked has the image.
pub async fn run(arguments: &Arguments, config: Option<&Path>) -> anyhow::Result<()> {
    let path = config.unwrap_or(Path::new(config::DEFAULT_PATH));
    let config = Config::load(path, config.is_some())?;
    let puller = Puller {
        auth: None,
        namespace: arguments.namespace.as_deref(),
    };
    let name = &arguments.reference;
    let told = |error: ImageError| anyhow!(chain(&error));
    let registry = Registry::open(&config.image.files(), name, &puller, Taking::Never).map_err(told)?;
    let candidates = registry.candidates(name).map_err(told)?;
    match arguments.explain {
        true => explain(&registry, &candidates, arguments.asks).await,
        false => resolve(&registry, &candidates).await,
    }
}

/// Prints the whole name with the digest that a pull would get.
async fn resolve(registry: &Registry, candidates: &[Candidate]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for candidate in candidates {
        let reference = &candidate.reference;
        let found = match registry.resolve(reference, None, &Arc::default(), 0) {
            Ok(session) => session.manifest(reference.wanted()).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(fetched) => {
                println!("{}@{}", reference.name(), fetched.digest);
                return Ok(());
            }
            Err(error) => failed.push(chain(&error)),
        }
    }
    bail!(failed.join("\n"))
}

async fn explain(registry: &Registry, candidates: &[Candidate], asks: bool) -> anyhow::Result<()> {
    let mut is_anywhere = false;
    for candidate in candidates {
        println!("{}", candidate.reference);
        if let Some(because) = &candidate.because {
            println!("  because     {because}");
        }
        match registry.resolve(&candidate.reference, None, &Arc::default(), 0) {
            Err(error) => println!("  refused     {}", chain(&error)),
            Ok(session) => is_anywhere |= places(&session, asks).await?,
        }
    }
    match is_anywhere {
        true => Ok(()),
        false => bail!("it can be had nowhere"),
    }
}

/// Prints a session's places; whether the image is in one of them, or may be when none is asked.
async fn places(session: &Session, asks: bool) -> anyhow::Result<bool> {
    let mut is_anywhere = false;
    for (at, place) in session.told().into_iter().enumerate() {
        let mut text = format!("  {}. {}\n", at + 1, place.url);
        for rule in &place.rules {
            writeln!(text, "     rule        {rule}").context("in memory")?;
        }
        let credentials = place.credentials.as_deref().unwrap_or("none");
        writeln!(text, "     transport   {}", place.transport).context("in memory")?;
        write!(text, "     credentials {credentials}").context("in memory")?;
        println!("{text}");
        match place.is_asked {
            false => println!("     not asked   for a tag: it has not the capability \"resolve\""),
            true if asks => match session.digest_at(at).await {
                Ok(digest) => {
                    is_anywhere = true;
                    println!("     answers     {digest}");
                }
                Err(error) => println!("     fails       {}", chain(&error)),
            },
            true => is_anywhere = true,
        }
    }
    for blocked in session.blocked() {
        println!("  not asked   {}", chain(blocked));
    }
    Ok(is_anywhere)
}
