//! `inro image`: what an operator does with the images of a node, as a client of the daemon's socket.
//!
//! `ls`, `pull`, `rm`, `inspect` and `df` work with any runtime's socket; `import`, `verify`, `pulls` and the progress of
//! `pull` are calls of inro's own, since the store is the daemon's while one runs. `resolve` reads files and needs no daemon.

mod json;
mod pull;
mod resolve;
mod table;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use inro_proto::{self as wire, images as own};
use tonic::{Code, Status};

use super::client::Client;
use crate::config::{self, Config};
use table::{Table, bytes, short};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// A runtime's socket, as unix:///PATH or /PATH [default: that of the configuration]
    #[arg(long, global = true, value_name = "SOCKET")]
    endpoint: Option<String>,
    /// Configuration file [default: /etc/inro/config.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the images that are here
    Ls {
        /// All that is known of them, as the CRI has it
        #[arg(long)]
        json: bool,
    },
    /// Pulls an image from its registry, and shows how far that is
    Pull {
        /// A name with a tag or a digest, or both
        #[arg(value_name = "REF")]
        image: String,
        #[command(flatten)]
        credentials: Credentials,
    },
    /// Lists the pulls that are under way, whoever waits for them
    Pulls,
    /// Removes images with all their names
    Rm {
        /// Names or ids
        #[arg(value_name = "REF", required = true)]
        images: Vec<String>,
    },
    /// Imports archives of docker save, OCI archives and OCI layouts
    Import {
        /// A tar file, which may be compressed, or a layout's folder
        #[arg(value_name = "FILE|FOLDER", required = true)]
        archives: Vec<PathBuf>,
        /// The image's name, instead of that in the archive
        #[arg(long, value_name = "REF")]
        name: Option<String>,
    },
    /// Prints what is known of an image, as JSON
    Inspect {
        /// A name or an id
        #[arg(value_name = "REF")]
        image: String,
    },
    /// Tells where an image would be pulled from, as whom and why; needs no daemon
    Resolve(resolve::Arguments),
    /// Tells what images and containers' own files take
    Df,
    /// Looks whether images are as they were pulled; fails when one is damaged
    Verify {
        /// Names or ids [default: all]
        #[arg(value_name = "REF")]
        images: Vec<String>,
        /// Has what is damaged from its registry again, and nothing else
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        credentials: Credentials,
    },
}

#[derive(Args)]
struct Credentials {
    /// For the registry; others on this machine may see it in the list of processes
    #[arg(long, value_name = "USER:PASSWORD", conflicts_with = "creds_file")]
    creds: Option<String>,
    /// A file whose first line is USER:PASSWORD
    #[arg(long, value_name = "FILE")]
    creds_file: Option<PathBuf>,
}

impl Credentials {
    fn read(&self) -> anyhow::Result<Option<wire::AuthConfig>> {
        let (option, text) = match (&self.creds, &self.creds_file) {
            (Some(text), _) => ("--creds", text.clone()),
            (None, Some(path)) => {
                let text = fs::read_to_string(path).with_context(|| format!("--creds-file {}", path.display()))?;
                ("--creds-file", text.lines().next().unwrap_or_default().to_owned())
            }
            (None, None) => return Ok(None),
        };
        let (username, password) = text
            .split_once(':')
            .with_context(|| format!("{option}: not USER:PASSWORD"))?;
        Ok(Some(wire::AuthConfig {
            username: username.into(),
            password: password.into(),
            ..Default::default()
        }))
    }
}

/// Does what the arguments say.
///
/// # Errors
/// The daemon's, or that there is none.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = arguments.socket()?;
        let connect = || Client::connect(&socket);
        match arguments.command {
            Command::Ls { json } => list(&mut connect().await?, json).await,
            Command::Pull { image, credentials } => pull::run(&mut connect().await?, &image, credentials.read()?).await,
            Command::Pulls => pull::list(&mut connect().await?).await,
            Command::Rm { images } => remove(&mut connect().await?, &images).await,
            Command::Import { archives, name } => import(&mut connect().await?, &archives, name.as_deref()).await,
            Command::Inspect { image } => inspect(&mut connect().await?, &image).await,
            Command::Resolve(of) => resolve::run(&of, arguments.config.as_deref()).await,
            Command::Df => usage(&mut connect().await?).await,
            Command::Verify {
                images,
                repair,
                credentials,
            } => {
                let request = own::VerifyRequest {
                    images,
                    repair,
                    auth: credentials.read()?,
                };
                verify(&mut connect().await?, request).await
            }
        }
    })
}

impl Arguments {
    fn socket(&self) -> anyhow::Result<PathBuf> {
        match &self.endpoint {
            Some(endpoint) => Ok(endpoint.strip_prefix("unix://").unwrap_or(endpoint).into()),
            None => {
                let path = self.config.clone().unwrap_or_else(|| config::DEFAULT_PATH.into());
                Ok(Config::load(&path, self.config.is_some())?.socket()?)
            }
        }
    }
}

async fn list(client: &mut Client, json: bool) -> anyhow::Result<()> {
    let request = wire::ListImagesRequest::default();
    let mut images = client
        .images
        .list_images(request)
        .await
        .map_err(told)?
        .into_inner()
        .images;
    images.sort_by(|a, b| (a.repo_tags.first(), &a.id).cmp(&(b.repo_tags.first(), &b.id)));
    if json {
        let images: Vec<_> = images.iter().map(json::image).collect();
        return print(&json::text(&serde_json::json!({ "images": images })));
    }
    let mut table = Table::new(&["IMAGE", "ID", "SIZE", "PINNED"]);
    for image in &images {
        let names = match (&image.repo_tags[..], &image.repo_digests[..]) {
            ([], []) => &["<none>".to_owned()][..],
            ([], digests) => digests,
            (tags, _) => tags,
        };
        for name in names {
            let pinned = if image.pinned { "yes" } else { "" };
            table.row([name.clone(), short(&image.id), bytes(image.size), pinned.into()]);
        }
    }
    print(&table.to_string())
}

