//! Out of memory, told as the reason: every time.

use std::{fs, thread};

use crate::harness::{Container, Node, Pod, skipped, v1};

/// How many containers of each kind; the promise is for a hundred (`INRO_OOM_COUNT=100`).
fn count() -> usize {
    let text = std::env::var("INRO_OOM_COUNT").unwrap_or_default();
    text.parse().unwrap_or(8)
}

/// Needs more than it may have.
const EATER: &str = "dd if=/dev/zero of=/dev/null bs=40M";

/// Started with a limit of memory, in MiB.
fn limited(pod: &Pod, command: &[&str], limit: i64) -> Container {
    let container = pod.container("shell", command, |config| {
        config.linux.as_mut().expect("linux").resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: limit << 20,
            memory_swap_limit_in_bytes: limit << 20,
            ..Default::default()
        });
    });
    container.start();
    container
}

fn killed(pod: &Pod, command: &[&str]) -> Container {
    limited(pod, command, 16)
}

fn has_controller(test: &str) -> bool {
    let cgroups = fs::read_to_string("/proc/self/cgroup").expect("cgroups");
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let has = cgroups.contains(":memory:") || unified.contains("memory");
    if !has {
        skipped(test, "this machine gives us no memory controller");
    }
    has
}

/// Nothing that we do in a container's cgroup, before its program or beside it, takes a lot of memory.
#[test]
fn a_container_of_8_mib_starts_and_can_be_looked_into() {
    if !has_controller("a_container_of_8_mib_starts_and_can_be_looked_into") {
        return;
    }
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    for _ in 0..count() {
        let container = limited(&pod, &["sh", "-c", "echo up; exec sleep 1000"], 8);
        container.wait_logged("up");
        assert_eq!(container.sh("echo in"), "in");
        assert_eq!(container.status().state(), v1::ContainerState::ContainerRunning);
        container.remove();
    }
}

#[test]
fn every_oom_kill_is_told_as_one() {
    if !has_controller("every_oom_kill_is_told_as_one") {
        return;
    }
    let mut node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let direct: Vec<_> = EATER.split(' ').collect();
    let with_code = format!("{EATER}; exit 7");
    let kinds: [(&[&str], i32); 3] = [
        (&direct, 137),
        // The child is killed; the parent passes its code on, or has its own.
        (&["sh", "-c", EATER], 137),
        (&["sh", "-c", &with_code], 7),
    ];
    thread::scope(|scope| {
        for (command, code) in kinds {
            // Four at once of each kind.
            for worker in 0..4 {
                let pod = &pod;
                scope.spawn(move || {
                    for _ in (worker..count()).step_by(4) {
                        let container = killed(pod, command);
                        let status = container.wait();
                        let told = (status.exit_code, status.reason.as_str());
                        assert_eq!(told, (code, "OOMKilled"), "{command:?}");
                        container.remove();
                    }
                });
            }
        }
    });
    // Not one of those: nothing was killed, and a kill of somebody's.
    let failed = pod.run_container("shell", &["sh", "-c", "exit 7"]).wait();
    assert_eq!(failed.reason, "Error");
    let survived = killed(&pod, &["sh", "-c", &format!("{EATER}; exit 0")]).wait();
    assert_eq!((survived.exit_code, survived.reason.as_str()), (0, "Completed"));
    // While no daemon runs the cgroup keeps the count for the next one.
    let late = killed(
        &pod,
        &[
            "sh",
            "-c",
            &format!("until [ -e /go ]; do sleep 0.05; done; exec {EATER}"),
        ],
    );
    let go = format!("/proc/{}/root/go", late.pid());
    node.daemon.kill9();
    fs::write(go, "").expect("told to go");
    node.wait_exit_recorded(&late);
    node.daemon.restart();
    let status = late.wait();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}
