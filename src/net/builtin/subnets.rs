//! Which subnets pods have addresses of.
//!
//! The configuration names the first; the kubelet may name others (UpdateRuntimeConfig), which new pods get theirs of
//! from then on. Its word is kept on the disk and wins over the configuration, since it is the cluster's. Pods that
//! are there keep their addresses, so earlier subnets stay known as long as a lease is in them.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{NetError, lease::Leases, subnet::Subnet};
use crate::durable;

/// The subnets in use.
#[derive(Debug)]
pub struct Subnets {
    /// Those that new pods get an address of each: one, or one of each family, the pod's first address first.
    current: Vec<Subnet>,
    /// Others that pods still have addresses of.
    earlier: Vec<Subnet>,
    /// The current ones are the kubelet's word.
    told: bool,
    path: PathBuf,
}

impl Subnets {
    /// Those on record at `path`, or `configured` alone. A record that cannot be read is an error: other addresses than
    /// the cluster's would be worse than none.
    ///
    /// # Errors
    /// [`NetError::Io`], [`NetError::Subnet`].
    pub fn open(path: PathBuf, configured: Vec<Subnet>, leases: &Leases) -> Result<Self, NetError> {
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(NetError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
            Ok(text) => text,
        };
        let on_record = |why| NetError::Subnet(format!("on record: {why}"));
        let words = text.lines().map(|line| parse(line).map_err(on_record));
        let mut words = words.collect::<Result<Vec<_>, _>>()?;
        let told = words.pop();
        let mut subnets = Self {
            told: told.is_some(),
            current: told.unwrap_or(configured),
            earlier: words.concat(),
            path,
        };
        subnets.forget_empty(leases);
        Ok(subnets)
    }

    /// Those that new pods get an address of each.
    pub fn current(&self) -> &[Subnet] {
        &self.current
    }

    /// Those, when the kubelet has named them.
    pub fn told(&self) -> &[Subnet] {
        if self.told { &self.current } else { &[] }
    }

    pub fn all(&self) -> Vec<Subnet> {
        [&self.earlier[..], &self.current].concat()
    }

    /// The bridge's addresses, which no pod can have.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.earlier.iter().chain(&self.current).map(Subnet::gateway).collect()
    }

    /// Makes `subnets` those for new pods; on record before this returns.
    ///
    /// # Errors
    /// [`NetError::GatewayTaken`] when a pod has an address that the bridge would get, [`NetError::Io`].
    pub fn change(&mut self, subnets: Vec<Subnet>, leases: &Leases) -> Result<(), NetError> {
        for gateway in subnets.iter().map(Subnet::gateway) {
            if let Some(owner) = leases.owner(gateway) {
                return Err(NetError::GatewayTaken {
                    address: gateway,
                    owner: owner.to_string(),
                });
            }
        }
        let mut changed = Self {
            earlier: self.all(),
            current: subnets,
            told: true,
            path: self.path.clone(),
        };
        changed.forget_empty(leases);
        changed.write().map_err(|source| NetError::Io {
            action: "write",
            path: self.path.clone(),
            source,
        })?;
        *self = changed;
        Ok(())
    }

    /// A line for each earlier one, then one as the kubelet says it.
    fn write(&self) -> io::Result<()> {
        let mut text: String = self.earlier.iter().map(|subnet| format!("{subnet}\n")).collect();
        let current: Vec<_> = self.current.iter().map(Subnet::to_string).collect();
        text.push_str(&format!("{}\n", current.join(",")));
        durable::write_synced(&self.path, text.as_bytes())
    }

    /// Leaves out earlier ones that no pod has an address of.
    fn forget_empty(&mut self, leases: &Leases) {
        let leased = leases.addresses();
        let in_use = |subnet: &Subnet| leased.iter().any(|address| subnet.contains(*address));
        self.earlier
            .retain(|subnet| !self.current.contains(subnet) && in_use(subnet));
    }
}

/// One subnet, or two of different families separated by a comma: as the kubelet says it, and the configuration.
///
/// # Errors
/// What is wrong, naming the part at fault.
pub fn parse(text: &str) -> Result<Vec<Subnet>, String> {
    let mut subnets: Vec<Subnet> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let subnet = Subnet::parse(part)
            .ok_or_else(|| format!("{part:?} is no subnet for pods such as 10.244.1.0/24 or fd00:10:244::/64"))?;
        if subnets.iter().any(|other| other.family == subnet.family) {
            return Err(format!("{text:?} has two subnets of one family"));
        }
        subnets.push(subnet);
    }
    Ok(subnets)
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
    fn one_subnet_of_each_family_is_taken_and_the_part_at_fault_is_named() {
        let told = |text: &str| parse(text).map(|subnets| subnets.iter().map(Subnet::to_string).collect::<Vec<_>>());
        assert_eq!(told("10.244.1.0/24").unwrap(), ["10.244.1.0/24"]);
        assert_eq!(told("fd00::/64").unwrap(), ["fd00::/64"]);
        assert_eq!(told("10.244.1.0/24,fd00::/64").unwrap(), ["10.244.1.0/24", "fd00::/64"]);
        assert_eq!(
            told("fd00::/64, 10.244.1.0/24").unwrap(),
            ["fd00::/64", "10.244.1.0/24"]
        );
        for (text, at_fault) in [
            ("x", "\"x\""),
            ("10.0.0.0", "\"10.0.0.0\""),
            ("10.0.0.0/99", "\"10.0.0.0/99\""),
            ("10.0.0.0/24,y", "\"y\""),
            ("10.0.0.0/24,10.1.0.0/24", "one family"),
            ("fd00::/64,fd01::/64", "one family"),
            ("10.0.0.0/24,fd00::/64,10.1.0.0/24", "one family"),
            ("", "\"\""),
        ] {
            let why = told(text).unwrap_err();
            assert!(why.contains(at_fault), "{text}: {why}");
        }
    }

    #[test]
    fn the_last_word_is_kept_and_earlier_ones_while_pods_are_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(&dir.path().join("leases")).unwrap();
        let open = || Subnets::open(dir.path().join("subnets"), parse("192.0.2.0/24").unwrap(), &leases).unwrap();
        let all = |subnets: &Subnets| subnets.all().iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut subnets = open();
        assert!(subnets.told().is_empty());
        let pods: Vec<_> = (0..4).map(|_| SandboxId::random()).collect();
        for pod in &pods {
            leases.take(subnets.current(), &subnets.gateways(), pod).unwrap();
        }
        let error = subnets.change(parse("192.0.2.4/30").unwrap(), &leases).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("192.0.2.5") && error.contains(pods[3].as_str()),
            "{error}"
        );
        subnets
            .change(parse("198.51.100.0/24,fd00::/64").unwrap(), &leases)
            .unwrap();
        assert_eq!(all(&open()), ["192.0.2.0/24", "198.51.100.0/24", "fd00::/64"]);
        assert_eq!(open().told().len(), 2);
        for pod in &pods {
            leases.give_back(pod).unwrap();
        }
        assert_eq!(all(&open()), ["198.51.100.0/24", "fd00::/64"]);
    }
}
