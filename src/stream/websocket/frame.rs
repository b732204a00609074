//! WebSocket frames: masked ones of a client to pieces of messages, and ours to bytes.
//!
//! ```text
//! | fin 1, reserved 3, opcode 4 | masked 1, length 7 | length 16 or 64 | mask 32 | payload
//! ```
//! Source: RFC 6455, section 5.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A message, as its sender calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A part of a message: `first` and `last` of it, or something in between. Parts may be empty.
    Message {
        kind: Kind,
        first: bool,
        last: bool,
        bytes: Bytes,
    },
    Ping(Bytes),
    Pong,
    Close,
}

/// What is no frame of a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("reserved bits {0:#x}")]
    Reserved(u8),
    #[error("opcode {0}")]
    Opcode(u8),
    #[error("a frame without a mask")]
    Unmasked,
    #[error("a control frame of {0} bytes or in parts")]
    Control(u64),
    #[error("a frame of {0} bytes")]
    Length(u64),
    #[error("a message that begins inside another, or goes on without one")]
    Sequence,
}

/// Reads frames from bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The message that is open between frames.
    message: Option<Kind>,
    payload: Option<Payload>,
}

/// The rest of a data frame.
#[derive(Debug)]
struct Payload {
    kind: Kind,
    first: bool,
    last: bool,
    left: u64,
    mask: [u8; 4],
}

/// A frame's head.
struct Head {
    fin: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
    size: usize,
}

impl Decoder {
    /// The next piece of `bytes`, which loses what was read; `None` when more has to come first.
    ///
    /// # Errors
    /// [`FrameError`]; nothing after it makes sense.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, FrameError> {
        if let Some(payload) = self.payload.take() {
            return Ok(self.piece(payload, bytes));
        }
        let Some(head) = Head::read(bytes)? else {
            return Ok(None);
        };
        if head.opcode & CONTROL != 0 {
            return Ok(control(&head, bytes));
        }
        let (kind, first) = match (head.opcode, self.message) {
            (CONTINUATION, Some(kind)) => (kind, false),
            (TEXT, None) => (Kind::Text, true),
            (BINARY, None) => (Kind::Binary, true),
            _ => return Err(FrameError::Sequence),
        };
        bytes.advance(head.size);
        self.message = (!head.fin).then_some(kind);
        let payload = Payload {
            kind,
            first,
            last: head.fin,
            left: head.length,
            mask: head.mask,
        };
        Ok(self.piece(payload, bytes))
    }

    /// As much of the payload as is there.
    fn piece(&mut self, mut payload: Payload, bytes: &mut BytesMut) -> Option<Piece> {
        if bytes.is_empty() && payload.left > 0 {
            self.payload = Some(payload);
            return None;
        }
        let count = usize::try_from(payload.left).unwrap_or(usize::MAX).min(bytes.len());
        let mut piece = bytes.split_to(count);
        unmask(&mut piece, payload.mask);
        let whole = count as u64 == payload.left;
        let message = Piece::Message {
            kind: payload.kind,
            first: payload.first,
            last: payload.last && whole,
            bytes: piece.freeze(),
        };
        if !whole {
            payload.left -= count as u64;
            payload.mask.rotate_left(count % 4);
            payload.first = false;
            self.payload = Some(payload);
        }
        Some(message)
    }
}

impl Head {
    fn read(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some(&[first, second]) = bytes.first_chunk() else {
            return Ok(None);
        };
        let (fin, opcode) = (first & 0x80 != 0, first & 0xf);
        if first & 0x70 != 0 {
            return Err(FrameError::Reserved(first & 0x70));
        }
        if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(FrameError::Opcode(opcode));
        }
        if second & 0x80 == 0 {
            return Err(FrameError::Unmasked);
        }
        let mut rest = &bytes[2..];
        let length = match second & 0x7f {
            126 => rest.try_get_u16().map(u64::from),
            127 => rest.try_get_u64(),
            short => Ok(u64::from(short)),
        };
        let Ok(length) = length else { return Ok(None) };
        if length >> 63 != 0 {
            return Err(FrameError::Length(length));
        }
        if opcode & CONTROL != 0 && (length > MOST_CONTROL || !fin) {
            return Err(FrameError::Control(length));
        }
        let Some(&mask) = rest.first_chunk() else {
            return Ok(None);
        };
        Ok(Some(Self {
            fin,
            opcode,
            length,
            mask,
            size: bytes.len() - rest.len() + mask.len(),
        }))
    }
}

