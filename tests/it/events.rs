//! GetContainerEvents: every change once, in order, with the whole pod as it was right after it.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::harness::{EventStream, Node, eventually, v1};

const SOON: Duration = Duration::from_secs(20);
/// Without it a pod's status has neither its containers' nor a time.
const WHOLE_STATUS: &str = "[pod]\ncontainers_in_status = true\n";

use v1::{ContainerEventType as Kind, ContainerState as State};

fn next(events: &mut EventStream) -> v1::ContainerEventResponse {
    events.next(SOON).expect("an event").expect("not the end")
}

/// Containers and their states as the statuses have them.
fn states(statuses: &[v1::ContainerStatus]) -> BTreeMap<String, State> {
    statuses
        .iter()
        .map(|status| (status.id.clone(), status.state()))
        .collect()
}

/// The same, as events change them.
fn apply(known: &mut BTreeMap<String, State>, event: &v1::ContainerEventResponse) {
    let state = match event.container_event_type() {
        Kind::ContainerCreatedEvent => State::ContainerCreated,
        Kind::ContainerStartedEvent => State::ContainerRunning,
        Kind::ContainerStoppedEvent => State::ContainerExited,
        Kind::ContainerDeletedEvent => {
            known.remove(&event.container_id).expect("deleted after it was created");
            return;
        }
    };
    let before = known.insert(event.container_id.clone(), state);
    let allowed = match state {
        State::ContainerCreated => before.is_none(),
        State::ContainerRunning => before == Some(State::ContainerCreated),
        _ => matches!(before, Some(State::ContainerCreated | State::ContainerRunning)),
    };
    assert!(allowed, "{before:?} to {state:?}");
}

#[test]
fn a_life_is_told_from_its_beginning_to_its_end() {
    let node = Node::with_config(WHOLE_STATUS);
    node.pull("shell");
    let mut events = node.cri.events();
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "1000"]);
    container.stop(0);
    container.remove();
    pod.stop();
    pod.remove();
    let (ready, not_ready) = (v1::PodSandboxState::SandboxReady, v1::PodSandboxState::SandboxNotready);
    let expected = [
        (&pod.id, Kind::ContainerCreatedEvent, ready, None),
        (&pod.id, Kind::ContainerStartedEvent, ready, None),
        (
            &container.id,
            Kind::ContainerCreatedEvent,
            ready,
            Some(State::ContainerCreated),
        ),
        (
            &container.id,
            Kind::ContainerStartedEvent,
            ready,
            Some(State::ContainerRunning),
        ),
        (
            &container.id,
            Kind::ContainerStoppedEvent,
            ready,
            Some(State::ContainerExited),
        ),
        (&container.id, Kind::ContainerDeletedEvent, ready, None),
        (&pod.id, Kind::ContainerStoppedEvent, not_ready, None),
        (&pod.id, Kind::ContainerDeletedEvent, not_ready, None),
    ];
    let mut last = 0;
    for (id, kind, sandbox_state, container_state) in expected {
        let event = next(&mut events);
        assert_eq!((&event.container_id, event.container_event_type()), (id, kind));
        assert!(event.created_at > last, "{kind:?}");
        last = event.created_at;
        let sandbox = event.pod_sandbox_status.expect("a sandbox status");
        assert_eq!((&sandbox.id, sandbox.state()), (&pod.id, sandbox_state), "{kind:?}");
        assert_eq!(sandbox.metadata, pod.config.metadata);
        let told = event.containers_statuses.first().map(v1::ContainerStatus::state);
        assert_eq!(told, container_state, "{kind:?}");
    }
}

