//! What a container's cgroup holds, seen from the host and from inside.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use inro::{model::DeviceRule, sys::bpf};

use crate::{
    harness::{Container, Node, eventually, skipped, v1},
    stats::{self, stats},
    update::update,
};

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
fn what_unified_names_is_written_and_can_be_changed() {
    let Some(root) = unified("what_unified_names_is_written_and_can_be_changed") else {
        return;
    };
    let node = Node::start();
    // Which controllers weigh block I/O is the kernel's choice; the root's list says whether there is one.
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).expect("controllers");
    assert!(controllers.split_whitespace().any(|name| name == "io"), "{controllers}");
    let mut wanted = vec![
        ("memory.min", "4194304", "8388608"),
        ("memory.low", "8388608", "16777216"),
        ("memory.high", "50331648", "33554432"),
        ("memory.oom.group", "1", "0"),
        ("cpu.idle", "0", "1"),
    ];
    let own = fs::read_to_string("/proc/self/cgroup").expect("own cgroup");
    let own = root.join(own.trim().strip_prefix("0::/").expect("one hierarchy"));
    if own.join("io.weight").exists() {
        wanted.push(("io.weight", "default 200", "default 50"));
    } else {
        skipped(
            "what_unified_names_is_written_and_can_be_changed (io.weight)",
            "this kernel has no io.weight",
        );
    }
    let asked = |pick: fn(&(&str, &str, &str)) -> String| v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        unified: wanted.iter().map(|entry| (entry.0.to_owned(), pick(entry))).collect(),
        ..Default::default()
    };
    let container = limited(&node, asked(|entry| entry.1.to_owned()));
    for (file, value, _) in &wanted {
        assert_eq!(read(&container, file), *value, "{file}");
    }
    update(&node, &container, asked(|entry| entry.2.to_owned())).expect("an update");
    for (file, _, value) in &wanted {
        assert_eq!(read(&container, file), *value, "{file} after an update");
    }
    let unknown = v1::LinuxContainerResources {
        unified: [("memory.nonsense".into(), "1".into())].into(),
        ..Default::default()
    };
    let refused = update(&node, &container, unknown).expect_err("no such file");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("memory.nonsense"), "{refused}");
}

#[test]
fn pressure_is_told() {
    if unified("pressure_is_told").is_none() {
        return;
    }
    if !PathBuf::from("/proc/pressure").exists() {
        skipped("pressure_is_told", "this kernel has no pressure information");
        return;
    }
    let node = Node::start();
    node.pull("shell");
    // Two that want a whole processor have a tenth of one; one that wants more memory than memory.high always waits for it.
    let script = "while :; do :; done & while :; do :; done & exec dd if=/dev/zero of=/tmp/file bs=1M count=1000";
    let resources = v1::LinuxContainerResources {
        cpu_quota: 10_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        unified: [("memory.high".into(), (4 << 20).to_string())].into(),
        ..Default::default()
    };
    let container = stats::limited(&node.pod(|_| {}), script, resources);
    let some = |psi: Option<v1::PsiStats>| psi.expect("pressure").some.expect("some").total;
    eventually("pressure on processor and memory", Duration::from_secs(60), || {
        let stats = stats(&node, &container);
        let cpu = some(stats.cpu.expect("cpu").psi);
        let memory = some(stats.memory.expect("memory").psi);
        // Without I/O there is none of its kind, but it is told.
        some(stats.io.expect("io").psi);
        (cpu > 0 && memory > 0).then_some(())
    });
    // The kernel counts microseconds, the CRI nanoseconds.
    let kernel = || -> u64 {
        let text = read(&container, "cpu.pressure");
        let total = text.lines().next().and_then(|line| line.rsplit_once("total="));
        total.expect("total").1.parse::<u64>().expect("a number") * 1000
    };
    let before = kernel();
    let told = some(stats(&node, &container).cpu.expect("cpu").psi);
    assert!((before..=kernel()).contains(&told), "{told} after {before}");
}

#[test]
fn swap_is_limited_and_told() {
    if unified("swap_is_limited_and_told").is_none() {
        return;
    }
    let Some(_swap) = Swap::on("swap_is_limited_and_told") else {
        return;
    };
    let node = Node::start();
    node.pull("shell");
    // Its buffer stays in use while it waits for a reader; pages of zeros would be let go instead of swapped.
    let script = "dd if=/dev/urandom bs=24M | sleep 1000";
    let resources = v1::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        memory_swap_limit_in_bytes: 48 << 20,
        ..Default::default()
    };
    let container = stats::limited(&node.pod(|_| {}), script, resources);
    assert_eq!(read(&container, "memory.swap.max"), (32 << 20).to_string());
    let swap = eventually("swap is used", Duration::from_secs(20), || {
        let swap = stats(&node, &container).swap.expect("swap");
        (swap.swap_usage_bytes.expect("usage").value >= 4 << 20).then_some(swap)
    });
    let (used, left) = (swap.swap_usage_bytes, swap.swap_available_bytes);
    assert_eq!(used.expect("usage").value + left.expect("available").value, 32 << 20);
}

/// A swap file of this machine's; gone with its value.
struct Swap(tempfile::TempDir);

impl Swap {
    fn on(test: &str) -> Option<Swap> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("swap");
        let script = "head -c 128M /dev/zero > $0 && chmod 600 $0 && mkswap -q $0 && swapon $0";
        let output = Command::new("sh").args(["-c", script]).arg(&file).output().expect("sh");
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            skipped(test, &format!("no swap here: {}", told.trim()));
            return None;
        }
        Some(Swap(dir))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(self.0.path().join("swap")).status();
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
