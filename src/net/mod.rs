//! Pod networking: the built-in bridge.
//!
//! A pod gets `lo` up and `eth0`, one end of a veth pair whose other end hangs on a bridge of the host that is the
//! pod's gateway. All of it is a few netlink messages in this process; no program is executed. An address belongs to a
//! pod by a lease file, written before the address is used. Host ports, and the way out of the node, are one nftables
//! table with the bridge's name.

mod conntrack;
mod device;
mod lease;
mod message;
mod netlink;
mod nft;
mod ports;
mod removal;
mod subnets;
mod table;
mod usage;

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::model::{ErrorKind, NetDevice, PortMapping, Protocol, SandboxConfig, SandboxId};
pub use device::MovedDevice;
use lease::{Leases, Subnet};
use netlink::Netlink;
use ports::{Opening, Ports};
use removal::Removals;
use subnets::Subnets;
pub use usage::interfaces_of;

/// What pods' networks are like.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub mode: Mode,
    /// The name of the bridge and of the nftables table, at most 15 bytes.
    pub bridge: String,
    /// IPv4 subnet of the pods, such as `10.87.0.0/16`; its first address is the bridge's. Holds until the kubelet names
    /// another (UpdateRuntimeConfig), whose word is the cluster's: it is kept below `root` and wins.
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
    #[error("runtime_config.network_config.pod_cidr: {text:?} {why}")]
    Subnet { text: String, why: String },
    #[error("runtime_config.network_config.pod_cidr: its first address, {address}, is that of sandbox {owner}")]
    GatewayTaken { address: Ipv4Addr, owner: String },
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
            Self::Config { .. } | Self::Subnet { .. } | Self::HostPort { .. } => ErrorKind::InvalidArgument,
            Self::GatewayTaken { .. } | Self::NoAddresses | Self::Device { .. } => ErrorKind::FailedPrecondition,
            Self::PortTaken { .. } => ErrorKind::AlreadyExists,
            Self::Exhausted { .. } => ErrorKind::ResourceExhausted,
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
}