#[test]
fn a_thousand_changes_come_in_order_and_agree_with_every_status() {
    const CONTAINERS: usize = 64;
    let node = Node::with_config(WHOLE_STATUS);
    node.pull("shell");
    let pod = node.pod(|_| {});
    let mut events = node.cri.events();
    let status = || {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: false,
        };
        node.cri.pod_sandbox_status(request).expect("sandbox status")
    };
    // Four at a time, every other one ending by itself at once; beside them somebody who asks for the status.
    let (told, seen) = thread::scope(|scope| {
        let (pod, status) = (&pod, &status);
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || {
                    for number in 0..CONTAINERS {
                        let command: &[&str] = if (worker + number) % 2 == 0 {
                            &["true"]
                        } else {
                            &["sleep", "1000"]
                        };
                        let container = pod.run_container("shell", command);
                        container.stop(0);
                        container.remove();
                    }
                })
            })
            .collect();
        let observer = scope.spawn(move || {
            let mut seen = Vec::new();
            while workers.iter().any(|worker| !worker.is_finished()) {
                seen.push(status());
                thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        let told: Vec<_> = (0..4 * CONTAINERS * 4).map(|_| next(&mut events)).collect();
        (told, observer.join().expect("statuses"))
    });
    let mut statuses = seen.iter().peekable();
    let (mut known, mut compared, mut last) = (BTreeMap::new(), 0, 0);
    for event in &told {
        assert!(event.created_at > last);
        last = event.created_at;
        while let Some(status) = statuses.next_if(|status| status.timestamp < event.created_at) {
            assert_eq!(
                states(&status.containers_statuses),
                known,
                "status at {}",
                status.timestamp
            );
            compared += 1;
        }
        apply(&mut known, event);
        assert_eq!(states(&event.containers_statuses), known, "{event:?}");
        assert_eq!(
            event.pod_sandbox_status.as_ref().map(|status| &status.id),
            Some(&pod.id)
        );
    }
    assert!(known.is_empty() && compared > 10, "{compared} statuses, {known:?}");
}

#[test]
fn a_slow_client_is_dropped_with_the_number_and_the_others_go_on() {
    const PODS: usize = 700;
    let node = Node::start();
    let (mut slow, mut quick) = (node.cri.events(), node.cri.events());
    let filler = "x".repeat(4096);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..PODS / 4 {
                    let pod = node.pod(|config| drop(config.annotations.insert("filler".into(), filler.clone())));
                    pod.remove();
                }
            });
        }
        let mut known = BTreeMap::new();
        for _ in 0..PODS * 4 {
            apply(&mut known, &next(&mut quick));
        }
        assert!(known.is_empty());
    });
    // What was under way to it comes first.
    let begin = Instant::now();
    let error = loop {
        match slow.next(SOON) {
            Ok(event) => assert!(event.is_some(), "the stream ended without an error"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    let missed: usize = error
        .message()
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a number");
    assert!((1..PODS * 4).contains(&missed), "{error:?}");
    assert!(begin.elapsed() < SOON);
}

#[test]
fn a_stream_ends_with_the_daemon_and_does_not_hold_it_up() {
    let mut node = Node::start();
    let mut events = node.cri.events();
    let begin = Instant::now();
    assert!(node.daemon.terminate().success());
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(matches!(events.next(SOON), Ok(None)));
}

#[test]
fn a_status_has_its_containers_and_a_time_or_neither() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let _container = pod.run_container("shell", &["sleep", "1000"]);
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: false,
    };
    let status = node.cri.pod_sandbox_status(request).expect("status");
    assert_eq!((status.containers_statuses.len(), status.timestamp), (0, 0));
}

#[test]
fn an_exit_while_the_daemon_is_dead_is_in_the_status_of_the_next() {
    let mut node = Node::with_config(WHOLE_STATUS);
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sh", "-c", "until [ -e /go ]; do sleep 0.05; done; exit 7"]);
    let go = format!("/proc/{}/root/go", container.pid());
    node.daemon.kill9();
    fs::write(go, "").expect("told to go");
    node.wait_exit_recorded(&container);
    node.daemon.restart();
    let mut events = node.cri.events();
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: false,
    };
    let status = node.cri.pod_sandbox_status(request).expect("status");
    assert_eq!(
        states(&status.containers_statuses)[&container.id],
        State::ContainerExited
    );
    assert_eq!(status.containers_statuses[0].exit_code, 7);
    container.remove();
    let event = next(&mut events);
    assert_eq!(event.container_event_type(), Kind::ContainerDeletedEvent);
    assert!(event.created_at > status.timestamp);
}

#[test]
fn crictl_shows_them() {
    struct Kill(Child);
    impl Drop for Kill {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let node = Node::start();
    let mut command = node.crictl_command(&["events"]);
    let mut crictl = Kill(command.stdout(Stdio::piped()).spawn().expect("crictl"));
    let mut stdout = crictl.0.stdout.take().expect("its output");
    let reader = thread::spawn(move || {
        let mut told = String::new();
        stdout.read_to_string(&mut told).expect("text");
        told
    });
    // It does not say when it listens.
    let mut pods = 0;
    eventually("crictl has had the time to connect", Duration::from_secs(5), || {
        node.pod(|_| {}).remove();
        pods += 1;
        (pods == 30).then_some(())
    });
    drop(crictl);
    let told = reader.join().expect("its output");
    for kind in ["CREATED", "STARTED", "STOPPED", "DELETED"] {
        assert!(told.contains(&format!("CONTAINER_{kind}_EVENT")), "{told}");
    }
}
