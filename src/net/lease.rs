//! Who has which address: one file per address, holding the id of its pod.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::ErrorKind,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use super::NetError;
use crate::{durable, model::SandboxId};

/// An IPv4 subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    pub prefix: u8,
}

impl Subnet {
    /// From `address/prefix`; prefixes from 8 to 30.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
        (8..=30).contains(&prefix).then(|| Self {
            network: address.to_bits() & (u32::MAX << (32 - prefix)),
            prefix,
        })
    }

    /// The bridge's address: the first.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 1)
    }

    /// The first and the last address of all.
    pub fn bounds(&self) -> (u32, u32) {
        (self.network, self.network | (u32::MAX >> self.prefix))
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let (first, last) = self.bounds();
        (first..=last).contains(&address.to_bits())
    }

    /// How many addresses pods can have: all but network, gateway and broadcast.
    fn size(&self) -> u32 {
        (1 << (32 - self.prefix)) - 3
    }

    fn pod(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 2 + number)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

/// The leases: files, and in memory what they say. Nobody else writes the folder.
pub struct Leases {
    folder: PathBuf,
    held: Mutex<Held>,
}

/// What is changed together with the files.
#[derive(Default)]
struct Held {
    owners: BTreeMap<Ipv4Addr, SandboxId>,
    /// The number to try next: an address rests as long as possible before it is used again.
    next: u32,
}

impl Leases {
    /// Those in `folder`, which is made. A lease cut off by a crash before it named its pod is freed.
    pub fn open(folder: &Path) -> Result<Self, NetError> {
        durable::create_private_dir(folder).map_err(io("make", folder))?;
        let mut held = Held::default();
        for entry in fs::read_dir(folder).map_err(io("read", folder))?.flatten() {
            let address = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let owner = fs::read_to_string(entry.path()).ok().and_then(|text| text.parse().ok());
            match address.zip(owner) {
                Some((address, owner)) => _ = held.owners.insert(address, owner),
                None => {
                    tracing::warn!(lease = %entry.path().display(), "freeing a lease of nobody");
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            held: Mutex::new(held),
        })
    }

    /// Leases a free address, none of `reserved`. The file is there before this returns: it outlives the daemon. It is not
    /// forced to the disk, for it need not outlive the node, with which its pod dies.
    pub fn take(&self, subnet: &Subnet, reserved: &[Ipv4Addr], id: &SandboxId) -> Result<Ipv4Addr, NetError> {
        let mut held = self.held();
        for step in 0..subnet.size() {
            let number = (held.next + step) % subnet.size();
            let address = subnet.pod(number);
            if reserved.contains(&address) || held.owners.contains_key(&address) {
                continue;
            }
            let path = self.path(address);
            fs::write(&path, id.as_str()).map_err(io("lease", &path))?;
            held.owners.insert(address, id.clone());
            held.next = (number + 1) % subnet.size();
            return Ok(address);
        }
        Err(NetError::Exhausted {
            subnet: subnet.to_string(),
            used: subnet.size() as usize,
        })
    }

    pub fn has(&self, id: &SandboxId) -> bool {
        self.held().owners.values().any(|owner| owner == id)
    }

    /// The pod that has an address.
    pub fn owner(&self, address: Ipv4Addr) -> Option<SandboxId> {
        self.held().owners.get(&address).cloned()
    }

    /// Every address that a pod has.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        self.held().owners.keys().copied().collect()
    }

    /// Every pod that has an address.
    pub fn owners(&self) -> Vec<SandboxId> {
        self.held().owners.values().cloned().collect()
    }

    /// Frees every address of a pod.
    pub fn give_back(&self, id: &SandboxId) -> Result<(), NetError> {
        let mut held = self.held();
        let theirs = held.owners.iter().filter(|(_, owner)| *owner == id);
        for address in theirs.map(|(address, _)| *address).collect::<Vec<_>>() {
            let path = self.path(address);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("release", &path)(error)),
                _ => held.owners.remove(&address),
            };
        }
        Ok(())
    }

    fn path(&self, address: Ipv4Addr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no panic while the leases are held")
    }
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> NetError + use<'a> {
    move |source| NetError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn addresses_are_given_once_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(dir.path()).unwrap();
        let subnet = Subnet::parse("192.0.2.9/30").unwrap();
        assert_eq!(subnet.gateway().to_string(), "192.0.2.9");
        let (a, b) = (SandboxId::random(), SandboxId::random());
        assert_eq!(leases.take(&subnet, &[], &a).unwrap().to_string(), "192.0.2.10");
        let error = leases.take(&subnet, &[], &b).unwrap_err();
        assert_eq!(error.to_string(), "no free address in 192.0.2.8/30: 1 in use");
        assert_eq!(Leases::open(dir.path()).unwrap().owners(), std::slice::from_ref(&a));
        leases.give_back(&a).unwrap();
        leases.take(&subnet, &[], &b).unwrap();
    }

    #[test]
    fn a_lease_without_an_owner_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("192.0.2.2"), "cut").unwrap();
        assert!(Leases::open(dir.path()).unwrap().addresses().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn subnets_are_checked() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/31",
            "10.0.0.0/0",
            "10.0.0.0/33",
            "10.0.0.0/255",
            "10.0.0/24",
            "::1/64",
        ] {
            assert!(Subnet::parse(text).is_none(), "{text}");
        }
    }
}
