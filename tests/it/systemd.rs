//! The daemon as a service, by the unit of contrib/: systemd ends it and starts it again, and the pods go on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::harness::{Node, eventually, inro, skipped, v1};

/// A unit of this test's own; stopped and removed with its value.
struct Service {
    name: String,
    path: PathBuf,
}

impl Service {
    /// Starts the unit of contrib/ with the folders of a node whose own daemon has ended.
    fn start(node: &Node) -> Service {
        let dir = node.dir().display();
        let command = format!(
            "ExecStart={} serve --config {dir}/config.toml --root {dir}/root --state {dir}/state --listen {}",
            inro().display(),
            node.daemon.endpoint()
        );
        let unit = include_str!("../../contrib/inro.service").replace("ExecStart=/usr/local/bin/inro serve", &command);
        assert!(unit.contains(&command), "{unit}");
        let name = format!("{}.service", node.dir().file_name().expect("a name").to_string_lossy());
        let path = Path::new("/run/systemd/system").join(&name);
        fs::write(&path, unit).expect("a unit");
        let service = Service { name, path };
        systemctl(&["daemon-reload"]);
        service.tell(&["start"]);
        service
    }

    fn tell(&self, words: &[&str]) {
        systemctl(&[words, &[&self.name]].concat());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = Command::new("systemctl").args(["stop", &self.name]).status();
        let _ = fs::remove_file(&self.path);
        let _ = Command::new("systemctl").arg("daemon-reload").status();
    }
}

fn systemctl(arguments: &[&str]) {
    let output = Command::new("systemctl").args(arguments).output().expect("systemctl");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "systemctl {arguments:?}: {told}");
}

#[test]
fn pods_outlive_restart_kill_and_stop_of_the_service() {
    if !Path::new("/run/systemd/system").exists() {
        return skipped(
            "pods_outlive_restart_kill_and_stop_of_the_service",
            "systemd is not the first process here",
        );
    }
    let mut node = Node::start();
    node.pull("shell");
    assert!(node.daemon.terminate().success());
    let service = Service::start(&node);
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sh", "-c", "echo started; exec sleep 1000"]);
    let pid = container.pid();

    service.tell(&["restart"]);
    assert_eq!(container.pid(), pid, "after a restart");

    service.tell(&["kill", "--kill-whom=main", "--signal=KILL"]);
    // Its socket is there all the time: only an answer tells.
    eventually("systemd starts it again", Duration::from_secs(10), || {
        node.cri.version(v1::VersionRequest::default()).ok()
    });
    assert_eq!(container.pid(), pid, "after a kill");
    assert_eq!(container.sh("echo again"), "again");

    service.tell(&["stop"]);
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "after a stop");
    drop(service);
    node.daemon.restart();
    assert_eq!(container.pid(), pid, "under the next daemon");
    container.stop(0);
    assert_eq!(container.logged(), "started\n");
}
