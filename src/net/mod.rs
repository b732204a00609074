//! Pod networking: the built-in bridge, or plugins of the Container Network Interface.

mod bandwidth;
mod builtin;
mod cni;
mod device;
mod family;
mod message;
mod netlink;
mod usage;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::model::{ErrorKind, NetDevice, PortMapping, SandboxConfig, SandboxId, chain};
use bandwidth::BadRate;
use builtin::Builtin;
pub use builtin::remove_bridge;
use cni::{Cni, CniError, Wishes};
pub use device::MovedDevice;
use netlink::Netlink;
pub use usage::interfaces_of;

/// What pods' networks are like.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub mode: Mode,
    /// The name of the bridge and of the nftables table, at most 15 bytes.
    pub bridge: String,
    /// Subnet of the bridge's pods, of IPv4 or IPv6, or one of each separated by a comma: `10.87.0.0/16,fd87::/64`. A pod's
    /// first address is of the first; a subnet's first address is the bridge's. Holds until the kubelet names another
    /// (UpdateRuntimeConfig), whose word is the cluster's: it is kept below `root` and wins.
    pub subnet: String,
    /// Ranges of addresses, such as a cluster's pods and nodes, that see the bridge's pods with their own addresses and
    /// not with the node's.
    pub no_masquerade: Vec<String>,
    /// 0: that of the interface that the node's default route leaves by.
    pub mtu: u32,
    /// Sysctls of pods' network namespaces, which a pod may ask for otherwise. As containerd has them, a process without
    /// privileges may listen on any port and send echo requests.
    pub default_sysctls: BTreeMap<String, String>,
    pub cni: cni::Config,
}

/// Where pods get their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// From plugins as soon as there is a configuration of some, else from the bridge.
    Auto,
    /// From the bridge.
    Builtin,
    /// From plugins.
    Cni,
    /// Loopback only.
    None,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            bridge: "inro0".into(),
            subnet: "10.87.0.0/16".into(),
            no_masquerade: Vec::new(),
            mtu: 0,
            default_sysctls: [
                ("net.ipv4.ip_unprivileged_port_start", "0"),
                (PING_GROUPS, "0 2147483647"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            cni: cni::Config::default(),
        }
    }
}

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("{key}: {why}")]
    Config { key: &'static str, why: String },
    #[error("runtime_config.network_config.pod_cidr: {0}")]
    Subnet(String),
    #[error("runtime_config.network_config.pod_cidr: its first address, {address}, is that of sandbox {owner}")]
    GatewayTaken { address: IpAddr, owner: String },
    #[error("config.port_mappings[{at}].{field}: {why}")]
    HostPort {
        at: usize,
        field: &'static str,
        why: String,
    },
    #[error("config.port_mappings: {port} belongs to sandbox {owner}")]
    PortTaken { port: String, owner: SandboxId },
    #[error("config.port_mappings: pods have no addresses here (net.mode is \"none\")")]
    NoAddresses,
    #[error("no free address in {subnet}: {used} in use")]
    Exhausted { subnet: String, used: usize },
    #[error(transparent)]
    Rate(#[from] BadRate),
    #[error("config.annotations[{annotation:?}]: the kernel sets no limit (sch_tbf)")]
    Shape {
        annotation: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Cni(#[from] CniError),
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("config.CDI_devices: {device}: netDevices: {name:?}: {why}")]
    Device {
        device: String,
        name: String,
        why: String,
        source: Option<io::Error>,
    },
    #[error("{what}")]
    Netlink { what: String, source: io::Error },
}

impl NetError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. } | Self::Subnet(_) | Self::HostPort { .. } | Self::Rate(_) => ErrorKind::InvalidArgument,
            Self::GatewayTaken { .. } | Self::NoAddresses | Self::Device { .. } | Self::Shape { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::PortTaken { .. } => ErrorKind::AlreadyExists,
            Self::Exhausted { .. } => ErrorKind::ResourceExhausted,
            Self::Cni(error) => error.kind(),
            _ => ErrorKind::Internal,
        }
    }
}

impl NetError {
    fn device(device: &NetDevice, why: &str, source: Option<io::Error>) -> Self {
        Self::Device {
            device: device.device.clone(),
            name: device.host_name.clone(),
            why: why.to_owned(),
            source,
        }
    }
}

/// A pod's place in the network.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// Empty when pods have loopback only.
    pub ips: Vec<IpAddr>,
}

