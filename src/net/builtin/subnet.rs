//! A subnet of pods, of either family.

use std::{fmt, net::IpAddr};

use crate::net::family::{Family, number};

/// A subnet: its first address is the bridge's, the others are pods'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub family: Family,
    /// The number of its lowest address.
    network: u128,
    pub prefix: u8,
}

impl Subnet {
    /// From `address/prefix`; prefixes from 8 to 30 of IPv4, from 48 to 126 of IPv6.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
        let family = Family::of(address);
        let allowed = match family {
            Family::V4 => 8..=30,
            Family::V6 => 48..=126,
        };
        allowed
            .contains(&prefix)
            .then(|| Self::around(number(address), family, prefix))
    }

    /// A range of addresses that is nobody's subnet, where any prefix will do.
    pub fn parse_range(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
        let family = Family::of(address);
        (prefix <= family.bits()).then(|| Self::around(number(address), family, prefix))
    }

    fn around(address: u128, family: Family, prefix: u8) -> Self {
        let mut subnet = Self {
            family,
            network: 0,
            prefix,
        };
        subnet.network = address & !subnet.host_mask();
        subnet
    }

    /// The bridge's address: the first behind that of the subnet itself.
    pub fn gateway(&self) -> IpAddr {
        self.at(1)
    }

    /// The numbers of the first and the last address of all.
    pub fn bounds(&self) -> (u128, u128) {
        (self.network, self.network | self.host_mask())
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let (first, last) = self.bounds();
        Family::of(address) == self.family && (first..=last).contains(&number(address))
    }

    /// How many addresses pods can have: all but the subnet's own, the gateway's and, of IPv4, that of everybody. Of the
    /// largest subnets a part is used.
    pub fn size(&self) -> u64 {
        let all = 1_u64 << (self.family.bits() - self.prefix).min(32);
        match self.family {
            Family::V4 => all - 3,
            Family::V6 => all - 2,
        }
    }

    /// A pod's address; `number` is below [`Subnet::size`].
    pub fn pod(&self, number: u64) -> IpAddr {
        self.at(u128::from(number) + 2)
    }

    fn at(&self, offset: u128) -> IpAddr {
        let address = self.family.address(self.network + offset);
        address.expect("an offset within the subnet")
    }

    fn host_mask(&self) -> u128 {
        match self.family.bits() - self.prefix {
            128 => u128::MAX,
            bits => (1 << bits) - 1,
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.at(0), self.prefix)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_no_subnet_for_pods_is_none() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/31",
            "10.0.0.0/0",
            "10.0.0.0/33",
            "10.0.0.0/255",
            "10.0.0/24",
            "::1/127",
            "fd00::/32",
            "fd00::/129",
            "fd00::",
        ] {
            assert!(Subnet::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_first_addresses_are_the_subnets_the_gateways_and_the_pods() {
        let told = |text: &str| {
            let subnet = Subnet::parse(text).unwrap();
            let last = subnet.pod(subnet.size() - 1);
            [
                subnet.to_string(),
                subnet.gateway().to_string(),
                subnet.pod(0).to_string(),
                last.to_string(),
            ]
        };
        let expected = ["192.0.2.0/24", "192.0.2.1", "192.0.2.2", "192.0.2.254"];
        assert_eq!(told("192.0.2.9/24"), expected);
        let expected = ["2001:db8::/126", "2001:db8::1", "2001:db8::2", "2001:db8::3"];
        assert_eq!(told("2001:db8::2/126"), expected);
        let expected = ["fd00:1::/64", "fd00:1::1", "fd00:1::2", "fd00:1::ffff:ffff"];
        assert_eq!(told("fd00:1::/64"), expected);
        assert!(
            !Subnet::parse("fd00::/64")
                .unwrap()
                .contains("10.0.0.1".parse().unwrap())
        );
    }

    #[test]
    fn a_range_may_be_everything() {
        let bounds = |text: &str| Subnet::parse_range(text).unwrap().bounds();
        assert_eq!(bounds("0.0.0.0/0"), (0, u128::from(u32::MAX)));
        assert_eq!(bounds("::/0"), (0, u128::MAX));
        assert_eq!(bounds("192.0.2.1/32"), (0xc000_0201, 0xc000_0201));
        assert!(Subnet::parse_range("10.0.0.0/33").is_none());
    }
}
