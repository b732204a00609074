//! Interfaces of the host that CDI devices bring into pods, and classes of cache that this host has not.

use std::{fs, process::Command};

use serde_json::json;
use tonic::Code;

use crate::harness::{Container, Node, Pod, own_network, v1};

/// An interface of the host's, gone with the test however it ends.
struct Link(&'static str);

impl Link {
    fn new(name: &'static str) -> Self {
        let link = Self(name);
        // One end of a pair: kernels without dummy interfaces have these, as pods need them.
        let peer = format!("{name}p");
        let pair = ["link", "add", name, "type", "veth", "peer", "name", &peer];
        ip(None, &pair).expect("a pair of interfaces");
        ip(None, &["addr", "add", "192.0.2.7/24", "dev", name]).expect("an address");
        ip(None, &["-6", "addr", "add", "2001:db8::7/64", "dev", name]).expect("an address");
        for end in [name, &peer] {
            ip(None, &["link", "set", end, "up"]).expect("up");
        }
        link
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = ip(None, &["link", "del", &format!("{}p", self.0)]);
    }
}

/// What `ip` prints, in the network namespace of a process; `None` when it failed.
fn ip(inside: Option<u32>, arguments: &[&str]) -> Option<String> {
    let mut command = match inside {
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.args(["-t", &pid.to_string(), "-n", "ip"]);
            command
        }
        None => Command::new("ip"),
    };
    let output = command.args(arguments).output().expect("ip and nsenter");
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn node(edits: &serde_json::Value) -> (Node, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let node = Node::with_config(&format!("[pod]\ncdi_spec_dirs = [\"{}\"]\n", dir.path().display()));
    let file = json!({"cdiVersion": "1.1.0", "kind": "example.com/net",
        "devices": [{"name": "0", "containerEdits": edits}]});
    fs::write(dir.path().join("net.json"), file.to_string()).expect("net.json");
    node.pull("shell");
    (node, dir)
}

fn create(pod: &Pod) -> Result<Container, tonic::Status> {
    pod.try_container("shell", &["sleep", "1000"], |config| {
        config.cdi_devices = vec![v1::CdiDevice {
            name: "example.com/net=0".into(),
        }];
    })
}

fn is_whole(told: &str) {
    for part in ["192.0.2.7/24", "2001:db8::7/64", "UP"] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn an_interface_moves_with_its_addresses_and_comes_back() {
    let (mut node, _dir) = node(&json!({"netDevices": [{"hostInterfaceName": "inro-it0", "name": "fast0"}]}));
    let _link = Link::new("inro-it0");
    let pod = node.pod(own_network);
    let first = create(&pod).unwrap_or_else(|status| panic!("create: {status:?}"));
    first.start();
    assert!(ip(None, &["link", "show", "inro-it0"]).is_none());
    is_whole(&ip(Some(first.pid()), &["addr", "show", "fast0"]).expect("it is in the pod"));

    // A restarted container finds it where the one before it brought it.
    let second = create(&pod).unwrap_or_else(|status| panic!("create: {status:?}"));
    second.start();
    node.daemon.kill9();
    node.daemon.restart();
    first.remove();
    is_whole(&ip(Some(second.pid()), &["addr", "show", "fast0"]).expect("it is in the pod"));
    second.remove();
    is_whole(&ip(None, &["addr", "show", "inro-it0"]).expect("it is back"));

    // A pod that ends gives back what its containers had.
    let third = create(&pod).unwrap_or_else(|status| panic!("create: {status:?}"));
    third.start();
    assert!(ip(None, &["link", "show", "inro-it0"]).is_none());
    pod.stop();
    is_whole(&ip(None, &["addr", "show", "inro-it0"]).expect("it is back"));
    third.remove();
    let log = node.daemon.log_tail();
    assert!(!log.contains("cannot take back"), "{log}");
}

#[test]
fn an_interface_that_cannot_be_given_is_named() {
    let (node, dir) = node(&json!({"netDevices": [{"hostInterfaceName": "inro-it1", "name": "fast0"}]}));
    let own = node.pod(own_network);
    let absent = create(&own).err().expect("an error");
    assert_eq!(absent.code(), Code::FailedPrecondition, "{absent:?}");
    for part in [
        "config.CDI_devices: example.com/net=0: netDevices: \"inro-it1\"",
        "no such interface",
    ] {
        assert!(absent.message().contains(part), "{absent:?}");
    }
    let _link = Link::new("inro-it1");
    let host = create(&node.pod(|_| {})).err().expect("an error");
    assert_eq!(host.code(), Code::InvalidArgument, "{host:?}");
    assert!(
        host.message()
            .contains("\"inro-it1\": the pod is on the host's network"),
        "{host:?}"
    );

    let edits = json!({"netDevices": [{"hostInterfaceName": "inro-it1", "name": "eth0"}]});
    let file = json!({"cdiVersion": "1.1.0", "kind": "example.com/net",
        "devices": [{"name": "0", "containerEdits": edits}]});
    fs::write(dir.path().join("net.json"), file.to_string()).expect("net.json");
    let taken = create(&own).err().expect("an error");
    assert!(
        taken.message().contains("the pod has an interface \"eth0\" already"),
        "{taken:?}"
    );
    is_whole(&ip(None, &["addr", "show", "inro-it1"]).expect("it never left"));
}

#[test]
fn a_create_that_fails_gives_the_interface_back() {
    let hook = json!({"hookName": "createRuntime", "path": "/bin/false"});
    let (node, _dir) =
        node(&json!({"hooks": [hook], "netDevices": [{"hostInterfaceName": "inro-it2", "name": "fast0"}]}));
    let _link = Link::new("inro-it2");
    let pod = node.pod(own_network);
    assert!(create(&pod).is_err());
    is_whole(&ip(None, &["addr", "show", "inro-it2"]).expect("it is back"));
}

#[test]
fn without_resctrl_a_class_is_an_error_that_says_so() {
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    if mounts.lines().any(|line| line.split(' ').nth(2) == Some("resctrl")) {
        eprintln!("skipped: this host has resctrl");
        return;
    }
    let (node, _dir) = node(&json!({"intelRdt": {"closID": "gold", "l3CacheSchema": "L3:0=f"}}));
    let status = create(&node.pod(|_| {})).err().expect("an error");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    for part in ["config.CDI_devices", "resctrl"] {
        assert!(status.message().contains(part), "{status:?}");
    }
}
