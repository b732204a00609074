//! Who has which address: one file per address, holding the id of its pod.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Mutex,
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

/// The leases on disk.
pub struct Leases {
    folder: PathBuf,
    /// The number to try next: an address rests as long as possible before it is used again.
    next: Mutex<u32>,
}

impl Leases {
    pub fn open(folder: &Path) -> Result<Self, NetError> {
        durable::create_private_dir(folder).map_err(io("make", folder))?;
        Ok(Self {
            folder: folder.to_owned(),
            next: Mutex::new(0),
        })
    }

    /// Leases a free address, none of `reserved`. The lease is on disk before this returns.
    pub fn take(&self, subnet: &Subnet, reserved: &[Ipv4Addr], id: &SandboxId) -> Result<Ipv4Addr, NetError> {
        let mut next = self.next.lock().expect("no panic while an address is taken");
        for step in 0..subnet.size() {
            let number = (*next + step) % subnet.size();
            let address = subnet.pod(number);
            if reserved.contains(&address) {
                continue;
            }
            let path = self.folder.join(address.to_string());
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    file.write_all(id.as_str().as_bytes()).map_err(io("write", &path))?;
                    *next = (number + 1) % subnet.size();
                    return Ok(address);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(io("lease", &path)(source)),
            }
        }
        Err(NetError::Exhausted {
            subnet: subnet.to_string(),
            used: subnet.size() as usize,
        })
    }

    pub fn has(&self, id: &SandboxId) -> bool {
        self.all().iter().any(|(_, owner)| owner == id.as_str())
    }

    /// The pod that has an address.
    pub fn owner(&self, address: Ipv4Addr) -> Option<String> {
        fs::read_to_string(self.folder.join(address.to_string())).ok()
    }

    /// Every address that a pod has.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        let names = self.all().into_iter();
        names
            .filter_map(|(path, _)| path.file_name()?.to_str()?.parse().ok())
            .collect()
    }

    /// Frees every address of a pod.
    pub fn give_back(&self, id: &SandboxId) -> Result<(), NetError> {
        for (path, _) in self.all().into_iter().filter(|(_, owner)| owner == id.as_str()) {
            fs::remove_file(&path).map_err(io("release", &path))?;
        }
        Ok(())
    }

    /// Every pod that has an address. A lease cut off by a crash before it named its pod is freed.
    pub fn owners(&self) -> Vec<SandboxId> {
        let mut owners = Vec::new();
        for (path, owner) in self.all() {
            match owner.parse() {
                Ok(id) => owners.push(id),
                Err(_) => {
                    tracing::warn!(lease = %path.display(), "freeing a lease of nobody");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        owners
    }

    fn all(&self) -> Vec<(PathBuf, String)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((entry.path(), fs::read_to_string(entry.path()).ok()?)))
            .collect()
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
