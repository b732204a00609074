//! What a kubelet asks all the time, while pods run.

use std::time::Instant;

use super::{
    super::{Bench, endpoint::Endpoint, progress, study::Sheet},
    burst,
};

const CALLS: [&str; 7] = [
    "ListPodSandbox",
    "ListContainers",
    "ListContainerStats",
    "ListPodSandboxStats",
    "ListImages",
    "Status",
    "Version",
];

pub async fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let pods = bench.arguments.pods.get();
    let running = burst::up_everywhere(bench, |_| pods).await?;
    let turns = bench.turns(bench.rounds());
    let bar = progress::bar(&format!("list, {pods} pods"), turns.len());
    for turn in turns {
        let mut sheet = Sheet::new("list", format!("{pods} pods"));
        for call in CALLS {
            sheet.rested(bench.rest().await?);
            let began = Instant::now();
            let answered = ask(&bench.endpoints[turn.endpoint], call).await?;
            let time = began.elapsed();
            match answered {
                true => sheet.time(call, time),
                false => bench
                    .study
                    .note(format!("{} has no {call}", bench.endpoints[turn.endpoint].name)),
            }
        }
        bench.keep(turn, sheet);
        bar.inc(1);
    }
    burst::down_everywhere(bench, &running).await
}

/// False when the runtime has no such call.
async fn ask(endpoint: &Endpoint, call: &str) -> anyhow::Result<bool> {
    match call {
        "ListPodSandbox" => endpoint.list_pods().await.map(|_| true),
        "ListContainers" => endpoint.list_containers().await.map(|()| true),
        "ListContainerStats" => endpoint.list_container_stats().await,
        "ListPodSandboxStats" => endpoint.list_pod_stats().await,
        "ListImages" => endpoint.list_images().await.map(|()| true),
        "Status" => endpoint.status().await.map(|()| true),
        _ => endpoint.version().await.map(|_| true),
    }
}
