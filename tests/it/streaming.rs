//! Exec and attach as streams: through crictl over both transports, and through a WebSocket client of the harness.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use sha2::{Digest, Sha256};
use tonic::Code;

use crate::harness::{Container, Node, eventually, patience, v1, websocket};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// Mebibytes sent each way; `INRO_STREAM_MIB` makes it more.
fn mebibytes() -> usize {
    number("INRO_STREAM_MIB", 64)
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}

fn sleeper(node: &Node) -> Container {
    node.pull("shell");
    node.pod(|_| {}).run_container("shell", &["sleep", "100000"])
}

/// A container that reads its stdin.
fn reader(node: &Node, command: &[&str], once: bool) -> Container {
    node.pull("shell");
    let container = node.pod(|_| {}).container("shell", command, |config| {
        config.stdin = true;
        config.stdin_once = once;
    });
    container.start();
    container
}

fn exec_url(node: &Node, container: &Container, command: &[&str], stdin: bool) -> String {
    let request = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: command.iter().map(|&word| word.into()).collect(),
        stdin,
        stdout: true,
        stderr: true,
        tty: false,
    };
    node.cri.exec(request).expect("exec").url
}

/// Bytes that repeat nowhere near.
struct Noise(u64);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for piece in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            piece.copy_from_slice(&self.0.to_ne_bytes()[..piece.len()]);
        }
        Ok(buffer.len())
    }
}

/// Copies to the end and hashes on the way.
fn copy(from: &mut impl Read, to: &mut impl Write) -> (u64, [u8; 32]) {
    let (mut hash, mut count, mut buffer) = (Sha256::new(), 0, vec![0; 64 << 10]);
    loop {
        let read = from.read(&mut buffer).expect("read");
        if read == 0 {
            return (count, hash.finalize().into());
        }
        count += read as u64;
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read]).expect("write");
    }
}

fn piped(mut command: Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("crictl")
}

#[test]
fn bytes_come_through_whole_in_both_directions() {
    let node = Node::start();
    let container = sleeper(&node);
    let mib = mebibytes();
    for transport in TRANSPORTS {
        let began = Instant::now();
        let mut child = piped(node.crictl_command(&["exec", "-r", transport, "-i", &container.id, "cat"]));
        let (mut to, mut from) = (child.stdin.take().expect("stdin"), child.stdout.take().expect("stdout"));
        let sender = thread::spawn(move || copy(&mut Noise(7).take((mib as u64) << 20), &mut to));
        let received = copy(&mut from, &mut std::io::sink());
        assert_eq!(sender.join().expect("sent"), received, "{transport}");
        assert_eq!(received.0, (mib as u64) << 20);
        assert!(child.wait().expect("crictl").success());
        eprintln!("{transport}: {mib} MiB there and back in {:.1?}", began.elapsed());
    }
}

#[test]
fn each_direction_by_itself() {
    let node = Node::start();
    let container = sleeper(&node);
    let mib = mebibytes();
    for transport in TRANSPORTS {
        let began = Instant::now();
        let script = format!("dd if=/dev/zero bs=1M count={mib} 2>/dev/null");
        let mut child = piped(node.crictl_command(&["exec", "-r", transport, &container.id, "sh", "-c", &script]));
        let received = copy(&mut child.stdout.take().expect("stdout"), &mut std::io::sink());
        assert!(child.wait().expect("crictl").success());
        let expected = copy(&mut std::io::repeat(0).take((mib as u64) << 20), &mut std::io::sink());
        assert_eq!(received, expected, "{transport}");
        let out = began.elapsed();

        let began = Instant::now();
        let mut child = piped(node.crictl_command(&["exec", "-r", transport, "-i", &container.id, "sha256sum"]));
        let mut to = child.stdin.take().expect("stdin");
        let (_, hash) = copy(&mut Noise(9).take((mib as u64) << 20), &mut to);
        drop(to);
        let output = child.wait_with_output().expect("crictl");
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.starts_with(&hash), "{transport}: {printed}");
        eprintln!("{transport}: {mib} MiB out in {out:.1?}, in in {:.1?}", began.elapsed());
    }
}

