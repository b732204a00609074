//! The daemon killed at every step of a pod's way into the network and out of it: nothing of the pod stays, or all of
//! it, and the client's retry does the rest.
//!
//! A step is a call to the kernel that others can see: a file, a mount, a netlink message. A first run notes them; in
//! each further one the daemon is killed before another of them.

mod scene;
mod steps;

use std::{
    os::unix::net::UnixStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Pod, Trace, eventually, namespaces, patience, skipped, v1};
use scene::{Held, PORT, Scene};

/// Whether this machine lets a process be watched; says so otherwise.
fn can_watch(test: &str) -> bool {
    let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
    let watched = Trace::start(child.id(), |_| None, |_| false);
    let refused = watched.map(Trace::end).err();
    let _ = child.kill();
    let _ = child.wait();
    if let Some(error) = &refused {
        skipped(test, &format!("a process cannot be watched here: {error}"));
    }
    refused.is_none()
}

/// Asserts that all of `named` are among the steps.
fn include(steps: &[String], named: &[&str]) {
    for name in named {
        assert!(steps.iter().any(|step| step == name), "no step {name:?} in {steps:#?}");
    }
}

/// Asks for a sandbox.
fn attach(scene: &mut Scene, config: &v1::PodSandboxConfig, step: Option<&str>) -> Vec<String> {
    let trace = scene.watch(step);
    let answer = scene.node.run_pod(config);
    assert_eq!(answer.is_ok(), step.is_none(), "{step:?}");
    scene.end(trace)
}

/// After a kill in the middle of a run: the pod is not there or whole, and the retry makes it whole. `nothing` is what
/// the next daemon has, and `gone` what one has whose pod went.
fn check_attach(scene: &Scene, (nothing, gone): (&Held, &Held), config: &v1::PodSandboxConfig, step: &str) {
    match scene.known(config) {
        None => assert_eq!(scene.held(), *nothing, "killed before: {step}"),
        Some(sandbox) => assert_eq!(sandbox.state, v1::PodSandboxState::SandboxReady as i32, "{step}"),
    }
    let pod = scene.run(config);
    assert_eq!(scene.is_whole(&pod, PORT), Ok(()), "killed before: {step}");
    pod.stop();
    pod.remove();
    wait_gone(scene, gone, step);
}

