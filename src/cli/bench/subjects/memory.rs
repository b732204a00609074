//! The memory of a runtime alone and with pods, and of what it grows by for each.

use std::time::Duration;

use super::{
    super::{
        Bench,
        endpoint::{Endpoint, WORKLOAD_SECONDS},
        memory::{ByName, Kin, Processes, daemon, of_daemon, with_pods},
        progress,
        study::{Sheet, Unit},
    },
    burst,
};

pub async fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    for endpoint in &bench.endpoints {
        if let others @ 1.. = endpoint.list_pods().await? {
            let note = format!(
                "{} had {others} pods of others; its memory alone may contain theirs",
                endpoint.name
            );
            bench.study.note(note);
        }
    }
    let turns = bench.turns(bench.rounds().few());
    let bar = progress::bar("memory", turns.len());
    for turn in turns {
        let sheet = fill(bench, &bench.endpoints[turn.endpoint]).await?;
        bench.keep(turn, sheet);
        bar.inc(1);
    }
    Ok(())
}

/// Looks, makes pods, looks again, and removes them.
async fn fill(bench: &Bench<'_>, endpoint: &Endpoint) -> anyhow::Result<Sheet> {
    let (pods, concurrency) = (bench.arguments.pods.get(), bench.arguments.concurrency.get());
    let daemon = daemon::behind(&endpoint.socket)?;
    let mut sheet = Sheet::new("memory", format!("{pods} pods"));
    sheet.rested(bench.rest().await?);
    tokio::time::sleep(SETTLE).await;
    let before = Processes::now()?;
    let alone = of_daemon(daemon, &before)?;

    let (ups, _) = burst::up(endpoint, bench.arguments.network.one(), pods, concurrency).await?;
    tokio::time::sleep(SETTLE).await;
    let ids = ups.iter().flat_map(|up| [up.pod.id.as_str(), &up.container]);
    let kin = Kin {
        daemon,
        before: &before,
        workload: &WORKLOAD_SECONDS,
        ids: ids.collect(),
    };
    let full = with_pods(&kin, &Processes::now()?)?;
    note(&mut sheet, pods, &alone, &full);
    burst::down(endpoint, &ups, concurrency).await?;
    Ok(sheet)
}

fn note(sheet: &mut Sheet, pods: usize, alone: &ByName, full: &ByName) {
    let total = |names: &ByName| {
        names
            .values()
            .fold((0.0, 0), |(kib, count), one| (kib + one.0, count + one.1))
    };
    let ((alone_kib, alone_count), (full_kib, full_count)) = (total(alone), total(full));
    let per_pod = |alone: f64, full: f64| (full - alone) / pods as f64;
    sheet.value("no pods", Unit::Mebibytes, mebibytes(alone_kib));
    sheet.value(&format!("{pods} pods"), Unit::Mebibytes, mebibytes(full_kib));
    sheet.value("per pod", Unit::Mebibytes, mebibytes(per_pod(alone_kib, full_kib)));
    sheet.value(
        "processes per pod",
        Unit::Count,
        per_pod(alone_count as f64, full_count as f64),
    );
    for (name, (kib, _)) in full {
        let before = alone.get(name).map_or(0.0, |(kib, _)| *kib);
        sheet.part("per pod", name, Unit::Mebibytes, mebibytes(per_pod(before, *kib)));
    }
}

fn mebibytes(kib: f64) -> f64 {
    (kib / 1024.0 * 1e4).round() / 1e4
}

/// Before the processes are looked at: what was just done is put away.
const SETTLE: Duration = Duration::from_millis(500);
