//! Pods with addresses of IPv6, alone or beside those of IPv4; and what the bridge takes from the node's way out.

use std::{net::SocketAddr, time::Instant};

use super::{super::bridge::hardware_address, node::*, *};
use crate::sys::thread::in_own_mount_namespace;

const NODE_6: &str = "2001:db8:ffff::1";
const OUTSIDE_6: &str = "2001:db8:ffff::2";

/// A node whose wire has IPv6 too.
fn node(config: Config) -> Option<Node> {
    let node = Node::with(config)?;
    sh(&node.host, &format!("ip addr add {NODE_6}/64 dev wire nodad"));
    sh(&node.outside, &format!("ip addr add {OUTSIDE_6}/64 dev wire nodad"));
    Some(node)
}

fn of(subnet: &str) -> Config {
    Config {
        subnet: subnet.into(),
        ..Config::default()
    }
}

fn both() -> Config {
    of("198.51.100.0/24,2001:db8:1::/64")
}

fn tcp(host_ip: &str) -> PortMapping {
    PortMapping {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_port: 8080,
        host_ip: host_ip.parse().ok(),
    }
}

fn at(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

#[test]
fn a_pod_with_two_addresses_is_reached_by_both_and_goes_out_with_the_nodes() {
    let Some(node) = node(both()) else { return };
    let server = node.pod(1, &[tcp("")]).unwrap();
    let other = node.pod(2, &[]).unwrap();
    assert_eq!(
        server.ips.iter().map(IpAddr::is_ipv6).collect::<Vec<_>>(),
        [false, true]
    );
    // Nobody waits for an address of the bridge.
    let own = "ip -6 -o addr show dev inro0 scope link";
    assert_eq!(sh(&node.host, own).lines().count(), 1);
    assert_eq!(sh(&node.host, &format!("{own} tentative")), "");
    serve_tcp(&server.netns, 80);
    serve_tcp(&node.outside, 80);
    for (which, (host, outside)) in [(NODE, OUTSIDE), (NODE_6, OUTSIDE_6)].into_iter().enumerate() {
        let (node_ip, outside_ip) = (host.parse().unwrap(), outside.parse().unwrap());
        // Straight to the pod, nothing is translated.
        let asked = ask_tcp(&other.netns, &at(server.ips[which], 80)).unwrap();
        assert_eq!(asked, other.ips[which].to_string());
        assert_eq!(ask_tcp(&other.netns, &at(outside_ip, 80)).unwrap(), host);
        // By the host's port: from outside, from the host, and from pods, by any address of the host.
        assert_eq!(ask_tcp(&node.outside, &at(node_ip, 8080)).unwrap(), outside);
        assert_eq!(ask_tcp(&node.host, &at(node_ip, 8080)).unwrap(), host);
        let gateway = node.network.inner.subnets().gateways()[which];
        for asking in [&other, &server] {
            for address in [node_ip, gateway] {
                assert_eq!(ask_tcp(&asking.netns, &at(address, 8080)).unwrap(), gateway.to_string());
            }
        }
    }
    node.detach(&server);
    for address in [NODE, NODE_6] {
        assert!(ask_tcp(&node.outside, &at(address.parse().unwrap(), 8080)).is_err());
    }
    node.detach(&other);
}

#[test]
fn a_node_may_have_ipv6_only() {
    let Some(node) = node(of("2001:db8:1::/64")) else {
        return;
    };
    let refused = node.pod(1, &[tcp("127.0.0.1")]).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.to_string().contains("host_ip"), "{refused}");
    let pod = node.pod(2, &[tcp("")]).unwrap();
    assert_eq!(pod.ips.len(), 1);
    serve_tcp(&pod.netns, 80);
    assert_eq!(ask_tcp(&node.outside, &format!("[{NODE_6}]:8080")).unwrap(), OUTSIDE_6);
    assert_eq!(sh(&node.host, "nft list tables"), "table ip6 inro0\n");
    node.detach(&pod);
}

#[test]
fn both_families_come_back_with_the_daemon_and_a_family_that_is_given_up_leaves_nothing() {
    let Some(mut node) = node(both()) else { return };
    let pod = node.pod(0xa, &[tcp("")]).unwrap();
    serve_tcp(&pod.netns, 80);
    sh(&node.host, "nft flush ruleset");
    node.restart(&[&pod]);
    insta::assert_snapshot!(sh(&node.host, "nft list table ip6 inro0"));
    for address in [NODE, NODE_6] {
        assert!(ask_tcp(&node.outside, &at(address.parse().unwrap(), 8080)).is_ok());
    }
    let next = node.pod(0xb, &[]).unwrap();
    assert!(next.ips.iter().all(|ip| !pod.ips.contains(ip)));
    node.detach(&pod);
    node.detach(&next);
    node.network.settle(Duration::from_secs(20));
    assert_eq!(
        std::fs::read_dir(node.dir.path().join("net/leases")).unwrap().count(),
        0
    );
    node.config = of("198.51.100.0/24");
    node.restart(&[]);
    let pod = node.pod(0xc, &[]).unwrap();
    assert_eq!(sh(&node.host, "nft list tables"), "table ip inro0\n");
    node.detach(&pod);
}