/// Waits until nothing of a pod is left.
fn wait_gone(scene: &Scene, before: &Held, step: &str) {
    let start = Instant::now();
    while scene.held() != *before {
        let late = start.elapsed() > patience(Duration::from_secs(10));
        assert!(
            !late,
            "left, killed before: {step}: {:#?}\nbefore: {before:#?}",
            scene.held()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A pod that was run, and what asked for it.
struct Running {
    pod: Pod,
    config: v1::PodSandboxConfig,
}

impl Running {
    fn new(scene: &mut Scene) -> Running {
        let mut config = scene.config(PORT);
        // With a process of its own, which goes first.
        namespaces(&mut config).pid = v1::NamespaceMode::Pod.into();
        Running {
            pod: scene.run(&config),
            config,
        }
    }
}

/// After a kill in the middle of a stop or a removal: what is told as ready is whole, and of another nothing is left but
/// its records. The retry takes the rest away, and the port is the next pod's.
fn check_detach(scene: &Scene, before: &Held, running: Running, step: &str) {
    let Running { pod, config } = running;
    let known = scene.known(&config);
    if known.is_some_and(|sandbox| sandbox.state == v1::PodSandboxState::SandboxReady as i32) {
        let whole = scene.is_whole(&pod, PORT);
        assert_eq!(whole, Ok(()), "told as ready, killed before: {step}");
    } else {
        let held = Held {
            folders: before.folders.clone(),
            ..scene.held()
        };
        assert_eq!(held, *before, "of a stopped pod, killed before: {step}");
    }
    pod.stop();
    let next = scene.run(&scene.config(PORT));
    let whole = scene.is_whole(&next, PORT);
    assert_eq!(whole, Ok(()), "the next one, killed before: {step}");
    for pod in [&pod, &next] {
        pod.stop();
        pod.remove();
    }
    wait_gone(scene, before, step);
}

/// Waits until no other addresses are leased than before, or the daemon is dead.
fn wait_released(scene: &Scene, before: &Held, is_dead: impl Fn() -> bool) {
    eventually("the addresses are free", Duration::from_secs(20), || {
        (is_dead() || scene.held().leases == before.leases).then_some(())
    });
}

#[test]
fn a_daemon_killed_at_any_step_of_an_attach_leaves_nothing_and_the_retry_succeeds() {
    if !can_watch("a_daemon_killed_at_any_step_of_an_attach_leaves_nothing_and_the_retry_succeeds") {
        return;
    }
    let mut scene = Scene::start();
    let neighbour = scene.neighbour();
    let before = scene.held();
    let steps = scene.at_every_step(
        |scene| scene.config(PORT),
        attach,
        |scene, config, step| {
            neighbour.answers(scene, step);
            check_attach(scene, (&before, &before), &config, step);
        },
    );
    eprintln!("attach: {} kills", steps.len() + 1);
    include(
        &steps,
        &[
            "write root/net/leases/IPV4",
            "fill root/net/leases/IPV4",
            "write root/net/leases/IPV6",
            "fill root/net/leases/IPV6",
            "mount state/sandboxes/ID/ns/net",
            "open ports",
            "make the pair",
            "configure eth0",
            "rename state/sandboxes/ID/status",
        ],
    );
}

#[test]
fn a_daemon_killed_at_any_step_of_the_nodes_first_attach_leaves_nothing_and_the_retry_succeeds() {
    if !can_watch("a_daemon_killed_at_any_step_of_the_nodes_first_attach_leaves_nothing_and_the_retry_succeeds") {
        return;
    }
    let mut scene = Scene::start();
    let nothing = scene.held();
    let pod = scene.run(&scene.config(PORT));
    pod.stop();
    pod.remove();
    wait_released(&scene, &nothing, || false);
    // The bridge and its table are there.
    let gone = scene.held();
    let steps = scene.at_every_step(
        |scene| {
            // As on a node that never had a pod.
            scene.node.daemon.kill9();
            scene.node.daemon.restart();
            scene.netns.sh("ip link delete inro0");
            scene.config(PORT)
        },
        attach,
        |scene, config, step| {
            check_attach(scene, (&nothing, &gone), &config, step);
            scene.netns.sh("ip link show inro0");
        },
    );
    eprintln!("first attach: {} kills", steps.len() + 1);
    include(
        &steps,
        &[
            "make the bridge",
            "address the bridge",
            "bring up the bridge",
            "make the table",
        ],
    );
}

#[test]
fn a_daemon_killed_at_any_step_of_a_detach_leaves_nothing_that_the_retry_does_not_take() {
    if !can_watch("a_daemon_killed_at_any_step_of_a_detach_leaves_nothing_that_the_retry_does_not_take") {
        return;
    }
    let mut scene = Scene::start();
    let neighbour = scene.neighbour();
    let before = scene.held();
    let steps = scene.at_every_step(
        Running::new,
        |scene, running, step| {
            let trace = scene.watch(step);
            let _ = running.pod.try_stop();
            wait_released(scene, &before, || trace.is_over());
            scene.end(trace)
        },
        |scene, running, step| {
            neighbour.answers(scene, step);
            assert!(scene.known(&running.config).is_some(), "a stop removes nothing: {step}");
            check_detach(scene, &before, running, step);
        },
    );
    eprintln!("detach: {} kills", steps.len() + 1);
    include(
        &steps,
        &[
            "unmount state/sandboxes/ID/ns/net",
            "close ports",
            "rename state/sandboxes/ID/status",
            "remove root/net/leases/IPV4",
            "remove root/net/leases/IPV6",
        ],
    );
}

#[test]
fn a_daemon_killed_at_any_step_of_a_removal_leaves_nothing_that_the_retry_does_not_take() {
    if !can_watch("a_daemon_killed_at_any_step_of_a_removal_leaves_nothing_that_the_retry_does_not_take") {
        return;
    }
    let mut scene = Scene::start();
    let neighbour = scene.neighbour();
    let before = scene.held();
    let steps = scene.at_every_step(
        Running::new,
        |scene, running, step| {
            let trace = scene.watch(step);
            let _ = running.pod.try_remove();
            wait_released(scene, &before, || trace.is_over());
            scene.end(trace)
        },
        |scene, running, step| {
            neighbour.answers(scene, step);
            check_detach(scene, &before, running, step);
        },
    );
    eprintln!("removal: {} kills", steps.len() + 1);
    include(
        &steps,
        &[
            "close ports",
            "remove root/net/leases/IPV4",
            "remove state/sandboxes/ID",
        ],
    );
}

/// Starts the daemon; what it does from its first look at sandboxes to the table of those that go on.
fn start(scene: &mut Scene, step: Option<&str>) -> Vec<String> {
    scene.node.daemon.begin_held();
    let trace = scene.watch(step);
    scene.node.daemon.release();
    let socket = scene.node.daemon.socket();
    eventually("the daemon is ready or dead", Duration::from_secs(20), || {
        (trace.is_over() || UnixStream::connect(&socket).is_ok()).then_some(())
    });
    let steps = scene.end(trace);
    let first = steps.iter().position(|step| step == "make state/containers");
    let last = steps.iter().position(|step| step == "make the table");
    let after = last.map_or(steps.len(), |at| at + 1);
    steps[first.expect("looked")..after].to_vec()
}

#[test]
fn a_daemon_killed_while_it_takes_up_what_a_killed_one_left_leaves_nothing_either() {
    if !can_watch("a_daemon_killed_while_it_takes_up_what_a_killed_one_left_leaves_nothing_either") {
        return;
    }
    let mut scene = Scene::start();
    let neighbour = scene.neighbour();
    let before = scene.held();
    let after_attach = scene.at_every_step(
        |scene| {
            let config = scene.config(PORT);
            attach(scene, &config, Some("rename state/sandboxes/ID/status"));
            config
        },
        |scene, _, step| start(scene, step),
        |scene, config, step| {
            neighbour.answers(scene, step);
            check_attach(scene, (&before, &before), &config, step);
        },
    );
    include(
        &after_attach,
        &[
            "unmount state/sandboxes/ID/ns/net",
            "remove root/net/leases/IPV4",
            "make the table",
        ],
    );
    let after_detach = scene.at_every_step(
        |scene| {
            let running = Running::new(scene);
            let trace = scene.watch(Some("close ports"));
            let _ = running.pod.try_stop();
            scene.end(trace);
            running
        },
        |scene, _, step| start(scene, step),
        |scene, running, step| {
            neighbour.answers(scene, step);
            check_detach(scene, &before, running, step);
        },
    );
    include(
        &after_detach,
        &[
            "remove root/net/leases/IPV4",
            "rename state/sandboxes/ID/status",
            "make the table",
        ],
    );
    eprintln!("starts: {} kills", after_attach.len() + after_detach.len());
}