#[test]
fn both_outputs_and_the_exit_code_come_back() {
    let node = Node::start();
    let container = sleeper(&node);
    let script = "echo out; echo err >&2; exit 3";
    for transport in TRANSPORTS {
        let output = node.crictl(&["exec", "-r", transport, &container.id, "sh", "-c", script]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"out\n", "{transport}: {told}");
        assert!(
            told.contains("err\n") && told.contains("exit code 3"),
            "{transport}: {told}"
        );
        assert!(!output.status.success());
        let output = node.crictl(&["exec", "-r", transport, &container.id, "true"]);
        assert!(output.status.success(), "{transport}: {output:?}");
        let output = node.crictl(&["exec", "-r", transport, &container.id, "/no/such/program"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && told.contains("/no/such/program"),
            "{transport}: {told}"
        );
    }
}

#[test]
fn every_websocket_protocol_is_spoken() {
    let node = Node::start();
    let container = sleeper(&node);
    // Without closing, the command itself has to know when it has read enough.
    let script = "head -c 5; echo; echo err >&2; exit 4";
    for protocol in [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ] {
        let url = exec_url(&node, &container, &["sh", "-c", script], true);
        let ended = websocket::run(&url, protocol, b"hello");
        assert_eq!(
            (&ended.stdout[..], &ended.stderr[..]),
            (&b"hello\n"[..], &b"err\n"[..]),
            "{protocol}"
        );
        match protocol.starts_with('v') {
            true => assert_eq!(ended.exit_code(), 4),
            false => assert_eq!(ended.status, b"command terminated with exit code 4"),
        }
    }
}

#[test]
fn a_closed_stdin_is_the_end_of_the_input_and_nothing_else() {
    let node = Node::start();
    let container = sleeper(&node);
    let script = "cat >/dev/null; sleep 1; echo still here";
    for transport in TRANSPORTS {
        let mut child = piped(node.crictl_command(&["exec", "-r", transport, "-i", &container.id, "sh", "-c", script]));
        child.stdin.take().expect("stdin").write_all(b"x").expect("taken");
        let output = child.wait_with_output().expect("crictl");
        assert_eq!(output.stdout, b"still here\n", "{transport}");
    }
    // The other way round: the command closes first, while the client goes on sending.
    let url = exec_url(&node, &container, &["sh", "-c", "head -c 1; exec <&-; echo done"], true);
    let ended = websocket::run(&url, "v5.channel.k8s.io", &vec![b'x'; 4 << 20]);
    assert_eq!((ended.exit_code(), &ended.stdout[..]), (0, &b"xdone\n"[..]));
}

/// A terminal of ours: its master, and a command on its other side.
fn on_terminal(mut command: Command, size: Winsize) -> (File, Child) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&master).expect("grantpt");
    unlockpt(&master).expect("unlockpt");
    tcsetwinsize(&master, size).expect("a size");
    let name = ptsname(&master, Vec::new()).expect("its name");
    let open = || -> OwnedFd {
        let path = name.to_str().expect("a path");
        File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("the other side")
            .into()
    };
    let child = command
        .stdin(open())
        .stdout(open())
        .stderr(open())
        .spawn()
        .expect("setsid");
    (File::from(master), child)
}