/// A pod of an earlier life of the daemon that goes on.
#[derive(Debug, Clone)]
pub struct LivePod {
    pub id: SandboxId,
    pub ips: Vec<IpAddr>,
    pub port_mappings: Vec<PortMapping>,
    /// The path of its network namespace.
    pub netns: PathBuf,
}

/// How a pod gets its network.
#[derive(Debug)]
pub enum Way {
    /// Loopback only.
    Nothing,
    Builtin,
    Cni(Box<cni::Network>),
}

/// What was taken for a pod.
#[derive(Debug)]
pub enum Reservation {
    /// Loopback only.
    Nothing,
    Builtin(builtin::Reservation),
    Cni(Box<cni::Network>),
}

/// A pod's network namespace.
pub struct Inside<'a> {
    pub netns: BorrowedFd<'a>,
    /// Its path.
    pub path: &'a Path,
    /// A route socket that was opened in it.
    pub route: OwnedFd,
    /// The path of the pod's cgroup.
    pub cgroup: &'a str,
}

/// The network of this node's pods. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    mode: Mode,
    default_sysctls: Arc<BTreeMap<String, String>>,
    builtin: Builtin,
    cni: Arc<Cni>,
}

impl Network {
    /// A network whose addresses and attachments are on record below `root_dir`. Nothing is made on the host before the
    /// first pod needs it.
    ///
    /// # Errors
    /// [`NetError::Config`] with the key at fault, [`NetError::Io`], [`NetError::Cni`].
    pub fn open(config: &Config, root_dir: &Path) -> Result<Self, NetError> {
        if let Some(name) = config.default_sysctls.keys().find(|name| !name.starts_with("net.")) {
            return Err(NetError::Config {
                key: "net.default_sysctls",
                why: format!("{name:?} is no sysctl of a network namespace such as net.core.somaxconn"),
            });
        }
        Ok(Self {
            mode: config.mode,
            default_sysctls: Arc::new(config.default_sysctls.clone()),
            builtin: Builtin::open(config, root_dir)?,
            cni: Arc::new(Cni::open(&config.cni, root_dir)?),
        })
    }

