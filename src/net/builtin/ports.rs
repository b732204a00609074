//! Host ports: which of them lead into which pod.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::NetError;
use crate::{
    model::{PortMapping, Protocol, SandboxId},
    net::family::Family,
};

/// A host port that leads into a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub protocol: Protocol,
    /// `None`: every address of the host that is of the pod's family.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub to: SocketAddr,
    /// The beginning of the pod's id, shown in listings.
    pub pod: String,
}

impl Opening {
    /// Source: IANA "Assigned Internet Protocol Numbers".
    pub fn protocol_number(&self) -> u8 {
        match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    pub fn family(&self) -> Family {
        Family::of(self.to.ip())
    }

    fn same_port(&self, other: &Self) -> bool {
        (self.family(), self.protocol, self.host_port) == (other.family(), other.protocol, other.host_port)
    }

    /// Whether two pods cannot both have it: a port on every address is a port on each.
    fn collides(&self, other: &Self) -> bool {
        self.same_port(other) && (self.host_ip.is_none() || other.host_ip.is_none() || self.host_ip == other.host_ip)
    }
}

/// The host ports of all pods.
#[derive(Debug, Default)]
pub struct Ports {
    open: BTreeMap<SandboxId, Vec<Opening>>,
}

impl Ports {
    /// What `mappings` open for a pod with `addresses`, one of each family at most. Those without a host port open nothing.
    ///
    /// # Errors
    /// [`NetError::HostPort`] for a mapping that contradicts another or cannot be had, with its place in the list.
    pub fn openings(id: &SandboxId, addresses: &[IpAddr], mappings: &[PortMapping]) -> Result<Vec<Opening>, NetError> {
        let mut openings: Vec<Opening> = Vec::new();
        for (at, mapping) in mappings.iter().enumerate().filter(|(_, m)| m.host_port != 0) {
            let fault = |field: &'static str, why: String| NetError::HostPort { at, field, why };
            if mapping.container_port == 0 {
                return Err(fault("container_port", "is required for a host port".into()));
            }
            let reached = |to: &&IpAddr| mapping.host_ip.is_none_or(|own| Family::of(own) == Family::of(**to));
            let mut reached = addresses.iter().filter(reached).peekable();
            if let (None, Some(own)) = (reached.peek(), mapping.host_ip) {
                let why = format!("the pod has no address of the family of {own}, which could lead to it");
                return Err(fault("host_ip", why));
            }
            for to in reached {
                let opening = Opening {
                    protocol: mapping.protocol,
                    host_ip: mapping.host_ip.filter(|own| !own.is_unspecified()),
                    host_port: mapping.host_port,
                    to: SocketAddr::new(*to, mapping.container_port),
                    pod: id.as_str()[..13].to_owned(),
                };
                // The same port on every address and on one may lead to two places of one pod: the latter counts there.
                let twin = openings
                    .iter()
                    .find(|o| o.same_port(&opening) && o.host_ip == opening.host_ip);
                match twin {
                    Some(twin) if *twin == opening => {}
                    Some(twin) => {
                        let why = format!("{} leads to container port {} already", port(&opening), twin.to.port());
                        return Err(fault("host_port", why));
                    }
                    None => openings.push(opening),
                }
            }
        }
        Ok(openings)
    }

    /// Checks that no other pod has what `openings` want, without taking it.
    ///
    /// # Errors
    /// [`NetError::PortTaken`].
    pub fn check(&self, id: &SandboxId, openings: &[Opening]) -> Result<(), NetError> {
        for (owner, theirs) in self.open.iter().filter(|(owner, _)| *owner != id) {
            if let Some(wanted) = openings.iter().find(|w| theirs.iter().any(|t| t.collides(w))) {
                return Err(NetError::PortTaken {
                    port: port(wanted),
                    owner: owner.clone(),
                });
            }
        }
        Ok(())
    }

    pub fn insert(&mut self, id: &SandboxId, openings: Vec<Opening>) {
        if !openings.is_empty() {
            self.open.insert(id.clone(), openings);
        }
    }

