//! Whom pods reach: each other, the node and what is outside; and whom they do not: anybody's loopback but their own.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use crate::harness::{Netns, Node, Pod, own_network};

const CONFIG: &str = "[net]\nsubnet = \"10.98.0.0/24,fd98::/64\"\n";
const GATEWAY: [&str; 2] = ["10.98.0.1", "fd98::1"];
const NODE: [&str; 2] = ["203.0.113.1", "2001:db8::1"];
const OUTSIDE: [&str; 2] = ["203.0.113.2", "2001:db8::2"];
const LISTEN: u16 = 8080;
const SECRET: u16 = 7000;

/// A node with a machine outside, which knows the way to no pod, and two pods.
struct Machines {
    outside: Netns,
    host: Netns,
    /// Where the pods are.
    pods: [Netns; 2],
    ips: [Vec<IpAddr>; 2],
    /// Last, so that nothing holds a pod any more when it looks for what is left.
    _node: Node,
}

impl Machines {
    fn new() -> Machines {
        let (outside, host) = (Netns::new(), Netns::new());
        let both = |[v4, v6]: [&str; 2]| [format!("{v4}/24"), format!("{v6}/64")];
        let (own, others) = (both(NODE), both(OUTSIDE));
        host.wire(
            "wire",
            &own.each_ref().map(String::as_str),
            &outside,
            &others.each_ref().map(String::as_str),
        );
        let node = Node::within(&host, CONFIG);
        let pods = [node.pod(own_network), node.pod(own_network)];
        Machines {
            outside,
            host,
            pods: pods.each_ref().map(|pod| node.netns_of(pod).expect("its network")),
            ips: pods.each_ref().map(Pod::ips),
            _node: node,
        }
    }
}

fn at(ip: &str, port: u16) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    }
}

#[test]
fn pods_reach_each_other_the_node_and_out() {
    let machines = Machines::new();
    let Machines {
        outside,
        host,
        pods,
        ips,
        ..
    } = &machines;
    let _servers = [host, outside, &pods[0], &pods[1]].map(|machine| machine.serve("::", LISTEN));
    for family in 0..2 {
        let ask = |asking: &Netns, to: &str| {
            asking
                .ask(&at(to, LISTEN))
                .unwrap_or_else(|error| panic!("{to}: {error}"))
        };
        let [one, two] = ips.each_ref().map(|ips| ips[family].to_string());
        // As themselves, whom they can be answered.
        assert_eq!(ask(&pods[0], &two), one);
        assert_eq!(ask(&pods[1], &one), two);
        assert_eq!(ask(&pods[0], &one), one);
        for own in [GATEWAY, NODE] {
            assert_eq!(ask(&pods[0], own[family]), one);
        }
        assert_eq!(ask(host, &one), GATEWAY[family]);
        assert_eq!(ask(&pods[0], OUTSIDE[family]), NODE[family]);
        assert!(outside.ask(&at(&one, LISTEN)).is_err(), "outside knows no way to a pod");
    }
}

#[test]
fn pods_reach_no_loopback_but_their_own() {
    let machines = Machines::new();
    let Machines { host, pods, ips, .. } = &machines;
    for (family, loopback) in ["127.0.0.1", "::1"].into_iter().enumerate() {
        let _servers = [host, &pods[1]].map(|machine| machine.serve(loopback, SECRET));
        for owner in [host, &pods[1]] {
            assert!(owner.ask(&at(loopback, SECRET)).is_ok(), "this test would notice");
        }
        let other = ips[1][family].to_string();
        for address in [loopback, &other, GATEWAY[family], NODE[family]] {
            let asked = pods[0].ask(&at(address, SECRET));
            let refused = asked.expect_err(address);
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{address}: {refused}");
        }
    }
}

/// A pod with every power over its own network namespace sends what is for 127.0.0.1 to another machine
/// (CVE-2020-8558).
#[test]
fn pods_that_misuse_their_routes_reach_no_loopback_either() {
    let machines = Machines::new();
    let Machines { host, pods, ips, .. } = &machines;
    pods[0].sh(
        "ip addr flush dev lo; ip route del table local local 127.0.0.0/8 2>/dev/null; \
         for c in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$c/route_localnet; done",
    );
    let (own, other) = (ips[0][0].to_string(), ips[1][0].to_string());
    let secrets = [(host, GATEWAY[0]), (&pods[1], &*other)].map(|(machine, way)| {
        let socket = machine
            .within(|| UdpSocket::bind(("127.0.0.1", SECRET)))
            .expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("a limit");
        (socket, way)
    });
    let hears = |(socket, way): &(UdpSocket, &str)| {
        pods[0].sh(&format!("ip route replace 127.0.0.0/8 via {way} dev eth0"));
        let sender = pods[0].within(|| UdpSocket::bind((&*own, 0))).expect("a socket");
        sender.send_to(b"x", ("127.0.0.1", SECRET)).expect("sent");
        socket.recv(&mut [0; 8]).is_ok()
    };
    for secret in &secrets {
        assert!(!hears(secret), "through {}", secret.1);
    }
    // Without what holds it off: the table's guard, and the kernel's own in a pod.
    host.sh("nft flush chain ip inro0 guard");
    pods[1].sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
    for secret in &secrets {
        assert!(hears(secret), "this test would notice, through {}", secret.1);
    }
}
