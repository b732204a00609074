//! Attached clients that are slow or stopped: the container and the others go on at their own speed.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    process::{Child, ChildStdout, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::harness::{Container, Node, eventually, patience, signal, v1};

/// Prints until somebody says go, so that a client that sees something is known to be attached; then `flood`.
fn flooder(node: &Node, flood: &str) -> Container {
    flooder_logging(node, flood, |_| {})
}

fn flooder_logging(node: &Node, flood: &str, edit: impl FnOnce(&mut v1::PodSandboxConfig)) -> Container {
    node.pull("shell");
    let script = format!("until [ -e /go ]; do echo {WAITING}; sleep 0.05; done; {flood}; echo the end");
    node.pod(edit).run_container("shell", &["sh", "-c", &script])
}

/// Numbered lines, less than a client may be behind.
const NUMBERED: &str = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); printf '%1000d\\n' $i; done";
/// More than a client may be behind: 128 MiB, or what `INRO_FLOOD_MIB` says.
fn too_much() -> String {
    let mib: u64 = std::env::var("INRO_FLOOD_MIB").map_or(128, |mib| mib.parse().expect("a number"));
    format!("yes \"$(printf '%01000d' 7)\" | head -c {}; echo", mib << 20)
}

/// What [`NUMBERED`] prints, and the end.
fn numbered() -> String {
    let lines: String = (1..=40_000).map(|number| format!("{number:1000}\n")).collect();
    lines + "the end\n"
}

/// `text` without the lines of the wait.
fn flood_of(text: &str) -> &str {
    let line = format!("{WAITING}\n");
    let start = text.rfind(&line).map_or(0, |at| at + line.len());
    &text[start..]
}

const WAITING: &str = "not yet";

