//! The driver systemd: a container is a scope whose limits systemd knows, whatever happens to systemd meanwhile.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use crate::harness::{Container, Driver, Node, eventually, skipped, v1};

/// A node whose containers are scopes.
fn node(test: &str) -> Option<Node> {
    if Driver::of_tests() == Driver::Systemd {
        return Some(Node::start());
    }
    skipped(test, "the driver here is cgroupfs");
    None
}

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().expect("systemctl");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "systemctl {arguments:?}: {told}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn scope(container: &Container) -> String {
    format!("inro-{}.scope", container.id)
}

/// What systemd knows of the scope.
fn shown(container: &Container, properties: &[&str]) -> Vec<String> {
    let text = systemctl(&["show", "--property", &properties.join(","), &scope(container)]);
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn folder(container: &Container) -> PathBuf {
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).expect("cgroup");
    let path = cgroups.trim().strip_prefix("0::/").expect("one hierarchy").to_owned();
    PathBuf::from("/sys/fs/cgroup").join(path)
}

/// The files that the tests set limits in.
fn files(container: &Container) -> Vec<String> {
    let folder = folder(container);
    let names = [
        "cpu.weight",
        "cpu.max",
        "cpuset.cpus",
        "memory.max",
        "memory.high",
        "memory.swap.max",
        "pids.max",
    ];
    let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    names.map(|name| format!("{name}={}", read(name).trim())).into()
}

fn limits() -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_shares: 1024,
        // No whole percent of a CPU.
        cpu_quota: 12_345,
        cpu_period: 100_000,
        cpuset_cpus: "0".into(),
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        unified: [
            ("memory.high".into(), (48 << 20).to_string()),
            ("pids.max".into(), "77".into()),
        ]
        .into(),
        ..Default::default()
    }
}

#[test]
fn limits_are_systemds_too_and_outlive_a_reload() {
    let Some(mut node) = node("limits_are_systemds_too_and_outlive_a_reload") else {
        return;
    };
    node.pull("shell");
    let container = node.pod(|_| {}).container("shell", &["sleep", "1000"], |config| {
        config.linux.as_mut().expect("linux").resources = Some(limits());
    });
    container.start();
    let made = [
        "cpu.weight=39",
        "cpu.max=12345 100000",
        "cpuset.cpus=0",
        "memory.max=67108864",
        "memory.high=50331648",
        "memory.swap.max=0",
        "pids.max=77",
    ];
    assert_eq!(files(&container), made);
    let parent = node.cgroup_parent();
    let folder = folder(&container);
    assert_eq!(
        folder,
        PathBuf::from(format!("/sys/fs/cgroup{parent}")).join(scope(&container))
    );
    let slice = format!("Slice={}", parent.trim_start_matches('/'));
    assert_eq!(
        shown(
            &container,
            &[
                "Slice",
                "Delegate",
                "CollectMode",
                "OOMPolicy",
                "DefaultDependencies",
                "ActiveState"
            ]
        ),
        [
            "ActiveState=active",
            "CollectMode=inactive-or-failed",
            "DefaultDependencies=no",
            "Delegate=yes",
            "OOMPolicy=continue",
            &slice,
        ]
    );
    let known = || {
        shown(
            &container,
            &[
                "CPUWeight",
                "CPUQuotaPerSecUSec",
                "AllowedCPUs",
                "MemoryMax",
                "MemoryHigh",
                "TasksMax",
            ],
        )
    };
    assert_eq!(
        known(),
        [
            "AllowedCPUs=0",
            "CPUQuotaPerSecUSec=130ms",
            "CPUWeight=39",
            "MemoryHigh=50331648",
            "MemoryMax=67108864",
            "TasksMax=77",
        ]
    );
    let reloaded = || {
        systemctl(&["daemon-reload"]);
        systemctl(&["daemon-reexec"]);
        let mut files = files(&container);
        // After a reload systemd may write its own whole percents: never less than what was asked for.
        let cpu = files
            .iter_mut()
            .find(|file| file.starts_with("cpu.max"))
            .expect("cpu.max");
        if *cpu == "cpu.max=13000 100000" {
            *cpu = "cpu.max=12345 100000".into();
        }
        files
    };
    assert_eq!(reloaded(), made);

    node.daemon.kill9();
    node.daemon.restart();
    node.cri
        .update_container_resources(v1::UpdateContainerResourcesRequest {
            container_id: container.id.clone(),
            linux: Some(v1::LinuxContainerResources {
                cpu_shares: 2,
                cpu_quota: 50_000,
                memory_limit_in_bytes: 32 << 20,
                memory_swap_limit_in_bytes: 32 << 20,
                ..Default::default()
            }),
            ..Default::default()
        })
        .expect("update");
    let changed = [
        "cpu.weight=1",
        "cpu.max=50000 100000",
        "cpuset.cpus=0",
        "memory.max=33554432",
        "memory.high=50331648",
        "memory.swap.max=0",
        "pids.max=77",
    ];
    assert_eq!(files(&container), changed);
    assert_eq!(
        known(),
        [
            "AllowedCPUs=0",
            "CPUQuotaPerSecUSec=500ms",
            "CPUWeight=1",
            "MemoryHigh=50331648",
            "MemoryMax=33554432",
            "TasksMax=77",
        ]
    );
    assert_eq!(reloaded(), changed);
    assert_eq!(container.sh("echo alive"), "alive");
}

#[test]
fn starts_go_on_while_systemd_and_the_bus_restart() {
    let Some(node) = node("starts_go_on_while_systemd_and_the_bus_restart") else {
        return;
    };
    node.pull("shell");
    let pod = node.pod(|_| {});
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let container = pod.run_container("shell", &["sh", "-c", "exit 7"]);
                    assert_eq!(container.wait().exit_code, 7);
                    container.remove();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for at in [3, 8, 13] {
            eventually("containers come and go", Duration::from_secs(60), || {
                (done.load(Ordering::Relaxed) >= at).then_some(())
            });
            systemctl(&["daemon-reexec"]);
            // Where there is a bus.
            let _ = Command::new("systemctl").args(["try-restart", "dbus.service"]).output();
        }
    });
    assert_eq!(done.into_inner(), 20);
}

#[test]
fn a_child_killed_for_memory_does_not_end_its_container() {
    let Some(node) = node("a_child_killed_for_memory_does_not_end_its_container") else {
        return;
    };
    node.pull("shell");
    let script = "dd if=/dev/zero of=/dev/null bs=40M; echo survived; exec sleep 1000";
    let container = node.pod(|_| {}).container("shell", &["sh", "-c", script], |config| {
        config.linux.as_mut().expect("linux").resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 16 << 20,
            memory_swap_limit_in_bytes: 16 << 20,
            ..Default::default()
        });
    });
    container.start();
    container.wait_logged("survived");
    assert_eq!(container.sh("echo alive"), "alive");
    assert_eq!(
        shown(&container, &["ActiveState", "Result"]),
        ["ActiveState=active", "Result=success"]
    );
}

#[test]
fn a_sandbox_without_a_parent_is_in_the_system_slice() {
    let Some(node) = node("a_sandbox_without_a_parent_is_in_the_system_slice") else {
        return;
    };
    node.pull("shell");
    let pod = node.pod(|config| config.linux.as_mut().expect("linux").cgroup_parent.clear());
    let container = pod.run_container("shell", &["sleep", "1000"]);
    assert_eq!(shown(&container, &["Slice"]), ["Slice=system.slice"]);
    // Ended by the node's own tool as well.
    systemctl(&["kill", "--signal=KILL", &scope(&container)]);
    assert_eq!(container.wait().exit_code, 137);
}
