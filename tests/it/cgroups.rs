//! What a container's cgroup holds, seen from the host and from inside.

use std::{fs, path::PathBuf, process::Command};

use inro::{model::DeviceRule, sys::bpf};

use crate::harness::{Container, Node, skipped, v1};

/// The host's one hierarchy, where it is cgroup v2.
fn unified(test: &str) -> Option<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return Some(root);
    }
    skipped(test, "this machine has cgroup v1");
    None
}

fn limited(node: &Node, resources: v1::LinuxContainerResources) -> Container {
    node.pull("shell");
    let container = node.pod(|_| {}).container("shell", &["sleep", "1000"], |config| {
        config.linux.as_mut().expect("linux").resources = Some(resources);
    });
    container.start();
    container
}

fn folder(container: &Container) -> PathBuf {
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).expect("cgroup");
    let path = cgroups.trim().strip_prefix("0::/").expect("one hierarchy").to_owned();
    PathBuf::from("/sys/fs/cgroup").join(path)
}

fn read(container: &Container, file: &str) -> String {
    let text = fs::read_to_string(folder(container).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    text.trim().to_owned()
}

#[test]
fn every_limit_is_a_file_of_v2() {
    if unified("every_limit_is_a_file_of_v2").is_none() {
        return;
    }
    let node = Node::with_config("[pod]\npids_limit = 77\n");
    let container = limited(
        &node,
        v1::LinuxContainerResources {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            cpuset_cpus: "0".into(),
            cpuset_mems: "0".into(),
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 64 << 20,
            unified: [("memory.high".into(), (48 << 20).to_string())].into(),
            ..Default::default()
        },
    );
    for (file, value) in [
        ("cpu.weight", "39"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "0"),
        ("memory.high", "50331648"),
        ("pids.max", "77"),
    ] {
        assert_eq!(read(&container, file), value, "{file}");
        assert_eq!(
            container.sh(&format!("cat /sys/fs/cgroup/{file}")),
            value,
            "{file} from inside"
        );
    }
}

#[test]
fn a_container_sees_its_own_cgroup_as_the_root() {
    if unified("a_container_sees_its_own_cgroup_as_the_root").is_none() {
        return;
    }
    let node = Node::start();
    let container = limited(&node, v1::LinuxContainerResources::default());
    assert_eq!(container.sh("cat /proc/1/cgroup /proc/self/cgroup"), "0::/\n0::/");
    assert!(
        container
            .sh("cat /sys/fs/cgroup/cgroup.procs")
            .lines()
            .any(|pid| pid == "1")
    );
    assert_eq!(container.sh("grep -c ' /sys/fs/cgroup ' /proc/mounts"), "1");
    assert_ne!(
        container.exec(&["mkdir", "/sys/fs/cgroup/own"]).exit_code,
        0,
        "read-only"
    );
}

#[test]
fn a_privileged_container_sees_the_hosts_cgroups_and_writes_there() {
    let Some(root) = unified("a_privileged_container_sees_the_hosts_cgroups_and_writes_there") else {
        return;
    };
    let options = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let line = mounts.lines().find(|line| line.contains(" /sys/fs/cgroup "));
        line.expect("a cgroup mount").to_owned()
    };
    let before = options();
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|config| {
        let linux = config.linux.as_mut().expect("linux");
        linux.security_context.as_mut().expect("context").privileged = true;
    });
    let container = pod.container("shell", &["sleep", "1000"], |config| {
        let linux = config.linux.as_mut().expect("linux");
        linux.security_context.as_mut().expect("context").privileged = true;
    });
    container.start();
    let own = folder(&container);
    assert_eq!(
        container.sh("cat /proc/1/cgroup"),
        format!("0::/{}", own.strip_prefix(&root).expect("below the root").display())
    );
    container.sh(&format!("mkdir {0}/below && rmdir {0}/below", own.display()));
    assert_eq!(options(), before, "the host's mount keeps its options");
}

#[test]
fn a_cgroup_in_a_container_has_device_rules_of_its_own() {
    if unified("a_cgroup_in_a_container_has_device_rules_of_its_own").is_none() {
        return;
    }
    let node = Node::start();
    let container = limited(&node, v1::LinuxContainerResources::default());
    // As a service manager in the container would do it: all but /dev/null, /dev/full, and what the container has not.
    let below = folder(&container).join("below");
    fs::create_dir(&below).expect("a cgroup below");
    let rule = |allow, kind, minor: Option<i64>| DeviceRule {
        allow,
        kind,
        major: minor.map(|_| 1),
        minor,
        access: "rwm".into(),
    };
    let (null, full, kmsg) = (Some(3), Some(7), Some(11));
    let rules = [
        rule(false, 'a', None),
        rule(true, 'c', null),
        rule(true, 'c', full),
        rule(true, 'c', kmsg),
    ];
    bpf::attach_device_rules(fs::File::open(&below).expect("the cgroup"), &rules).expect("rules of its own");
    let opens = |device: &str, folder: &PathBuf| {
        let script = format!("echo 0 > {}/cgroup.procs && exec 3< {device}", folder.display());
        let output = Command::new("sh").args(["-c", &script]).output().expect("sh");
        output.status.success()
    };
    for (device, outside, inside) in [
        ("/dev/null", true, true),
        ("/dev/full", true, true),
        ("/dev/zero", true, false),
        ("/dev/kmsg", false, false),
    ] {
        assert_eq!(opens(device, &folder(&container)), outside, "{device}");
        assert_eq!(opens(device, &below), inside, "{device} below");
    }
    container.sh("head -c 1 /dev/zero > /dev/null");
}
