//! The node's one nftables table: host ports, and pods' way out.
//!
//! Its chains and rules do not depend on the pods: a pod with host ports costs elements of two maps, one without costs
//! nothing. The table has the bridge's name, so that two daemons with bridges of their own do not meet. What it holds
//! follows from the sandboxes' records, so it is never read back: it is made whole in one transaction, which replaces
//! one that is there.

use std::{io, net::Ipv4Addr};

use super::{
    lease::Subnet,
    nft::{Batch, ChainKind, Element, Hook, Rule, SetShape, Type},
    ports::Opening,
};

/// Subnets of pods, as ranges.
const PODS: &str = "pods";
/// Protocol and port of any of the host's addresses, to address and port of a pod.
const PORTS: &str = "host_ports";
/// Address, protocol and port, to address and port of a pod.
const ADDRESS_PORTS: &str = "host_address_ports";
const REDIRECT: &str = "redirect";

/// Makes the table with `openings`, or replaces it, in one transaction.
///
/// # Errors
/// Those of nf_tables: the kernel has none, or the process may not.
pub fn make(bridge: &str, subnets: &[Subnet], openings: &[Opening]) -> io::Result<()> {
    let mut batch = Batch::new(bridge);
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    sets(&mut batch, subnets);
    batch.add_chain(REDIRECT);
    batch.add_base_chain("guard", ChainKind::Filter, Hook::Prerouting, RAW);
    batch.add_base_chain("prerouting", ChainKind::Nat, Hook::Prerouting, DSTNAT);
    batch.add_base_chain("output", ChainKind::Nat, Hook::Output, DSTNAT);
    batch.add_base_chain("postrouting", ChainKind::Nat, Hook::Postrouting, SRCNAT);
    rules(&mut batch, bridge);
    add(&mut batch, openings);
    batch.commit()
}

/// Adds a pod's host ports to the table.
///
/// # Errors
/// `ENOENT` when somebody took the table away.
pub fn open(bridge: &str, openings: &[Opening]) -> io::Result<()> {
    let mut batch = Batch::new(bridge);
    add(&mut batch, openings);
    batch.commit()
}

/// Takes a pod's host ports out of the table.
///
/// # Errors
/// `ENOENT` when they, or the table, are not there.
pub fn close(bridge: &str, openings: &[Opening]) -> io::Result<()> {
    let mut batch = Batch::new(bridge);
    let (any, own) = elements(openings);
    batch.delete_elements(PORTS, &any);
    batch.delete_elements(ADDRESS_PORTS, &own);
    batch.commit()
}

/// Removes the table; nothing to do when there is none.
///
/// # Errors
/// Those of nf_tables.
pub fn remove(bridge: &str) -> io::Result<()> {
    let mut batch = Batch::new(bridge);
    batch.delete_table();
    match batch.commit() {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

fn sets(batch: &mut Batch, subnets: &[Subnet]) {
    use Type::{InetProto, InetService, Ipv4Addr};
    let set = |name, keys, values, ranges| SetShape {
        name,
        keys,
        values,
        ranges,
    };
    batch.add_set(&set(PODS, &[Ipv4Addr], &[], true));
    batch.add_set(&set(PORTS, &[InetProto, InetService], &[Ipv4Addr, InetService], false));
    let (keys, values) = ([Ipv4Addr, InetProto, InetService], [Ipv4Addr, InetService]);
    batch.add_set(&set(ADDRESS_PORTS, &keys, &values, false));
    batch.add_elements(PODS, &ranges(subnets));
}

fn rules(batch: &mut Batch, bridge: &str) {
    // Host ports on 127.0.0.1 need `route_localnet` on the bridge, which alone would let pods reach what listens on the
    // host's loopback (CVE-2020-8558). An answer to 127.0.0.1 is translated after this priority and is not meant.
    batch.add_rule(
        "guard",
        Rule::default().enters_by(bridge).destination_is_loopback().drop(),
    );
    batch.add_rule("guard", Rule::default().enters_by(bridge).source_is_loopback().drop());

    batch.add_rule("prerouting", Rule::default().for_this_host().go_to(REDIRECT));
    batch.add_rule("output", Rule::default().for_this_host().go_to(REDIRECT));
    batch.add_rule(REDIRECT, Rule::default().redirect_by_address_and_port(ADDRESS_PORTS));
    batch.add_rule(REDIRECT, Rule::default().redirect_by_port(PORTS));

    // A pod that was asked by the host's loopback, or by a pod through a host port, answers to the bridge: sent straight
    // to the one who asked, the answer would come from an address that nobody asked.
    let onto_bridge = || Rule::default().leaves_by(bridge);
    batch.add_rule("postrouting", onto_bridge().source_is_loopback().masquerade());
    batch.add_rule(
        "postrouting",
        onto_bridge().source_in(PODS).was_redirected().masquerade(),
    );
    let outward = Rule::default()
        .leaves_not_by(bridge)
        .source_in(PODS)
        .destination_not_in(PODS);
    batch.add_rule("postrouting", outward.masquerade());
}

fn add(batch: &mut Batch, openings: &[Opening]) {
    let (any, own) = elements(openings);
    batch.add_elements(PORTS, &any);
    batch.add_elements(ADDRESS_PORTS, &own);
}

/// The elements for any of the host's addresses, and those for one.
fn elements(openings: &[Opening]) -> (Vec<Element>, Vec<Element>) {
    let port = |number: u16| {
        let [high, low] = number.to_be_bytes();
        [high, low, 0, 0]
    };
    let (own, any): (Vec<_>, Vec<_>) = openings
        .iter()
        .map(|opening| {
            let mut key = vec![[opening.protocol_number(), 0, 0, 0], port(opening.host_port)];
            if let Some(address) = opening.host_ip {
                key.insert(0, address.octets());
            }
            Element {
                key,
                value: vec![opening.to.ip().octets(), port(opening.to.port())],
                range_end: false,
                comment: opening.pod.clone(),
            }
        })
        .partition(|element| element.key.len() == 3);
    (any, own)
}

/// Subnets as the beginnings and ends of ranges that do not overlap.
fn ranges(subnets: &[Subnet]) -> Vec<Element> {
    let mut bounds: Vec<_> = subnets.iter().map(Subnet::bounds).collect();
    bounds.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (first, last) in bounds {
        match merged.last_mut() {
            Some((_, end)) if u64::from(first) <= u64::from(*end) + 1 => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    let element = |address: u32, range_end| Element {
        key: vec![Ipv4Addr::from_bits(address).octets()],
        value: Vec::new(),
        range_end,
        comment: String::new(),
    };
    let ends = |(first, last): (u32, u32)| {
        [
            Some(element(first, false)),
            last.checked_add(1).map(|end| element(end, true)),
        ]
    };
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
        let subnets = ["10.1.0.0/16", "10.0.0.0/16", "10.0.5.0/24", "192.0.2.0/24"].map(|s| Subnet::parse(s).unwrap());
        let told: Vec<_> = ranges(&subnets)
            .iter()
            .map(|e| (Ipv4Addr::from(e.key[0]).to_string(), e.range_end))
            .collect();
        let expected = [
            ("10.0.0.0", false),
            ("10.2.0.0", true),
            ("192.0.2.0", false),
            ("192.0.3.0", true),
        ];
        assert_eq!(told, expected.map(|(address, end)| (address.to_owned(), end)));
    }
}