/// The network of this node's pods. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    leases: Leases,
    /// Held while an address is taken, so that none is given of a subnet that changes.
    subnets: Mutex<Subnets>,
    /// Which pod has which host port, and with that what the table holds. Held while the table is changed.
    ports: Mutex<Ports>,
    /// The bridge's index once it is known to be there with its addresses and its table. Held while they are made.
    bridge: Mutex<Option<u32>>,
    /// Devices of stopped pods, and then their addresses.
    removals: Removals,
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
        let subnets = Subnets::open(subnets::record(root_dir), subnet, &leases)?;
        let inner = Inner {
            config: config.clone(),
            leases,
            subnets: Mutex::new(subnets),
            ports: Mutex::default(),
            bridge: Mutex::default(),
            removals: Removals::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether pods can be attached.
    pub fn ready(&self) -> bool {
        true
    }

    /// Brings `lo` up, gives the pod its address and opens its host ports. `route` is a route socket that was opened in
    /// `netns`. Blocks for a millisecond, and where no address is free until those of stopped pods are.
    ///
    /// # Errors
    /// [`NetError::HostPort`], [`NetError::PortTaken`], [`NetError::Exhausted`], [`NetError::Netlink`]. What was made is
    /// taken away by [`Network::detach`].
    pub fn attach(
        &self,
        id: &SandboxId,
        netns: BorrowedFd<'_>,
        route: OwnedFd,
        config: &SandboxConfig,
    ) -> Result<Attachment, NetError> {
        let inner = &self.inner;
        let mut inside = Netlink::over(route);
        if inner.config.mode == Mode::None {
            if config.port_mappings.iter().any(|mapping| mapping.host_port != 0) {
                return Err(NetError::NoAddresses);
            }
            inside.loopback_up().map_err(during("bring lo up"))?;
            return Ok(Attachment::default());
        }
        // With its table, which ports are opened in.
        inner.bridge(None)?;
        let (address, subnet) = inner.lease(id)?;
        let openings = Ports::openings(id, address, &config.port_mappings)?;
        let hairpin = !openings.is_empty();
        inner.open_ports(id, openings)?;
        let host_end = host_end(id);
        inner.make_veth(&host_end, netns)?;
        if hairpin {
            Netlink::open()
                .and_then(|mut netlink| netlink.hairpin(&host_end))
                .map_err(during(&format!("let {host_end} ask itself")))?;
        }
        inside
            .index("eth0")
            .and_then(|eth0| inside.furnish(eth0, address, subnet.prefix, subnet.gateway()))
            .map_err(during("configure eth0"))?;
        Ok(Attachment {
            ips: vec![address.into()],
        })
    }

    /// Takes a pod's host ports away, and soon its interface and then its address; nothing to do when there are none.
    ///
    /// The interface goes with the pod's network namespace, or is deleted when that takes too long. Its address is free
    /// after that and not earlier. A failure there is logged, and tried again with the next call for any pod.
    ///
    /// # Errors
    /// [`NetError::Netlink`]: everything stays as it is then.
    pub fn detach(&self, id: &SandboxId) -> Result<(), NetError> {
        if !self.inner.leases.has(id) {
            return Ok(());
        }
        self.inner.close_ports(id)?;
        self.inner.remove_later(id);
        Ok(())
    }

    /// Waits until what was detached is gone, at most for `limit`. What is left is the next start's to remove.
    pub fn settle(&self, limit: Duration) {
        match self.inner.removals.settle(limit) {
            0 => {}
            left => tracing::warn!(left, "interfaces of stopped pods are left to the next start"),
        }
    }

    /// Takes up the pods that go on, with their host ports, and takes away what those that no longer exist have left:
    /// after a crash or a reboot. A pod that was stopped no longer exists, and its interface may still be there.
    ///
    /// # Errors
    /// [`NetError::Netlink`], [`NetError::Io`]: an address stays leased then; the rest is done all the same.
    pub fn recover(&self, live: &[LivePod]) -> Result<(), NetError> {
        let inner = &self.inner;
        let known: HashSet<&SandboxId> = live.iter().map(|pod| &pod.id).collect();
        let stale = inner.leases.owners().into_iter().filter(|id| !known.contains(id));
        let freed = stale.map(|id| inner.remove_now(&id)).fold(Ok(()), Result::and);
        let mut addressed = false;
        for pod in live {
            let Some(IpAddr::V4(address)) = pod.ips.first().copied() else {
                continue;
            };
            addressed = true;
            let openings = Ports::openings(&pod.id, address, &pod.port_mappings)?;
            inner.ports().insert(&pod.id, openings);
        }
        let made = if addressed {
            inner.bridge(None).map(drop)
        } else {
            // One that an earlier life left: its rules would outlive the pods they are for.
            table::remove(&inner.config.bridge).map_err(during("remove the nftables table"))
        };
        freed.and(made)
    }

    /// Gives new pods addresses of what the kubelet says; pods that are there keep theirs. An empty word changes nothing,
    /// nor does any where pods have no addresses. Blocks.
    ///
    /// # Errors
    /// [`NetError::Subnet`], [`NetError::GatewayTaken`], [`NetError::Io`], [`NetError::Netlink`].
    pub fn change_subnet(&self, pod_cidr: &str) -> Result<(), NetError> {
        let inner = &self.inner;
        if pod_cidr.is_empty() {
            return Ok(());
        }
        let subnet = subnets::of_kubelet(pod_cidr)?;
        if inner.config.mode == Mode::None {
            tracing::warn!(
                pod_cidr,
                "pods have no addresses here (net.mode is none): the kubelet's subnet is not used"
            );
            return Ok(());
        }
        let mut bridge = inner.bridge.lock().expect("no panic while the bridge is made");
        {
            let mut subnets = inner.subnets();
            if subnets.current() == subnet {
                return Ok(());
            }
            subnets.change(subnet, &inner.leases)?;
        }
        tracing::info!(%subnet, "new pods get addresses of the kubelet's subnet");
        // Made anew, with the address and the range of the new subnet, at once when pods are there, else for the next.
        if bridge.take().is_some() {
            *bridge = Some(inner.make_bridge()?);
        }
        Ok(())
    }
}

impl Inner {
    /// The bridge's index; makes it with its addresses and table when it is not known to be there, or `not` what it was.
    fn bridge(&self, not: Option<u32>) -> Result<u32, NetError> {
        let mut known = self.bridge.lock().expect("no panic while the bridge is made");
        match *known {
            Some(index) if not != Some(index) => Ok(index),
            _ => Ok(*known.insert(self.make_bridge()?)),
        }
    }

    /// Makes a pod's pair of interfaces: `host_end` on the bridge and `eth0` in `netns`.
    fn make_veth(&self, host_end: &str, netns: BorrowedFd<'_>) -> Result<(), NetError> {
        let fail = during(&format!("make {host_end}"));
        let mut netlink = Netlink::open().map_err(&fail)?;
        let mut make = |bridge: u32| netlink.veth(host_end, "eth0", netns.as_raw_fd(), bridge, self.config.mtu);
        let bridge = self.bridge(None)?;
        let Err(error) = make(bridge) else { return Ok(()) };
        // Somebody may have taken the bridge away.
        match self.bridge(Some(bridge))? {
            same if same == bridge => Err(fail(error)),
            other => make(other).map_err(&fail),
        }
    }