fn control(head: &Head, bytes: &mut BytesMut) -> Option<Piece> {
    let length = usize::try_from(head.length).expect("at most 125");
    if bytes.len() < head.size + length {
        return None;
    }
    bytes.advance(head.size);
    let mut payload = bytes.split_to(length);
    unmask(&mut payload, head.mask);
    Some(match head.opcode {
        PING => Piece::Ping(payload.freeze()),
        PONG => Piece::Pong,
        _ => Piece::Close,
    })
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    // Eight bytes at a time: a gigabyte of stdin comes through here.
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends a whole message, the parts of its payload one after the other.
pub fn put_message(kind: Kind, parts: &[&[u8]], out: &mut BytesMut) {
    let opcode = match kind {
        Kind::Text => TEXT,
        Kind::Binary => BINARY,
    };
    put(opcode, parts, out);
}

/// Appends the answer to a ping; unasked for it is a sign of life.
pub fn put_pong(payload: &[u8], out: &mut BytesMut) {
    put(PONG, &[payload], out);
}

/// Appends the end of the conversation: normal closure. Source: RFC 6455, section 7.4.1.
pub fn put_close(out: &mut BytesMut) {
    put(CLOSE, &[&1000u16.to_be_bytes()], out);
}

fn put(opcode: u8, parts: &[&[u8]], out: &mut BytesMut) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(10 + length);
    out.put_u8(0x80 | opcode);
    match length {
        0..126 => out.put_u8(length as u8),
        126..0x1_0000 => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
    parts.iter().for_each(|part| out.put_slice(part));
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
/// The bit that control frames have.
const CONTROL: u8 = 8;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const MOST_CONTROL: u64 = 125;

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    /// What a client sends: a message in frames of these lengths, or a control frame.
    #[derive(Debug, Clone)]
    enum Sent {
        Message(Kind, Vec<Vec<u8>>),
        Ping(Vec<u8>),
        Close,
    }

    fn client_frame(fin: bool, opcode: u8, payload: &[u8], mask: [u8; 4], out: &mut BytesMut) {
        let mut plain = BytesMut::new();
        put(opcode, &[payload], &mut plain);
        let size = plain.len() - payload.len();
        out.put_u8(if fin { 0x80 | opcode } else { opcode });
        out.put_u8(0x80 | plain[1]);
        out.put_slice(&plain[2..size]);
        out.put_slice(&mask);
        for (position, byte) in payload.iter().enumerate() {
            out.put_u8(byte ^ mask[position % 4]);
        }
    }

    fn print(sent: &Sent, mask: [u8; 4], out: &mut BytesMut) {
        match sent {
            Sent::Ping(payload) => client_frame(true, PING, payload, mask, out),
            Sent::Close => client_frame(true, CLOSE, &1000u16.to_be_bytes(), mask, out),
            Sent::Message(kind, frames) => {
                for (number, payload) in frames.iter().enumerate() {
                    let opcode = match (number, kind) {
                        (0, Kind::Text) => TEXT,
                        (0, Kind::Binary) => BINARY,
                        _ => CONTINUATION,
                    };
                    client_frame(number + 1 == frames.len(), opcode, payload, mask, out);
                }
            }
        }
    }

    /// Messages joined, control frames as they are.
    fn decode(pieces: &[&[u8]]) -> Result<Vec<Piece>, FrameError> {
        let (mut decoder, mut bytes, mut found) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut open = Vec::new();
        for piece in pieces {
            bytes.extend_from_slice(piece);
            while let Some(piece) = decoder.next(&mut bytes)? {
                match piece {
                    Piece::Message {
                        kind,
                        first,
                        last,
                        bytes,
                    } => {
                        assert_eq!(first, open.is_empty(), "only the first piece says that it is");
                        open.push(bytes);
                        if last {
                            let bytes = std::mem::take(&mut open).concat().into();
                            let first = true;
                            found.push(Piece::Message {
                                kind,
                                first,
                                last,
                                bytes,
                            });
                        }
                    }
                    other => found.push(other),
                }
            }
        }
        assert!(bytes.is_empty() && open.is_empty());
        Ok(found)
    }

    fn expected(sent: &Sent) -> Piece {
        match sent {
            Sent::Ping(payload) => Piece::Ping(payload.clone().into()),
            Sent::Close => Piece::Close,
            Sent::Message(kind, frames) => Piece::Message {
                kind: *kind,
                first: true,
                last: true,
                bytes: frames.concat().into(),
            },
        }
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let payload = |most| prop::collection::vec(any::<u8>(), 0..most);
        let kind = prop_oneof![Just(Kind::Text), Just(Kind::Binary)];
        prop_oneof![
            4 => (kind, prop::collection::vec(payload(300), 1..4)).prop_map(|(kind, frames)| Sent::Message(kind, frames)),
            1 => payload(126).prop_map(Sent::Ping),
            1 => Just(Sent::Close),
        ]
    }

    proptest! {
        #[test]
        fn what_a_client_sends_is_read_however_it_is_split(
            sent in prop::collection::vec((sent(), any::<[u8; 4]>()), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut printed = BytesMut::new();
            sent.iter().for_each(|(sent, mask)| print(sent, *mask, &mut printed));
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(printed.len() + 1)).collect();
            cuts.extend([0, printed.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &printed[cut[0]..cut[1]]).collect();
            let expected: Vec<_> = sent.iter().map(|(sent, _)| expected(sent)).collect();
            prop_assert_eq!(decode(&pieces).unwrap(), expected);
        }

        #[test]
        fn no_bytes_bring_it_down(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
            let (mut decoder, mut bytes) = (Decoder::default(), BytesMut::from(&noise[..]));
            while let Ok(Some(_)) = decoder.next(&mut bytes) {}
        }
    }

    #[test]
    fn a_ping_may_come_inside_a_message() {
        let mut bytes = BytesMut::new();
        client_frame(false, BINARY, b"a", [1, 2, 3, 4], &mut bytes);
        client_frame(true, PING, b"p", [1, 2, 3, 4], &mut bytes);
        client_frame(true, CONTINUATION, b"b", [1, 2, 3, 4], &mut bytes);
        let found = decode(&[&bytes]).unwrap();
        assert_eq!(found[0], Piece::Ping(Bytes::from_static(b"p")));
        assert_eq!(found[1], expected(&Sent::Message(Kind::Binary, vec![b"ab".into()])));
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        let cases: &[(&[u8], FrameError)] = &[
            (&[0xc2, 0x80, 0, 0, 0, 0], FrameError::Reserved(0x40)),
            (&[0x83, 0x80, 0, 0, 0, 0], FrameError::Opcode(3)),
            (&[0x82, 0x00], FrameError::Unmasked),
            (&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], FrameError::Control(126)),
            (&[0x09, 0x80, 0, 0, 0, 0], FrameError::Control(0)),
            (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::Length(1 << 63)),
            (&[0x80, 0x80, 0, 0, 0, 0], FrameError::Sequence),
            (&[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0], FrameError::Sequence),
        ];
        for (bytes, expected) in cases {
            assert_eq!(decode(&[bytes]).as_ref(), Err(expected), "{bytes:02x?}");
        }
    }

    #[test]
    fn lengths_have_their_shortest_form() {
        for (length, head) in [(125, 2), (126, 4), (65535, 4), (65536, 10)] {
            let mut out = BytesMut::new();
            put_message(Kind::Binary, &[&vec![0; length]], &mut out);
            assert_eq!(out.len(), head + length);
        }
    }
}
