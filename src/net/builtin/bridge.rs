//! The bridge that pods hang on, and a pod's pair of interfaces.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    sync::MutexGuard,
};

use super::{
    Inner, NetError, during,
    netlink::{Netlink, Peer},
    subnet::Subnet,
    switches, uplink,
};
use crate::net::family::octets;

/// The bridge as it was made.
#[derive(Debug, Clone, Copy)]
pub struct Bridge {
    index: u32,
    /// What its pods' packets may have; `None` while the node has no way out that would say it.
    mtu: Option<u32>,
}

impl Inner {
    /// What is known of the bridge; nobody makes it meanwhile.
    pub(super) fn made_bridge(&self) -> MutexGuard<'_, Option<Bridge>> {
        self.bridge.lock().expect("no panic while the bridge is made")
    }

    /// The bridge; makes it with its addresses and table when it is not known to be there, or `not` what it was.
    pub(super) fn bridge(&self, not: Option<u32>) -> Result<Bridge, NetError> {
        let mut known = self.made_bridge();
        match *known {
            Some(bridge) if not != Some(bridge.index) => Ok(bridge),
            _ => Ok(*known.insert(self.make_bridge()?)),
        }
    }

    /// Has packets go through a bridge that is there.
    pub(super) fn look_after_bridge(&self) -> Result<(), NetError> {
        match &mut *self.made_bridge() {
            Some(bridge) => {
                bridge.mtu = bridge.mtu.or_else(uplink::mtu);
                switches::turn_on(&self.subnets().all())
            }
            None => Ok(()),
        }
    }

    /// Makes a pod's pair of interfaces: `host_end` on the bridge and `eth0` in `netns`, for addresses `ips`.
    pub(super) fn make_veth(
        &self,
        host_end: &str,
        netns: BorrowedFd<'_>,
        ips: &[IpAddr],
        netlink: &mut Netlink,
    ) -> Result<(), NetError> {
        let fail = during(&format!("make {host_end}"));
        let peer = Peer {
            name: "eth0",
            netns: netns.as_raw_fd(),
            hardware: hardware_address(ips),
        };
        let mut make = |bridge: Bridge| {
            let mtu = bridge.mtu.unwrap_or_default();
            netlink.veth(host_end, &peer, bridge.index, mtu)
        };
        let bridge = self.bridge(None)?;
        let Err(error) = make(bridge) else { return Ok(()) };
        // Somebody may have taken the bridge away.
        match self.bridge(Some(bridge.index))? {
            same if same.index == bridge.index => Err(fail(error)),
            other => make(other).map_err(&fail),
        }
    }

    pub(super) fn make_bridge(&self) -> Result<Bridge, NetError> {
        let name = &self.config.bridge;
        let fail = |what: &str| during(&format!("{what} bridge {name}"));
        let subnets = self.subnets().all();
        let mut netlink = Netlink::open().map_err(fail("find"))?;
        let gateways: Vec<_> = subnets.iter().map(Subnet::gateway).collect();
        netlink
            .bridge(name, hardware_address(&gateways))
            .map_err(fail("make"))?;
        let index = netlink.index(name).map_err(fail("find"))?;
        switches::prepare(name, &subnets)?;
        for subnet in &subnets {
            netlink
                .address(index, subnet.gateway(), subnet.prefix)
                .map_err(fail("address"))?;
        }
        netlink.up(index).map_err(fail("bring up"))?;
        self.make_table(&self.ports())?;
        // After the table: its guard keeps pods from the host's loopback.
        switches::open_loopback(name)?;
        switches::turn_on(&subnets)?;
        let told = (self.config.mtu != 0).then_some(self.config.mtu);
        Ok(Bridge {
            index,
            mtu: told.or_else(uplink::mtu),
        })
    }
}

/// The hardware address of whoever has `ips`, locally administered; with IPv4 as Kubernetes' own bridge plugin had it.
/// It follows from the addresses: whoever has talked to the pod that had them before would else send to that one's, up to
/// half a minute long.
pub fn hardware_address(ips: &[IpAddr]) -> [u8; 6] {
    let v4 = ips.iter().find(|ip| ip.is_ipv4());
    let octets = v4.or(ips.first()).copied().map(octets).unwrap_or_default();
    match *octets {
        [a, b, c, d] => [0x0a, 0x58, a, b, c, d],
        _ => {
            // FNV-1a. Those of two subnets may differ in their first half only.
            let mix = |hash: u64, octet: &u8| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
            let [_, _, _, a, b, c, d, e] = octets.iter().fold(0xcbf2_9ce4_8422_2325, mix).to_be_bytes();
            [0x0e, a, b, c, d, e]
        }
    }
}
