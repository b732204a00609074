//! Messages larger than gRPC's usual limits.

use crate::harness::{Node, v1};

/// What one container brings along; five of them are more than the 16 MiB that a kubelet takes.
const NOTE: usize = 5 << 20;

#[test]
fn messages_of_more_than_16_mib_pass() {
    let mut node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let containers: Vec<_> = (0..5)
        .map(|_| {
            pod.container("shell", &["true"], |config| {
                config.annotations.insert("note".into(), "n".repeat(NOTE));
            })
        })
        .collect();
    containers[0].start();
    assert_eq!(containers[0].wait().exit_code, 0);
    node.daemon.kill9();
    node.daemon.restart();
    let listed = node
        .cri
        .list_containers(v1::ListContainersRequest::default())
        .expect("list")
        .containers;
    let bytes: usize = listed.iter().map(|container| container.annotations["note"].len()).sum();
    assert_eq!(bytes, 5 * NOTE);
}
