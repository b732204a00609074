//! What a pod finds in its network namespace: two families, limits, sysctls, and no other pod that leads it astray.

use std::{
    io::Read,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::harness::{Container, Node, Pod, eventually, namespaces, own_network, own_users, v1};

const BOTH: &str = "[net]\nmode = \"builtin\"\nsubnet = \"10.87.0.0/16,fd87::/64\"\n";

fn addresses(pod: &Pod) -> Vec<String> {
    pod.ips().iter().map(ToString::to_string).collect()
}

fn sleeping(pod: &Pod) -> Container {
    pod.run_container("shell", &["sleep", "1000"])
}

#[test]
fn a_pod_has_an_address_of_each_family_whatever_becomes_of_the_daemon() {
    const PORT: u16 = 38_473;
    let mut node = Node::with_config(BOTH);
    node.pull("shell");
    let pod = node.pod(|config| {
        own_network(config);
        config.port_mappings.push(v1::PortMapping {
            container_port: 8080,
            host_port: PORT.into(),
            ..Default::default()
        });
    });
    let told = addresses(&pod);
    assert!(
        told[0].starts_with("10.87.") && told[1].starts_with("fd87::"),
        "{told:?}"
    );
    assert_eq!((told.len(), node.leases()), (2, 2));
    let script = "mkdir /www; echo page > /www/index.html; exec httpd -f -p 8080 -h /www";
    pod.run_container("shell", &["sh", "-c", script]);
    let other = node.pod(own_network);
    let asking = sleeping(&other);
    let fetch = |address: &str| asking.sh(&format!("wget -q -O - http://{address}/"));
    eventually("it answers", Duration::from_secs(10), || {
        TcpStream::connect((told[1].as_str(), 8080)).ok()
    });
    node.daemon.kill9();
    node.daemon.restart();
    assert_eq!(addresses(&pod), told);
    for address in [
        format!("{}:8080", told[0]),
        format!("[{}]:8080", told[1]),
        format!("10.87.0.1:{PORT}"),
        format!("[fd87::1]:{PORT}"),
    ] {
        assert_eq!(fetch(&address), "page", "{address}");
    }
    pod.stop();
    assert!(TcpStream::connect(("fd87::1", PORT)).is_err());
    // Those of the pod that was stopped are free again, sooner or later.
    let (next, taken) = (node.pod(own_network), addresses(&other));
    assert!(addresses(&next).iter().all(|address| !taken.contains(address)));
}

#[test]
fn who_is_not_root_may_listen_on_any_port_and_send_echo_requests() {
    let node = Node::start();
    node.pull("shell");
    let switches = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range";
    let container = node.pod(own_network).container("shell", &["sleep", "1000"], |config| {
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        context.expect("made by the harness").run_as_user = Some(v1::Int64Value { value: 1000 });
    });
    container.start();
    assert_eq!(container.sh(switches), "0\n0\t2147483647");
    assert_eq!(container.sh("timeout 1 nc -l -p 80; echo $?"), "143");
    // What a pod asks for itself is not overruled.
    let own = node.pod(|config| {
        own_network(config);
        let linux = config.linux.as_mut().expect("made by the harness");
        let name = "net.ipv4.ip_unprivileged_port_start".to_owned();
        linux.sysctls.insert(name, "99".into());
    });
    assert!(sleeping(&own).sh(switches).starts_with("99\n0\t"));
    // All groups that there are in a user namespace.
    let mapped = node.pod(|config| {
        own_network(config);
        own_users(config);
    });
    assert_eq!(sleeping(&mapped).sh(switches), "0\n0\t65535");
    // Those of the node are the node's.
    let read = || {
        let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        std::fs::read_to_string(path).expect("a switch")
    };
    let before = read();
    let shared = node.pod(|config| namespaces(config).network = v1::NamespaceMode::Node.into());
    assert_eq!(read(), before);
    shared.remove();
}

#[test]
fn no_pod_is_another_ones_router() {
    let node = Node::with_config(BOTH);
    let (pod, evil) = (node.pod(own_network), node.pod(own_network));
    let [inside, outside] = [&pod, &evil].map(|pod| node.netns_of(pod).expect("its network"));
    // RFC 4861, 4.2: a router announces itself to everybody.
    let announce = || {
        let script = "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58); \
                      s.setsockopt(41, socket.IPV6_MULTICAST_HOPS, 255); \
                      s.sendto(bytes([134, 0, 0, 0, 64, 0, 7, 8] + 8 * [0]), \
                      ('ff02::1', 0, 0, socket.if_nametoindex('eth0')))";
        outside.sh(&format!("python3 -c \"{script}\""));
    };
    let led = || inside.sh("ip -6 route show default proto ra").contains("via");
    // Its own address of this link has to be there before it can be a source.
    thread::sleep(Duration::from_secs(2));
    for _ in 0..5 {
        announce();
    }
    thread::sleep(Duration::from_millis(200));
    assert!(!led(), "one pod is another's router");
    inside.sh("echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra");
    eventually("this test would notice", Duration::from_secs(10), || {
        announce();
        led().then_some(())
    });
}

#[test]
fn a_pods_limits_are_kept_and_a_limit_that_is_none_is_refused_by_its_annotation() {
    let node = Node::with_config("[net]\nmode = \"builtin\"\n");
    node.pull("shell");
    let with = |annotation: &str, value: &str| {
        let (annotation, value) = (annotation.to_owned(), value.to_owned());
        node.try_pod(|config| {
            own_network(config);
            config.annotations.insert(annotation, value);
        })
    };
    const EGRESS: &str = "kubernetes.io/egress-bandwidth";
    let refused = with(EGRESS, "fast").err().expect("no rate");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains(EGRESS), "{refused:?}");
    let pod = with(EGRESS, "8M").expect("a rate");
    let address = addresses(&pod).remove(0);
    let serve = "head -c 1500000 /dev/zero | nc -l -p 9000";
    pod.run_container("shell", &["sh", "-c", serve]);
    let mut stream = eventually("it listens", Duration::from_secs(10), || {
        TcpStream::connect((address.as_str(), 9000)).ok()
    });
    let start = Instant::now();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("bytes");
    assert_eq!(bytes.len(), 1_500_000);
    // A megabyte a second, but for 64 KiB at once.
    assert!(start.elapsed() > Duration::from_millis(1_300), "{:?}", start.elapsed());
}
