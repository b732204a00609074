//! `inro bench`: how fast CRI runtimes are, measured as their clients see it.
//!
//! Works on any CRI socket. Several endpoints take turns, round by round, so that they share whatever else the machine
//! is doing; before each measured call there is a pause, because a busy loop hides what a real start waits for. The
//! image must be the same everywhere, which its id says.

mod endpoint;
mod samples;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};

use endpoint::{Container, Endpoint};
use samples::Samples;

/// What to measure, where, and how often.
#[derive(Args)]
pub struct Arguments {
    /// A runtime, as NAME=SOCKET; repeat it for more than one
    #[arg(long = "endpoint", value_name = "NAME=SOCKET", required = true)]
    endpoints: Vec<String>,
    /// The image of the containers; it needs a `sleep` and a `true`
    #[arg(long, default_value = "docker.io/library/busybox:latest")]
    image: String,
    /// Measured rounds
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Calls at once where a rate is measured
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Milliseconds of rest before each measured call
    #[arg(long, default_value_t = 60)]
    pause_ms: u64,
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
    /// What to measure
    #[arg(value_enum)]
    subject: Subject,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// ExecSync of `true` in a running container: its latency, and how many a second at once
    Exec,
}

/// Rounds that warm caches and are not counted.
const WARM_UP: usize = 3;
/// How many calls make one measurement of a rate.
const BURST: usize = 64;

/// Measures and prints.
///
/// # Errors
/// When a runtime cannot be reached, has another image than the others, or fails a call.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut endpoints = connect(arguments).await?;
        let measured = match arguments.subject {
            Subject::Exec => exec(arguments, &mut endpoints).await,
        };
        for endpoint in &mut endpoints {
            endpoint.clean().await?;
        }
        print(arguments, &measured?)
    })
}

/// Measurement by name, then endpoint, in the order given.
type Measured = BTreeMap<&'static str, Vec<(String, Samples)>>;

async fn connect(arguments: &Arguments) -> anyhow::Result<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    for argument in &arguments.endpoints {
        let (name, socket) = argument
            .split_once('=')
            .with_context(|| format!("--endpoint {argument}: not NAME=SOCKET"))?;
        let endpoint = Endpoint::connect(name, socket, &arguments.image).await;
        endpoints.push(endpoint.with_context(|| format!("endpoint {name}"))?);
    }
    let ids: Vec<_> = endpoints.iter().map(|endpoint| &endpoint.image_id).collect();
    if ids.iter().any(|id| *id != ids[0]) {
        bail!("{} is not the same image everywhere: {ids:?}", arguments.image);
    }
    Ok(endpoints)
}

async fn exec(arguments: &Arguments, endpoints: &mut [Endpoint]) -> anyhow::Result<Measured> {
    let mut containers = Vec::new();
    for endpoint in endpoints.iter_mut() {
        containers.push(endpoint.sleeper().await?);
    }
    let mut measured = Measured::new();
    for round in 0..WARM_UP + arguments.rounds {
        for (endpoint, container) in endpoints.iter().zip(&containers) {
            tokio::time::sleep(Duration::from_millis(arguments.pause_ms)).await;
            let took = exec_once(endpoint.clone(), container).await?;
            if round >= WARM_UP {
                note(&mut measured, "ExecSync, ms", endpoint, took.as_secs_f64() * 1e3);
            }
        }
    }
    // As many bursts as are worth a tenth of the rounds.
    for _ in 0..(arguments.rounds / 10).max(1) {
        for (endpoint, container) in endpoints.iter().zip(&containers) {
            tokio::time::sleep(Duration::from_millis(arguments.pause_ms)).await;
            let rate = exec_burst(endpoint, container, arguments.concurrency).await?;
            note(&mut measured, "ExecSync at once, 1/s", endpoint, rate);
        }
    }
    Ok(measured)
}

async fn exec_once(mut endpoint: Endpoint, container: &Container) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let code = endpoint.exec(container, &["true"]).await?;
    ensure!(code == 0, "true answered {code}");
    Ok(began.elapsed())
}

/// Calls a second with `concurrency` of them under way.
async fn exec_burst(endpoint: &Endpoint, container: &Container, concurrency: usize) -> anyhow::Result<f64> {
    use futures_util::{StreamExt, TryStreamExt, stream};
    let began = Instant::now();
    let calls = stream::iter((0..BURST).map(|_| exec_once(endpoint.clone(), container)));
    calls
        .buffer_unordered(concurrency)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    Ok(BURST as f64 / began.elapsed().as_secs_f64())
}

fn note(measured: &mut Measured, what: &'static str, endpoint: &Endpoint, value: f64) {
    let rows = measured.entry(what).or_default();
    match rows.iter_mut().find(|(name, _)| *name == endpoint.name) {
        Some((_, samples)) => samples.push(value),
        None => rows.push((endpoint.name.clone(), Samples::from([value]))),
    }
}

fn print(arguments: &Arguments, measured: &Measured) -> anyhow::Result<()> {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(measured)?);
        return Ok(());
    }
    for (what, rows) in measured {
        let first = rows.first().map(|(_, samples)| samples.percentile(50.0));
        println!(
            "{what:32} {:>9} {:>9} {:>9} {:>9} {:>6} {:>8}",
            "p50", "p90", "p99", "max", "n", "to first"
        );
        for (name, samples) in rows {
            let [p50, p90, p99, max] = [50.0, 90.0, 99.0, 100.0].map(|rank| samples.percentile(rank));
            let ratio = first.map_or(1.0, |first| p50 / first);
            let count = samples.len();
            println!("  {name:30} {p50:9.2} {p90:9.2} {p99:9.2} {max:9.2} {count:6} {ratio:7.2}x");
        }
    }
    Ok(())
}
