//! A node, its pods and a machine outside, each a network namespace of the test.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    time::Duration,
};

use super::{super::Builtin, attach, config, namespace, within};
use crate::{
    model::*,
    net::{Config, LivePod, NetError},
};

/// A node with an outside machine on a wire, and a network of ours on it.
pub(super) struct Node {
    pub(super) host: OwnedFd,
    pub(super) outside: OwnedFd,
    pub(super) network: Builtin,
    pub(super) config: Config,
    pub(super) dir: tempfile::TempDir,
}

/// The node's address on the wire, and the outside machine's.
pub(super) const NODE: &str = "203.0.113.1";
pub(super) const OUTSIDE: &str = "203.0.113.2";

pub(super) struct Pod {
    pub(super) id: SandboxId,
    pub(super) netns: OwnedFd,
    /// The first of its addresses.
    pub(super) ip: IpAddr,
    pub(super) ips: Vec<IpAddr>,
    pub(super) mappings: Vec<PortMapping>,
}

impl Node {
    pub(super) fn new() -> Option<Self> {
        Self::with(Config {
            subnet: "198.51.100.0/24".into(),
            ..Config::default()
        })
    }

    pub(super) fn with(config: Config) -> Option<Self> {
        let tools = ["nft", "ip"]
            .iter()
            .all(|tool| Command::new(tool).arg("--version").output().is_ok());
        if !rustix::process::geteuid().is_root() || !tools {
            eprintln!("skipped: needs root, ip and nft");
            return None;
        }
        let (host, outside) = (namespace(), namespace());
        sh(&host, "ip link set lo up");
        let there = outside.as_raw_fd();
        let wire = format!(
            "ip link add wire type veth peer name wire netns /proc/{}/fd/{there} && \
             ip addr add {NODE}/24 dev wire && ip link set wire up",
            std::process::id(),
        );
        sh(&host, &wire);
        sh(
            &outside,
            &format!("ip addr add {OUTSIDE}/24 dev wire && ip link set wire up && ip link set lo up"),
        );
        let dir = tempfile::tempdir().unwrap();
        let network = Builtin::open(&config, dir.path()).unwrap();
        Some(Self {
            host,
            outside,
            network,
            config,
            dir,
        })
    }

    pub(super) fn pod(&self, number: u8, mappings: &[PortMapping]) -> Result<Pod, NetError> {
        let id: SandboxId = format!("{number:x}").repeat(64).parse().unwrap();
        let config = SandboxConfig {
            port_mappings: mappings.to_vec(),
            ..config()
        };
        self.run(id, config)
    }

    /// A pod that asks for what `config` has.
    pub(super) fn run(&self, id: SandboxId, config: SandboxConfig) -> Result<Pod, NetError> {
        let netns = namespace();
        let ips = attach(&self.network, &self.host, &id, &netns, &config)?.ips;
        let mappings = config.port_mappings;
        Ok(Pod {
            ip: ips[0],
            id,
            netns,
            ips,
            mappings,
        })
    }

    pub(super) fn detach(&self, pod: &Pod) {
        within(&self.host, || self.network.detach(&pod.id)).unwrap();
    }

    /// What `nft` says of our table.
    pub(super) fn listing(&self) -> String {
        sh(&self.host, "nft list table ip inro0")
    }

    /// A daemon that comes back and finds these pods.
    pub(super) fn restart(&mut self, pods: &[&Pod]) {
        self.network = Builtin::open(&self.config, self.dir.path()).unwrap();
        let live: Vec<_> = pods
            .iter()
            .map(|pod| LivePod {
                netns: std::path::PathBuf::new(),
                id: pod.id.clone(),
                ips: pod.ips.clone(),
                port_mappings: pod.mappings.clone(),
            })
            .collect();
        within(&self.host, || self.network.recover(&live)).unwrap();
    }
}

/// Runs a shell line in a namespace; it has to succeed.
pub(super) fn sh(netns: &OwnedFd, line: &str) -> String {
    let output = within(netns, || Command::new("sh").args(["-c", line]).output().unwrap());
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Tells everyone who connects from where they came; ends with the test's process.
pub(super) fn serve_tcp(netns: &OwnedFd, port: u16) {
    let listener = within(netns, || TcpListener::bind(("::", port))).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let from = client.peer_addr().map(|from| from.ip().to_canonical().to_string());
            let _ = { client }.write_all(from.unwrap_or_default().as_bytes());
        }
    });
}

/// From where a server at `to` was asked by `netns`.
pub(super) fn ask_tcp(netns: &OwnedFd, to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    within(netns, || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}
