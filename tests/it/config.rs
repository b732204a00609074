//! Starting the daemon: its configuration, its folders, and only one of it.

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::harness::{Driver, Node, inro, patience, v1};

/// Runs `inro serve` in `dir`, where it is expected to end by itself.
pub fn serve(dir: &Path) -> Output {
    let child = Command::new("timeout")
        .arg(patience(Duration::from_secs(5)).as_secs().to_string())
        .arg(inro())
        .args(["serve", "--config"])
        .arg(dir.join("config.toml"))
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--state")
        .arg(dir.join("state"))
        .args(["--listen", &format!("unix://{}/second.sock", dir.display())])
        .output();
    child.expect("inro")
}

#[test]
fn unknown_keys_are_named_with_their_file() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    for (text, key) in [("tpyo = 1\n", "tpyo"), ("[image]\nhost_dir = \"/x\"\n", "host_dir")] {
        fs::write(dir.path().join("config.toml"), text).expect("config.toml");
        let output = serve(dir.path());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.status.code() != Some(124), "{told}");
        assert!(told.contains(key) && told.contains("config.toml"), "{told}");
    }
}

#[test]
fn a_network_that_cannot_be_is_refused_by_its_key() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    for (text, parts) in [
        ("subnet = \"10.0.0.0\"", ["net.subnet", "\"10.0.0.0\""]),
        ("subnet = \"10.0.0.0/16,10.1.0.0/16\"", ["net.subnet", "one family"]),
        (
            "no_masquerade = [\"10.0.0.0/40\"]",
            ["net.no_masquerade", "\"10.0.0.0/40\""],
        ),
        (
            "default_sysctls = { \"kernel.panic\" = \"1\" }",
            ["net.default_sysctls", "\"kernel.panic\""],
        ),
        ("bridge = \"a/b\"", ["net.bridge", "\"a/b\""]),
    ] {
        fs::write(dir.path().join("config.toml"), format!("[net]\n{text}\n")).expect("config.toml");
        let output = serve(dir.path());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.status.code() != Some(124), "{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{text}: {told}");
    }
}

#[test]
fn a_full_disk_is_told_with_the_file_that_had_no_room() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    fs::write(dir.path().join("config.toml"), "").expect("config.toml");
    let root = dir.path().join("root");
    fs::create_dir(&root).expect("a folder");
    mount("tmpfs", &root, "tmpfs", MountFlags::empty(), c"size=64k").expect("mount");
    let filled = fs::write(root.join("fill"), vec![1; 64 << 10]);
    let output = serve(dir.path());
    unmount(&root, UnmountFlags::DETACH).expect("unmount");
    filled.expect("room for that");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("root/lock") && told.contains("No space left"), "{told}");
}

#[test]
fn a_second_daemon_on_the_same_folders_is_refused() {
    let node = Node::start();
    let output = serve(node.dir());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.status.code() != Some(124), "{told}");
    assert!(
        told.contains("root") || told.contains("state"),
        "which folder is taken: {told}"
    );
    assert!(node.crictl(&["version"]).status.success(), "the first one still serves");
}

#[test]
fn the_socket_is_private_and_a_stale_one_is_replaced() {
    let mut node = Node::start();
    node.daemon.kill9();
    assert!(node.daemon.socket().exists(), "left by the dead");
    node.daemon.restart();
    assert_eq!(
        node.daemon.socket().metadata().expect("the socket").mode() & 0o777,
        0o600
    );
    assert_eq!(
        node.dir().join("state").metadata().expect("the run folder").mode() & 0o777,
        0o700
    );
}

#[test]
fn the_supervisor_is_told_when_it_is_ready() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    fs::write(dir.path().join("config.toml"), "").expect("config.toml");
    let notify = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
    notify
        .set_read_timeout(Some(patience(Duration::from_secs(5))))
        .expect("a timeout");
    let mut child = Command::new(inro())
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .args(["serve", "--config"])
        .arg(dir.path().join("config.toml"))
        .arg("--root")
        .arg(dir.path().join("root"))
        .arg("--state")
        .arg(dir.path().join("state"))
        .args(["--listen", &format!("unix://{}/inro.sock", dir.path().display())])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("inro");
    // Among other things, which tests/it/service.rs is about.
    let told = loop {
        let mut told = [0; 256];
        let received = notify
            .recv(&mut told)
            .map(|size| String::from_utf8_lossy(&told[..size]).into_owned());
        match received {
            Ok(told) if !told.lines().any(|line| line == "READY=1") => {}
            received => break received,
        }
    };
    // Before anything can fail: the daemon must not outlive the test.
    child.kill().expect("kill");
    child.wait().expect("reap");
    told.expect("READY=1");
}

#[test]
fn it_says_who_it_is_and_what_it_can_do() {
    let node = Node::start();
    let version = node.cri.version(v1::VersionRequest::default()).expect("version");
    assert_eq!(
        (version.runtime_name.as_str(), version.runtime_api_version.as_str()),
        ("inro", "v1")
    );
    let status = node.cri.status(v1::StatusRequest { verbose: true }).expect("status");
    for condition in status.status.expect("a status").conditions {
        assert!(condition.status, "{condition:?}");
    }
    // A client looks its handler up by name, and the name of the default is empty.
    assert!(status.runtime_handlers.iter().any(|handler| handler.name.is_empty()));
    let linux = node
        .cri
        .runtime_config(v1::RuntimeConfigRequest {})
        .expect("runtime config")
        .linux
        .expect("linux");
    let driver = match Driver::of_tests() {
        Driver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        Driver::Systemd => v1::CgroupDriver::Systemd,
    };
    assert_eq!(linux.cgroup_driver(), driver);
}

#[test]
fn it_is_ready_soon() {
    let mut node = Node::start();
    let mut times: Vec<Duration> = (0..10)
        .map(|_| {
            node.daemon.terminate();
            node.daemon.restart()
        })
        .collect();
    times.sort();
    eprintln!("ready after {:?} (median of 10, longest {:?})", times[5], times[9]);
    assert!(times[5] < patience(Duration::from_millis(150)), "{times:?}");
}
