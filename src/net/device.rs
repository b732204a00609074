//! Interfaces of the host that a device's vendor wants in a pod: taken with their addresses, and brought back.
//!
//! Source: OCI runtime specification 1.3, "Network Devices": the interface keeps its permanent addresses of global scope,
//! gets its new name, is up, and never takes the place of another. What becomes of it when its namespace ends before it
//! was brought back is the kernel's rule: a physical one returns to the host, another one is gone.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use serde::{Deserialize, Serialize};

use super::{
    NetError,
    netlink::{Address, Netlink},
};
use crate::{model::NetDevice, sys::thread::in_network_namespace};

/// An interface that is a pod's, or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedDevice {
    pub device: NetDevice,
    /// It was up on the host.
    was_up: bool,
}

impl MovedDevice {
    /// Looks whether `device` can be moved into `netns`; changes nothing. `ours` says that it may be there already.
    ///
    /// # Errors
    /// [`NetError::Device`] when the host has no such interface, or the pod has one of its new name.
    pub fn plan(netns: BorrowedFd<'_>, device: NetDevice, ours: bool) -> Result<Self, NetError> {
        let fail = |why: &str| NetError::device(&device, why, None);
        let taken = in_network_namespace(netns, || present(&device.name))
            .map_err(|source| NetError::device(&device, "look into the pod", Some(source)))?;
        let there =
            present(&device.host_name).map_err(|source| NetError::device(&device, "look for it", Some(source)))?;
        match (there, taken) {
            (Some(up), None) => Ok(Self { device, was_up: up }),
            (None, Some(_)) if ours => Ok(Self { device, was_up: true }),
            (_, Some(_)) => Err(fail(&format!("the pod has an interface {:?} already", device.name))),
            (None, None) => Err(fail("there is no such interface on the host")),
        }
    }

    /// Moves it in; nothing to do when it is there.
    ///
    /// # Errors
    /// [`NetError::Device`].
    pub fn take(&self, netns: BorrowedFd<'_>) -> Result<(), NetError> {
        let (from, to) = (&self.device.host_name, &self.device.name);
        if in_network_namespace(netns, || present(to)).is_ok_and(|there| there.is_some()) {
            return Ok(());
        }
        let moved = || {
            let addresses = carry(from, netns, to)?;
            in_network_namespace(netns, || settle(to, &addresses, true))
        };
        moved().map_err(|source| NetError::device(&self.device, "move it into the pod", Some(source)))
    }

    /// Brings it back under its old name, with the addresses that it has by now; nothing to do when it is not there.
    ///
    /// # Errors
    /// [`NetError::Device`].
    pub fn bring_back(&self, netns: BorrowedFd<'_>) -> Result<(), NetError> {
        let (from, to) = (&self.device.name, &self.device.host_name);
        let moved = || {
            let host = File::open("/proc/thread-self/ns/net")?;
            let addresses = in_network_namespace(netns, || match present(from)? {
                Some(_) => carry(from, host.as_fd(), to).map(Some),
                None => Ok(None),
            })?;
            match addresses {
                Some(addresses) => settle(to, &addresses, self.was_up),
                None => Ok(()),
            }
        };
        moved().map_err(|source| NetError::device(&self.device, "bring it back to the host", Some(source)))
    }
}

/// Whether the interface is there, and up.
fn present(name: &str) -> io::Result<Option<bool>> {
    let mut netlink = Netlink::open()?;
    match netlink.index(name) {
        Ok(index) => netlink.link(index).map(|link| Some(link.up)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Moves an interface of the calling thread's namespace and renames it. Its addresses, which it loses by that.
fn carry(from: &str, netns: BorrowedFd<'_>, to: &str) -> io::Result<Vec<Address>> {
    let mut netlink = Netlink::open()?;
    let index = netlink.index(from)?;
    let mut addresses = netlink.addresses(index)?;
    addresses.retain(Address::is_kept);
    netlink.relocate(index, netns.as_raw_fd(), to)?;
    Ok(addresses)
}

fn settle(name: &str, addresses: &[Address], up: bool) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let index = netlink.index(name)?;
    for address in addresses {
        netlink.add(index, address)?;
    }
    if up { netlink.up(index) } else { Ok(()) }
}
