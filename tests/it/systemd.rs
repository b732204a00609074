//! The daemon as a service, by the unit of contrib/: systemd ends it and starts it again, and the pods go on.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
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
        Service::start_with(node, &[])
    }

    /// The same with texts of the unit replaced.
    fn start_with(node: &Node, changes: &[(&str, &str)]) -> Service {
        let dir = node.dir().display();
        let command = format!(
            "ExecStart={} serve --config {dir}/config.toml --root {dir}/root --state {dir}/state --listen {}",
            inro().display(),
            node.daemon.endpoint()
        );
        let mut unit = include_str!("../../contrib/inro.service").to_owned();
        for (text, by) in [("ExecStart=/usr/local/bin/inro serve", command.as_str())]
            .iter()
            .chain(changes)
        {
            assert!(unit.contains(text), "{text} in {unit}");
            unit = unit.replace(text, by);
        }
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

    fn property(&self, name: &str) -> String {
        let arguments = ["show", "--value", "--property", name, &self.name];
        let output = Command::new("systemctl").args(arguments).output().expect("systemctl");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
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

/// Whether it is the first process here; `test` is skipped when not.
fn has_systemd(test: &str) -> bool {
    let there = Path::new("/run/systemd/system").exists();
    if !there {
        skipped(test, "systemd is not the first process here");
    }
    there
}

#[test]
fn pods_outlive_restart_kill_and_stop_of_the_service() {
    if !has_systemd("pods_outlive_restart_kill_and_stop_of_the_service") {
        return;
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

#[test]
fn the_first_client_of_the_socket_unit_starts_the_daemon() {
    if !has_systemd("the_first_client_of_the_socket_unit_starts_the_daemon") {
        return;
    }
    let mut node = Node::start();
    node.pull("shell");
    assert!(node.daemon.terminate().success());
    let service = Service::start(&node);
    service.tell(&["stop"]);
    let socket = Socket::start(&node);
    let listening = || node.daemon.socket().metadata().expect("the socket").ino();
    let inode = listening();
    assert_eq!(service.property("ActiveState"), "inactive");

    let container = node.pod(|_| {}).run_container("shell", &["sleep", "1000"]);
    let pid = container.pid();
    assert_eq!(service.property("ActiveState"), "active");

    // Ended and asked again: the next one has the same socket, and the pod.
    service.tell(&["stop"]);
    assert_eq!(container.pid(), pid, "under the next daemon");
    service.tell(&["kill", "--kill-whom=main", "--signal=KILL"]);
    assert_eq!(container.sh("echo again"), "again");
    assert_eq!(listening(), inode, "never bound again");
    assert_eq!(
        fs::metadata(node.daemon.socket()).expect("the socket").mode() & 0o777,
        0o600
    );

    service.tell(&["stop"]);
    drop(socket);
    drop(service);
    node.daemon.restart();
    assert_eq!(container.pid(), pid, "under a daemon with a socket of its own");
}

/// The unit inro.socket of contrib/ on a node's path, for the service of the same name; stopped and removed with its value.
struct Socket {
    name: String,
    path: PathBuf,
}

impl Socket {
    fn start(node: &Node) -> Socket {
        let unit = include_str!("../../contrib/inro.socket");
        let default = "/run/inro/inro.sock";
        assert!(unit.contains(default), "{default} in {unit}");
        let unit = unit.replace(default, &node.daemon.socket().display().to_string());
        let name = format!("{}.socket", node.dir().file_name().expect("a name").to_string_lossy());
        let path = Path::new("/run/systemd/system").join(&name);
        fs::write(&path, unit).expect("a unit");
        systemctl(&["daemon-reload"]);
        systemctl(&["start", &name]);
        Socket { name, path }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = Command::new("systemctl").args(["stop", &self.name]).status();
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn no_call_is_refused_across_restarts_of_the_service() {
    if !has_systemd("no_call_is_refused_across_restarts_of_the_service") {
        return;
    }
    let mut node = Node::start();
    node.pull("shell");
    assert!(node.daemon.terminate().success());
    let service = Service::start(&node);
    let container = node.pod(|_| {}).run_container("shell", &["sleep", "1000"]);
    let done = AtomicBool::new(false);
    let calls = thread::scope(|scope| {
        let version = scope.spawn(|| {
            let mut calls = 0;
            while !done.load(Ordering::Relaxed) {
                node.crictl_ok(&["version"]);
                calls += 1;
            }
            calls
        });
        let exec = scope.spawn(|| {
            let mut calls = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(container.sh("sleep 1; echo done"), "done");
                calls += 1;
            }
            calls
        });
        let restarts = scope.spawn(|| {
            for _ in 0..5 {
                service.tell(&["restart"]);
                thread::sleep(Duration::from_millis(500));
            }
        });
        let restarted = restarts.join();
        done.store(true, Ordering::Relaxed);
        restarted.expect("five restarts");
        (version.join().expect("crictl"), exec.join().expect("execs"))
    });
    eprintln!("five restarts under {} calls of crictl and {} execs", calls.0, calls.1);
    assert!(calls.0 > 0 && calls.1 > 0);
    drop(service);
    node.daemon.restart();
}

#[test]
fn systemd_replaces_a_daemon_that_does_not_answer_and_pods_go_on() {
    if !has_systemd("systemd_replaces_a_daemon_that_does_not_answer_and_pods_go_on") {
        return;
    }
    let mut node = Node::start();
    node.pull("shell");
    assert!(node.daemon.terminate().success());
    let service = Service::start_with(&node, &[("WatchdogSec=60", "WatchdogSec=15")]);
    let container = node.pod(|_| {}).run_container("shell", &["sleep", "1000"]);
    let pid = container.pid();
    let main = service.property("MainPID");
    // Longer than it may be silent, and it is fed.
    thread::sleep(Duration::from_secs(20));
    assert_eq!(service.property("MainPID"), main);

    service.tell(&["kill", "--kill-whom=main", "--signal=STOP"]);
    eventually("systemd replaces it", Duration::from_secs(60), || {
        let now = service.property("MainPID");
        (now != main && now != "0" && service.property("ActiveState") == "active").then_some(())
    });
    assert_eq!(service.property("Result"), "success");
    assert_eq!(container.pid(), pid);
    assert_eq!(container.sh("echo again"), "again");
    drop(service);
    node.daemon.restart();
}

#[test]
fn systemctl_reload_waits_for_the_new_configuration() {
    if !has_systemd("systemctl_reload_waits_for_the_new_configuration") {
        return;
    }
    let mut node = Node::start();
    assert!(node.daemon.terminate().success());
    let service = Service::start(&node);
    let path = node.dir().join("config.toml");
    let good = fs::read_to_string(&path).expect("config.toml");
    fs::write(&path, format!("{good}\n[pod]\nruntime_handlers = [\"other\"]\n")).expect("config.toml");
    service.tell(&["reload"]);
    let status = node.cri.status(v1::StatusRequest::default()).expect("status");
    assert!(status.runtime_handlers.iter().any(|handler| handler.name == "other"));
    fs::write(&path, "nothing = \"good\"\n").expect("config.toml");
    service.tell(&["reload"]);
    let told = service.property("StatusText");
    assert!(told.contains("stays as it was"), "{told}");
    fs::write(&path, good).expect("config.toml");
    drop(service);
    node.daemon.restart();
}
