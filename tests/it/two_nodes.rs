//! Two nodes with a wire between them and routes to each other's pods, as a cluster without an overlay has them.

use std::{net::IpAddr, time::Duration};

use crate::harness::{Netns, Node, Pod, eventually, own_network, v1};

/// The nodes' addresses on the wire between them.
const LEFT: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const RIGHT: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// A machine outside, as each of them sees it.
const OUTSIDE_LEFT: [&str; 2] = ["203.0.113.2", "2001:db8:1::2"];
const OUTSIDE_RIGHT: [&str; 2] = ["203.0.113.6", "2001:db8:2::2"];
const LISTEN: u16 = 8080;
const HOST_PORT: u16 = 30_080;

/// Three machines. The outside one knows the way to no pod.
struct Cluster {
    left: Netns,
    right: Netns,
    outside: Netns,
}

impl Cluster {
    fn new() -> Cluster {
        let (left, right, outside) = (Netns::new(), Netns::new(), Netns::new());
        left.wire(
            "wire",
            &["192.0.2.1/24", "2001:db8::1/64"],
            &right,
            &["192.0.2.2/24", "2001:db8::2/64"],
        );
        left.wire(
            "out-left",
            &["203.0.113.1/30", "2001:db8:1::1/64"],
            &outside,
            &["203.0.113.2/30", "2001:db8:1::2/64"],
        );
        right.wire(
            "out-right",
            &["203.0.113.5/30", "2001:db8:2::1/64"],
            &outside,
            &["203.0.113.6/30", "2001:db8:2::2/64"],
        );
        for (node, others, via, out) in [(&left, 2, RIGHT, OUTSIDE_LEFT), (&right, 1, LEFT, OUTSIDE_RIGHT)] {
            node.sh(&format!("ip route add 10.98.{others}.0/24 via {}", via[0]));
            node.sh(&format!("ip route add fd98:{others}::/64 via {}", via[1]));
            node.sh(&format!("ip route add default via {}", out[0]));
            node.sh(&format!("ip -6 route add default via {}", out[1]));
        }
        Cluster { left, right, outside }
    }

    /// The configuration of the node with this number.
    fn config(number: usize) -> String {
        let subnets = format!("10.98.{number}.0/24,fd98:{number}::/64");
        format!("[net]\nsubnet = \"{subnets}\"\nno_masquerade = [\"10.98.0.0/16\", \"fd98::/16\"]\n")
    }
}

/// A pod as one that is in it sees the world.
struct Inside {
    pod: Pod,
    netns: Netns,
    ips: Vec<IpAddr>,
}

impl Inside {
    fn new(node: &Node, edit: impl FnOnce(&mut v1::PodSandboxConfig)) -> Inside {
        let pod = node.pod(|config| {
            own_network(config);
            edit(config);
        });
        Inside {
            netns: node.netns_of(&pod).expect("its network"),
            ips: pod.ips(),
            pod,
        }
    }
}

fn with_port(config: &mut v1::PodSandboxConfig) {
    config.port_mappings.push(v1::PortMapping {
        container_port: LISTEN.into(),
        host_port: HOST_PORT.into(),
        ..Default::default()
    });
}

/// An address and a port.
fn at(ip: impl ToString, port: u16) -> String {
    match ip.to_string() {
        v6 if v6.contains(':') => format!("[{v6}]:{port}"),
        v4 => format!("{v4}:{port}"),
    }
}

/// Asserts as whom `asking` is seen at `to`, in each family.
#[track_caller]
fn seen<A: ToString, B: ToString>(asking: &Netns, to: &[A], port: u16, whom: &[B]) {
    assert_eq!((to.len(), whom.len()), (2, 2));
    for (to, whom) in to.iter().zip(whom) {
        let address = at(to.to_string(), port);
        let answer = asking.ask(&address);
        let answer = answer.unwrap_or_else(|error| panic!("{address}: {error}"));
        assert_eq!(answer, whom.to_string(), "at {address}");
    }
}

#[test]
fn pods_of_two_nodes_see_each_other_and_the_outside_sees_their_nodes() {
    let cluster = Cluster::new();
    let mut left = Node::within(&cluster.left, &Cluster::config(1));
    let mut right = left.beside(&cluster.right, &Cluster::config(2));
    let (one, two) = (Inside::new(&left, |_| {}), Inside::new(&right, with_port));
    assert_eq!(
        one.ips,
        ["10.98.1.2", "fd98:1::2"].map(|ip| ip.parse::<IpAddr>().expect("an address"))
    );
    let servers = [&one.netns, &two.netns, &cluster.outside].map(|machine| machine.serve("::", LISTEN));
    let look = || {
        // Nothing is translated between pods of one cluster, whichever nodes they are on.
        seen(&one.netns, &two.ips, LISTEN, &one.ips);
        seen(&two.netns, &one.ips, LISTEN, &two.ips);
        // The nodes to each other's pods, and a host port from a pod of another node, that node, and outside.
        seen(&cluster.left, &two.ips, LISTEN, &LEFT);
        seen(&one.netns, &RIGHT, HOST_PORT, &LEFT);
        seen(&cluster.left, &RIGHT, HOST_PORT, &LEFT);
        seen(
            &cluster.outside,
            &["203.0.113.5", "2001:db8:2::1"],
            HOST_PORT,
            &OUTSIDE_RIGHT,
        );
        // Out, as the node: the answer would not find a pod.
        seen(&one.netns, &OUTSIDE_LEFT, LISTEN, &["203.0.113.1", "2001:db8:1::1"]);
        seen(&two.netns, &OUTSIDE_RIGHT, LISTEN, &["203.0.113.5", "2001:db8:2::1"]);
    };
    look();
    left.daemon.kill9();
    look();
    right.daemon.kill9();
    left.daemon.restart();
    right.daemon.restart();
    look();
    // The way to a pod that is gone is nobody's.
    drop(servers);
    drop(two.netns);
    two.pod.stop();
    eventually("its address is free", Duration::from_secs(10), || {
        (right.leases() == 0).then_some(())
    });
    assert!(one.netns.ask(&at(two.ips[0], LISTEN)).is_err());
    assert!(cluster.left.ask(&at(RIGHT[0], HOST_PORT)).is_err());
}

#[test]
fn containers_of_two_nodes_talk_to_each_other() {
    let cluster = Cluster::new();
    let left = Node::within(&cluster.left, &Cluster::config(1));
    let right = left.beside(&cluster.right, &Cluster::config(2));
    let asking = left.pod(own_network);
    let serving = right.pod(|config| {
        own_network(config);
        with_port(config);
    });
    left.pull("shell");
    right.pull("shell");
    let serve = "mkdir /www && echo page > /www/index.html && exec httpd -v -f -p 8080 -h /www 2>&1";
    let server = serving.run_container("shell", &["sh", "-c", serve]);
    let client = asking.run_container("shell", &["sleep", "1000"]);
    for address in [at(serving.ips()[0], LISTEN), at(RIGHT[0], HOST_PORT)] {
        let page = format!("wget -q -O - http://{address}/");
        eventually(&page, Duration::from_secs(10), || {
            let reply = client.exec(&["sh", "-c", &page]);
            (reply.stdout == b"page\n").then_some(())
        });
    }
    // It says who asked.
    server.wait_logged(&asking.ips()[0].to_string());
}
