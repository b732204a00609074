//! A rule: conditions that load something into a register and compare it, then what is done.

use crate::net::{family::Family, message::Message};

/// The conditions and the deed of one rule, in order.
pub struct Rule {
    family: Family,
    expressions: Message,
}

impl Rule {
    /// One of a table of this family.
    pub fn of(family: Family) -> Self {
        Self {
            family,
            expressions: Message::default(),
        }
    }

    /// The packet came in by this interface.
    pub fn enters_by(self, name: &str) -> Self {
        self.meta(WHOLE, META_IIFNAME).compare(WHOLE, EQUAL, &interface(name))
    }

    /// The packet goes out by this interface.
    pub fn leaves_by(self, name: &str) -> Self {
        self.meta(WHOLE, META_OIFNAME).compare(WHOLE, EQUAL, &interface(name))
    }

    /// The packet goes out, but not by this interface.
    pub fn leaves_not_by(self, name: &str) -> Self {
        self.meta(WHOLE, META_OIFNAME)
            .compare(WHOLE, NOT_EQUAL, &interface(name))
    }

    /// Its source is in 127.0.0.0/8; of IPv4 only.
    pub fn source_is_loopback(self) -> Self {
        self.load(FIRST, NETWORK_HEADER, V4_SOURCE, 1)
            .compare(FIRST, EQUAL, &[127])
    }

    /// Its destination is in 127.0.0.0/8; of IPv4 only.
    pub fn destination_is_loopback(self) -> Self {
        self.load(FIRST, NETWORK_HEADER, V4_DESTINATION, 1)
            .compare(FIRST, EQUAL, &[127])
    }

    /// Its source is in a set.
    pub fn source_in(self, set: &str) -> Self {
        let source = match self.family {
            Family::V4 => V4_SOURCE,
            Family::V6 => V6_SOURCE,
        };
        self.load_address(source).look_up(set, false)
    }

    /// Its destination is not in a set.
    pub fn destination_not_in(self, set: &str) -> Self {
        self.load_destination().look_up(set, true)
    }

    /// It is for an address of this host.
    pub fn for_this_host(self) -> Self {
        let loaded = self.expression("fib", |fib| {
            fib.network_number(1, FIRST);
            fib.network_number(2, FIB_ADDRESS_TYPE);
            fib.network_number(3, FIB_BY_DESTINATION);
        });
        loaded.compare(FIRST, EQUAL, &RTN_LOCAL.to_ne_bytes())
    }

    /// Its connection's destination was translated.
    pub fn was_redirected(self) -> Self {
        let loaded = self.expression("ct", |ct| {
            ct.network_number(1, FIRST);
            ct.network_number(2, CT_STATUS);
        });
        let masked = loaded.expression("bitwise", |bits| {
            bits.network_number(1, FIRST);
            bits.network_number(2, FIRST);
            bits.network_number(3, 4);
            bits.nest(4, |mask| mask.raw(1, &IPS_DST_NAT.to_ne_bytes()));
            bits.nest(5, |xor| xor.raw(1, &[0; 4]));
        });
        masked.compare(FIRST, NOT_EQUAL, &[0; 4])
    }

    /// Goes on in another chain and does not come back.
    pub fn go_to(self, chain: &str) -> Self {
        self.verdict(GOTO, Some(chain))
    }

    pub fn drop(self) -> Self {
        self.verdict(0, None)
    }

    /// Gives the packet the source address of the interface that it leaves by.
    pub fn masquerade(self) -> Self {
        self.expression("masq", |_| {})
    }

    /// Sends the packet to what a map has for its protocol and port, if it has anything.
    pub fn redirect_by_port(self, map: &str) -> Self {
        self.meta(FIRST, META_L4PROTO)
            .load(FIRST + 1, TRANSPORT_HEADER, DESTINATION_PORT, 2)
            .redirect(map)
    }

    /// The same by address, protocol and port.
    pub fn redirect_by_address_and_port(self, map: &str) -> Self {
        let next = FIRST + self.words();
        self.load_destination()
            .meta(next, META_L4PROTO)
            .load(next + 1, TRANSPORT_HEADER, DESTINATION_PORT, 2)
            .redirect(map)
    }

    pub fn into_expressions(self) -> Message {
        self.expressions
    }

    fn redirect(self, map: &str) -> Self {
        let found = self.expression("lookup", |lookup| {
            lookup.text(1, map);
            lookup.network_number(2, FIRST);
            lookup.network_number(3, FIRST);
        });
        let (family, port) = (found.family.number(), FIRST + found.words());
        found.expression("nat", |nat| {
            nat.network_number(1, DESTINATION_NAT);
            nat.network_number(2, family.into());
            nat.network_number(3, FIRST);
            nat.network_number(5, port);
        })
    }

    /// How many registers of four bytes an address takes.
    fn words(&self) -> u32 {
        u32::from(self.family.bits()) / 32
    }

    fn load_destination(self) -> Self {
        let destination = match self.family {
            Family::V4 => V4_DESTINATION,
            Family::V6 => V6_DESTINATION,
        };
        self.load_address(destination)
    }

    fn load_address(self, offset: u32) -> Self {
        let length = self.words() * 4;
        self.load(FIRST, NETWORK_HEADER, offset, length)
    }

    fn look_up(self, set: &str, absent: bool) -> Self {
        self.expression("lookup", |lookup| {
            lookup.text(1, set);
            lookup.network_number(2, FIRST);
            if absent {
                lookup.network_number(5, 1);
            }
        })
    }

    fn meta(self, register: u32, key: u32) -> Self {
        self.expression("meta", |meta| {
            meta.network_number(1, register);
            meta.network_number(2, key);
        })
    }

    /// Loads bytes of a header.
    fn load(self, register: u32, header: u32, offset: u32, length: u32) -> Self {
        self.expression("payload", |payload| {
            payload.network_number(1, register);
            payload.network_number(2, header);
            payload.network_number(3, offset);
            payload.network_number(4, length);
        })
    }

    fn compare(self, register: u32, how: u32, with: &[u8]) -> Self {
        self.expression("cmp", |cmp| {
            cmp.network_number(1, register);
            cmp.network_number(2, how);
            cmp.nest(3, |data| data.raw(1, with));
        })
    }

    fn verdict(self, code: u32, chain: Option<&str>) -> Self {
        self.expression("immediate", |immediate| {
            // Register 0 is the verdict.
            immediate.network_number(1, 0);
            immediate.nest(2, |data| {
                data.nest(2, |verdict| {
                    verdict.network_number(1, code);
                    if let Some(chain) = chain {
                        verdict.text(2, chain);
                    }
                });
            });
        })
    }

    fn expression(mut self, name: &str, fill: impl FnOnce(&mut Message)) -> Self {
        self.expressions.nest(1, |item| {
            item.text(1, name);
            item.nest(2, fill);
        });
        self
    }
}

/// An interface's name as a register has it.
fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// The first register of four bytes; those of a concatenation follow one another.
const FIRST: u32 = 8;
/// The first register of sixteen bytes, which covers the first four of the others.
const WHOLE: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Offsets in the headers of IPv4 and IPv6.
const V4_SOURCE: u32 = 12;
const V4_DESTINATION: u32 = 16;
const V6_SOURCE: u32 = 8;
const V6_DESTINATION: u32 = 24;
/// In the headers of TCP, UDP and SCTP alike.
const DESTINATION_PORT: u32 = 2;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_BY_DESTINATION: u32 = 2;
const RTN_LOCAL: u32 = 2;
const CT_STATUS: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;
const DESTINATION_NAT: u32 = 1;
const GOTO: u32 = (-4i32).cast_unsigned();
