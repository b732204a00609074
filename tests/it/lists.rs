//! Lists wait for nobody. How quick they are on a full node is measured by `benches/list.rs`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Driver, Node, eventually, http, own_network};

#[test]
fn lists_wait_for_nobody() {
    let node = Node::start();
    node.pull("shell");
    // As the kubelet has it: a cgroup and a network for each pod.
    let pods: Vec<_> = (0..RUNNING)
        .map(|number| {
            node.pod(|config| {
                config.linux.as_mut().expect("linux").cgroup_parent = node.pod_parent(number);
                own_network(config);
            })
        })
        .collect();
    for number in 0..STOPPED + RUNNING {
        let container = pods[number % RUNNING].container("shell", &["sleep", "100000"], |_| {});
        if number < RUNNING {
            container.start();
        } else {
            container.stop(0);
        }
    }
    // A stop that takes its time, and a pull from a registry that does not answer.
    let line = "trap '' TERM; while :; do sleep 1; done";
    let stubborn = pods[0].run_container("shell", &["sh", "-c", line]);
    let over = Arc::new(AtomicBool::new(false));
    let lists_are_over = over.clone();
    let silent = http::Server::start(0, move |_, _| {
        eventually("the lists are over", Duration::from_secs(60), || {
            lists_are_over.load(Ordering::Relaxed).then_some(())
        });
        http::Answer::Say("404 Not Found", String::new(), String::new())
    });
    thread::scope(|scope| {
        scope.spawn(|| stubborn.stop(6));
        scope.spawn(|| {
            node.try_pull(&format!("127.0.0.1:{}/never", silent.port))
                .expect_err("no answer")
        });
        // And containers that come and go.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                pods[0].run_container("shell", &["true"]).remove();
            }
        });
        let cri = &node.cri;
        let most = |call: &dyn Fn()| (0..ROUNDS).map(|_| timed(call)).max().expect("rounds");
        let times = [
            most(&|| drop(cri.list_containers(Default::default()).expect("list"))),
            most(&|| drop(cri.list_pod_sandbox(Default::default()).expect("list"))),
            most(&|| drop(cri.list_container_stats(Default::default()).expect("list"))),
            most(&|| drop(cri.list_pod_sandbox_stats(Default::default()).expect("list"))),
            most(&|| drop(cri.list_pod_sandbox_metrics(Default::default()).expect("list"))),
        ];
        over.store(true, Ordering::Relaxed);
        // Whoever waited for the stop or the pull waited for seconds.
        assert!(times.iter().all(|time| *time < Duration::from_secs(1)), "{times:?}");
    });
    // The pods' parents are whose they are with the kubelet: not the daemon's.
    for (number, pod) in pods.iter().enumerate() {
        pod.remove();
        Driver::of_tests().remove(&node.pod_parent(number));
    }
}

fn timed(call: &dyn Fn()) -> Duration {
    let begin = Instant::now();
    call();
    begin.elapsed()
}

const STOPPED: usize = 12;
const RUNNING: usize = 4;
const ROUNDS: usize = 40;