#[test]
fn a_family_without_a_free_address_takes_none_of_the_other() {
    let Some(node) = node(of("198.51.100.0/24,2001:db8:1::/126")) else {
        return;
    };
    let pods = [1, 2].map(|number| node.pod(number, &[]).unwrap());
    let refused = node.pod(3, &[]).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(refused.to_string(), "no free address in 2001:db8:1::/126: 2 in use");
    assert_eq!(node.network.inner.leases.addresses().len(), 4);
    for pod in &pods {
        node.detach(pod);
    }
}

#[test]
fn who_the_configuration_names_sees_pods_own_addresses() {
    let mut config = both();
    config.no_masquerade = vec!["203.0.113.0/24".into(), format!("{OUTSIDE_6}/128")];
    let Some(node) = node(config) else { return };
    sh(
        &node.outside,
        &format!("ip route add 198.51.100.0/24 via {NODE} && ip route add 2001:db8:1::/64 via {NODE_6}"),
    );
    let pod = node.pod(1, &[]).unwrap();
    serve_tcp(&node.outside, 80);
    for (which, outside) in [OUTSIDE, OUTSIDE_6].into_iter().enumerate() {
        let asked = ask_tcp(&pod.netns, &at(outside.parse().unwrap(), 80)).unwrap();
        assert_eq!(asked, pod.ips[which].to_string());
    }
    node.detach(&pod);
}

#[test]
fn pods_packets_fit_the_nodes_way_out() {
    let Some(node) = node(both()) else { return };
    let mtu = |netns: &OwnedFd, name: &str| {
        within(netns, || {
            let mut netlink = Netlink::open()?;
            let index = netlink.index(name)?;
            netlink.link(index)
        })
        .unwrap()
        .mtu
    };
    let before = node.pod(1, &[]).unwrap();
    assert_eq!(
        mtu(&before.netns, "eth0"),
        1500,
        "there is no way out that would say it"
    );
    sh(
        &node.host,
        &format!("ip link set wire mtu 1400 && ip -6 route add default via {OUTSIDE_6}"),
    );
    // The kubelet asks every few seconds.
    within(&node.host, || node.network.ready()).unwrap();
    let after = node.pod(2, &[]).unwrap();
    assert_eq!(
        [mtu(&after.netns, "eth0"), mtu(&node.host, &host_end(&after.id))],
        [1400; 2]
    );
    node.detach(&before);
    node.detach(&after);
}

#[test]
fn hardware_addresses_follow_from_addresses_and_differ_with_them() {
    let of = |ips: &[&str]| {
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        hardware_address(&ips)
    };
    assert_eq!(of(&["10.87.0.5", "fd87::5"]), [0x0a, 0x58, 10, 87, 0, 5]);
    assert_eq!(of(&["fd87::5", "10.87.0.5"]), of(&["10.87.0.5"]));
    let all = [&["fd87::5"], &["fd87::6"], &["fd88::5"], &["fd87:0:0:1::5"]].map(|ips| of(ips));
    assert!(
        all.iter().all(|address| address[0] & 3 == 2),
        "unicast, locally administered"
    );
    assert_eq!(std::collections::HashSet::from(all).len(), all.len());
}

#[test]
fn the_bridge_keeps_its_hardware_address_whatever_pods_come_and_go() {
    let Some(node) = Node::new() else { return };
    let address = || {
        sh(&node.host, "ip -br link show inro0")
            .split_whitespace()
            .nth(2)
            .map(str::to_owned)
    };
    let mut seen = Vec::new();
    for number in 1..9 {
        let pod = node.pod(number, &[]).unwrap();
        seen.push(address());
        node.detach(&pod);
        node.network.settle(Duration::from_secs(20));
        seen.push(address());
    }
    seen.dedup();
    assert_eq!(seen, [Some("0a:58:c6:33:64:01".to_owned())]);
}

/// A router's announcement of itself, sent by every interface of a namespace. Source: RFC 4861, 4.2.
fn announce(netns: &OwnedFd, interface: &str) {
    let script = format!(
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58); \
         s.setsockopt(41, socket.IPV6_MULTICAST_HOPS, 255); \
         s.sendto(bytes([134, 0, 0, 0, 64, 0, 0x07, 0x08] + 8 * [0]), \
         ('ff02::1', 0, 0, socket.if_nametoindex('{interface}')))"
    );
    sh(netns, &format!("python3 -c \"{script}\""));
}

