//! Host ports between a host, its pods and a machine outside.

use std::{
    io::ErrorKind as IoErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use super::{node::*, *};

fn mapping(protocol: Protocol, host_ip: &str, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping {
        protocol,
        container_port,
        host_port,
        host_ip: host_ip.parse().ok(),
    }
}

fn tcp(host_port: u16, container_port: u16) -> PortMapping {
    mapping(Protocol::Tcp, "", host_port, container_port)
}

/// Answers every datagram with `name`.
fn serve_udp(netns: &OwnedFd, port: u16, name: &'static str) {
    let socket = within(netns, || UdpSocket::bind(("0.0.0.0", port))).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

fn ask_udp(socket: &UdpSocket) -> std::io::Result<String> {
    socket.send(b"?")?;
    let mut bytes = [0; 64];
    let count = socket.recv(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

#[test]
fn a_host_port_is_reached_from_everywhere() {
    let Some(node) = Node::new() else { return };
    let server = node.pod(1, &[tcp(8080, 80)]).unwrap();
    let other = node.pod(2, &[]).unwrap();
    serve_tcp(&server.netns, 80);
    let gateway = "198.51.100.1";
    // The client's own address is kept where the answer comes back the same way.
    assert_eq!(ask_tcp(&node.outside, &format!("{NODE}:8080")).unwrap(), OUTSIDE);
    assert_eq!(ask_tcp(&node.host, &format!("{NODE}:8080")).unwrap(), NODE);
    assert_eq!(ask_tcp(&node.host, "127.0.0.1:8080").unwrap(), gateway);
    assert_eq!(ask_tcp(&node.host, "127.0.0.9:8080").unwrap(), gateway);
    for asking in [&other, &server] {
        for address in [NODE, gateway] {
            assert_eq!(ask_tcp(&asking.netns, &format!("{address}:8080")).unwrap(), gateway);
        }
    }
    // Straight to the pod, nothing is translated.
    assert_eq!(
        ask_tcp(&other.netns, &format!("{}:80", server.ip)).unwrap(),
        other.ip.to_string()
    );
    // What is not mapped is the host's own.
    serve_tcp(&node.host, 9090);
    assert_eq!(ask_tcp(&node.outside, &format!("{NODE}:9090")).unwrap(), OUTSIDE);
    node.detach(&server);
    assert!(ask_tcp(&node.host, "127.0.0.1:8080").is_err());
    assert!(ask_tcp(&node.outside, &format!("{NODE}:8080")).is_err());
}

#[test]
fn pods_go_out_with_the_nodes_address() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod(1, &[]).unwrap();
    serve_tcp(&node.outside, 80);
    assert_eq!(ask_tcp(&pod.netns, &format!("{OUTSIDE}:80")).unwrap(), NODE);
    node.detach(&pod);
}

#[test]
fn a_port_of_one_address_is_not_of_the_others() {
    let Some(node) = Node::new() else { return };
    let local = node.pod(1, &[mapping(Protocol::Tcp, "127.0.0.1", 8080, 80)]).unwrap();
    let public = node.pod(2, &[mapping(Protocol::Tcp, NODE, 8080, 80)]).unwrap();
    serve_tcp(&local.netns, 80);
    assert!(ask_tcp(&node.host, "127.0.0.1:8080").is_ok());
    assert_eq!(
        ask_tcp(&node.outside, &format!("{NODE}:8080")).unwrap_err().kind(),
        IoErrorKind::ConnectionRefused,
        "it leads to the other pod, where nobody listens"
    );
    serve_tcp(&public.netns, 80);
    assert_eq!(ask_tcp(&node.outside, &format!("{NODE}:8080")).unwrap(), OUTSIDE);
    node.detach(&local);
    node.detach(&public);
}

#[test]
fn a_port_that_is_taken_is_refused_with_its_owner_and_free_again_afterwards() {
    let Some(node) = Node::new() else { return };
    let first = node.pod(1, &[tcp(8080, 80)]).unwrap();
    let before = node.listing();
    let error = node.pod(2, &[tcp(9000, 90), tcp(8080, 80)]).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let told = error.to_string();
    assert!(
        told.contains("port_mappings") && told.contains("TCP port 8080"),
        "{told}"
    );
    assert!(told.contains(first.id.as_str()), "{told}");
    // The failed one's teardown takes nothing of the other's.
    within(&node.host, || node.network.detach(&"2".repeat(64).parse().unwrap())).unwrap();
    assert_eq!(node.listing(), before);
    let same_number = node.pod(3, &[mapping(Protocol::Udp, "", 8080, 80)]).unwrap();
    node.detach(&first);
    let second = node.pod(4, &[tcp(8080, 80)]).unwrap();
    node.detach(&second);
    node.detach(&same_number);
}

/// A socket of SCTP's that is used like one of TCP's; `None` where the kernel has none.
fn sctp(netns: &OwnedFd) -> Option<OwnedFd> {
    use rustix::net::{AddressFamily, SocketType, ipproto, socket};
    within(netns, || {
        socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP))
    })
    .ok()
}

#[test]
fn an_sctp_port_leads_into_the_pod() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod(1, &[mapping(Protocol::Sctp, "", 3868, 3868)]).unwrap();
    let (Some(server), Some(client)) = (sctp(&pod.netns), sctp(&node.outside)) else {
        eprintln!("skipped: the kernel has no SCTP");
        return node.detach(&pod);
    };
    let any: SocketAddr = "0.0.0.0:3868".parse().unwrap();
    rustix::net::bind(&server, &any).unwrap();
    rustix::net::listen(&server, 1).unwrap();
    let server = TcpListener::from(server);
    let serving = std::thread::spawn(move || server.accept().unwrap().0.write_all(b"diameter").unwrap());
    let there: SocketAddr = format!("{NODE}:3868").parse().unwrap();
    rustix::net::connect(&client, &there).unwrap();
    let mut text = String::new();
    TcpStream::from(client).read_to_string(&mut text).unwrap();
    assert_eq!(text, "diameter");
    serving.join().unwrap();
    node.detach(&pod);
}

