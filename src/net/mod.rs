//! Pod networking: the built-in bridge.
//!
//! A pod gets `lo` up and `eth0`, one end of a veth pair whose other end hangs on a bridge of the host that is the
//! pod's gateway. All of it is a few netlink messages in this process; no program is executed. An address belongs to a
//! pod by a lease file, written before the address is used.

mod lease;
mod netlink;
mod usage;

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};

use crate::{
    model::{ErrorKind, SandboxConfig, SandboxId},
    sys::thread::in_network_namespace,
};
use lease::{Leases, Subnet};
use netlink::Netlink;
pub use usage::interfaces_of;

/// What pods' networks are like.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub mode: Mode,
    /// The bridge's name, at most 15 bytes.
    pub bridge: String,
    /// IPv4 subnet of the pods, such as `10.87.0.0/16`; its first address is the bridge's.
    pub subnet: String,
    /// 0: the kernel's choice.
    pub mtu: u32,
}

/// Whether pods get addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Builtin,
    /// Loopback only.
    None,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Builtin,
            bridge: "inro0".into(),
            subnet: "10.87.0.0/16".into(),
            mtu: 0,
        }
    }
}

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("{key}: {why}")]
    Config { key: &'static str, why: String },
    #[error("port_mappings.host_port: host ports are not built yet")]
    HostPort,
    #[error("no free address in {subnet}: {used} in use")]
    Exhausted { subnet: String, used: usize },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{what}")]
    Netlink { what: String, source: io::Error },
}

impl NetError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. } => ErrorKind::InvalidArgument,
            Self::HostPort => ErrorKind::Unimplemented,
            Self::Exhausted { .. } => ErrorKind::ResourceExhausted,
            _ => ErrorKind::Internal,
        }
    }
}

/// A pod's place in the network.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// Empty when pods have loopback only.
    pub ips: Vec<IpAddr>,
}

/// The network of this node's pods. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    subnet: Subnet,
    leases: Leases,
    /// The bridge's index once it is known to be there. Held while it is made.
    bridge: Mutex<Option<u32>>,
}

