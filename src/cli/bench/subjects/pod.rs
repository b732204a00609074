//! The life of one pod, call by call.

use std::time::Instant;

use super::{
    super::{
        Bench,
        arguments::Network,
        endpoint::{Endpoint, Up, UpTimes},
        progress,
        study::{Sheet, Unit},
    },
    burst,
};

pub async fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let others = others_up(bench).await?;
    for network in bench.arguments.network.each() {
        let turns = bench.turns(bench.rounds());
        let bar = progress::bar(&format!("pod, {network}"), turns.len());
        for turn in turns {
            let sheet = life(bench, &bench.endpoints[turn.endpoint], *network).await?;
            bench.keep(turn, sheet);
            bar.inc(1);
        }
    }
    burst::down_everywhere(bench, &others).await
}

/// Pods that only run, at each endpoint as many as were asked for.
async fn others_up(bench: &mut Bench<'_>) -> anyhow::Result<Vec<Vec<Up>>> {
    for endpoint in &bench.endpoints {
        if let count @ 1.. = bench.arguments.among(&endpoint.name) {
            bench
                .study
                .note(format!("{count} pods ran at {} meanwhile", endpoint.name));
        }
    }
    burst::up_everywhere(bench, |endpoint| bench.arguments.among(&endpoint.name)).await
}

/// Three steps with a rest before each: up, an exec, down.
async fn life(bench: &Bench<'_>, endpoint: &Endpoint, network: Network) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new("pod", network);
    sheet.rested(bench.rest().await?);
    let up = endpoint.up(network).await?;
    note_up(&mut sheet, &up.times);
    note_stages(&mut sheet, endpoint, &up).await?;

    sheet.rested(bench.rest().await?);
    let began = Instant::now();
    endpoint.exec(&up.container).await?;
    sheet.time("ExecSync", began.elapsed());

    sheet.rested(bench.rest().await?);
    let down = endpoint.down(&up).await?;
    sheet.time("StopContainer", down.stop);
    sheet.time("StopPodSandbox", down.stop_pod);
    sheet.time("RemoveContainer", down.remove);
    sheet.time("RemovePodSandbox", down.remove_pod);
    sheet.time("pod-down", down.pod_down);
    Ok(sheet)
}

fn note_up(sheet: &mut Sheet, times: &UpTimes) {
    sheet.time("RunPodSandbox", times.run);
    sheet.time("CreateContainer", times.create);
    sheet.time("StartContainer", times.start);
    sheet.time("first instruction", times.first_instruction);
    sheet.time("container-up", times.container_up);
    sheet.time("pod-up", times.pod_up);
}

async fn note_stages(sheet: &mut Sheet, endpoint: &Endpoint, up: &Up) -> anyhow::Result<()> {
    for (call, stages) in endpoint.stages(up).await? {
        for (stage, milliseconds) in stages {
            sheet.part(call, &stage, Unit::Milliseconds, milliseconds);
        }
    }
    Ok(())
}
