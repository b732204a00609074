//! Many pods at once: a node that is filled, and emptied.

use std::time::Duration;

use super::{
    super::{
        Bench,
        arguments::Network,
        endpoint::{Endpoint, Up},
        progress,
        study::Sheet,
    },
    at_once,
};

pub async fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    for network in bench.arguments.network.each() {
        let turns = bench.turns(bench.rounds().few());
        let bar = progress::bar(&format!("burst, {network}"), turns.len());
        for turn in turns {
            let sheet = burst(bench, &bench.endpoints[turn.endpoint], *network).await?;
            bench.keep(turn, sheet);
            bar.inc(1);
        }
    }
    Ok(())
}

async fn burst(bench: &Bench<'_>, endpoint: &Endpoint, network: Network) -> anyhow::Result<Sheet> {
    let (pods, concurrency) = (bench.arguments.pods.get(), bench.arguments.concurrency.get());
    let mut sheet = Sheet::new("burst", format!("{network}, {concurrency} at once"));
    sheet.rested(bench.rest().await?);
    let (ups, time) = up(endpoint, network, pods, concurrency).await?;
    sheet.time(&format!("{pods} pods up"), time);
    for up in &ups {
        sheet.time("each pod up", up.times.pod_up);
    }
    sheet.rested(bench.rest().await?);
    sheet.time(&format!("{pods} pods down"), down(endpoint, &ups, concurrency).await?);
    Ok(sheet)
}

/// So many pods, `concurrency` of them at once.
///
/// # Errors
/// The first one's, after all have come to their end.
pub async fn up(
    endpoint: &Endpoint,
    network: Network,
    pods: usize,
    concurrency: usize,
) -> anyhow::Result<(Vec<Up>, Duration)> {
    at_once((0..pods).map(|_| endpoint.up(network)), concurrency).await
}

/// So many pods as `count` says of it at each endpoint, on the one network that a subject has.
///
/// # Errors
/// As with [`up`].
pub async fn up_everywhere(bench: &Bench<'_>, count: impl Fn(&Endpoint) -> usize) -> anyhow::Result<Vec<Vec<Up>>> {
    let (network, concurrency) = (bench.arguments.network.one(), bench.arguments.concurrency.get());
    let mut running = Vec::new();
    for endpoint in &bench.endpoints {
        running.push(up(endpoint, network, count(endpoint), concurrency).await?.0);
    }
    Ok(running)
}

/// Removes what [`up_everywhere`] has made.
pub async fn down_everywhere(bench: &Bench<'_>, running: &[Vec<Up>]) -> anyhow::Result<()> {
    for (endpoint, ups) in bench.endpoints.iter().zip(running) {
        down(endpoint, ups, bench.arguments.concurrency.get()).await?;
    }
    Ok(())
}

/// Removes them, `concurrency` at once.
pub async fn down(endpoint: &Endpoint, ups: &[Up], concurrency: usize) -> anyhow::Result<Duration> {
    let (_, time) = at_once(ups.iter().map(|up| endpoint.down(up)), concurrency).await?;
    Ok(time)
}