/// crictl, attached: it has shown something.
struct Client {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Client {
    fn attach(node: &Node, container: &Container, transport: &str) -> Client {
        let mut child = node
            .crictl_command(&["attach", "-r", transport, &container.id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("crictl");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a first line");
        assert_eq!(line.trim_end(), WAITING);
        Client { child, stdout }
    }

    /// Everything until its end, and what it said about that.
    fn rest(mut self) -> (String, String, bool) {
        let (mut shown, mut told) = (String::new(), String::new());
        self.stdout.read_to_string(&mut shown).expect("text");
        let mut stderr = self.child.stderr.take().expect("stderr");
        stderr.read_to_string(&mut told).expect("text");
        (shown, told, self.child.wait().expect("crictl").success())
    }
}

/// Says go and looks at the log until the flood is over. The longest time in which the container got nothing done, and
/// the time that it took for everything.
fn watch_flood(container: &Container) -> (Duration, Duration) {
    container.sh("touch /go");
    let log = File::open(&container.log_path).expect("the log");
    let length = || log.metadata().expect("its length").len();
    let over = |length: u64| {
        let mut tail = [0; 16];
        let read = log.read_at(&mut tail, length.saturating_sub(8)).expect("the log");
        tail[..read].starts_with(b"the end\n")
    };
    let began = Instant::now();
    let (mut last, mut at, mut longest) = (length(), began, Duration::ZERO);
    loop {
        let now = length();
        if now != last {
            longest = longest.max(at.elapsed());
            (last, at) = (now, Instant::now());
            if over(now) {
                return (longest, began.elapsed());
            }
        }
        let limit = patience(Duration::from_secs(60));
        assert!(began.elapsed() < limit, "{last} bytes of log within {limit:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The machine has pauses of its own, a client that holds its container up does so every time: one of a few times has to
/// be without a pause, or with none longer than without the client. Both are what a flood tells: without and with it.
fn goes_on(mut floods: impl FnMut() -> (Duration, Duration)) {
    let pauses: Vec<_> = (0..4)
        .map(|_| floods())
        .take_while(|&(alone, with_client)| with_client >= patience(PAUSE).max(alone))
        .collect();
    assert!(pauses.len() < 4, "nothing printed for {pauses:?}");
}

const PAUSE: Duration = Duration::from_millis(200);

#[test]
fn a_stopped_client_holds_up_nobody_and_gets_everything_when_it_goes_on() {
    let node = Node::start();
    for transport in TRANSPORTS {
        goes_on(|| {
            let container = flooder(&node, NUMBERED);
            let stopped = Client::attach(&node, &container, transport);
            let other = Client::attach(&node, &container, transport);
            signal(stopped.child.id(), Signal::STOP);
            let reading = thread::spawn(|| other.rest());
            let (longest, whole) = watch_flood(&container);
            eprintln!("{transport}: {whole:.1?}, nothing printed for {longest:.1?} at most");
            // Its exit is told while the one that is stopped has not seen the beginning.
            assert_eq!(container.wait().exit_code, 0);
            let other = reading.join().expect("the other");
            signal(stopped.child.id(), Signal::CONT);
            let expected = numbered();
            for (shown, told, success) in [other, stopped.rest()] {
                assert!(success, "{transport}: {told}");
                assert!(flood_of(&shown) == expected, "{transport}: {} bytes", shown.len());
            }
            let logged = container.logged();
            assert!(flood_of(&logged) == expected, "{} bytes logged", logged.len());
            (Duration::ZERO, longest)
        });
    }
}

#[test]
fn a_slow_client_gets_every_byte_long_after_it_was_printed() {
    let node = Node::start();
    let container = flooder(&node, NUMBERED);
    let mut slow = Client::attach(&node, &container, "spdy");
    let (mut shown, exited) = (Vec::new(), || {
        container.status().state == v1::ContainerState::ContainerExited as i32
    });
    container.sh("touch /go");
    // A piece now and then while the container runs, the rest as it comes.
    eventually("the container exits", Duration::from_secs(60), || {
        let mut piece = [0; 4096];
        let count = slow.stdout.read(&mut piece).expect("read");
        shown.extend_from_slice(&piece[..count]);
        exited().then_some(())
    });
    let early = shown.len();
    let (rest, told, success) = slow.rest();
    assert!(success, "{told}");
    let shown = String::from_utf8(shown).expect("text") + &rest;
    assert!(flood_of(&shown) == numbered(), "{} bytes shown", shown.len());
    assert!(early < shown.len() / 2, "it was not slow: {early} bytes");
}

#[test]
fn one_that_is_too_far_behind_is_dismissed_with_the_reason() {
    let node = Node::start();
    // In memory: what is looked at is the client's disk, not the log's.
    let logs = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let log = |name: &str| {
        let path = logs.path().join(name).display().to_string();
        move |config: &mut v1::PodSandboxConfig| config.log_directory = path
    };
    for transport in TRANSPORTS {
        goes_on(|| {
            let container = flooder_logging(&node, &too_much(), log("alone"));
            let (alone, whole) = watch_flood(&container);
            eprintln!("{transport}: alone {whole:.1?}, nothing printed for {alone:.1?} at most");
            std::fs::remove_file(&container.log_path).expect("the log");
            container.remove();
            let container = flooder_logging(&node, &too_much(), log("watched"));
            let stopped = Client::attach(&node, &container, transport);
            signal(stopped.child.id(), Signal::STOP);
            let (longest, whole) = watch_flood(&container);
            eprintln!("{transport}: with a stopped client {whole:.1?}, nothing printed for {longest:.1?} at most");
            assert_eq!(container.wait().exit_code, 0);
            signal(stopped.child.id(), Signal::CONT);
            let (shown, told, _) = stopped.rest();
            // Others may keep the disk busy.
            let reason = told.contains("64 MiB behind") || told.contains("the disk took too long");
            assert!(told.contains("read too slowly") && reason, "{transport}: {told}");
            // What it was shown before that is what was printed first, and not all of it.
            let logged = container.logged();
            let (printed, shown) = (flood_of(&logged), flood_of(&shown));
            assert!(printed.starts_with(shown) && shown.len() < printed.len());
            std::fs::remove_file(&container.log_path).expect("the log");
            container.remove();
            (alone, longest)
        });
    }
}

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
