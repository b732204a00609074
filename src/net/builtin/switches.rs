//! Switches of the host below `/proc/sys/net` that pods' packets need. Source: the kernel's Documentation/networking/ip-sysctl.

use std::{fs, io, path::PathBuf};

use super::{NetError, subnet::Subnet, uplink};
use crate::net::family::Family;

/// Before a new bridge gets addresses: a host without IPv6 may have it on the bridge, no pod is the host's router
/// (CVE-2020-10749), and the bridge's own fe80 address counts at once. Until one does the kernel asks nobody where a pod
/// is (`ndisc_send_ns`), so that what it forwards waits for two seconds, and on a busy node for three, which are its last.
///
/// # Errors
/// [`NetError::Io`].
pub fn prepare(bridge: &str, subnets: &[Subnet]) -> Result<(), NetError> {
    if has(subnets, Family::V6) {
        set(&format!("ipv6/conf/{bridge}/disable_ipv6"), "0")?;
        set(&format!("ipv6/conf/{bridge}/accept_dad"), "0")?;
    }
    match set(&format!("ipv6/conf/{bridge}/accept_ra"), "0") {
        // A kernel without IPv6.
        Err(NetError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Lets host ports on 127.0.0.1 lead to the bridge.
///
/// # Errors
/// [`NetError::Io`].
pub fn open_loopback(bridge: &str) -> Result<(), NetError> {
    set(&format!("ipv4/conf/{bridge}/route_localnet"), "1")
}

/// Has the host forward packets of the families that pods have.
///
/// # Errors
/// [`NetError::Io`].
pub fn turn_on(subnets: &[Subnet]) -> Result<(), NetError> {
    if has(subnets, Family::V4) {
        set("ipv4/ip_forward", "1")?;
    }
    if has(subnets, Family::V6) && !is("ipv6/conf/all/forwarding", "1") {
        // Who forwards no longer listens to routers, and the host's own way out would end when their last word does.
        for name in uplink::announced() {
            let accept = format!("ipv6/conf/{name}/accept_ra");
            if is(&accept, "1") {
                set(&accept, "2")?;
            }
        }
        set("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn has(subnets: &[Subnet], family: Family) -> bool {
    subnets.iter().any(|subnet| subnet.family == family)
}

fn is(name: &str, value: &str) -> bool {
    fs::read_to_string(path(name)).is_ok_and(|text| text.trim() == value)
}

/// Sets a switch, and says so once when that changes it.
fn set(name: &str, value: &str) -> Result<(), NetError> {
    if is(name, value) {
        return Ok(());
    }
    fs::write(path(name), value).map_err(|source| NetError::Io {
        action: "write",
        path: path(name),
        source,
    })?;
    tracing::info!("net.{} is {value} now: pods need it", name.replace('/', "."));
    Ok(())
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}
