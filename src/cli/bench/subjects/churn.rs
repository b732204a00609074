//! Pods that come and go without a rest: whether a runtime gets slower with what it has done.

use std::time::Instant;

use super::{
    super::{
        Bench,
        endpoint::Endpoint,
        progress,
        rounds::Rounds,
        study::{Sheet, Unit},
    },
    at_once,
};

/// Parts of the whole that are told apart.
const PARTS: usize = 10;

pub async fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let rounds = bench.rounds();
    let parts = Rounds {
        warm_up: rounds.warm_up.min(1),
        measured: PARTS,
    };
    let cycles = rounds.measured.div_ceil(PARTS);
    let turns = bench.turns(parts);
    let bar = progress::bar("churn", turns.len());
    let mut done = vec![0; bench.endpoints.len()];
    for turn in turns {
        let part = &mut done[turn.endpoint];
        *part += usize::from(turn.counted);
        let sheet = churn(bench, &bench.endpoints[turn.endpoint], *part, cycles).await?;
        bench.keep(turn, sheet);
        bar.inc(1);
    }
    Ok(())
}

/// So many pods, each removed as soon as it is up, `concurrency` of them at any time.
async fn churn(bench: &Bench<'_>, endpoint: &Endpoint, part: usize, cycles: usize) -> anyhow::Result<Sheet> {
    let (network, concurrency) = (bench.arguments.network.one(), bench.arguments.concurrency.get());
    let mut sheet = Sheet::new(
        "churn",
        format!("{network}, {cycles} pods a part, {concurrency} at once"),
    );
    let cycle = || async {
        let up = endpoint.up(network).await?;
        let began = Instant::now();
        endpoint.down(&up).await?;
        anyhow::Ok((up.times.pod_up, began.elapsed()))
    };
    let (all, time) = at_once((0..cycles).map(|_| cycle()), concurrency).await?;
    for (up, down) in all {
        sheet.time(&format!("pod-up, part {part}"), up);
        sheet.time(&format!("pod-down, part {part}"), down);
    }
    sheet.value("cycles", Unit::PerSecond, cycles as f64 / time.as_secs_f64());
    Ok(sheet)
}
