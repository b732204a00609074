//! A node with nothing but what its pods bring, and what it has of them.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::steps;
use crate::harness::{Netns, Node, Pod, Server, Trace, namespaces, own_network, v1};

/// Of pods in these tests: both families.
const SUBNET: &str = "[net]\nsubnet = \"10.98.0.0/16,fd98::/64\"\n";
/// Where every pod listens.
const LISTEN: u16 = 8080;
const NEIGHBOUR: u16 = 30_001;
pub const PORT: u16 = 30_002;

/// A node in a network namespace of its own, with nothing but what its pods bring.
pub struct Scene {
    pub node: Node,
    pub netns: Netns,
}

/// What a node has of its pods.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    pub leases: BTreeSet<String>,
    pub folders: BTreeSet<String>,
    pub links: BTreeSet<String>,
    pub mounts: BTreeSet<PathBuf>,
    /// The words of all rules and elements: the order of elements is nobody's choice.
    pub rules: Vec<String>,
}

/// A pod that is left alone.
pub struct Neighbour {
    pod: Pod,
    _server: Server,
}

impl Neighbour {
    pub fn answers(&self, scene: &Scene, step: &str) {
        let reached = scene.reaches(&self.pod, NEIGHBOUR);
        assert_eq!(reached, Ok(()), "the neighbour, killed before: {step}");
    }
}

impl Scene {
    pub fn start() -> Scene {
        let netns = Netns::new();
        let node = Node::within(&netns, SUBNET);
        Scene { node, netns }
    }

    /// What asks for a pod on the pod network with a host port of TCP and of UDP.
    pub fn config(&self, port: u16) -> v1::PodSandboxConfig {
        self.node.pod_config(|config| {
            own_network(config);
            let protocols = [v1::Protocol::Tcp, v1::Protocol::Udp];
            let mappings = protocols.map(|protocol| v1::PortMapping {
                protocol: protocol.into(),
                container_port: LISTEN.into(),
                host_port: port.into(),
                host_ip: String::new(),
            });
            config.port_mappings = mappings.into();
        })
    }

    pub fn run(&self, config: &v1::PodSandboxConfig) -> Pod {
        self.node.run_pod(config).expect("a sandbox")
    }

    /// A pod with a host port that is served.
    pub fn neighbour(&self) -> Neighbour {
        let pod = self.run(&self.config(NEIGHBOUR));
        let server = self.serve(&pod).expect("its network");
        Neighbour { pod, _server: server }
    }

    pub fn serve(&self, pod: &Pod) -> Result<Server, String> {
        let netns = self.node.netns_of(pod).map_err(|error| error.to_string())?;
        Ok(netns.serve("::", LISTEN))
    }

    pub fn held(&self) -> Held {
        let names = |folder: &str| {
            let entries = fs::read_dir(self.node.dir().join(folder)).expect("a folder").flatten();
            entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let mounts = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .map(PathBuf::from);
        let mut rules: Vec<_> = self
            .netns
            .sh("nft list ruleset")
            .split([' ', ',', '\n', '\t'])
            .map(str::to_owned)
            .collect();
        rules.sort();
        Held {
            leases: names("root/net/leases"),
            folders: names("state/sandboxes"),
            links: self.netns.links(),
            mounts: mounts.filter(|mount| mount.starts_with(self.node.dir())).collect(),
            rules,
        }
    }

    /// Whether a pod has all of its network, or what of it is missing.
    pub fn is_whole(&self, pod: &Pod, port: u16) -> Result<(), String> {
        let status = pod.status();
        if status.state != v1::PodSandboxState::SandboxReady as i32 {
            return Err("not ready".to_owned());
        }
        let mut config = pod.config.clone();
        if namespaces(&mut config).pid == v1::NamespaceMode::Pod as i32 && !has_process(pod) {
            return Err("nobody holds its PID namespace".to_owned());
        }
        let _server = self.serve(pod)?;
        self.reaches(pod, port)
    }

    /// Whether a pod that listens answers at each of its addresses and at its host port.
    pub fn reaches(&self, pod: &Pod, port: u16) -> Result<(), String> {
        let ips = pod.ips();
        if ips.len() != 2 {
            return Err(format!("not an address of each family: {ips:?}"));
        }
        let own = ips.iter().map(|ip| SocketAddr::new(*ip, LISTEN));
        let gateway = "fd98::1".parse().expect("an address");
        let host = [IpAddr::from([127, 0, 0, 1]), gateway].map(|ip| SocketAddr::new(ip, port));
        for address in own.chain(host) {
            let asked = self.netns.ask(&address.to_string());
            asked.map_err(|error| format!("{address}: {error}"))?;
        }
        Ok(())
    }

    /// The sandbox that a configuration made, if it is known.
    pub fn known(&self, config: &v1::PodSandboxConfig) -> Option<v1::PodSandbox> {
        let listed = self.node.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default());
        let mut found = listed.expect("list").items.into_iter();
        found.find(|sandbox| sandbox.metadata == config.metadata)
    }

    /// Watches the daemon, which is killed before what is called `step`.
    pub fn watch(&self, step: Option<&str>) -> Trace {
        let step = step.map(str::to_owned);
        let fatal = move |now: &str| step.as_deref() == Some(now);
        Trace::start(self.node.daemon.pid(), steps::step, fatal).expect("ptrace")
    }

    /// The steps of the daemon, which is dead afterwards.
    pub fn end(&mut self, trace: Trace) -> Vec<String> {
        let steps = trace.end();
        self.node.daemon.kill9();
        steps
    }

    /// Notes the steps of `work` on what `prepare` made, and does it again with a kill before each. `check` is what has
    /// to hold then, with the next daemon.
    pub fn at_every_step<T>(
        &mut self,
        prepare: impl Fn(&mut Scene) -> T,
        work: impl Fn(&mut Scene, &T, Option<&str>) -> Vec<String>,
        check: impl Fn(&Scene, T, &str),
    ) -> Vec<String> {
        let mut once = |step: Option<&str>| {
            let prepared = prepare(self);
            let steps = work(self, &prepared, step);
            self.node.daemon.restart();
            check(self, prepared, step.unwrap_or("nothing"));
            steps
        };
        // A cgroup that is busy is removed more than once; a pair goes with its namespace or is deleted, which is
        // first.
        let mut known = BTreeSet::from(["delete the pair".to_owned()]);
        let mut steps = once(None);
        steps.retain(|step| known.insert(step.clone()));
        for step in &steps {
            assert_eq!(once(Some(step)).last(), Some(step), "killed there, of {steps:#?}");
        }
        steps
    }
}

/// Whether there is a process in a cgroup of the pod's own.
fn has_process(pod: &Pod) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let cgroups = processes.filter_map(|entry| fs::read_to_string(entry.path().join("cgroup")).ok());
    { cgroups }.any(|cgroups| cgroups.contains(&pod.id))
}
