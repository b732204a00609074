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

/// Removes them, `concurrency` at once.
pub async fn down(endpoint: &Endpoint, ups: &[Up], concurrency: usize) -> anyhow::Result<Duration> {
    let (_, time) = at_once(ups.iter().map(|up| endpoint.down(up)), concurrency).await?;
    Ok(time)
}
