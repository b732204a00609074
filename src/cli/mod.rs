//! Command line.

mod bench;
pub mod client;
mod demo;
mod image;
mod scratch;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{self, Config},
    daemon,
};

/// A Kubernetes CRI runtime in one program.
#[derive(Parser)]
#[command(name = "inro", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the CRI until SIGTERM; pods outlive it.
    Serve(Folders),
    /// Prints the configuration that `serve` would use.
    Config(Folders),
    /// Runs a pod in a daemon of its own, kills and restarts that daemon under it, and cleans up.
    Demo {
        /// An image of a registry instead of the one that is built in.
        image: Option<String>,
    },
    /// Lists, pulls, imports, verifies and removes images: a client of a running daemon.
    Image(image::Arguments),
    /// Measures one or several CRI runtimes in alternating rounds.
    Bench(bench::Arguments),
}

/// Where things are; each wins over the configuration file.
#[derive(Args)]
struct Folders {
    /// Configuration file [default: /etc/inro/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Images and leases; on a disk
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Records and sockets of what runs; on a tmpfs
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The CRI socket, as unix:///PATH
    #[arg(long, value_name = "URL")]
    listen: Option<String>,
}

impl Folders {
    fn load(&self) -> anyhow::Result<Config> {
        let path = self.config.clone().unwrap_or_else(|| config::DEFAULT_PATH.into());
        let mut config = Config::load(&path, self.config.is_some())?;
        // A state folder of one's own has a socket of its own.
        if let (Some(state), None) = (&self.state, &self.listen) {
            config.listen = format!("unix://{}", state.join("inro.sock").display());
        }
        config.root = self.root.clone().unwrap_or(config.root);
        config.state = self.state.clone().unwrap_or(config.state);
        config.listen = self.listen.clone().unwrap_or(config.listen);
        Ok(config)
    }
}

/// Does what the arguments say.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(folders) => folders.load().and_then(|config| {
            log_to_stderr();
            daemon::serve(config, move || folders.load())
        }),
        Command::Config(folders) => folders.load().and_then(|config| {
            print!("{}", toml::to_string(&config)?);
            Ok(())
        }),
        Command::Demo { image } => demo::run(image.as_deref()),
        Command::Image(arguments) => image::run(arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inro: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `RUST_LOG` chooses what is logged; `info` without it.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}

#[cfg(test)]
mod test {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_help_text() {
        let mut command = Cli::command();
        let mut text = command.render_help().to_string();
        for name in ["serve", "demo", "image"] {
            let sub = command.find_subcommand_mut(name).unwrap();
            text += &format!("\n--- {name}\n{}", sub.render_help());
        }
        let image = command.find_subcommand_mut("image").unwrap();
        for sub in image.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            text += &format!("\n--- image {}\n{}", sub.get_name().to_owned(), sub.render_help());
        }
        // What is measured is told at length only.
        let bench = command.find_subcommand_mut("bench").unwrap();
        text += &format!("\n--- bench\n{}", bench.render_long_help());
        insta::assert_snapshot!(text);
    }
}
