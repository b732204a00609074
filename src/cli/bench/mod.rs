//! `inro bench`: how fast CRI runtimes are, measured as their clients see it.
//!
//! Works on any CRI socket. Several endpoints take turns, round by round, so that they share whatever else the machine
//! is doing; before each measured step there is a rest, because a busy loop hides what a real start waits for. The image
//! must be the same everywhere, which its id says.
//!
//! ```text
//! arguments ─▶ endpoint (connect, image) ─▶ subjects (rounds, rest) ─▶ study ─▶ table, JSON, report
//!                  └── everything made has a label, and is found and removed by it, however far it came
//! ```

mod arguments;
mod endpoint;
mod interrupt;
mod machine;
mod memory;
mod progress;
mod report;
mod rest;
mod rounds;
mod samples;
mod statistics;
mod study;
mod subjects;
mod table;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};

pub use arguments::Arguments;
use arguments::Subject;
use endpoint::Endpoint;
use interrupt::Interrupt;
use rest::Rest;
use rounds::{Rounds, Turn};
use study::{Sheet, Study};

use super::scratch::Scratch;

/// Measures, removes what was made for it, and shows what came out.
///
/// # Errors
/// When a runtime cannot be reached, has another image than the others, or fails a call.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    arguments.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let study = runtime.block_on(async {
        let logs = Scratch::new("inro-bench")?;
        let mut bench = Bench::new(arguments, Interrupt::listen()?);
        let measured = bench.connect_and_measure(logs.path()).await;
        let cleaned = bench.clean().await;
        measured.and(cleaned).map(|()| bench.study)
    })?;
    show(arguments, study)
}

/// The endpoints, and what is known of them so far.
struct Bench<'a> {
    arguments: &'a Arguments,
    endpoints: Vec<Endpoint>,
    study: Study,
    interrupt: Interrupt,
}

impl<'a> Bench<'a> {
    fn new(arguments: &'a Arguments, interrupt: Interrupt) -> Self {
        Self {
            arguments,
            endpoints: Vec::new(),
            study: Study::new(arguments),
            interrupt,
        }
    }

    async fn connect_and_measure(&mut self, logs: &Path) -> anyhow::Result<()> {
        for named in &self.arguments.endpoints {
            let endpoint = Endpoint::connect(&named.name, self.arguments, logs.to_owned(), self.interrupt.clone());
            self.endpoints.push(endpoint.await?);
        }
        for endpoint in &mut self.endpoints {
            self.study.endpoints.push(endpoint.runtime.clone());
            endpoint.fetch_image().await?;
            if self.arguments.subject.each().contains(&Subject::Pull) {
                endpoint.check_removable().await?;
            }
        }
        self.study.image.id = self.one_image()?;
        subjects::measure(self.arguments.subject, self).await
    }

    /// The id of the image, which is the same everywhere.
    fn one_image(&self) -> anyhow::Result<String> {
        let first = &self.endpoints[0].image_id;
        if self.endpoints.iter().any(|endpoint| endpoint.image_id != *first) {
            let ids = self
                .endpoints
                .iter()
                .map(|endpoint| format!("{} has {}", endpoint.name, endpoint.image_id));
            let ids: Vec<String> = ids.collect();
            bail!(
                "{} is not the same image everywhere: {}",
                self.arguments.image,
                ids.join(", ")
            );
        }
        Ok(first.clone())
    }

    async fn clean(&self) -> anyhow::Result<()> {
        let mut left = false;
        // Backwards, as one undoes: two endpoints may be one runtime, and the first of them brought the image.
        for endpoint in self.endpoints.iter().rev() {
            for error in endpoint.clean().await {
                eprintln!("inro: {error:#}");
                left = true;
            }
        }
        if let Err(error) = endpoint::remove_own_parent().await {
            eprintln!("inro: the pods' cgroup: {error}");
            left = true;
        }
        match left {
            true => bail!("not everything that was made could be removed"),
            false => Ok(()),
        }
    }

    fn rounds(&self) -> Rounds {
        Rounds {
            warm_up: self.arguments.warm_up,
            measured: self.arguments.rounds.get(),
        }
    }

    fn turns(&self, rounds: Rounds) -> Vec<Turn> {
        rounds.turns(self.endpoints.len())
    }

    /// Rests before a measured step; how busy the machine was.
    async fn rest(&self) -> anyhow::Result<Option<f64>> {
        let rest = Rest {
            pause: Duration::from_millis(self.arguments.pause_ms),
            wait_idle: Duration::from_millis(self.arguments.wait_idle_ms),
        };
        let busy = rest.take().await;
        self.interrupt.check()?;
        Ok(busy)
    }

    fn keep(&mut self, turn: Turn, sheet: Sheet) {
        self.study.keep(turn, &self.endpoints[turn.endpoint].name, sheet);
    }
}

fn show(arguments: &Arguments, mut study: Study) -> anyhow::Result<()> {
    study.sum_up();
    let write = |file: &Path, text: String| fs::write(file, text).with_context(|| format!("write {}", file.display()));
    if let Some(file) = &arguments.report {
        write(file, report::page(&study)?)?;
    }
    let json = || Ok::<_, anyhow::Error>(serde_json::to_string(&study)? + "\n");
    match &arguments.json {
        Some(file) if file == Path::new("-") => print!("{}", json()?),
        Some(file) => {
            write(file, json()?)?;
            print!("{}", table::text(&study));
        }
        None => print!("{}", table::text(&study)),
    }
    Ok(())
}