/// Asks until it is so.
fn until(mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while !so() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

#[test]
fn a_node_that_forwards_still_hears_its_router_and_no_pod_is_one() {
    let Some(node) = node(both()) else { return };
    let announced = |netns: &OwnedFd| sh(netns, "ip -6 route show default proto ra").contains("via");
    let heard = |netns: &OwnedFd, from: &OwnedFd, interface: &str| {
        until(|| {
            announce(from, interface);
            announced(netns)
        })
    };
    assert!(
        heard(&node.host, &node.outside, "wire"),
        "a machine's default is to listen"
    );
    let pod = node.pod(1, &[]).unwrap();
    let value = |name: &str| sh(&node.host, &format!("cat /proc/sys/net/ipv6/conf/{name}"));
    assert_eq!(value("all/forwarding"), "1\n");
    assert_eq!(
        (value("wire/accept_ra"), value("inro0/accept_ra")),
        ("2\n".into(), "0\n".into())
    );
    sh(&node.host, "ip -6 route flush default proto ra");
    assert!(heard(&node.host, &node.outside, "wire"), "it goes on");
    sh(&node.host, "ip -6 route flush default proto ra");
    for _ in 0..5 {
        announce(&pod.netns, "eth0");
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(!announced(&node.host), "a pod is the node's router");
    sh(&node.host, "echo 2 > /proc/sys/net/ipv6/conf/inro0/accept_ra");
    assert!(heard(&node.host, &pod.netns, "eth0"), "this test would notice");
    node.detach(&pod);
}

#[test]
fn forwarding_that_somebody_turned_off_is_turned_on_again() {
    let Some(node) = node(both()) else { return };
    within(&node.host, || node.network.ready()).unwrap();
    let switches = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
    let read = || switches.map(|name| sh(&node.host, &format!("cat /proc/sys/net/{name}")));
    sh(
        &node.host,
        "for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 0 > /proc/sys/net/$f; done",
    );
    // Without a pod nothing of it is needed.
    within(&node.host, || node.network.ready()).unwrap();
    assert_eq!(read(), ["0\n", "0\n"]);
    let pod = node.pod(1, &[]).unwrap();
    assert_eq!(read(), ["1\n", "1\n"]);
    sh(
        &node.host,
        "for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 0 > /proc/sys/net/$f; done",
    );
    within(&node.host, || node.network.ready()).unwrap();
    assert_eq!(read(), ["1\n", "1\n"]);
    node.detach(&pod);
}

#[test]
fn forwarding_that_cannot_be_turned_on_is_told() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod(1, &[]).unwrap();
    sh(&node.host, "echo 0 > /proc/sys/net/ipv4/ip_forward");
    // As in a container.
    let told = within(&node.host, || {
        in_own_mount_namespace(|| {
            let line =
                "mount --make-rprivate / && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys";
            assert!(std::process::Command::new("sh").args(["-c", line]).status()?.success());
            Ok(node.network.ready().map_err(|error| chain(&error).to_string()))
        })
        .unwrap()
    });
    let told = told.unwrap_err();
    assert!(
        told.contains("/proc/sys/net/ipv4/ip_forward") && told.contains("Read-only"),
        "{told}"
    );
    within(&node.host, || node.network.ready()).unwrap();
    node.detach(&pod);
}

/// Sends `bytes` from one namespace to another; how long it took until all of them were there.
fn send(from: &OwnedFd, to: &OwnedFd, address: IpAddr, bytes: usize) -> Duration {
    let listener = within(to, || TcpListener::bind((address, 0))).unwrap();
    let there = listener.local_addr().unwrap();
    let sender = within(from, || TcpStream::connect(there)).unwrap();
    let start = Instant::now();
    let sending = std::thread::spawn(move || { sender }.write_all(&vec![0; bytes]).unwrap());
    let mut received = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
    sending.join().unwrap();
    assert_eq!(received.len(), bytes);
    start.elapsed()
}

#[test]
fn a_pod_receives_and_sends_no_faster_than_its_annotations_say() {
    let Some(node) = Node::new() else { return };
    let limited = |number: u8, annotation: &str| {
        let mut config = config();
        config.annotations.insert(annotation.to_owned(), "8M".to_owned());
        let id = format!("{number:x}").repeat(64).parse().unwrap();
        node.run(id, config).unwrap()
    };
    let gateway = "198.51.100.1".parse().unwrap();
    // A megabyte a second, and 64 KiB at once.
    let (bytes, least) = (1_500_000, Duration::from_millis(1_400));
    let receiver = limited(1, bandwidth::INGRESS);
    assert!(send(&node.host, &receiver.netns, receiver.ip, bytes) >= least);
    assert!(
        send(&receiver.netns, &node.host, gateway, bytes) < least,
        "the other way is free"
    );
    let sender = limited(2, bandwidth::EGRESS);
    assert!(send(&sender.netns, &node.host, gateway, bytes) >= least);
    assert!(
        send(&node.host, &sender.netns, sender.ip, bytes) < least,
        "the other way is free"
    );
    let mut wrong = config();
    wrong
        .annotations
        .insert(bandwidth::INGRESS.to_owned(), "fast".to_owned());
    let refused = node.run("3".repeat(64).parse().unwrap(), wrong).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.to_string().contains(bandwidth::INGRESS), "{refused}");
    node.detach(&receiver);
    node.detach(&sender);
}
