//! Host ports of pods, as the node's own programs and other pods use them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use tonic::Code;

use crate::harness::{Node, Pod, eventually, own_network, v1};

/// Ports that nothing else on this machine has.
const PORT: u16 = 38_471;
const OTHER: u16 = 38_472;

fn serving(node: &Node, host_port: u16) -> Pod {
    let pod = node.pod(|config| with_port(config, host_port));
    let script = "mkdir /www; echo page > /www/index.html; exec httpd -f -p 8080 -h /www";
    pod.run_container("shell", &["sh", "-c", script]);
    pod
}

fn with_port(config: &mut v1::PodSandboxConfig, host_port: u16) {
    own_network(config);
    config.port_mappings.push(v1::PortMapping {
        protocol: v1::Protocol::Tcp.into(),
        container_port: 8080,
        host_port: host_port.into(),
        host_ip: String::new(),
    });
}

fn fetch(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    page.contains("page").then_some(page)
}

fn listing() -> String {
    let output = Command::new("nft")
        .args(["list", "table", "ip", "inro0"])
        .output()
        .expect("nft");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_host_port_leads_into_the_pod_until_it_is_gone() {
    let mut node = Node::start();
    node.pull("shell");
    let pod = serving(&node, PORT);
    eventually("127.0.0.1 answers", Duration::from_secs(5), || fetch(PORT));
    let asking = node.pod(own_network).run_container("shell", &["sleep", "1000"]);
    let gateway = asking.sh("ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'");
    assert_eq!(asking.sh(&format!("wget -q -O - http://{gateway}:{PORT}/")), "page");
    node.daemon.kill9();
    assert!(fetch(PORT).is_some(), "without a daemon");
    node.daemon.restart();
    assert!(fetch(PORT).is_some(), "with the next one");
    // nft names the protocol or numbers it, by its version.
    assert!(listing().contains(&format!(" . {PORT} ")), "{}", listing());
    pod.stop();
    assert!(fetch(PORT).is_none());
    assert!(!listing().contains(&PORT.to_string()), "{}", listing());
}

#[test]
fn a_host_port_that_another_pod_has_is_refused_by_its_number() {
    let mut node = Node::start();
    node.pull("shell");
    let first = serving(&node, OTHER);
    node.daemon.kill9();
    node.daemon.restart();
    let refused = node.try_pod(|config| with_port(config, OTHER)).err().expect("taken");
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
    for part in ["port_mappings", &OTHER.to_string(), &first.id] {
        assert!(refused.message().contains(part), "{refused:?} should name {part}");
    }
    eventually("the first one's still works", Duration::from_secs(5), || fetch(OTHER));
    first.stop();
    let second = serving(&node, OTHER);
    eventually("the port is the second one's", Duration::from_secs(5), || fetch(OTHER));
    second.remove();
}

#[test]
fn host_ports_of_a_pod_on_the_nodes_network_are_its_own_affair() {
    let node = Node::start();
    let pod = node.pod(|config| {
        config.port_mappings.push(v1::PortMapping {
            container_port: 8080,
            host_port: PORT.into(),
            ..Default::default()
        });
    });
    assert!(!listing().contains(&PORT.to_string()));
    pod.remove();
}
