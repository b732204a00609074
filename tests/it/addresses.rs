//! Addresses of pods that were stopped: free when the pod's interface is gone, whatever becomes of the daemon.

use std::{fs::File, path::PathBuf};

use crate::harness::{Node, Pod, own_network};

/// Keeps a pod's network namespace, and with it the interface, which then does not go by itself at a stop.
fn held(node: &Node, pod: &Pod) -> File {
    File::open(node.dir().join("state/sandboxes").join(&pod.id).join("ns/net")).expect("the pinned namespace")
}

/// The host's end of a pod's pair.
fn device(pod: &Pod) -> PathBuf {
    format!("/sys/class/net/inro{}", &pod.id[..11]).into()
}

#[test]
fn a_daemon_killed_between_stop_and_removal_frees_the_address_at_its_next_start() {
    let mut node = Node::start();
    // The removal may be done before the kill, on a slow machine.
    let (pod, _held) = (0..20)
        .find_map(|_| {
            let pod = node.pod(own_network);
            let held = held(&node, &pod);
            pod.stop();
            node.daemon.kill9();
            if node.leases() == 1 && device(&pod).exists() {
                return Some((pod, held));
            }
            node.daemon.restart();
            None
        })
        .expect("killed in time, once of twenty times");
    node.daemon.restart();
    assert_eq!(node.leases(), 0);
    assert!(!device(&pod).exists());
    pod.remove();
}

#[test]
fn a_daemon_that_ends_waits_for_interfaces_of_stopped_pods() {
    let mut node = Node::start();
    let pod = node.pod(own_network);
    let _held = held(&node, &pod);
    assert!(device(&pod).exists());
    pod.stop();
    assert!(node.daemon.terminate().success());
    assert_eq!(node.leases(), 0);
    assert!(!device(&pod).exists());
}
