//! An image removed and pulled again.

use std::time::Instant;

use super::super::{Bench, progress, study::Sheet};

pub async fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let turns = bench.turns(bench.rounds().few());
    let bar = progress::bar("pull", turns.len());
    for turn in turns {
        let mut sheet = Sheet::new("pull", "");
        let endpoint = &bench.endpoints[turn.endpoint];
        sheet.rested(bench.rest().await?);
        let began = Instant::now();
        endpoint.remove_image().await?;
        sheet.time("RemoveImage", began.elapsed());
        sheet.rested(bench.rest().await?);
        let began = Instant::now();
        endpoint.pull_image().await?;
        sheet.time("PullImage", began.elapsed());
        bench.keep(turn, sheet);
        bar.inc(1);
    }
    Ok(())
}
