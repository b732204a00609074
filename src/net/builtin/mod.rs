//! The network that needs no plugin: a bridge.
//!
//! A pod gets `lo` up and `eth0`, one end of a veth pair whose other end hangs on a bridge of the host that is the
//! pod's gateway, with an address of IPv4, of IPv6 or one of each. All of it is a few netlink messages in this process; no
//! program is executed. An address belongs to a pod by a lease file, written before the address is used. Host ports, and
//! the way out of the node, are one nftables table of each family with the bridge's name.

mod bridge;
mod conntrack;
mod lease;
mod netfilter;
mod nft;
mod ports;
mod removal;
mod subnet;
mod subnets;
mod switches;
mod table;
mod uplink;

use std::{
    collections::HashSet,
    net::IpAddr,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::{
    Attachment, Config, LivePod, Mode, NetError,
    bandwidth::{self, Limits, Rate},
    during, message, netlink,
};
use crate::model::{Protocol, SandboxConfig, SandboxId};
use bridge::Bridge;
use lease::Leases;
use netfilter::Netfilter;
use netlink::{Netlink, Place};
use ports::{Opening, Ports};
use removal::Removals;
use subnet::Subnet;
use subnets::Subnets;

/// Addresses that nobody else gets, one of each family that pods have.
#[derive(Debug)]
pub struct Reservation {
    places: Vec<Place>,
}

/// The network that this node has without plugins. Cheap to clone.
#[derive(Clone)]
pub struct Builtin {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    /// Destinations that see pods' own addresses.
    direct: Vec<Subnet>,
    leases: Leases,
    /// Held while an address is taken, so that none is given of a subnet that changes.
    subnets: Mutex<Subnets>,
    /// Which pod has which host port, and with that what the table holds. Held while the table is changed.
    ports: Mutex<Ports>,
    /// Held while it is asked.
    netfilter: Mutex<Netfilter>,
    /// The bridge once it is known to be there with its addresses and its table. Held while they are made.
    bridge: Mutex<Option<Bridge>>,
    /// Devices of stopped pods, and then their addresses.
    removals: Removals,
}

impl Builtin {
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
        let subnets = subnets::parse(&config.subnet).map_err(|why| NetError::Config { key: "net.subnet", why })?;
        let direct = config.no_masquerade.iter().map(|text| {
            Subnet::parse_range(text).ok_or_else(|| NetError::Config {
                key: "net.no_masquerade",
                why: format!("{text:?} is no range of addresses such as 10.244.0.0/16"),
            })
        });
        let direct = direct.collect::<Result<_, _>>()?;
        let leases = Leases::open(&root_dir.join("net/leases"))?;
        let subnets = Subnets::open(subnets::record(root_dir), subnets, &leases)?;
        let inner = Inner {
            config: config.clone(),
            direct,
            leases,
            subnets: Mutex::new(subnets),
            ports: Mutex::default(),
            netfilter: Mutex::default(),
            bridge: Mutex::default(),
            removals: Removals::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether pods' packets go anywhere. A switch that somebody turned off after the bridge was made is turned on again,
    /// and a way out of the node that was not there then is looked for.
    ///
    /// # Errors
    /// Which one is off and cannot be turned on.
    pub fn ready(&self) -> Result<(), NetError> {
        self.inner.look_after_bridge()
    }

    /// Takes addresses for a pod, which needs nothing of the pod's. Blocks where none is free, until those of stopped pods
    /// are.
    ///
    /// # Errors
    /// [`NetError::Exhausted`], [`NetError::Netlink`]. What was taken is given back by [`Builtin::detach`].
    pub fn reserve(&self, id: &SandboxId) -> Result<Reservation, NetError> {
        // With its table, which ports are opened in.
        self.inner.bridge(None)?;
        let places = self.inner.lease(id)?;
        Ok(Reservation { places })
    }

    /// Brings `lo` up, gives the pod its addresses and opens its host ports. `route` is a route socket that was opened in
    /// `netns`. Blocks for a millisecond.
    ///
    /// # Errors
    /// [`NetError::HostPort`], [`NetError::PortTaken`], [`NetError::Rate`], [`NetError::Shape`], [`NetError::Netlink`].
    /// What was made is taken away by [`Builtin::detach`].
    pub fn attach(
        &self,
        id: &SandboxId,
        Reservation { places }: Reservation,
        netns: BorrowedFd<'_>,
        route: OwnedFd,
        config: &SandboxConfig,
    ) -> Result<Attachment, NetError> {
        let inner = &self.inner;
        let mut inside = Netlink::over(route);
        let ips: Vec<_> = places.iter().map(|place| place.address).collect();
        let limits = Limits::of(&config.annotations)?;
        let openings = Ports::openings(id, &ips, &config.port_mappings)?;
        let hairpin = !openings.is_empty();
        inner.open_ports(id, openings)?;
        let host_end = host_end(id);
        let mut outside = Netlink::open().map_err(during("open a route socket"))?;
        inner.make_veth(&host_end, netns, &ips, &mut outside)?;
        if hairpin {
            let fail = during(&format!("let {host_end} ask itself"));
            outside.hairpin(&host_end).map_err(fail)?;
        }
        shape(&mut outside, &host_end, limits.ingress, bandwidth::INGRESS)?;
        inside
            .index("eth0")
            .and_then(|eth0| inside.furnish(eth0, &places))
            .map_err(during("configure eth0"))?;
        shape(&mut inside, "eth0", limits.egress, bandwidth::EGRESS)?;
        Ok(Attachment { ips })
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

    /// The subnets that the kubelet has named.
    pub fn told_subnets(&self) -> Vec<String> {
        self.inner.subnets().told().iter().map(Subnet::to_string).collect()
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
            if pod.ips.is_empty() {
                continue;
            }
            addressed = true;
            let openings = Ports::openings(&pod.id, &pod.ips, &pod.port_mappings)?;
            inner.ports().insert(&pod.id, openings);
        }
        let made = if addressed {
            inner.bridge(None).map(drop)
        } else {
            // One that an earlier life left: its rules would outlive the pods they are for.
            table::remove(&mut inner.netfilter(), &inner.config.bridge).map_err(during("remove the nftables table"))
        };
        freed.and(made)
    }

    /// Gives new pods addresses of what the kubelet says, one subnet or one of each family; pods that are there keep
    /// theirs. An empty word changes nothing, nor does any where pods have no addresses. Blocks.
    ///
    /// # Errors
    /// [`NetError::Subnet`], [`NetError::GatewayTaken`], [`NetError::Io`], [`NetError::Netlink`].
    pub fn change_subnet(&self, pod_cidr: &str) -> Result<(), NetError> {
        let inner = &self.inner;
        if pod_cidr.is_empty() {
            return Ok(());
        }
        let told = subnets::parse(pod_cidr).map_err(NetError::Subnet)?;
        if inner.config.mode == Mode::None {
            tracing::warn!(
                pod_cidr,
                "pods have no addresses here (net.mode is none): the kubelet's subnet is not used"
            );
            return Ok(());
        }
        let mut bridge = inner.made_bridge();
        {
            let mut subnets = inner.subnets();
            if subnets.current() == told {
                return Ok(());
            }
            subnets.change(told, &inner.leases)?;
        }
        tracing::info!(pod_cidr, "new pods get addresses of the kubelet's subnet");
        // Made anew, with the address and the range of the new subnet, at once when pods are there, else for the next.
        if bridge.take().is_some() {
            *bridge = Some(inner.make_bridge()?);
        }
        Ok(())
    }
}

impl Inner {
    /// Addresses for a pod. Where none is free but pods were stopped, theirs are waited for.
    fn lease(self: &Arc<Self>, id: &SandboxId) -> Result<Vec<Place>, NetError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.removals.done();
            match self.take_leases(id) {
                Err(NetError::Exhausted { .. }) if self.wait_for_removal(seen, deadline) => {}
                result => return result,
            }
        }
    }

    fn take_leases(&self, id: &SandboxId) -> Result<Vec<Place>, NetError> {
        let subnets = self.subnets();
        let addresses = self.leases.take(subnets.current(), &subnets.gateways(), id)?;
        let place = |(subnet, address): (&Subnet, IpAddr)| Place {
            address,
            prefix: subnet.prefix,
            gateway: subnet.gateway(),
        };
        Ok(subnets.current().iter().zip(addresses).map(place).collect())
    }

    fn open_ports(&self, id: &SandboxId, openings: Vec<Opening>) -> Result<(), NetError> {
        if openings.is_empty() {
            return Ok(());
        }
        let mut ports = self.ports();
        ports.check(id, &openings)?;
        ports.insert(id, openings.clone());
        self.forget_flows(&openings);
        let opened = table::open(&mut self.netfilter(), &self.config.bridge, &openings);
        if let Err(error) = opened {
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
        let closed = table::close(&mut self.netfilter(), &self.config.bridge, &openings);
        match closed {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.make_table(&ports)?,
            result => result.map_err(during("close host ports"))?,
        }
        self.forget_flows(&openings);
        Ok(())
    }

    fn make_table(&self, ports: &Ports) -> Result<(), NetError> {
        let name = &self.config.bridge;
        let subnets = self.subnets().all();
        let made = table::make(&mut self.netfilter(), name, &subnets, &self.direct, &ports.all());
        made.map_err(during(&format!("make nftables table {name}")))
    }

    /// Ends the UDP flows to host ports that change hands.
    fn forget_flows(&self, openings: &[Opening]) {
        let mut netfilter = self.netfilter();
        for opening in openings.iter().filter(|opening| opening.protocol == Protocol::Udp) {
            if let Err(error) = conntrack::forget_udp(&mut netfilter, opening.family(), opening.host_port) {
                tracing::warn!(%error, port = opening.host_port, "UDP flows to a host port may go on to the pod that had it");
            }
        }
    }

    fn subnets(&self) -> MutexGuard<'_, Subnets> {
        self.subnets.lock().expect("no panic while the subnets are held")
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().expect("no panic while the ports are held")
    }

    fn netfilter(&self) -> MutexGuard<'_, Netfilter> {
        self.netfilter.lock().expect("no panic while netfilter is asked")
    }
}

/// Removes a bridge that no pod is on any more, and its table; nothing to do when they are gone.
///
/// # Errors
/// [`NetError::Netlink`].
pub fn remove_bridge(name: &str) -> Result<(), NetError> {
    Netlink::open()
        .and_then(|mut netlink| netlink.delete(name))
        .and_then(|()| table::remove(&mut Netfilter::default(), name))
        .map_err(during(&format!("remove {name}")))
}

/// Lets an interface send no faster than a pod's annotation says, if it says anything.
fn shape(netlink: &mut Netlink, name: &str, rate: Option<Rate>, annotation: &'static str) -> Result<(), NetError> {
    let Some(rate) = rate else { return Ok(()) };
    let slowed = netlink.index(name).and_then(|index| netlink.slow_down(index, rate));
    slowed.map_err(|source| NetError::Shape { annotation, source })
}

/// The host end's name: follows from the id, so that it is found without a record.
fn host_end(id: &SandboxId) -> String {
    format!("inro{}", &id.as_str()[..11])
}

/// How long a new pod waits for addresses of stopped ones.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod test;