async fn remove(client: &mut Client, images: &[String]) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    for image in images {
        // The CRI's own call is content when there is nothing to remove; who names an image wants to know.
        let removed = match find(client, image).await {
            Ok(_) => {
                let request = wire::RemoveImageRequest { image: spec(image) };
                client.images.remove_image(request).await.map(drop).map_err(told)
            }
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => print(&format!("{image} is removed\n"))?,
            Err(error) => failures.add(&error),
        }
    }
    failures.end()
}

async fn import(client: &mut Client, archives: &[PathBuf], name: Option<&str>) -> anyhow::Result<()> {
    if name.is_some() && archives.len() > 1 {
        bail!("--name: one name is for one archive");
    }
    let mut failures = Failures::default();
    for archive in archives {
        match import_one(client, archive, name.unwrap_or_default()).await {
            Ok(images) => {
                for image in images {
                    print(&format!("{} {}\n", short(&image.id), image.names.join(" ")))?;
                }
            }
            Err(error) => failures.add(&error),
        }
    }
    failures.end()
}

async fn import_one(client: &mut Client, archive: &Path, name: &str) -> anyhow::Result<Vec<own::ImportedImage>> {
    // As we see it: the daemon has another folder to start from.
    let path = fs::canonicalize(archive).with_context(|| format!("import {}", archive.display()))?;
    let path = path.to_str().context("the path is not UTF-8")?.to_owned();
    let request = own::ImportRequest {
        path,
        name: name.into(),
    };
    let imported = client.own_images.import(request).await.map_err(own_told)?;
    Ok(imported.into_inner().images)
}

async fn inspect(client: &mut Client, image: &str) -> anyhow::Result<()> {
    let found = find(client, image).await?;
    print(&json::text(&json::image(&found)))
}

async fn usage(client: &mut Client) -> anyhow::Result<()> {
    let request = wire::ImageFsInfoRequest::default();
    let info = client.images.image_fs_info(request).await.map_err(told)?.into_inner();
    let mut table = Table::new(&["OF", "USED", "FILES", "IN"]);
    let images = info.image_filesystems.iter().map(|usage| ("images", usage));
    let containers = info.container_filesystems.iter().map(|usage| ("containers", usage));
    for (of, usage) in images.chain(containers) {
        let number = |value: &Option<wire::UInt64Value>| value.as_ref().map_or(0, |value| value.value);
        let place = usage.fs_id.as_ref().map_or("", |id| &id.mountpoint);
        table.row([
            of.into(),
            bytes(number(&usage.used_bytes)),
            number(&usage.inodes_used).to_string(),
            place.into(),
        ]);
    }
    print(&table.to_string())
}

async fn verify(client: &mut Client, request: own::VerifyRequest) -> anyhow::Result<()> {
    let verified = client.own_images.verify(request).await.map_err(own_told)?.into_inner();
    let mut table = Table::new(&["DAMAGED", "DIGEST", "OF", "WHAT IS WRONG"]);
    for damage in &verified.damaged {
        let kind = damage.kind().as_str_name().to_lowercase();
        let mut why = damage.why.clone();
        if damage.repaired {
            why += "; repaired";
        } else if !damage.repair_error.is_empty() {
            why += &format!("; not repaired: {}", damage.repair_error);
        }
        table.row([kind, short(&damage.digest), damage.image.clone(), why]);
    }
    if !verified.damaged.is_empty() {
        print(&format!("{table}\n"))?;
    }
    let mut text = format!(
        "looked at {} images: {} documents, {} layers\n",
        verified.images, verified.documents, verified.layers
    );
    if verified.layers_by_presence > 0 {
        text += &format!(
            "of {} layers only that they are there: they were unpacked by an earlier inro, which kept nothing to compare \
             their files with\n",
            verified.layers_by_presence
        );
    }
    print(&text)?;
    match verified.damaged.iter().filter(|damage| !damage.repaired).count() {
        0 => Ok(()),
        count => bail!("{count} damaged"),
    }
}

async fn find(client: &mut Client, image: &str) -> anyhow::Result<wire::Image> {
    let request = wire::ImageStatusRequest {
        image: spec(image),
        verbose: false,
    };
    let status = client.images.image_status(request).await.map_err(told)?.into_inner();
    status.image.with_context(|| format!("image {image} is not here"))
}

fn spec(image: &str) -> Option<wire::ImageSpec> {
    Some(wire::ImageSpec {
        image: image.into(),
        ..Default::default()
    })
}

/// What a runtime says, without what only programs read of it.
fn told(status: Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

fn own_told(status: Status) -> anyhow::Error {
    match status.code() {
        Code::Unimplemented => anyhow!("the runtime at this socket is not inro, or an earlier one"),
        _ => told(status),
    }
}

/// Of several, one that fails does not keep the others from being done.
#[derive(Default)]
struct Failures(usize);

impl Failures {
    fn add(&mut self, error: &anyhow::Error) {
        self.0 += 1;
        eprintln!("inro: {error:#}");
    }

    fn end(self) -> anyhow::Result<()> {
        match self.0 {
            0 => Ok(()),
            count => bail!("{count} failed"),
        }
    }
}

/// A reader that has seen enough is no failure of ours to panic at.
fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("write")
}
