//! Netlink messages as bytes: a family header, then attributes. Source: netlink(7), linux/netlink.h.

use std::{io, os::fd::OwnedFd};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

/// Set in an attribute's kind when its value is attributes again.
const NESTED: u16 = 0x8000;

/// The part of a netlink message behind its length, kind and sequence.
#[derive(Default)]
pub struct Message {
    pub bytes: Vec<u8>,
}

impl Message {
    /// An attribute: length, kind, value, and padding to four bytes.
    pub fn raw(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.raw(kind, &bytes);
    }

    /// A number in the host's order, as rtnetlink has them.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_ne_bytes());
    }

    /// A number in the network's order, as nfnetlink has them.
    pub fn network_number(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.raw(kind | NESTED, &inner.bytes);
    }
}

/// A socket to the kernel in the calling thread's network namespace; without a protocol rtnetlink's.
pub fn socket(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?)
}

/// A whole message, framed for the kernel.
pub fn framed(kind: u16, flags: u16, sequence: u32, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + message.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + message.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(message);
    bytes
}

/// The kernel's answer to one message: its sequence number, and how it went.
///
/// # Errors
/// An answer of another kind.
pub fn verdict(answer: &[u8]) -> std::io::Result<(u32, std::io::Result<()>)> {
    let kind = answer.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    match (kind, word(answer, 8), word(answer, HEADER)) {
        (Some(ERROR), Some(sequence), Some(0)) => Ok((sequence, Ok(()))),
        (Some(ERROR), Some(sequence), Some(errno)) => {
            let error = std::io::Error::from_raw_os_error(errno.cast_signed().wrapping_neg());
            Ok((sequence, Err(error)))
        }
        _ => Err(cut()),
    }
}

/// The messages of a datagram: kind, and what follows the header. What is cut is left out.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(word(datagram, 0)?).ok()?;
        let body = datagram.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes in a message: kind without its flags, and value. What is cut is left out.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let value = bytes.get(4..length)?;
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The number of the host's order at `at`.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What a message that ends too early is.
pub fn cut() -> io::Error {
    io::Error::other("an answer of another kind")
}

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const EXCL: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;
pub const DUMP: u16 = 0x300;
pub const DONE: u16 = 3;
const ERROR: u16 = 2;
const HEADER: usize = 16;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let mut message = Message::default();
        message.text(3, "ab");
        message.nest(1, |inner| inner.network_number(2, 7));
        let expected = [
            [7, 0, 3, 0, b'a', b'b', 0, 0].as_slice(),
            [12, 0, 1, 0x80].as_slice(),
            [8, 0, 2, 0, 0, 0, 0, 7].as_slice(),
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(message.bytes, expected.concat());
        }
    }

    #[test]
    fn messages_and_attributes_come_back_and_cut_ones_do_not() {
        let mut message = Message::default();
        message.text(3, "abc");
        message.raw(1 | NESTED, &[1, 2, 3]);
        let read: Vec<_> = attributes(&message.bytes).collect();
        assert_eq!(read, [(3, &b"abc\0"[..]), (1, &[1, 2, 3][..])]);
        let both = [framed(16, 0, 1, &message.bytes), framed(3, 0, 1, &[0; 4])].concat();
        let read: Vec<_> = messages(&both).collect();
        assert_eq!(read, [(16, &message.bytes[..]), (3, &[0; 4][..])]);
        for cut in 0..both.len() {
            assert!(messages(&both[..cut]).count() < 2);
            assert!(attributes(&both[..cut]).count() <= both.len());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_read_for_ever(bytes: Vec<u8>) {
            assert!(messages(&bytes).count() <= bytes.len());
            assert!(attributes(&bytes).count() <= bytes.len());
        }
    }

    #[test]
    fn a_verdict_is_read_whole_or_not_at_all() {
        let mut answer = framed(ERROR, 0, 9, &(-libc::ENOENT).to_ne_bytes());
        let (sequence, result) = verdict(&answer).unwrap();
        assert_eq!((sequence, result.unwrap_err().raw_os_error()), (9, Some(libc::ENOENT)));
        for cut in 0..answer.len() {
            assert!(verdict(&answer[..cut]).is_err(), "{cut}");
        }
        answer[4] = 3;
        assert!(verdict(&answer).is_err());
    }
}