    /// Whether new pods can be attached, and their packets go anywhere. Blocks: plugins may be asked, for some seconds at
    /// most.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        let builtin = || self.builtin.ready().map_err(|error| chain(&error));
        match self.mode {
            Mode::None => Ok(()),
            Mode::Builtin => builtin(),
            Mode::Auto if matches!(self.cni.network(""), Ok(None)) => builtin(),
            Mode::Auto | Mode::Cni => self.cni.ready(""),
        }
    }

    /// What a pod's network namespace needs before it has an interface: names and values of sysctls.
    pub fn sysctls(&self, way: &Way, config: &SandboxConfig) -> BTreeMap<String, String> {
        let mut sysctls = (*self.default_sysctls).clone();
        if let (Some(user), Some(groups)) = (&config.namespaces.user, sysctls.get_mut(PING_GROUPS))
            && groups == ALL_GROUPS
        {
            // All that there are in its user namespace.
            *groups = format!("0 {}", user.gids.size - 1);
        }
        if matches!(way, Way::Builtin) {
            // No other pod is its router (CVE-2020-10749). Plugins have ways of their own.
            sysctls.insert("net.ipv6.conf.default.accept_ra".into(), "0".into());
        }
        sysctls
    }

    /// How a pod of a runtime handler gets its network now.
    ///
    /// # Errors
    /// [`NetError::Cni`] where there is none.
    pub fn way(&self, handler: &str) -> Result<Way, NetError> {
        let network = match self.mode {
            Mode::None => return Ok(Way::Nothing),
            Mode::Builtin => None,
            Mode::Auto | Mode::Cni => self.cni.network(handler)?,
        };
        match network {
            Some(network) => Ok(Way::Cni(Box::new(network))),
            None if self.mode == Mode::Cni => Err(CniError::NoNetwork(self.cni.conf_dir(handler).to_owned()).into()),
            None => Ok(Way::Builtin),
        }
    }

    /// Takes for a pod what needs nothing of the pod's: the built-in network's addresses. Blocks where none is free, until
    /// those of stopped pods are.
    ///
    /// # Errors
    /// [`NetError::Exhausted`], [`NetError::Netlink`]. What was taken is given back by [`Network::detach`].
    pub fn reserve(&self, id: &SandboxId, way: Way) -> Result<Reservation, NetError> {
        Ok(match way {
            Way::Nothing => Reservation::Nothing,
            Way::Builtin => Reservation::Builtin(self.builtin.reserve(id)?),
            Way::Cni(network) => Reservation::Cni(network),
        })
    }

    /// Brings `lo` up and attaches the pod. Blocks: for a millisecond where there is no plugin.
    ///
    /// # Errors
    /// [`NetError::HostPort`], [`NetError::PortTaken`], [`NetError::Rate`], [`NetError::Shape`], [`NetError::Netlink`],
    /// [`NetError::Cni`]. What was made is taken away by [`Network::release`] and [`Network::detach`].
    pub fn attach(
        &self,
        id: &SandboxId,
        reserved: Reservation,
        inside: Inside<'_>,
        config: &SandboxConfig,
    ) -> Result<Attachment, NetError> {
        let loopback_up = |route| Netlink::over(route).loopback_up().map_err(during("bring lo up"));
        match reserved {
            Reservation::Nothing => {
                if config.port_mappings.iter().any(|mapping| mapping.host_port != 0) {
                    return Err(NetError::NoAddresses);
                }
                loopback_up(inside.route)?;
                Ok(Attachment::default())
            }
            Reservation::Builtin(reserved) => self.builtin.attach(id, reserved, inside.netns, inside.route, config),
            Reservation::Cni(network) => {
                loopback_up(inside.route)?;
                let subnets = self.builtin.told_subnets();
                let wishes = Wishes {
                    config,
                    netns: inside.path,
                    cgroup: inside.cgroup,
                    subnets: &subnets,
                };
                Ok(Attachment {
                    ips: self.cni.attach(*network, id, &wishes)?,
                })
            }
        }
    }

    /// Has plugins let a pod go while its network namespace, at `netns`, is there. What they do not do is tried again in the
    /// background: the pod does not wait for it.
    pub fn release(&self, id: &SandboxId, netns: &Path) {
        self.cni.detach(id, netns);
    }

    /// Takes a pod's host ports away, and soon its interface and then its address; nothing to do when there are none.
    ///
    /// The interface goes with the pod's network namespace, or is deleted when that takes too long. Its address is free
    /// after that and not earlier. A failure there is logged, and tried again with the next call for any pod.
    ///
    /// # Errors
    /// [`NetError::Netlink`]: everything stays as it is then.
    pub fn detach(&self, id: &SandboxId) -> Result<(), NetError> {
        self.builtin.detach(id)
    }

    /// Waits until what was detached is gone, at most for `limit`. What is left is the next start's to remove.
    pub fn settle(&self, limit: Duration) {
        self.builtin.settle(limit);
    }

    /// Takes up the pods that go on, and takes away what those that no longer exist have left: after a crash or a reboot. A
    /// pod that was stopped no longer exists, and its interface may still be there. Plugins do their part in the background.
    ///
    /// # Errors
    /// [`NetError::Netlink`], [`NetError::Io`], [`NetError::Cni`]: an address stays leased then; the rest is done all the
    /// same.
    pub fn recover(&self, live: &[LivePod]) -> Result<(), NetError> {
        let (of_plugins, own): (Vec<_>, Vec<_>) = live.iter().cloned().partition(|pod| self.cni.has(&pod.id));
        let ended = self.cni.recover(of_plugins).map_err(NetError::from);
        self.builtin.recover(&own).and(ended)
    }

    /// Gives new pods addresses of what the kubelet says; pods that are there keep theirs. An empty word changes nothing,
    /// nor does any where pods have no addresses. Plugins are told of it as a capability (`ipRanges`). Blocks.
    ///
    /// # Errors
    /// [`NetError::Subnet`], [`NetError::GatewayTaken`], [`NetError::Io`], [`NetError::Netlink`].
    pub fn change_subnet(&self, pod_cidr: &str) -> Result<(), NetError> {
        self.builtin.change_subnet(pod_cidr)
    }
}

fn during(what: &str) -> impl Fn(io::Error) -> NetError + use<> {
    let what = what.to_owned();
    move |source| NetError::Netlink {
        what: what.clone(),
        source,
    }
}

/// The groups whose processes may send echo requests without privileges: icmp(7).
const PING_GROUPS: &str = "net.ipv4.ping_group_range";
const ALL_GROUPS: &str = "0 2147483647";
