//! The daemon may die at any instruction; nobody else may notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::harness::{Container, Node, Pod, eventually, patience, v1};

const PODS: usize = 20;
const KILLS: usize = 50;
const LINES: usize = 400;

/// Twenty pods write numbered lines and leave with a code of their own, while the daemon is killed fifty times and
/// clients keep calling it.
#[test]
fn twenty_pods_outlive_fifty_kills_under_load() {
    let mut node = Node::start();
    node.pull("shell");
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); sleep 0.02; done; while [ ! -e /leave ]; do sleep 0.1; done; exit $CODE"
    );
    let pods: Vec<(Pod, Container)> = (0..PODS)
        .map(|number| {
            let pod = node.pod(|_| {});
            let container = pod.container("shell", &["sh", "-c", &script], |config| {
                config.envs.push(v1::KeyValue {
                    key: "CODE".into(),
                    value: (number + 1).to_string().into(),
                });
            });
            container.start();
            (pod, container)
        })
        .collect();
    let pids: Vec<u32> = pods.iter().map(|(_, container)| container.pid()).collect();

    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..2)
        .map(|client| {
            let (cri, done, answered) = (node.cri.clone(), done.clone(), answered.clone());
            let targets: Vec<_> = pods.iter().map(|(_, container)| container.clone()).collect();
            thread::spawn(move || {
                // Whatever a call answers while the daemon dies, it must answer.
                for number in client.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let listed = cri.list_containers(v1::ListContainersRequest::default()).is_ok();
                    let ran = targets[number % PODS].try_exec(&["true"], 5).is_ok();
                    answered.fetch_add(usize::from(listed) + usize::from(ran), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(5));
                }
            })
        })
        .collect();

    let mut ready = Vec::new();
    for kill in 0..KILLS {
        // Not in step with anything.
        thread::sleep(Duration::from_millis(20 + (kill as u64 * 37) % 90));
        node.daemon.kill9();
        ready.push(node.daemon.restart());
        let running = v1::ContainerFilter {
            state: Some(v1::ContainerStateValue {
                state: v1::ContainerState::ContainerRunning.into(),
            }),
            ..Default::default()
        };
        let listed = node
            .cri
            .list_containers(v1::ListContainersRequest { filter: Some(running) })
            .expect("list");
        assert_eq!(listed.containers.len(), PODS, "after kill {kill}");
    }
    done.store(true, Ordering::Relaxed);
    load.into_iter().for_each(|client| client.join().expect("a client"));
    ready.sort();
    eprintln!(
        "ready again after {KILLS} kills: median {:?}, longest {:?}; {} calls answered meanwhile",
        ready[KILLS / 2],
        ready[KILLS - 1],
        answered.load(Ordering::Relaxed)
    );
    assert!(
        ready[KILLS / 2] < patience(Duration::from_millis(200)),
        "ready again: {ready:?}"
    );

    let expected: String = (0..LINES).map(|line| format!("line {line}\n")).collect();
    for (number, (_, container)) in pods.iter().enumerate() {
        assert_eq!(container.pid(), pids[number], "init of container {number}");
        container.wait_logged(&format!("line {}\n", LINES - 1));
        container.exec(&["touch", "/leave"]);
    }
    for (number, (_, container)) in pods.iter().enumerate() {
        assert_eq!(container.wait().exit_code, i32::try_from(number + 1).expect("small"));
        assert_eq!(container.logged(), expected, "log of container {number}");
    }
}

#[test]
fn an_exit_while_the_daemon_is_dead_is_told_afterwards() {
    let mut node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sh", "-c", "sleep 0.5; echo late; exit 42"]);
    node.daemon.kill9();
    thread::sleep(Duration::from_millis(500) + patience(Duration::from_millis(400)));
    node.daemon.restart();
    let status = container.status();
    assert_eq!(
        (status.state, status.exit_code),
        (v1::ContainerState::ContainerExited as i32, 42)
    );
    assert_eq!(container.logged(), "late\n");
}

#[test]
fn sigterm_leaves_pods_running() {
    let mut node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "1000"]);
    let pid = container.pid();
    assert!(node.daemon.terminate().success());
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    node.daemon.restart();
    assert_eq!(container.pid(), pid);
    assert_eq!(pod.status().state, v1::PodSandboxState::SandboxReady as i32);
    container.stop(0);
}

#[test]
fn a_created_container_can_be_started_by_the_next_daemon() {
    let mut node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.container("shell", &["sh", "-c", "echo started; exit 5"], |_| {});
    node.daemon.kill9();
    node.daemon.restart();
    container.start();
    assert_eq!(container.wait().exit_code, 5);
    assert_eq!(container.logged(), "started\n");
}

/// A process as /proc tells it; a zombie has no command.
struct Process {
    pid: u32,
    parent: u32,
    name: String,
    command: String,
}

fn processes() -> Vec<Process> {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        Some(Process {
            pid,
            parent: rest.split(' ').nth(1)?.parse().ok()?,
            name: name.to_owned(),
            command: std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?,
        })
    })
    .collect()
}

#[test]
fn an_exec_dies_with_its_daemon_and_its_container_lives() {
    const SLEEPER: &str = "sleep\x002718\x00";
    let mut node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "1000"]);
    let pid = container.pid();
    let client = thread::spawn({
        let container = container.clone();
        move || container.try_exec(&["sh", "-c", "sleep 2718 & setsid sleep 2718 & sleep 2718; true"], 60)
    });
    let (command, keeper) = eventually("three sleepers of one shell", Duration::from_secs(10), || {
        let all = processes();
        let sleepers: Vec<_> = all.iter().filter(|process| process.command == SLEEPER).collect();
        let shell = all
            .iter()
            .find(|process| process.pid == sleepers.first().map_or(0, |s| s.parent))?;
        (sleepers.len() == 3).then_some((shell.pid, shell.parent))
    });
    let named = |pid: u32| {
        processes()
            .into_iter()
            .find(|process| process.pid == pid)
            .map(|process| process.name)
    };
    assert_eq!(named(keeper).as_deref(), Some("inro-exec"));
    node.daemon.kill9();
    assert!(client.join().expect("a client").is_err());
    // The command and its keeper are gone, not even zombies; what the command had started is its container's to reap.
    eventually("their end", Duration::from_secs(10), || {
        let sleeping = processes().iter().any(|process| process.command == SLEEPER);
        (!sleeping && named(command).is_none() && named(keeper).is_none()).then_some(())
    });
    node.daemon.restart();
    assert_eq!(container.pid(), pid);
    assert_eq!(container.exec(&["echo", "again"]).stdout, b"again\n");
}
