//! A pod sandbox: what was asked for and where it is in its life.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Namespaces, Resources, SandboxId, Timestamp};

/// Names a sandbox for the kubelet; unique among those that exist. Source: CRI `PodSandboxMetadata`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxMetadata {
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// How often the pod was started before.
    pub attempt: u32,
}

/// Source: CRI `DNSConfig`. Empty means: the host's resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// Source: CRI `PortMapping.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A host port that leads into the pod. Source: CRI `PortMapping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    /// 0: none.
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
}

/// What RunPodSandbox was asked for. Source: CRI `PodSandboxConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    pub metadata: SandboxMetadata,
    /// Name of the runtime handler; empty is the default one.
    pub runtime_handler: String,
    /// Hostname of the pod; empty only on the host's network.
    pub hostname: String,
    /// Folder of the containers' logs; `None`: containers of this pod have no log.
    pub log_directory: Option<PathBuf>,
    pub dns: Dns,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// cgroup path under the hierarchies' roots: absolute, without `..`. As the client told it until a sandbox is made:
    /// then also a slice's name. Empty: the daemon's default.
    pub cgroup_parent: String,
    /// Names checked; values written verbatim.
    pub sysctls: BTreeMap<String, String>,
    pub namespaces: Namespaces,
    pub privileged: bool,
    /// CRI `LinuxPodSandboxConfig.overhead` and `resources`, kept for status.
    pub overhead: Option<Resources>,
    pub resources: Option<Resources>,
}

/// Where a sandbox is in its life. Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    Ready,
    NotReady,
}

/// A sandbox as everyone reads it; cheap to clone.
#[derive(Debug, Clone)]
pub struct SandboxView {
    pub id: SandboxId,
    pub config: Arc<SandboxConfig>,
    pub state: SandboxState,
    pub created_at: Timestamp,
    /// Addresses, the first is the primary one; empty on the host's network.
    pub ips: Vec<IpAddr>,
}

/// Which sandboxes to list; every field that is set must match. Source: CRI `PodSandboxFilter`.
#[derive(Debug, Clone, Default)]
pub struct SandboxFilter {
    /// A full id or a prefix of one.
    pub id: Option<String>,
    pub state: Option<SandboxState>,
    pub labels: BTreeMap<String, String>,
}
