//! The daemon and its service manager: sockets that are passed and kept, what is told, and reloading. The manager is this
//! test; `systemd.rs` has the real one.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::MetadataExt,
            net::{UnixDatagram, UnixListener},
        },
    },
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::harness::{Node, eventually, inro, patience, signal, v1};

/// A daemon under this test's management.
pub struct Managed {
    daemon: Child,
    notify: UnixDatagram,
}

impl Managed {
    /// Starts `inro serve` on the folders of a node whose own daemon has ended; `socket` is passed as descriptor 3.
    pub fn start(node: &Node, socket: Option<&UnixListener>, environment: &[(&str, &str)]) -> Managed {
        let dir = node.dir();
        let path = dir.join("notify");
        let _ = fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).expect("a socket");
        let wait = patience(Duration::from_secs(10));
        notify.set_read_timeout(Some(wait)).expect("a timeout");
        // The variable is to name the process that takes the socket: the shell that becomes it.
        let script = match socket {
            Some(_) => "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=cri exec \"$@\"",
            None => "exec \"$@\" </dev/null",
        };
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(inro()).arg("serve");
        for (option, name) in [("--config", "config.toml"), ("--root", "root"), ("--state", "state")] {
            command.arg(option).arg(dir.join(name));
        }
        if let Some(socket) = socket {
            command.stdin(OwnedFd::from(socket.try_clone().expect("a copy")));
        }
        let log = fs::File::options().append(true).create(true).open(dir.join("inro.log"));
        command
            .args(["--listen", &node.daemon.endpoint()])
            .env("NOTIFY_SOCKET", path)
            .envs(environment.iter().copied())
            .stderr(log.expect("inro.log"));
        let daemon = command.spawn().expect("inro");
        Managed { daemon, notify }
    }

    /// The next message that has `line` in it; those before it are passed over.
    pub fn told(&self, line: &str) -> String {
        let start = Instant::now();
        while start.elapsed() < patience(Duration::from_secs(10)) {
            let mut message = [0; 4096];
            let size = self
                .notify
                .recv(&mut message)
                .unwrap_or_else(|error| panic!("{line}: {error}"));
            let message = String::from_utf8_lossy(&message[..size]).into_owned();
            if message.lines().any(|told| told.starts_with(line)) {
                return message;
            }
        }
        panic!("{line} is not told");
    }

    fn signal(&self, signal_: Signal) {
        signal(self.daemon.id(), signal_);
    }

    pub fn end(mut self) {
        self.signal(Signal::TERM);
        assert!(self.daemon.wait().expect("its end").success());
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A node whose daemon has ended, and a socket in its place.
fn activated() -> (Node, UnixListener) {
    let mut node = Node::start();
    assert!(node.daemon.terminate().success());
    let socket = node.daemon.socket();
    fs::remove_file(&socket).expect("the daemon's own socket");
    let listener = UnixListener::bind(socket).expect("a socket");
    (node, listener)
}

fn zygote_of(daemon: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).expect("children");
    children
        .split_whitespace()
        .next()
        .expect("a zygote")
        .parse()
        .expect("a pid")
}

#[test]
fn who_connects_while_no_daemon_runs_is_served_by_the_next() {
    let (node, listener) = activated();
    let inode = node.daemon.socket().metadata().expect("the socket").ino();
    let mut daemon = Managed::start(&node, Some(&listener), &[]);
    for _ in 0..3 {
        node.cri
            .version(v1::VersionRequest::default())
            .expect("the passed socket");
        daemon.end();
        let cri = node.cri.clone();
        let waiting = thread::spawn(move || cri.version(v1::VersionRequest::default()));
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished(), "it waits");
        daemon = Managed::start(&node, Some(&listener), &[]);
        waiting.join().expect("the client").expect("served by the next daemon");
    }
    assert_eq!(
        node.daemon.socket().metadata().expect("the socket").ino(),
        inode,
        "never bound again"
    );
    daemon.end();
}

#[test]
fn calls_under_way_end_before_the_daemon_and_later_ones_wait() {
    let (node, listener) = activated();
    let daemon = Managed::start(&node, Some(&listener), &[]);
    node.pull("shell");
    let container = node.pod(|_| {}).run_container("shell", &["sleep", "1000"]);
    let marker = PathBuf::from(format!("/proc/{}/root/tmp/begun", container.pid()));
    let under_way = {
        let container = container.clone();
        thread::spawn(move || container.sh("touch /tmp/begun; sleep 2; echo done"))
    };
    eventually("the call has begun", Duration::from_secs(5), || {
        marker.exists().then_some(())
    });
    daemon.signal(Signal::TERM);
    daemon.told("STOPPING=1");
    let later = {
        let container = container.clone();
        thread::spawn(move || container.sh("echo later"))
    };
    assert_eq!(under_way.join().expect("a client"), "done");
    daemon.end();
    let next = Managed::start(&node, Some(&listener), &[]);
    assert_eq!(later.join().expect("a client"), "later");
    next.end();
}

