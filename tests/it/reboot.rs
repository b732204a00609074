//! A reboot: nothing of the old boot runs, its pods are gone or told as ended, its addresses are free, its images stay.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::Signal,
};

use crate::harness::{Container, Node, Pod, eventually, hierarchies, own_network, signal, v1};

/// A node with a pod that has an address and a running container, whose daemon and processes were then ended at once, as
/// a power cut does. What is left is what is on disks, and the run folder.
fn after_a_power_cut() -> (Node, Pod, Container) {
    let mut node = Node::start();
    node.pull("shell");
    let pod = node.pod(own_network);
    let container = pod.run_container("shell", &["sleep", "1000"]);
    assert_eq!(node.leases(), 1);
    node.daemon.kill9();
    eventually("nothing runs any more", Duration::from_secs(5), || {
        let left = processes_of(&node);
        for &pid in &left {
            signal(pid, Signal::KILL);
        }
        left.is_empty().then_some(())
    });
    for hierarchy in hierarchies() {
        remove_folders_below(&hierarchy.join(node.cgroup_parent().trim_start_matches('/')));
    }
    let state = node.dir().join("state");
    let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
    for mount in table.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(mount).starts_with(&state) {
            unmount(mount, UnmountFlags::DETACH).expect("unmount a pinned namespace");
        }
    }
    (node, pod, container)
}

/// Processes in the containers' cgroups, and the shims, which have none of their own.
fn processes_of(node: &Node) -> Vec<u32> {
    let parent = node.cgroup_parent();
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let holds = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|link| link.starts_with(node.dir()));
        let mut descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        cgroups.contains(&format!("{parent}/"))
            || program.to_string_lossy().contains("inro-shim") && descriptors.any(holds)
    })
    .collect()
}

fn remove_folders_below(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_folders_below(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn snapshots(node: &Node) -> usize {
    fs::read_dir(node.dir().join("root/snapshots"))
        .expect("snapshots")
        .count()
}

/// The node can be used as before.
fn works(node: &Node) {
    let container = node.pod(own_network).run_container("shell", &["sleep", "1000"]);
    assert_eq!(container.sh("echo again"), "again");
}

#[test]
fn after_a_reboot_pods_are_gone_addresses_free_and_images_there() {
    let (mut node, pod, _) = after_a_power_cut();
    fs::remove_dir_all(node.dir().join("state")).expect("the run folder is a tmpfs");
    node.daemon.restart();
    let pods = node
        .cri
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .expect("list")
        .items;
    let containers = node
        .cri
        .list_containers(v1::ListContainersRequest::default())
        .expect("list")
        .containers;
    assert!(pods.is_empty() && containers.is_empty(), "{pods:?} {containers:?}");
    assert_eq!((node.leases(), snapshots(&node)), (0, 0));
    assert!(node.image("shell").is_some());
    // The kubelet removes what it remembers.
    pod.stop();
    pod.remove();
    works(&node);
}

/// Where the run folder is on a disk, its records tell which boot they are of.
#[test]
fn a_run_folder_that_outlived_its_boot_tells_ended_pods() {
    let (mut node, pod, container) = after_a_power_cut();
    let state = node.dir().join("state");
    // To the records another boot has come: the number of this one is shown differently to the next daemon.
    let other = node.dir().join("boot_id");
    fs::write(&other, "11111111-2222-3333-4444-555555555555\n").expect("a boot id");
    let script = format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id && exec {} serve --config {}/config.toml --root {}/root --state {} --listen {}",
        other.display(),
        crate::harness::inro().display(),
        node.dir().display(),
        node.dir().display(),
        state.display(),
        node.daemon.endpoint()
    );
    let log = fs::File::options()
        .append(true)
        .open(node.dir().join("inro.log"))
        .expect("inro.log");
    let mut rebooted = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("unshare");
    eventually("the daemon answers", Duration::from_secs(10), || {
        node.cri.version(v1::VersionRequest::default()).ok()
    });
    let told = (pod.status().state(), container.status().state());
    let freed = node.leases();
    pod.stop();
    pod.remove();
    signal(rebooted.id(), Signal::TERM);
    assert!(rebooted.wait().expect("its end").success());
    assert_eq!(
        told,
        (
            v1::PodSandboxState::SandboxNotready,
            v1::ContainerState::ContainerExited
        )
    );
    assert_eq!(freed, 0);
    node.daemon.restart();
    assert!(node.image("shell").is_some());
    works(&node);
}
