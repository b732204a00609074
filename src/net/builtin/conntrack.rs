//! Connection tracking by netlink: flows that must not go on.

use std::io;

use super::{
    message::{ACK, Message, REQUEST, framed},
    netfilter::Netfilter,
};
use crate::net::family::Family;

/// Forgets every UDP flow of a family that was begun to `port`, whoever began it.
///
/// A flow's translation is decided by its first packet and holds while packets come: without this a client that keeps
/// asking a host port is sent to the pod that had it before, for ever.
///
/// # Errors
/// `EOPNOTSUPP` on kernels before 5.8, others of ctnetlink.
pub fn forget_udp(netfilter: &mut Netfilter, family: Family, port: u16) -> io::Result<()> {
    let mut message = Message {
        bytes: vec![family.number(), 0, 0, 0],
    };
    message.nest(TUPLE_ORIG, |tuple| {
        tuple.nest(TUPLE_PROTO, |proto| {
            proto.raw(PROTO_NUM, &[UDP]);
            proto.raw(PROTO_DST_PORT, &port.to_be_bytes());
        });
    });
    message.nest(FILTER, |filter| {
        filter.number(FILTER_ORIG_FLAGS, BY_PROTO_NUM | BY_DST_PORT);
    });
    let bytes = framed(CT_DELETE, REQUEST | ACK, 1, &message.bytes);
    match netfilter.ask(&bytes, 1) {
        // There was none.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

const UDP: u8 = 17;
/// Subsystem conntrack, message delete.
const CT_DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const BY_PROTO_NUM: u32 = 1 << 3;
const BY_DST_PORT: u32 = 1 << 5;