#[test]
fn a_socket_of_its_own_is_given_to_the_manager_and_a_wrong_one_is_not_used() {
    let mut node = Node::start();
    assert!(node.daemon.terminate().success());
    let elsewhere = UnixListener::bind(node.dir().join("elsewhere.sock")).expect("a socket");
    let daemon = Managed::start(&node, Some(&elsewhere), &[]);
    let removed = daemon.told("FDSTOREREMOVE=1");
    assert!(removed.contains("FDNAME=cri"), "{removed}");
    let kept = daemon.told("FDSTORE=1");
    assert!(kept.contains("FDNAME=cri"), "{kept}");
    daemon.told("READY=1");
    node.cri.version(v1::VersionRequest::default()).expect("its own socket");
    daemon.end();
}

#[test]
fn sighup_reloads_what_can_be_and_tells_the_rest() {
    let mut node = Node::start();
    assert!(node.daemon.terminate().success());
    let daemon = Managed::start(&node, None, &[]);
    daemon.told("READY=1");
    let path = node.dir().join("config.toml");
    let good = fs::read_to_string(&path).expect("config.toml");
    let reload = |text: &str| {
        fs::write(&path, text).expect("config.toml");
        daemon.signal(Signal::HUP);
        let told = daemon.told("RELOADING=1");
        assert!(told.contains("MONOTONIC_USEC="), "{told}");
        daemon.told("READY=1")
    };
    let handlers = || {
        let status = node.cri.status(v1::StatusRequest::default()).expect("status");
        status
            .runtime_handlers
            .into_iter()
            .map(|handler| handler.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(handlers(), ["", "inro"]);

    let told = reload(&format!(
        "{good}\n[pod]\nruntime_handlers = [\"other\"]\n[net]\nmtu = 1400\n"
    ));
    assert!(told.contains("restart: net.mtu\n"), "{told}");
    assert_eq!(handlers(), ["", "other"]);

    let told = reload("[pod]\nruntime_handler = []\n");
    assert!(
        told.contains("stays as it was") && told.contains("runtime_handler"),
        "{told}"
    );
    assert_eq!(handlers(), ["", "other"]);

    reload(&good);
    assert_eq!(handlers(), ["", "inro"]);
    daemon.end();
}

#[test]
fn the_watchdog_is_fed_only_while_everything_answers() {
    let mut node = Node::start();
    assert!(node.daemon.terminate().success());
    let limit = patience(Duration::from_secs(1));
    let daemon = Managed::start(&node, None, &[("WATCHDOG_USEC", &limit.as_micros().to_string())]);
    for _ in 0..3 {
        daemon.told("WATCHDOG=1");
    }
    let zygote = zygote_of(daemon.daemon.id());
    signal(zygote, Signal::STOP);
    daemon.notify.set_nonblocking(true).expect("non-blocking");
    // One may have been told right before.
    thread::sleep(limit);
    while daemon.notify.recv(&mut [0; 256]).is_ok() {}
    thread::sleep(limit * 2);
    let silent = daemon.notify.recv(&mut [0; 256]).is_err();
    signal(zygote, Signal::CONT);
    daemon.notify.set_nonblocking(false).expect("blocking");
    assert!(silent, "fed although the zygote does not answer");
    daemon.told("WATCHDOG=1");
    daemon.end();
}

#[test]
fn nothing_that_was_passed_reaches_the_zygote() {
    let (node, listener) = activated();
    let daemon = Managed::start(&node, Some(&listener), &[("WATCHDOG_USEC", "60000000")]);
    daemon.told("READY=1");
    let zygote = zygote_of(daemon.daemon.id());
    let environment = fs::read(format!("/proc/{zygote}/environ")).expect("its environment");
    assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
    let passed = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).expect("the socket's name");
    for entry in fs::read_dir(format!("/proc/{zygote}/fd"))
        .expect("its descriptors")
        .flatten()
    {
        assert_ne!(fs::read_link(entry.path()).ok().as_ref(), Some(&passed), "{entry:?}");
    }
    daemon.end();
}