fn sized(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[test]
fn a_terminal_has_the_clients_size_and_follows_it() {
    let node = Node::start();
    let container = sleeper(&node);
    for transport in TRANSPORTS {
        // A terminal that controls its session: only then a new size is signalled to crictl.
        let crictl = node.crictl_command(&["exec", "-r", transport, "-it", &container.id, "sh"]);
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(crictl.get_program())
            .args(crictl.get_args());
        let (master, mut child) = on_terminal(command, sized(132, 43));
        let mut shown = String::new();
        let mut read_until = |text: &str| {
            let mut buffer = [0; 4096];
            while !shown.contains(text) {
                // A terminal may tell its end before the last that was written to it.
                let count = (&master).read(&mut buffer).or_else(|_| (&master).read(&mut buffer));
                let count = count.unwrap_or_else(|error| panic!("{error}: {shown}"));
                shown += &String::from_utf8_lossy(&buffer[..count]);
            }
            shown.clear();
        };
        (&master)
            .write_all(b"while ! stty size | grep '43 132'; do sleep 0.1; done\n")
            .expect("typed");
        read_until("43 132\r\n");
        tcsetwinsize(&master, sized(100, 50)).expect("another size");
        (&master)
            .write_all(b"while ! stty size | grep '50 100'; do sleep 0.1; done\n")
            .expect("typed");
        read_until("50 100\r\n");
        (&master)
            .write_all(b"test -t 0 && test -t 1 && echo a terminal; exit\n")
            .expect("typed");
        read_until("a terminal\r\n");
        eventually("crictl ends", Duration::from_secs(10), || {
            child.try_wait().expect("crictl")
        });
    }
}

#[test]
fn a_client_that_is_killed_takes_its_command_with_it() {
    let node = Node::start();
    let container = sleeper(&node);
    let alive = |seconds: &str| container.sh(&format!("ps -o args | grep -c '[s]leep {seconds}' || true"));
    for (transport, seconds) in TRANSPORTS.into_iter().zip(["4451", "4452"]) {
        let mut child = piped(node.crictl_command(&["exec", "-r", transport, "-i", &container.id, "sleep", seconds]));
        // Its stdin is full and not read: the daemon has to notice all the same.
        let mut to = child.stdin.take().expect("stdin");
        let taken = Arc::new(AtomicU64::new(0));
        let writer = thread::spawn({
            let taken = taken.clone();
            move || {
                while to.write_all(&[0; 4096]).is_ok() {
                    taken.fetch_add(4096, Ordering::Relaxed);
                }
            }
        });
        eventually("it runs", Duration::from_secs(10), || {
            (alive(seconds) == "1").then_some(())
        });
        eventually("nobody takes more of its stdin", Duration::from_secs(20), || {
            let before = taken.load(Ordering::Relaxed);
            thread::sleep(patience(Duration::from_millis(100)));
            (before > 0 && taken.load(Ordering::Relaxed) == before).then_some(())
        });
        child.kill().expect("kill crictl");
        child.wait().expect("reap crictl");
        writer.join().expect("the pipe broke");
        eventually("it is gone", Duration::from_secs(5), || {
            (alive(seconds) == "0").then_some(())
        });
    }
}

#[test]
fn an_exec_whose_daemon_dies_is_reaped_and_its_container_untouched() {
    let mut node = Node::start();
    let container = sleeper(&node);
    let pid = container.pid();
    let mut child = piped(node.crictl_command(&["exec", &container.id, "sleep", "4453"]));
    let alive = |container: &Container| container.sh("ps -o args | grep -c '[s]leep 4453' || true");
    eventually("it runs", Duration::from_secs(10), || {
        (alive(&container) == "1").then_some(())
    });
    node.daemon.kill9();
    child.wait().expect("crictl");
    node.daemon.restart();
    eventually("it is gone", Duration::from_secs(5), || {
        (alive(&container) == "0").then_some(())
    });
    assert_eq!(container.pid(), pid);
    assert_eq!(container.status().state, v1::ContainerState::ContainerRunning as i32);
}

#[test]
fn an_idle_session_ends() {
    let node = Node::with_config("[stream]\nidle_timeout_s = 1\n");
    let container = sleeper(&node);
    // Not idle: a byte now and then.
    let script = "for i in 1 2 3 4 5; do sleep 0.5; echo $i; done";
    let output = node.crictl(&["exec", &container.id, "sh", "-c", script]);
    assert_eq!(output.stdout, b"1\n2\n3\n4\n5\n");
    let began = Instant::now();
    node.crictl(&["exec", &container.id, "sleep", "4454"]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    eventually("it is gone", Duration::from_secs(5), || {
        (container.sh("ps -o args | grep -c '[s]leep 4454' || true") == "0").then_some(())
    });
}

#[test]
fn stdin_once_ends_with_its_first_client() {
    let node = Node::start();
    for transport in TRANSPORTS {
        let container = reader(&node, &["cat"], true);
        let mut child = piped(node.crictl_command(&["attach", "-r", transport, "-i", &container.id]));
        child.stdin.take().expect("stdin").write_all(b"hello\n").expect("taken");
        let output: Output = child.wait_with_output().expect("crictl");
        assert!(output.status.success(), "{transport}: {output:?}");
        assert_eq!(output.stdout, b"hello\n", "{transport}");
        assert_eq!(container.wait().exit_code, 0);
        container.wait_logged("hello");
    }
}

#[test]
fn a_thousand_calls_may_wait_and_no_more() {
    let node = Node::start();
    let container = sleeper(&node);
    let request = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let refused = (0..1001).find_map(|number| {
        let answer = node.cri.exec(request.clone());
        answer.err().map(|status| (number, status))
    });
    let (number, status) = refused.expect("a limit");
    assert_eq!((number, status.code()), (1000, Code::ResourceExhausted), "{status:?}");
}

#[test]
fn many_execs_leave_nothing_behind() {
    let node = Node::start();
    let container = sleeper(&node);
    let pid = node.daemon.pid();
    let run = |count: usize| {
        for number in 0..count {
            let word = number.to_string();
            let url = exec_url(&node, &container, &["sh", "-c", "cat; echo \"$0\"", &word], true);
            let ended = websocket::run(&url, "v5.channel.k8s.io", b"in ");
            assert_eq!(String::from_utf8_lossy(&ended.stdout), format!("in {word}\n"));
            assert_eq!(ended.exit_code(), 0);
        }
    };
    run(50);
    let before = eventually("it is quiet", Duration::from_secs(5), || Some(held(pid)));
    let (count, began) = (number("INRO_EXECS", 300), Instant::now());
    run(count);
    let elapsed = began.elapsed();
    let after = eventually("what an exec needs is gone", Duration::from_secs(15), || {
        let now = held(pid);
        (now.descriptors <= before.descriptors && now.threads <= before.threads + 2).then_some(now)
    });
    eprintln!("{count} execs in {elapsed:.1?}: {before:?} before, {after:?} after");
    let grown = after.resident_kib.saturating_sub(before.resident_kib);
    assert!(grown < 4096, "{grown} KiB more: {before:?}, {after:?}");
}

/// What a process holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: u64,
    resident_kib: u64,
}

fn held(pid: u32) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a field");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    Held {
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("its descriptors")
            .count(),
        threads: field("Threads:"),
        resident_kib: field("VmRSS:"),
    }
}