impl Network {
    /// A network whose leases are below `root_dir`. Nothing is made on the host before the first pod needs it.
    ///
    /// # Errors
    /// [`NetError::Config`] with the key at fault, [`NetError::Io`].
    pub fn open(config: &Config, root_dir: &Path) -> Result<Self, NetError> {
        if config.bridge.is_empty() || config.bridge.len() > 15 || config.bridge.contains(['/', ' ']) {
            return Err(NetError::Config {
                key: "net.bridge",
                why: format!("{:?} is no interface name", config.bridge),
            });
        }
        let subnet = Subnet::parse(&config.subnet).ok_or_else(|| NetError::Config {
            key: "net.subnet",
            why: format!("{:?} is no IPv4 subnet", config.subnet),
        })?;
        let leases = Leases::open(&root_dir.join("net/leases"))?;
        let inner = Inner {
            config: config.clone(),
            subnet,
            leases,
            bridge: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether pods can be attached.
    pub fn ready(&self) -> bool {
        true
    }

    /// Brings `lo` up, and gives the pod its address. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// [`NetError::HostPort`], [`NetError::Exhausted`], [`NetError::Netlink`]. What was made is taken away by
    /// [`Network::detach`].
    pub fn attach(
        &self,
        id: &SandboxId,
        netns: BorrowedFd<'_>,
        config: &SandboxConfig,
    ) -> Result<Attachment, NetError> {
        let inner = &self.inner;
        if inner.config.mode == Mode::None {
            in_network_namespace(netns, || Netlink::open()?.up(1)).map_err(during("bring lo up"))?;
            return Ok(Attachment::default());
        }
        if config.port_mappings.iter().any(|mapping| mapping.host_port != 0) {
            return Err(NetError::HostPort);
        }
        let bridge = inner.bridge()?;
        let address = inner.leases.take(&inner.subnet, id)?;
        let host_end = host_end(id);
        Netlink::open()
            .and_then(|mut netlink| netlink.veth(&host_end, "eth0", netns.as_raw_fd(), bridge, inner.config.mtu))
            .map_err(during(&format!("make {host_end}")))?;
        let (gateway, prefix) = (inner.subnet.gateway(), inner.subnet.prefix);
        in_network_namespace(netns, || {
            let mut netlink = Netlink::open()?;
            netlink.up(1)?;
            let eth0 = netlink.index("eth0")?;
            netlink.address(eth0, address, prefix)?;
            netlink.up(eth0)?;
            netlink.default_route(eth0, gateway)
        })
        .map_err(during("configure eth0"))?;
        Ok(Attachment {
            ips: vec![address.into()],
        })
    }

    /// Takes a pod's interface and address away; nothing to do when there are none.
    ///
    /// # Errors
    /// [`NetError::Netlink`], [`NetError::Io`]: the address stays leased then.
    pub fn detach(&self, id: &SandboxId) -> Result<(), NetError> {
        if !self.inner.leases.has(id) {
            return Ok(());
        }
        // The address may be given to another only when no packet for it can come here any more.
        let name = host_end(id);
        Netlink::open()
            .and_then(|mut n| n.delete(&name))
            .map_err(during(&format!("remove {name}")))?;
        self.inner.leases.give_back(id)
    }

    /// Takes away what pods that no longer exist have left: after a crash or a reboot.
    ///
    /// # Errors
    /// As [`Network::detach`]; the rest is done all the same.
    pub fn recover(&self, live: &HashSet<SandboxId>) -> Result<(), NetError> {
        let stale: Vec<_> = self
            .inner
            .leases
            .owners()
            .into_iter()
            .filter(|id| !live.contains(id))
            .collect();
        stale.iter().map(|id| self.detach(id)).fold(Ok(()), Result::and)
    }
}

impl Inner {
    /// The bridge's index; makes it with its address when it is not there.
    fn bridge(&self) -> Result<u32, NetError> {
        let mut known = self.bridge.lock().expect("no panic while the bridge is made");
        let name = &self.config.bridge;
        let fail = |what: &str| during(&format!("{what} bridge {name}"));
        let mut netlink = Netlink::open().map_err(fail("find"))?;
        if let Some(index) = *known
            && netlink.index(name).ok() == Some(index)
        {
            return Ok(index);
        }
        netlink.bridge(name).map_err(fail("make"))?;
        let index = netlink.index(name).map_err(fail("find"))?;
        netlink
            .address(index, self.subnet.gateway(), self.subnet.prefix)
            .map_err(fail("address"))?;
        netlink.up(index).map_err(fail("bring up"))?;
        forward()?;
        *known = Some(index);
        Ok(index)
    }
}

/// Removes a bridge that no pod is on any more; nothing to do when it is gone.
///
/// # Errors
/// [`NetError::Netlink`].
pub fn remove_bridge(name: &str) -> Result<(), NetError> {
    Netlink::open()
        .and_then(|mut netlink| netlink.delete(name))
        .map_err(during(&format!("remove {name}")))
}

/// Lets the host route between pods and the rest, and says so once when that changes it.
fn forward() -> Result<(), NetError> {
    let path = Path::new("/proc/sys/net/ipv4/ip_forward");
    let io = |action| {
        move |source| NetError::Io {
            action,
            path: path.into(),
            source,
        }
    };
    if fs::read_to_string(path).map_err(io("read"))?.trim() == "0" {
        fs::write(path, "1").map_err(io("write"))?;
        tracing::info!("net.ipv4.ip_forward is on now: pods need it");
    }
    Ok(())
}

/// The host end's name: follows from the id, so that it is found without a record.
fn host_end(id: &SandboxId) -> String {
    format!("inro{}", &id.as_str()[..11])
}

fn during(what: &str) -> impl Fn(io::Error) -> NetError + use<> {
    let what = what.to_owned();
    move |source| NetError::Netlink {
        what: what.clone(),
        source,
    }
}

/// An IPv4 address as the kernel's messages have it.
fn octets(address: Ipv4Addr) -> [u8; 4] {
    address.octets()
}

#[cfg(test)]
mod test;