    pub fn of(&self, id: &SandboxId) -> &[Opening] {
        self.open.get(id).map_or(&[], Vec::as_slice)
    }

    pub fn forget(&mut self, id: &SandboxId) {
        self.open.remove(id);
    }

    pub fn all(&self) -> Vec<Opening> {
        self.open.values().flatten().cloned().collect()
    }
}

/// `TCP port 80`, with its address if it is for one.
fn port(opening: &Opening) -> String {
    let protocol = match opening.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    match opening.host_ip {
        None => format!("{protocol} port {}", opening.host_port),
        Some(address) => format!("{protocol} port {}", SocketAddr::new(address, opening.host_port)),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn mapping(host_ip: &str, host_port: u16, container_port: u16) -> PortMapping {
        PortMapping {
            protocol: Protocol::Tcp,
            container_port,
            host_port,
            host_ip: host_ip.parse().ok(),
        }
    }

    fn openings(mappings: &[PortMapping]) -> Result<Vec<Opening>, NetError> {
        Ports::openings(&SandboxId::random(), &["10.0.0.2".parse().unwrap()], mappings)
    }

    #[test]
    fn contradictions_in_one_pod_name_their_field() {
        let table = [
            (vec![mapping("", 80, 0)], "config.port_mappings[0].container_port"),
            (vec![mapping("::1", 80, 1)], "config.port_mappings[0].host_ip"),
            (
                vec![mapping("", 80, 1), mapping("0.0.0.0", 80, 2)],
                "config.port_mappings[1].host_port",
            ),
        ];
        for (mappings, field) in table {
            let error = openings(&mappings).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error} should name {field}");
        }
        assert_eq!(
            openings(&[mapping("", 0, 80), mapping("", 80, 1), mapping("", 80, 1)])
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            openings(&[mapping("", 80, 1), mapping("127.0.0.1", 80, 2)])
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn a_host_port_is_of_the_families_that_its_address_and_the_pod_have() {
        let both: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let told = |addresses: &[IpAddr], host_ip: &str| {
            let openings = Ports::openings(&SandboxId::random(), addresses, &[mapping(host_ip, 80, 1)]);
            let openings = openings.map_err(|error| error.to_string())?;
            Ok::<_, String>(
                openings
                    .iter()
                    .map(|o| (o.host_ip, o.to.to_string()))
                    .collect::<Vec<_>>(),
            )
        };
        let (four, six) = ("10.0.0.2:1".to_owned(), "[fd00::2]:1".to_owned());
        assert_eq!(told(&both, "").unwrap(), [(None, four.clone()), (None, six.clone())]);
        assert_eq!(told(&both, "0.0.0.0").unwrap(), [(None, four)]);
        assert_eq!(told(&both, "::").unwrap(), [(None, six.clone())]);
        assert_eq!(told(&both, "::1").unwrap(), [("::1".parse().ok(), six)]);
        assert!(told(&both[..1], "::").unwrap_err().contains("host_ip"));
        assert!(told(&both[1..], "127.0.0.1").unwrap_err().contains("host_ip"));
    }

    #[test]
    fn a_port_on_every_address_collides_with_one_on_any() {
        let (a, b) = (SandboxId::random(), SandboxId::random());
        let taken = |first: &str, second: &str| {
            let mut ports = Ports::default();
            ports.insert(&a, openings(&[mapping(first, 80, 1)]).unwrap());
            let wanted = openings(&[mapping(second, 80, 1)]).unwrap();
            assert!(ports.check(&a, &wanted).is_ok(), "a pod does not collide with itself");
            ports.check(&b, &wanted).map_err(|error| error.to_string())
        };
        assert!(taken("", "").unwrap_err().contains("TCP port 80"));
        assert!(taken("", "127.0.0.1").is_err());
        assert!(taken("127.0.0.1", "").is_err());
        assert!(taken("127.0.0.1", "127.0.0.1").unwrap_err().contains("127.0.0.1:80"));
        assert!(taken("127.0.0.1", "192.0.2.1").is_ok());
    }
}
