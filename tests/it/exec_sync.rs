//! ExecSync: output, codes, limits, and nothing left behind.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::harness::{Container, Node, eventually, patience, v1};

fn sleeper(node: &Node) -> Container {
    node.pull("shell");
    node.pod(|_| {}).run_container("shell", &["sleep", "1000"])
}

#[test]
fn output_and_exit_code_come_back() {
    let node = Node::start();
    let container = sleeper(&node);
    let reply = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!(
        (&reply.stdout[..], &reply.stderr[..], reply.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 9)
    );
    assert_eq!(container.exec(&["sh", "-c", "kill -9 $$"]).exit_code, 137);
    assert_eq!(
        container.sh("readlink /proc/self/ns/pid"),
        container.sh("readlink /proc/1/ns/pid")
    );
}

#[test]
fn stdin_is_empty() {
    let node = Node::start();
    let container = sleeper(&node);
    assert_eq!(container.sh("wc -c"), "0");
}

#[test]
fn each_stream_is_cut_at_16_mib() {
    let node = Node::start();
    let container = sleeper(&node);
    let reply = container.exec(&["sh", "-c", "dd if=/dev/zero bs=1M count=20 2>/dev/null; echo done >&2"]);
    assert_eq!(reply.stdout.len(), 16 << 20);
    assert_eq!((reply.exit_code, &reply.stderr[..]), (0, &b"done\n"[..]));
}

#[test]
fn a_timeout_kills_the_whole_exec_and_only_it() {
    let node = Node::start();
    let container = sleeper(&node);
    let start = Instant::now();
    let script = "sh -c 'sleep 4321 & sleep 4322 & wait' & sleep 4323";
    let status = container.try_exec(&["sh", "-c", script], 1).expect_err("a timeout");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let took = start.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < patience(Duration::from_secs(4)),
        "{took:?}"
    );
    eventually("all of the exec is gone", Duration::from_secs(2), || {
        container
            .sh("ps -o args | grep -c 'sleep 432[1-3]$' || true")
            .eq("0")
            .then_some(())
    });
    assert_eq!(container.status().state, v1::ContainerState::ContainerRunning as i32);
}

#[test]
fn a_background_process_does_not_hold_the_answer() {
    let node = Node::start();
    let container = sleeper(&node);
    let start = Instant::now();
    let reply = container.exec(&["sh", "-c", "sleep 1000 >/dev/null 2>&1 </dev/null & echo started"]);
    assert_eq!(reply.stdout, b"started\n");
    assert!(start.elapsed() < patience(Duration::from_secs(3)));
    // One that keeps the streams open delays the answer a little, and takes nothing from it.
    let reply = container.exec(&["sh", "-c", "sleep 1000 & echo started"]);
    assert_eq!(reply.stdout, b"started\n");
    assert!(start.elapsed() < patience(Duration::from_secs(8)));
}

#[test]
fn a_missing_program_is_an_error_or_127() {
    let node = Node::start();
    let container = sleeper(&node);
    match container.try_exec(&["/no/such/program"], 5) {
        Ok(reply) => assert_eq!(reply.exit_code, 127),
        Err(status) => assert!(status.message().contains("/no/such/program"), "{status:?}"),
    }
}

#[test]
fn in_a_container_that_does_not_run_it_is_refused() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let created = pod.container("shell", &["sleep", "1000"], |_| {});
    assert_eq!(
        created.try_exec(&["true"], 5).expect_err("created").code(),
        Code::FailedPrecondition
    );
    created.start();
    created.stop(0);
    assert_eq!(
        created.try_exec(&["true"], 5).expect_err("exited").code(),
        Code::FailedPrecondition
    );
}

#[test]
fn many_at_once() {
    let node = Node::start();
    let container = sleeper(&node);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let container = &container;
            scope.spawn(move || {
                for number in 0..10 {
                    let word = format!("{client}-{number}");
                    assert_eq!(
                        container.exec(&["echo", &word]).stdout,
                        format!("{word}\n").into_bytes()
                    );
                }
            });
        }
    });
}