    fn make_bridge(&self) -> Result<u32, NetError> {
        let name = &self.config.bridge;
        let fail = |what: &str| during(&format!("{what} bridge {name}"));
        let mut netlink = Netlink::open().map_err(fail("find"))?;
        netlink.bridge(name).map_err(fail("make"))?;
        let index = netlink.index(name).map_err(fail("find"))?;
        for subnet in self.subnets().all() {
            netlink
                .address(index, subnet.gateway(), subnet.prefix)
                .map_err(fail("address"))?;
        }
        netlink.up(index).map_err(fail("bring up"))?;
        self.make_table(&self.ports())?;
        // After the table: its guard keeps pods from the host's loopback.
        set_sysctl(&format!("conf/{name}/route_localnet"), "1")?;
        set_sysctl("ip_forward", "1")?;
        Ok(index)
    }

    /// An address for a pod, and the subnet that it is of. Where none is free but pods were stopped, theirs are waited for.
    fn lease(self: &Arc<Self>, id: &SandboxId) -> Result<(Ipv4Addr, Subnet), NetError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.removals.done();
            match self.take_lease(id) {
                Err(NetError::Exhausted { .. }) if self.wait_for_removal(seen, deadline) => {}
                result => return result,
            }
        }
    }

    fn take_lease(&self, id: &SandboxId) -> Result<(Ipv4Addr, Subnet), NetError> {
        let subnets = self.subnets();
        let current = subnets.current();
        Ok((self.leases.take(&current, &subnets.gateways(), id)?, current))
    }

    fn open_ports(&self, id: &SandboxId, openings: Vec<Opening>) -> Result<(), NetError> {
        if openings.is_empty() {
            return Ok(());
        }
        let mut ports = self.ports();
        ports.check(id, &openings)?;
        ports.insert(id, openings.clone());
        forget_flows(&openings);
        if let Err(error) = table::open(&self.config.bridge, &openings) {
            // Somebody took the table away, or part of it; with it every other pod's ports.
            tracing::warn!(%error, table = self.config.bridge, "the nftables table is not as it was made; making it anew");
            let made = self.make_table(&ports);
            if made.is_err() {
                ports.forget(id);
            }
            return made;
        }
        Ok(())
    }

    fn close_ports(&self, id: &SandboxId) -> Result<(), NetError> {
        let mut ports = self.ports();
        let openings = ports.of(id).to_vec();
        if openings.is_empty() {
            return Ok(());
        }
        ports.forget(id);
        match table::close(&self.config.bridge, &openings) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.make_table(&ports)?,
            result => result.map_err(during("close host ports"))?,
        }
        forget_flows(&openings);
        Ok(())
    }

    fn make_table(&self, ports: &Ports) -> Result<(), NetError> {
        let name = &self.config.bridge;
        table::make(name, self.subnets().all(), &ports.all()).map_err(during(&format!("make nftables table {name}")))
    }

    fn subnets(&self) -> MutexGuard<'_, Subnets> {
        self.subnets.lock().expect("no panic while the subnets are held")
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().expect("no panic while the ports are held")
    }
}

/// Ends the UDP flows to host ports that change hands.
fn forget_flows(openings: &[Opening]) {
    for opening in openings.iter().filter(|opening| opening.protocol == Protocol::Udp) {
        if let Err(error) = conntrack::forget_udp(opening.host_port) {
            tracing::warn!(%error, port = opening.host_port, "UDP flows to a host port may go on to the pod that had it");
        }
    }
}

/// Removes a bridge that no pod is on any more, and its table; nothing to do when they are gone.
///
/// # Errors
/// [`NetError::Netlink`].
pub fn remove_bridge(name: &str) -> Result<(), NetError> {
    Netlink::open()
        .and_then(|mut netlink| netlink.delete(name))
        .and_then(|()| table::remove(name))
        .map_err(during(&format!("remove {name}")))
}

/// Sets a switch of the host below `net.ipv4` that pods need, and says so once when that changes it.
fn set_sysctl(name: &str, value: &str) -> Result<(), NetError> {
    let path = Path::new("/proc/sys/net/ipv4").join(name);
    let io = |action| {
        let path = path.clone();
        move |source| NetError::Io { action, path, source }
    };
    if fs::read_to_string(&path).map_err(io("read"))?.trim() != value {
        fs::write(&path, value).map_err(io("write"))?;
        tracing::info!("net.ipv4.{} is {value} now: pods need it", name.replace('/', "."));
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

/// How long a new pod waits for addresses of stopped ones.
const PATIENCE: Duration = Duration::from_secs(10);

/// An IPv4 address as the kernel's messages have it.
fn octets(address: Ipv4Addr) -> [u8; 4] {
    address.octets()
}

#[cfg(test)]
mod test;