#[test]
fn a_udp_flow_follows_its_port_to_the_next_pod() {
    let Some(node) = Node::new() else { return };
    let udp = [mapping(Protocol::Udp, "", 5353, 53)];
    let first = node.pod(1, &udp).unwrap();
    serve_udp(&first.netns, 53, "first");
    let client = within(&node.outside, || {
        let socket = UdpSocket::bind((OUTSIDE, 0))?;
        socket.connect((NODE, 5353))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        std::io::Result::Ok(socket)
    });
    let client = client.unwrap();
    assert_eq!(ask_udp(&client).unwrap(), "first");
    node.detach(&first);
    // Asked while nobody has the port: the kernel remembers where that went.
    assert!(ask_udp(&client).is_err());
    let second = node.pod(2, &udp).unwrap();
    serve_udp(&second.netns, 53, "second");
    assert_eq!(ask_udp(&client).unwrap(), "second");
    node.detach(&second);
}

#[test]
fn the_table_follows_from_the_records() {
    let Some(mut node) = Node::new() else { return };
    let pod = node
        .pod(0xa, &[tcp(8080, 80), mapping(Protocol::Sctp, "127.0.0.1", 3868, 3868)])
        .unwrap();
    let stale = node.pod(0xb, &[tcp(9090, 90)]).unwrap();
    serve_tcp(&pod.netns, 80);
    let whole = node.listing();
    node.restart(&[&pod]);
    insta::assert_snapshot!(node.listing());
    assert!(whole.contains("9090") && !node.listing().contains("9090"));
    assert!(ask_tcp(&node.host, "127.0.0.1:8080").is_ok());
    // Somebody flushes every table: the next pod with a host port brings all of it back.
    sh(&node.host, "nft flush ruleset");
    let next = node.pod(0xc, &[tcp(7070, 70)]).unwrap();
    assert!(ask_tcp(&node.host, "127.0.0.1:8080").is_ok());
    sh(&node.host, "nft flush ruleset");
    node.detach(&next);
    assert!(ask_tcp(&node.host, "127.0.0.1:8080").is_ok());
    drop(stale);
    // Without a pod there is no table.
    node.restart(&[]);
    assert_eq!(sh(&node.host, "nft list tables"), "");
}

#[test]
fn a_table_of_many_ports_is_made_in_one_transaction() {
    let Some(node) = Node::new() else { return };
    let mappings: Vec<_> = (1..=5000).map(|port| tcp(port, port)).collect();
    let pod = node.pod(1, &mappings).unwrap();
    within(&node.host, || {
        node.network.inner.make_table(&node.network.inner.ports())
    })
    .unwrap();
    assert_eq!(node.listing().matches("tcp . ").count(), 5000);
    node.detach(&pod);
    assert_eq!(node.listing().matches("tcp . ").count(), 0);
}

#[test]
fn pods_do_not_reach_the_hosts_loopback() {
    let Some(node) = Node::new() else { return };
    let pod = node.pod(1, &[tcp(8080, 80)]).unwrap();
    let secret = within(&node.host, || UdpSocket::bind("127.0.0.1:4000")).unwrap();
    secret.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // A pod with every power over its own network namespace sends the host's loopback a packet (CVE-2020-8558).
    sh(
        &pod.netns,
        "ip addr flush dev lo && ip route del table local local 127.0.0.0/8 2>/dev/null; \
         for c in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$c/route_localnet; done; \
         ip route add 127.0.0.0/8 via 198.51.100.1 dev eth0",
    );
    let send = || {
        within(&pod.netns, || {
            let socket = UdpSocket::bind((pod.ip, 0)).unwrap();
            socket.send_to(b"x", "127.0.0.1:4000").unwrap();
        });
        secret.recv(&mut [0; 8])
    };
    assert!(send().is_err(), "the guard lets it through");
    sh(&node.host, "nft flush chain ip inro0 guard");
    assert!(send().is_ok(), "this test would notice");
    node.detach(&pod);
}
