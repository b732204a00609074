//! The node's way out: what pods' packets must fit, and what forwarding must not take from the node itself.
//!
//! Source: proc_pid_net(5), `route`; the kernel's net/ipv6/route.c for `ipv6_route`.

use std::{fs, io};

use super::netlink::Netlink;

/// An interface of a default route.
#[derive(Debug, PartialEq, Eq)]
struct Uplink {
    name: String,
    metric: u32,
    /// A router announced itself there.
    announced: bool,
}

/// The MTU of the interface that the calling thread's network namespace sends by; `None` when it has no way out yet.
pub fn mtu() -> Option<u32> {
    let first = |mut uplinks: Vec<Uplink>| {
        uplinks.sort_by_key(|uplink| uplink.metric);
        uplinks.into_iter().next()
    };
    let uplink = first(of_v4()).or_else(|| first(of_v6()))?;
    let mut netlink = Netlink::open().ok()?;
    let index = netlink.index(&uplink.name).ok()?;
    Some(netlink.link(index).ok()?.mtu)
}

/// The interfaces whose way out is known from a router's announcements (RFC 4861).
pub fn announced() -> Vec<String> {
    let announced = of_v6().into_iter().filter(|uplink| uplink.announced);
    announced.map(|uplink| uplink.name).collect()
}

fn of_v4() -> Vec<Uplink> {
    parse(read("route"), v4_line)
}

fn of_v6() -> Vec<Uplink> {
    parse(read("ipv6_route"), v6_line)
}

/// A file of the calling thread's namespace; one that cannot be read has no routes.
fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/thread-self/net/{name}"))
}

fn parse(text: io::Result<String>, line: fn(&[&str]) -> Option<Uplink>) -> Vec<Uplink> {
    let text = text.unwrap_or_default();
    let lines = text.lines().map(|text| text.split_whitespace().collect::<Vec<_>>());
    lines
        .filter_map(|fields| line(&fields))
        .filter(|uplink| uplink.name != "lo")
        .collect()
}

/// Interface, destination, gateway, flags, two counts, metric in decimal, mask.
fn v4_line(fields: &[&str]) -> Option<Uplink> {
    let &[name, destination, _, flags, _, _, metric, mask, ..] = fields else {
        return None;
    };
    let flags = u32::from_str_radix(flags, 16).ok()?;
    (destination == "00000000" && mask == "00000000" && flags & (UP | REJECT) == UP).then_some(Uplink {
        name: name.to_owned(),
        metric: metric.parse().ok()?,
        announced: false,
    })
}

/// Destination and its length, source and its length, next hop, metric, two counts, flags, interface; all in hexadecimal.
fn v6_line(fields: &[&str]) -> Option<Uplink> {
    let &[destination, length, _, "00", _, metric, _, _, flags, name] = fields else {
        return None;
    };
    let everything = length == "00" && destination.bytes().all(|digit| digit == b'0');
    let flags = u32::from_str_radix(flags, 16).ok()?;
    (everything && flags & (UP | REJECT) == UP).then_some(Uplink {
        name: name.to_owned(),
        metric: u32::from_str_radix(metric, 16).ok()?,
        announced: flags & ADDRCONF != 0,
    })
}

/// Flags of routes: linux/route.h, linux/ipv6_route.h.
const UP: u32 = 0x1;
const REJECT: u32 = 0x200;
const ADDRCONF: u32 = 0x40000;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn default_routes_are_found_and_others_are_not() {
        let text = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth1\t00000000\t0102A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0
eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
";
        let names = |uplinks: &[Uplink]| uplinks.iter().map(|u| (u.name.clone(), u.metric)).collect::<Vec<_>>();
        assert_eq!(
            names(&parse(Ok(text.to_owned()), v4_line)),
            [("eth1".to_owned(), 200), ("eth0".to_owned(), 100)]
        );
        let nothing = "0".repeat(32);
        let line = |length, metric, flags, name| {
            format!(
                "{nothing} {length} {nothing} 00 fe800000000000000000000000000001 {metric} 00000001 00000000 {flags} {name}\n"
            )
        };
        let text = [
            line("00", "00000400", "00450003", "eth0"),
            line("00", "00000064", "00000003", "eth1"),
            line("00", "ffffffff", "00200200", "lo"),
            line("40", "00000100", "00000001", "eth2"),
        ];
        let found = parse(Ok(text.concat()), v6_line);
        assert_eq!(names(&found), [("eth0".to_owned(), 1024), ("eth1".to_owned(), 100)]);
        assert_eq!([found[0].announced, found[1].announced], [true, false]);
        assert!(parse(Ok("cut".to_owned()), v6_line).is_empty());
    }
}
