//! The node's one nftables table of each family: host ports, and pods' way out.
//!
//! Its chains and rules do not depend on the pods: a pod with host ports costs elements of two maps, one without costs
//! nothing. The table has the bridge's name, so that two daemons with bridges of their own do not meet. What it holds
//! follows from the sandboxes' records, so it is never read back: it is made whole in one transaction, which replaces
//! one that is there. A family that pods have no subnet of has no table.

use std::io;

use super::{
    netfilter::Netfilter,
    nft::{Batch, ChainKind, Element, Hook, Rule, SetShape, Type},
    ports::Opening,
    subnet::Subnet,
};
use crate::net::family::{Family, octets};

/// Subnets of pods, as ranges.
const PODS: &str = "pods";
/// Where pods are known by their own addresses: other pods, and what the configuration names.
const DIRECT: &str = "direct";
/// Protocol and port of any of the host's addresses, to address and port of a pod.
const PORTS: &str = "host_ports";
/// Address, protocol and port, to address and port of a pod.
const ADDRESS_PORTS: &str = "host_address_ports";
const REDIRECT: &str = "redirect";

/// Makes the table with `openings`, or replaces it, in one transaction. `direct` are destinations that see pods' own
/// addresses.
///
/// # Errors
/// Those of nf_tables: the kernel has none, or the process may not.
pub fn make(
    netfilter: &mut Netfilter,
    bridge: &str,
    subnets: &[Subnet],
    direct: &[Subnet],
    openings: &[Opening],
) -> io::Result<()> {
    let mut batch = Batch::new(bridge);
    for family in Family::ALL {
        let of_family = |all: &[Subnet]| all.iter().copied().filter(|s| s.family == family).collect::<Vec<_>>();
        let pods = of_family(subnets);
        if pods.is_empty() {
            remove_one(netfilter, bridge, family)?;
            continue;
        }
        batch.of(family);
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        sets(&mut batch, family);
        batch.add_elements(PODS, &ranges(&pods));
        batch.add_elements(DIRECT, &ranges(&[pods, of_family(direct)].concat()));
        batch.add_chain(REDIRECT);
        batch.add_base_chain("prerouting", ChainKind::Nat, Hook::Prerouting, DSTNAT);
        batch.add_base_chain("output", ChainKind::Nat, Hook::Output, DSTNAT);
        batch.add_base_chain("postrouting", ChainKind::Nat, Hook::Postrouting, SRCNAT);
        rules(&mut batch, family, bridge);
    }
    add(&mut batch, openings);
    batch.commit(netfilter)
}

/// Adds a pod's host ports to the table.
///
/// # Errors
/// `ENOENT` when somebody took the table away.
pub fn open(netfilter: &mut Netfilter, bridge: &str, openings: &[Opening]) -> io::Result<()> {
    let mut batch = Batch::new(bridge);
    add(&mut batch, openings);
    batch.commit(netfilter)
}

/// Takes a pod's host ports out of the table.
///
/// # Errors
/// `ENOENT` when they, or the table, are not there.
pub fn close(netfilter: &mut Netfilter, bridge: &str, openings: &[Opening]) -> io::Result<()> {
    let mut batch = Batch::new(bridge);
    for family in Family::ALL {
        let (any, own) = elements(openings, family);
        batch.of(family);
        batch.delete_elements(PORTS, &any);
        batch.delete_elements(ADDRESS_PORTS, &own);
    }
    batch.commit(netfilter)
}

/// Removes the table; nothing to do when there is none.
///
/// # Errors
/// Those of nf_tables.
pub fn remove(netfilter: &mut Netfilter, bridge: &str) -> io::Result<()> {
    Family::ALL
        .iter()
        .try_for_each(|family| remove_one(netfilter, bridge, *family))
}

