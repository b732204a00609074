//! ExecSync in a running container: the latency of one, and how many a second with several under way.

use std::time::Instant;

use super::{
    super::{
        Bench,
        endpoint::{Endpoint, Up},
        progress,
        study::{Sheet, Unit},
    },
    at_once,
};

pub async fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let network = bench.arguments.network.one();
    let mut ups = Vec::new();
    for endpoint in &bench.endpoints {
        ups.push(endpoint.up(network).await?);
    }
    latency(bench, &ups).await?;
    rate(bench, &ups).await?;
    for (endpoint, up) in bench.endpoints.iter().zip(&ups) {
        endpoint.down(up).await?;
    }
    Ok(())
}

async fn latency(bench: &mut Bench<'_>, ups: &[Up]) -> anyhow::Result<()> {
    let turns = bench.turns(bench.rounds());
    let bar = progress::bar("exec", turns.len());
    for turn in turns {
        let mut sheet = Sheet::new("exec", "");
        sheet.rested(bench.rest().await?);
        let began = Instant::now();
        bench.endpoints[turn.endpoint]
            .exec(&ups[turn.endpoint].container)
            .await?;
        sheet.time("ExecSync", began.elapsed());
        bench.keep(turn, sheet);
        bar.inc(1);
    }
    Ok(())
}

async fn rate(bench: &mut Bench<'_>, ups: &[Up]) -> anyhow::Result<()> {
    let concurrency = bench.arguments.concurrency.get();
    let turns = bench.turns(bench.rounds().few());
    let bar = progress::bar("exec at once", turns.len());
    for turn in turns {
        let mut sheet = Sheet::new("exec", "");
        sheet.rested(bench.rest().await?);
        let rate = burst(
            &bench.endpoints[turn.endpoint],
            &ups[turn.endpoint].container,
            concurrency,
        )
        .await?;
        sheet.value(&format!("ExecSync, {concurrency} at once"), Unit::PerSecond, rate);
        bench.keep(turn, sheet);
        bar.inc(1);
    }
    Ok(())
}

/// Calls a second with `concurrency` of them under way.
async fn burst(endpoint: &Endpoint, container: &str, concurrency: usize) -> anyhow::Result<f64> {
    let (_, time) = at_once((0..CALLS).map(|_| endpoint.exec(container)), concurrency).await?;
    Ok(CALLS as f64 / time.as_secs_f64())
}

/// How many make one measurement of a rate.
const CALLS: usize = 64;
