//! Which subnets pods have addresses of.
//!
//! The configuration names the first; the kubelet may name another (UpdateRuntimeConfig), which new pods get theirs of
//! from then on. Its word is kept on the disk and wins over the configuration, since it is the cluster's. Pods that
//! are there keep their addresses, so earlier subnets stay known as long as a lease is in them.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::{
    NetError,
    lease::{Leases, Subnet},
};
use crate::durable;

/// The subnets in use: never empty, the last is the one for new pods.
#[derive(Debug)]
pub struct Subnets {
    all: Vec<Subnet>,
    path: PathBuf,
}

impl Subnets {
    /// Those on record at `path`, or `configured` alone. A record that cannot be read is an error: other addresses than
    /// the cluster's would be worse than none.
    ///
    /// # Errors
    /// [`NetError::Io`], [`NetError::Subnet`].
    pub fn open(path: PathBuf, configured: Subnet, leases: &Leases) -> Result<Self, NetError> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self {
                    all: vec![configured],
                    path,
                });
            }
            Err(source) => {
                return Err(NetError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let mut all = text.lines().map(parse).collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            all.push(configured);
        }
        forget_empty(&mut all, leases);
        Ok(Self { all, path })
    }

    /// The one that new pods get addresses of.
    pub fn current(&self) -> Subnet {
        *self.all.last().expect("never empty")
    }

    pub fn all(&self) -> &[Subnet] {
        &self.all
    }

    /// The bridge's addresses, which no pod can have.
    pub fn gateways(&self) -> Vec<Ipv4Addr> {
        self.all.iter().map(Subnet::gateway).collect()
    }

    /// Makes `subnet` the one for new pods; on record before this returns.
    ///
    /// # Errors
    /// [`NetError::GatewayTaken`] when a pod has the address that the bridge would get, [`NetError::Io`].
    pub fn change(&mut self, subnet: Subnet, leases: &Leases) -> Result<(), NetError> {
        if let Some(owner) = leases.owner(subnet.gateway()) {
            return Err(NetError::GatewayTaken {
                address: subnet.gateway(),
                owner: owner.to_string(),
            });
        }
        let mut all: Vec<_> = self.all.iter().copied().filter(|known| *known != subnet).collect();
        all.push(subnet);
        forget_empty(&mut all, leases);
        let text: String = all.iter().map(|subnet| format!("{subnet}\n")).collect();
        durable::write_synced(&self.path, text.as_bytes()).map_err(|source| NetError::Io {
            action: "write",
            path: self.path.clone(),
            source,
        })?;
        self.all = all;
        Ok(())
    }
}

/// The subnet of pods in what the kubelet says: one, or several of different families separated by commas. The built-in
/// network has IPv4 only; what comes beside it is checked and left.
///
/// # Errors
/// [`NetError::Subnet`] naming the part at fault.
pub fn of_kubelet(text: &str) -> Result<Subnet, NetError> {
    let fault = |part: &str, why: &str| NetError::Subnet {
        text: part.to_owned(),
        why: why.to_owned(),
    };
    let mut found = None;
    for part in text.split(',').map(str::trim) {
        if is_ipv6(part) {
            continue;
        }
        let subnet = Subnet::parse(part).ok_or_else(|| fault(part, "is no subnet such as 10.244.1.0/24"))?;
        if found.replace(subnet).is_some() {
            return Err(fault(text, "has two IPv4 subnets"));
        }
    }
    found.ok_or_else(|| fault(text, "has no IPv4 subnet, and the built-in network has no other"))
}

fn is_ipv6(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, prefix)| {
        let prefix = prefix.parse::<u8>().is_ok_and(|prefix| prefix <= 128);
        prefix && address.parse::<std::net::Ipv6Addr>().is_ok()
    })
}

fn parse(text: &str) -> Result<Subnet, NetError> {
    Subnet::parse(text).ok_or_else(|| NetError::Subnet {
        text: text.to_owned(),
        why: "on record is no IPv4 subnet".to_owned(),
    })
}

/// Leaves out earlier subnets that no pod has an address of.
fn forget_empty(all: &mut Vec<Subnet>, leases: &Leases) {
    let Some(current) = all.pop() else { return };
    let leased = leases.addresses();
    all.retain(|subnet| leased.iter().any(|address| subnet.contains(*address)));
    all.push(current);
}

/// Where the subnets are on record below a root folder.
pub fn record(root: &Path) -> PathBuf {
    root.join("net/subnets")
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::model::SandboxId;

    #[test]
    fn a_kubelets_word_is_one_subnet_or_is_refused_by_name() {
        let told = |text: &str| {
            of_kubelet(text)
                .map(|subnet| subnet.to_string())
                .map_err(|e| e.to_string())
        };
        assert_eq!(told("10.244.1.0/24").unwrap(), "10.244.1.0/24");
        assert_eq!(told("10.244.1.0/24,fd00::/64").unwrap(), "10.244.1.0/24");
        assert_eq!(told("fd00::/64, 10.244.1.0/24").unwrap(), "10.244.1.0/24");
        for bad in [
            "x",
            "10.0.0.0",
            "10.0.0.0/99",
            "fd00::/64",
            "10.0.0.0/24,10.1.0.0/24",
            "10.0.0.0/24,y",
        ] {
            assert!(told(bad).unwrap_err().contains("pod_cidr"), "{bad}");
        }
    }

    #[test]
    fn the_last_word_is_kept_and_earlier_ones_while_pods_are_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(&dir.path().join("leases")).unwrap();
        let subnet = |text| Subnet::parse(text).unwrap();
        let open = |leases: &Leases| {
            let subnets = Subnets::open(dir.path().join("subnets"), subnet("192.0.2.0/24"), leases).unwrap();
            subnets.all().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut subnets = Subnets::open(dir.path().join("subnets"), subnet("192.0.2.0/24"), &leases).unwrap();
        let pods: Vec<_> = (0..4).map(|_| SandboxId::random()).collect();
        for pod in &pods {
            leases.take(&subnets.current(), &subnets.gateways(), pod).unwrap();
        }
        let error = subnets.change(subnet("192.0.2.4/30"), &leases).unwrap_err().to_string();
        assert!(
            error.contains("192.0.2.5") && error.contains(pods[3].as_str()),
            "{error}"
        );
        subnets.change(subnet("198.51.100.0/24"), &leases).unwrap();
        assert_eq!(open(&leases), ["192.0.2.0/24", "198.51.100.0/24"]);
        for pod in &pods {
            leases.give_back(pod).unwrap();
        }
        assert_eq!(open(&leases), ["198.51.100.0/24"]);
    }
}
