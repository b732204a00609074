//! How a container ended, as the status tells it.

use std::fs;

use crate::harness::{Node, skipped, v1};

#[test]
fn codes_signals_and_reasons() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    for (script, code, reason) in [
        ("exit 0", 0, "Completed"),
        ("exit 1", 1, "Error"),
        ("exit 255", 255, "Error"),
        // The first process of a namespace cannot kill itself: a child of it, whose code it passes on.
        ("sh -c 'kill -9 $$'; exit $?", 137, "Error"),
        ("sh -c 'kill -15 $$'; exit $?", 143, "Error"),
    ] {
        let container = pod.run_container("shell", &["sh", "-c", script]);
        let status = container.wait();
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{script}");
        assert!(
            status.created_at <= status.started_at && status.started_at <= status.finished_at,
            "{status:?}"
        );
    }
}

#[test]
fn a_kill_by_stop_is_137() {
    let node = Node::start();
    node.pull("shell");
    let container = node.pod(|_| {}).run_container("shell", &["sleep", "1000"]);
    container.stop(0);
    let status = container.status();
    assert_eq!(
        (status.state, status.exit_code),
        (v1::ContainerState::ContainerExited as i32, 137)
    );
}

#[test]
fn a_command_that_is_not_there_fails_with_its_name() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let error = pod
        .try_container("shell", &["/no/such/program"], |_| {})
        .and_then(|container| container.try_start().map(|()| container))
        .err()
        .expect("an error");
    assert!(error.message().contains("/no/such/program"), "{error:?}");
}

#[test]
fn out_of_memory_is_told_as_the_reason() {
    let cgroups = fs::read_to_string("/proc/self/cgroup").expect("cgroups");
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !cgroups.contains(":memory:") && !unified.contains("memory") {
        return skipped(
            "out_of_memory_is_told_as_the_reason",
            "this machine gives us no memory controller",
        );
    }
    let node = Node::start();
    node.pull("shell");
    let container = node
        .pod(|_| {})
        .container("shell", &["dd", "if=/dev/zero", "of=/dev/null", "bs=40M"], |config| {
            config.linux.as_mut().expect("linux").resources = Some(v1::LinuxContainerResources {
                memory_limit_in_bytes: 16 << 20,
                memory_swap_limit_in_bytes: 16 << 20,
                ..Default::default()
            });
        });
    container.start();
    let status = container.wait();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}