fn remove_one(netfilter: &mut Netfilter, bridge: &str, family: Family) -> io::Result<()> {
    let mut batch = Batch::new(bridge);
    batch.of(family);
    batch.delete_table();
    match batch.commit(netfilter) {
        // There is none, or the kernel has no tables of this family.
        Err(error)
            if [libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP]
                .map(Some)
                .contains(&error.raw_os_error()) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn sets(batch: &mut Batch, family: Family) {
    use Type::{InetProto, InetService, Ipv4Addr, Ipv6Addr};
    let address = match family {
        Family::V4 => Ipv4Addr,
        Family::V6 => Ipv6Addr,
    };
    let (port, target) = ([InetProto, InetService], [address, InetService]);
    let own_port = [address, InetProto, InetService];
    let shapes = [
        (PODS, &[address][..], &[][..]),
        (DIRECT, &[address], &[]),
        (PORTS, &port, &target),
        (ADDRESS_PORTS, &own_port, &target),
    ];
    for (name, keys, values) in shapes {
        batch.add_set(&SetShape {
            name,
            keys,
            values,
            ranges: values.is_empty(),
        });
    }
}

fn rules(batch: &mut Batch, family: Family, bridge: &str) {
    let rule = || Rule::of(family);
    batch.add_rule("prerouting", rule().for_this_host().go_to(REDIRECT));
    batch.add_rule("output", rule().for_this_host().go_to(REDIRECT));
    batch.add_rule(REDIRECT, rule().redirect_by_address_and_port(ADDRESS_PORTS));
    batch.add_rule(REDIRECT, rule().redirect_by_port(PORTS));

    // A pod that was asked by the host's loopback, or by a pod through a host port, answers to the bridge: sent straight
    // to the one who asked, the answer would come from an address that nobody asked.
    let onto_bridge = || rule().leaves_by(bridge);
    if family == Family::V4 {
        batch.add_base_chain("guard", ChainKind::Filter, Hook::Prerouting, RAW);
        // Host ports on 127.0.0.1 need `route_localnet` on the bridge, which alone would let pods reach what listens on the
        // host's loopback (CVE-2020-8558). An answer to 127.0.0.1 is translated after this priority and is not meant.
        batch.add_rule("guard", rule().enters_by(bridge).destination_is_loopback().drop());
        batch.add_rule("guard", rule().enters_by(bridge).source_is_loopback().drop());
        batch.add_rule("postrouting", onto_bridge().source_is_loopback().masquerade());
    }
    batch.add_rule(
        "postrouting",
        onto_bridge().source_in(PODS).was_redirected().masquerade(),
    );
    let outward = rule().leaves_not_by(bridge).source_in(PODS).destination_not_in(DIRECT);
    batch.add_rule("postrouting", outward.masquerade());
}

fn add(batch: &mut Batch, openings: &[Opening]) {
    for family in Family::ALL {
        let (any, own) = elements(openings, family);
        batch.of(family);
        batch.add_elements(PORTS, &any);
        batch.add_elements(ADDRESS_PORTS, &own);
    }
}

/// The elements for any of the host's addresses of a family, and those for one.
fn elements(openings: &[Opening], family: Family) -> (Vec<Element>, Vec<Element>) {
    let port = |number: u16| {
        let [high, low] = number.to_be_bytes();
        [high, low, 0, 0]
    };
    let of_family = openings.iter().filter(|opening| opening.family() == family);
    let (own, any): (Vec<_>, Vec<_>) = of_family.partition(|opening| opening.host_ip.is_some());
    let element = |opening: &Opening| {
        let address = opening.host_ip.map(octets).unwrap_or_default();
        let protocol = [opening.protocol_number(), 0, 0, 0];
        Element {
            key: [&address[..], &protocol, &port(opening.host_port)].concat(),
            value: [&octets(opening.to.ip())[..], &port(opening.to.port())].concat(),
            range_end: false,
            comment: opening.pod.clone(),
        }
    };
    (
        any.into_iter().map(element).collect(),
        own.into_iter().map(element).collect(),
    )
}

/// Subnets of one family as the beginnings and ends of ranges that do not overlap.
fn ranges(subnets: &[Subnet]) -> Vec<Element> {
    let Some(family) = subnets.first().map(|subnet| subnet.family) else {
        return Vec::new();
    };
    let mut bounds: Vec<_> = subnets.iter().map(Subnet::bounds).collect();
    bounds.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in bounds {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    let element = |number: Option<u128>, range_end| {
        let address = family.address(number?)?;
        Some(Element {
            key: octets(address),
            value: Vec::new(),
            range_end,
            comment: String::new(),
        })
    };
    let ends = |(first, last): (u128, u128)| [element(Some(first), false), element(last.checked_add(1), true)];
    merged.into_iter().flat_map(ends).flatten().collect()
}

const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn subnets_that_touch_become_one_range() {
        let told = |subnets: &[&str]| {
            let subnets: Vec<_> = subnets.iter().map(|s| Subnet::parse_range(s).unwrap()).collect();
            let told = ranges(&subnets).into_iter().map(|e| (e.key, e.range_end));
            told.collect::<Vec<_>>()
        };
        let expected = [
            (vec![10, 0, 0, 0], false),
            (vec![10, 2, 0, 0], true),
            (vec![192, 0, 2, 0], false),
            (vec![192, 0, 3, 0], true),
        ];
        let subnets = ["10.1.0.0/16", "10.0.0.0/16", "10.0.5.0/24", "192.0.2.0/24"];
        assert_eq!(told(&subnets), expected);
        // What ends with the last address of all has no end.
        assert_eq!(told(&["0.0.0.0/0", "10.0.0.0/8"]), [(vec![0; 4], false)]);
        assert_eq!(told(&["::/0"]), [(vec![0; 16], false)]);
        assert!(ranges(&[]).is_empty());
    }
}
