//! Who has which address: one file per address, holding the id of its pod.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use super::{NetError, subnet::Subnet};
use crate::{durable, model::SandboxId};

/// The leases: files, and in memory what they say. Nobody else writes the folder.
pub struct Leases {
    folder: PathBuf,
    held: Mutex<Held>,
}

/// What is changed together with the files.
#[derive(Default)]
struct Held {
    owners: BTreeMap<IpAddr, SandboxId>,
    /// The number to try next: an address rests as long as possible before it is used again.
    next: u64,
}

impl Held {
    /// The number of a free address, from `from` on and round.
    fn free(&self, subnet: &Subnet, reserved: &[IpAddr], from: u64) -> Result<u64, NetError> {
        let numbers = (0..subnet.size()).map(|step| (from + step) % subnet.size());
        let is_free = |address: IpAddr| !reserved.contains(&address) && !self.owners.contains_key(&address);
        let mut free = numbers.filter(|number| is_free(subnet.pod(*number)));
        free.next().ok_or_else(|| NetError::Exhausted {
            subnet: subnet.to_string(),
            used: self.owners.keys().filter(|address| subnet.contains(**address)).count(),
        })
    }
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

    /// Leases a free address of each subnet, none of `reserved`. The files are there before this returns: they outlive the
    /// daemon. They are not forced to the disk, for they need not outlive the node, with which their pod dies.
    ///
    /// # Errors
    /// [`NetError::Exhausted`] naming a subnet: then none is leased. [`NetError::Io`]: some may be.
    pub fn take(&self, subnets: &[Subnet], reserved: &[IpAddr], id: &SandboxId) -> Result<Vec<IpAddr>, NetError> {
        let mut held = self.held();
        let mut from = held.next;
        let mut numbers = Vec::new();
        for subnet in subnets {
            // A pod has the same number in each, where it can: its hardware address belongs to both.
            from = held.free(subnet, reserved, from)?;
            numbers.push(from);
        }
        let addresses: Vec<_> = subnets.iter().zip(&numbers).map(|(s, number)| s.pod(*number)).collect();
        for address in &addresses {
            let path = self.path(*address);
            fs::write(&path, id.as_str()).map_err(io("lease", &path))?;
            held.owners.insert(*address, id.clone());
        }
        held.next = numbers.first().map_or(0, |number| number + 1);
        Ok(addresses)
    }

    pub fn has(&self, id: &SandboxId) -> bool {
        self.held().owners.values().any(|owner| owner == id)
    }

    /// The pod that has an address.
    pub fn owner(&self, address: IpAddr) -> Option<SandboxId> {
        self.held().owners.get(&address).cloned()
    }

    /// Every address that a pod has.
    pub fn addresses(&self) -> Vec<IpAddr> {
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

    fn path(&self, address: IpAddr) -> PathBuf {
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

    /// What `leases` give a pod, as text.
    fn take(leases: &Leases, subnets: &[&str], id: &SandboxId) -> Result<Vec<String>, String> {
        let subnets: Vec<_> = subnets.iter().map(|text| Subnet::parse(text).unwrap()).collect();
        let gateways: Vec<_> = subnets.iter().map(Subnet::gateway).collect();
        let taken = leases
            .take(&subnets, &gateways, id)
            .map_err(|error| error.to_string())?;
        Ok(taken.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn addresses_are_given_once_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(dir.path()).unwrap();
        let subnet = ["192.0.2.8/30"];
        let (a, b) = (SandboxId::random(), SandboxId::random());
        assert_eq!(take(&leases, &subnet, &a).unwrap(), ["192.0.2.10"]);
        let error = take(&leases, &subnet, &b).unwrap_err();
        assert_eq!(error, "no free address in 192.0.2.8/30: 1 in use");
        assert_eq!(Leases::open(dir.path()).unwrap().owners(), std::slice::from_ref(&a));
        leases.give_back(&a).unwrap();
        take(&leases, &subnet, &b).unwrap();
    }

    #[test]
    fn a_pod_has_the_same_number_in_each_family_where_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(dir.path()).unwrap();
        let subnets = ["192.0.2.0/29", "2001:db8::/64"];
        let ids: Vec<_> = (0..3).map(|_| SandboxId::random()).collect();
        assert_eq!(take(&leases, &subnets, &ids[0]).unwrap(), ["192.0.2.2", "2001:db8::2"]);
        assert_eq!(take(&leases, &subnets[1..], &ids[1]).unwrap(), ["2001:db8::3"]);
        assert_eq!(Leases::open(dir.path()).unwrap().addresses().len(), 3);
        leases.give_back(&ids[0]).unwrap();
        // An address rests before it is used again.
        assert_eq!(take(&leases, &subnets, &ids[0]).unwrap(), ["192.0.2.4", "2001:db8::4"]);
        assert_eq!(take(&leases, &["192.0.2.0/30"], &ids[2]).unwrap(), ["192.0.2.2"]);
        for id in &ids {
            leases.give_back(id).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_family_without_a_free_address_leases_none_of_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(dir.path()).unwrap();
        let subnets = ["192.0.2.0/29", "2001:db8::/126"];
        for _ in 0..2 {
            take(&leases, &subnets, &SandboxId::random()).unwrap();
        }
        let error = take(&leases, &subnets, &SandboxId::random()).unwrap_err();
        assert_eq!(error, "no free address in 2001:db8::/126: 2 in use");
        assert_eq!(leases.addresses().len(), 4);
    }

    #[test]
    fn a_lease_without_an_owner_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("192.0.2.2"), "cut").unwrap();
        assert!(Leases::open(dir.path()).unwrap().addresses().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
