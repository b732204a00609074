//! The states of sandboxes and containers, and calls that come twice.

use std::{
    thread,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::harness::{Node, patience, time_factor, v1};

#[test]
fn stop_and_remove_may_come_twice_and_for_nothing() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "1000"]);
    container.stop(0);
    container.stop(0);
    container.remove();
    container.remove();
    container.stop(0);
    pod.stop();
    pod.stop();
    pod.remove();
    pod.remove();
    pod.stop();
    let unknown = "0123456789abcdef".repeat(4);
    node.cri
        .stop_pod_sandbox(v1::StopPodSandboxRequest {
            pod_sandbox_id: unknown.clone(),
        })
        .expect("stop unknown");
    node.cri
        .remove_pod_sandbox(v1::RemovePodSandboxRequest {
            pod_sandbox_id: unknown.clone(),
        })
        .expect("remove");
    node.cri
        .remove_container(v1::RemoveContainerRequest {
            container_id: unknown.clone(),
        })
        .expect("remove");
    node.cri
        .stop_container(v1::StopContainerRequest {
            container_id: unknown,
            timeout: 0,
        })
        .expect("stop");
}

#[test]
fn stop_sends_the_stop_signal_then_kills_after_the_grace_period() {
    let node = Node::start();
    node.pull("shell");
    node.pull("configured");
    node.pull("stubborn");
    let pod = node.pod(|_| {});
    let polite = pod.run_container(
        "shell",
        &[
            "sh",
            "-c",
            "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done",
        ],
    );
    polite.wait_logged("ready");
    polite.stop(10 * i64::from(time_factor()));
    assert_eq!(polite.status().exit_code, 6);

    let own_signal = pod.run_container(
        "configured",
        &[
            "sh",
            "-c",
            "trap 'exit 8' USR1; echo ready; while :; do sleep 0.05; done",
        ],
    );
    own_signal.wait_logged("ready");
    own_signal.stop(10 * i64::from(time_factor()));
    assert_eq!(own_signal.status().exit_code, 8, "the image's stop signal");

    let stubborn = pod.run_container("stubborn", &[]);
    stubborn.wait_logged("ready");
    let start = Instant::now();
    stubborn.stop(1);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < patience(Duration::from_secs(4)),
        "{took:?}"
    );
    assert_eq!(stubborn.status().exit_code, 137);
}

#[test]
fn a_shorter_grace_period_shortens_a_stop_under_way() {
    let node = Node::start();
    node.pull("stubborn");
    let stubborn = node.pod(|_| {}).run_container("stubborn", &[]);
    stubborn.wait_logged("ready");
    let start = Instant::now();
    let long = {
        let stubborn = stubborn.clone();
        thread::spawn(move || stubborn.stop(60 * i64::from(time_factor())))
    };
    thread::sleep(Duration::from_millis(300));
    stubborn.stop(0);
    long.join().expect("the first stop answers too");
    assert!(
        start.elapsed() < patience(Duration::from_secs(10)),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn kill_reaches_every_process_of_the_container() {
    let node = Node::start();
    node.pull("shell");
    // With the pod's pid namespace the container's first process does not take the others along.
    let pod = node.pod(|config| {
        let linux = config.linux.as_mut().expect("linux");
        let options = linux
            .security_context
            .as_mut()
            .and_then(|security| security.namespace_options.as_mut());
        options.expect("options").pid = v1::NamespaceMode::Pod.into();
    });
    let other = pod.run_container("shell", &["sleep", "1000"]);
    let container = pod.run_container("shell", &["sh", "-c", "setsid sleep 4567 & exec sleep 4568"]);
    let count = || other.sh("ps -o args | grep -c 'sleep 456[78]$' || true");
    crate::harness::eventually("both run", Duration::from_secs(3), || (count() == "2").then_some(()));
    container.stop(0);
    assert_eq!(count(), "0");
    assert_eq!(other.status().state, v1::ContainerState::ContainerRunning as i32);
}

#[test]
fn the_same_create_again_joins_or_returns_the_first() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.container("shell", &["sleep", "1000"], |_| {});
    let request = || v1::CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(container.config.clone()),
        sandbox_config: Some(pod.config.clone()),
    };
    match node.cri.create_container(request()) {
        Ok(reply) => assert_eq!(reply.container_id, container.id),
        Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{status:?}"),
    }
    let listed = node
        .cri
        .list_containers(v1::ListContainersRequest::default())
        .expect("list")
        .containers;
    assert_eq!(listed.len(), 1);
}

#[test]
fn a_run_whose_client_left_is_joined_by_the_retry() {
    let node = Node::start();
    let mut first = None;
    let pod = node.pod(|config| first = Some(config.clone()));
    let request = v1::RunPodSandboxRequest {
        config: first,
        ..Default::default()
    };
    let again = node
        .cri
        .run_pod_sandbox(request)
        .expect("the same request")
        .pod_sandbox_id;
    assert_eq!(again, pod.id);
}

#[test]
fn containers_die_with_their_sandbox() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "1000"]);
    pod.stop();
    assert_eq!(pod.status().state, v1::PodSandboxState::SandboxNotready as i32);
    assert_eq!(container.status().state, v1::ContainerState::ContainerExited as i32);
    let refused = pod.try_container("shell", &["true"], |_| {}).err().expect("an error");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    pod.remove();
    let request = v1::ContainerStatusRequest {
        container_id: container.id,
        verbose: false,
    };
    assert_eq!(
        node.cri.container_status(request).expect_err("gone").code(),
        Code::NotFound
    );
}

#[test]
fn a_running_container_can_be_removed_and_not_started_twice() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "1000"]);
    // A client that gave up waiting asks again.
    container.try_start().expect("it runs already");
    container.remove();
    let created = pod.container("shell", &["sleep", "1000"], |_| {});
    created.remove();
}

#[test]
fn lists_obey_their_filters() {
    let node = Node::start();
    node.pull("shell");
    let label = |config: &mut v1::PodSandboxConfig| {
        config.labels.insert("app".into(), "one".into());
    };
    let (one, two) = (node.pod(label), node.pod(|_| {}));
    let container = one.container("shell", &["true"], |config| {
        config.labels.insert("part".into(), "a".into());
        config.annotations.insert("note".into(), "kept".into());
    });
    two.container("shell", &["true"], |_| {});

    let selector: std::collections::HashMap<String, String> = [("app".into(), "one".into())].into();
    let filter = v1::PodSandboxFilter {
        label_selector: selector,
        ..Default::default()
    };
    let pods = node
        .cri
        .list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) })
        .expect("list")
        .items;
    assert_eq!(pods.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&one.id]);

    let filters = [
        v1::ContainerFilter {
            id: container.id[..12].into(),
            ..Default::default()
        },
        v1::ContainerFilter {
            pod_sandbox_id: one.id.clone(),
            ..Default::default()
        },
        v1::ContainerFilter {
            label_selector: [("part".into(), "a".into())].into(),
            ..Default::default()
        },
    ];
    for filter in filters {
        let told = format!("{filter:?}");
        let listed = node
            .cri
            .list_containers(v1::ListContainersRequest { filter: Some(filter) })
            .expect("list");
        assert_eq!(
            listed.containers.iter().map(|item| &item.id).collect::<Vec<_>>(),
            [&container.id],
            "{told}"
        );
    }
    assert_eq!(container.status().annotations["note"], "kept");
}
