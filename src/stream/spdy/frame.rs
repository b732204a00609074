//! SPDY/3.1 frames: bytes to frames and back; nothing about streams.
//!
//! ```text
//! control  |1| version 15 | type 16 | flags 8 | length 24 | payload
//! data     |0| stream 31            | flags 8 | length 24 | payload
//! ```
//! What a server of ours has no use for is skipped: SETTINGS (sent empty, as a sign of life) and WINDOW_UPDATE (the clients' library neither sends the
//! latter nor obeys it), CREDENTIAL, and types nobody has defined. Source: SPDY draft 3.1, section 2.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A frame, or a piece of one: the payload of a data frame comes as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    SynReply {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    /// A SETTINGS frame without any; never read.
    NoSettings,
    /// Only the last piece of a frame carries its `fin`.
    Data {
        stream: u32,
        fin: bool,
        bytes: Bytes,
    },
}

/// What is no SPDY/3.1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("control frame of SPDY version {0}")]
    Version(u16),
    #[error("control frame of {length} bytes, type {kind}")]
    Length { kind: u16, length: usize },
}

/// Most bytes of a control frame that is kept: its headers are few and short.
pub const MOST_CONTROL: usize = 64 << 10;

/// Reads frames from bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    at: At,
}

/// Where in the bytes we are.
#[derive(Debug, Default)]
enum At {
    #[default]
    Head,
    Data {
        stream: u32,
        fin: bool,
        left: usize,
    },
    Skipped {
        left: usize,
    },
}

impl Decoder {
    /// The next frame of `bytes`, which loses what was read; `None` when more has to come first.
    ///
    /// # Errors
    /// [`FrameError`]; nothing after it makes sense.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            match self.at {
                At::Head => match self.head(bytes)? {
                    Some(frame) => return Ok(Some(frame)),
                    None if matches!(self.at, At::Head) => return Ok(None),
                    None => {}
                },
                At::Data { stream, fin, left } => {
                    if left > 0 && bytes.is_empty() {
                        return Ok(None);
                    }
                    let piece = bytes.split_to(left.min(bytes.len())).freeze();
                    let left = left - piece.len();
                    self.at = match left {
                        0 => At::Head,
                        left => At::Data { stream, fin, left },
                    };
                    let fin = fin && left == 0;
                    return Ok(Some(Frame::Data {
                        stream,
                        fin,
                        bytes: piece,
                    }));
                }
                At::Skipped { left } => {
                    let count = left.min(bytes.len());
                    bytes.advance(count);
                    if count < left {
                        self.at = At::Skipped { left: left - count };
                        return Ok(None);
                    }
                    self.at = At::Head;
                }
            }
        }
    }

    /// A whole control frame, or a step to where the payload is; neither when too little is there.
    fn head(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(&[a, b, c, d, flags, e, f, g]) = bytes.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, e, f, g]) as usize;
        let fin = flags & FLAG_FIN != 0;
        if a & 0x80 == 0 {
            bytes.advance(HEAD);
            let stream = u32::from_be_bytes([a, b, c, d]);
            self.at = At::Data {
                stream,
                fin,
                left: length,
            };
            return Ok(None);
        }
        let (version, kind) = (u16::from_be_bytes([a & 0x7f, b]), u16::from_be_bytes([c, d]));
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let least = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | PING | HEADERS => 4,
            RST_STREAM | GOAWAY => 8,
            _ => {
                bytes.advance(HEAD);
                self.at = At::Skipped { left: length };
                return Ok(None);
            }
        };
        if length < least || length > MOST_CONTROL {
            return Err(FrameError::Length { kind, length });
        }
        if bytes.len() < HEAD + length {
            return Ok(None);
        }
        bytes.advance(HEAD);
        let mut payload = bytes.split_to(length).freeze();
        let first = payload.get_u32() & LOW_31;
        Ok(Some(match kind {
            SYN_STREAM => {
                // The stream it belongs to, a priority and a credential slot: none of them means anything to us.
                payload.advance(6);
                Frame::SynStream {
                    stream: first,
                    fin,
                    block: payload,
                }
            }
            SYN_REPLY => Frame::SynReply {
                stream: first,
                fin,
                block: payload,
            },
            HEADERS => Frame::Headers {
                stream: first,
                fin,
                block: payload,
            },
            RST_STREAM => Frame::RstStream {
                stream: first,
                status: payload.get_u32(),
            },
            GOAWAY => Frame::GoAway {
                last: first,
                status: payload.get_u32(),
            },
            _ => Frame::Ping { id: first },
        }))
    }
}

impl Frame {
    /// Appends the frame to `out`. Data longer than a frame can be becomes several.
    pub fn put(&self, out: &mut BytesMut) {
        match self {
            Frame::SynStream { stream, fin, block } => {
                control(out, SYN_STREAM, *fin, 10 + block.len());
                out.put_u32(*stream);
                out.put_bytes(0, 6);
                out.put_slice(block);
            }
            Frame::SynReply { stream, fin, block } => with_block(out, SYN_REPLY, *stream, *fin, block),
            Frame::Headers { stream, fin, block } => with_block(out, HEADERS, *stream, *fin, block),
            Frame::RstStream { stream, status } => two_words(out, RST_STREAM, *stream, *status),
            Frame::GoAway { last, status } => two_words(out, GOAWAY, *last, *status),
            Frame::Ping { id } => {
                control(out, PING, false, 4);
                out.put_u32(*id);
            }
            Frame::NoSettings => {
                control(out, SETTINGS, false, 4);
                out.put_u32(0);
            }
            Frame::Data { stream, fin, bytes } => {
                let (mut rest, mut begun) = (&bytes[..], false);
                while !begun || !rest.is_empty() {
                    let (piece, after) = rest.split_at(rest.len().min(LOW_24 as usize));
                    out.put_u32(*stream & LOW_31);
                    out.put_u32(flags_and_length(*fin && after.is_empty(), piece.len()));
                    out.put_slice(piece);
                    (rest, begun) = (after, true);
                }
            }
        }
    }
}

fn with_block(out: &mut BytesMut, kind: u16, stream: u32, fin: bool, block: &[u8]) {
    control(out, kind, fin, 4 + block.len());
    out.put_u32(stream);
    out.put_slice(block);
}

fn two_words(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(out, kind, false, 8);
    out.put_u32(first);
    out.put_u32(second);
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(flags_and_length(fin, length));
}

fn flags_and_length(fin: bool, length: usize) -> u32 {
    let length = u32::try_from(length).unwrap_or(LOW_24).min(LOW_24);
    u32::from(if fin { FLAG_FIN } else { 0 }) << 24 | length
}

const HEAD: usize = 8;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const LOW_31: u32 = 0x7fff_ffff;
const LOW_24: u32 = 0x00ff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    /// All frames of `pieces`, the data of one frame joined again.
    fn decode(pieces: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
        let (mut decoder, mut bytes, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut open: Option<(u32, Vec<u8>)> = None;
        for piece in pieces {
            bytes.extend_from_slice(piece);
            while let Some(frame) = decoder.next(&mut bytes)? {
                let Frame::Data {
                    stream,
                    fin,
                    bytes: data,
                } = frame
                else {
                    frames.push(frame);
                    continue;
                };
                let (known, mut whole) = open.take().unwrap_or((stream, Vec::new()));
                assert_eq!(known, stream);
                whole.extend_from_slice(&data);
                match decoder.at {
                    At::Head => frames.push(Frame::Data {
                        stream,
                        fin,
                        bytes: whole.into(),
                    }),
                    _ => open = Some((stream, whole)),
                }
            }
        }
        assert!(bytes.is_empty(), "{} bytes were left", bytes.len());
        Ok(frames)
    }

    fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let stream = || 0..=LOW_31;
        prop_oneof![
            (stream(), any::<bool>(), bytes(40)).prop_map(|(stream, fin, block)| Frame::SynStream {
                stream,
                fin,
                block
            }),
            (stream(), any::<bool>(), bytes(40)).prop_map(|(stream, fin, block)| Frame::SynReply {
                stream,
                fin,
                block
            }),
            (stream(), any::<bool>(), bytes(40)).prop_map(|(stream, fin, block)| Frame::Headers { stream, fin, block }),
            (stream(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            (stream(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            stream().prop_map(|id| Frame::Ping { id }),
            (stream(), any::<bool>(), bytes(200)).prop_map(|(stream, fin, bytes)| Frame::Data { stream, fin, bytes }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed_however_it_is_split(
            frames in prop::collection::vec(frame(), 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut printed = BytesMut::new();
            frames.iter().for_each(|frame| frame.put(&mut printed));
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(printed.len() + 1)).collect();
            cuts.extend([0, printed.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &printed[cut[0]..cut[1]]).collect();
            prop_assert_eq!(decode(&pieces).unwrap(), frames);
        }

        #[test]
        fn no_bytes_bring_it_down(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
            let (mut decoder, mut bytes) = (Decoder::default(), BytesMut::from(&noise[..]));
            while let Ok(Some(_)) = decoder.next(&mut bytes) {}
        }
    }

    #[test]
    fn what_has_no_use_is_skipped() {
        let settings = [0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 100];
        let window = [0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 1, 0, 0];
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        let mut none = BytesMut::new();
        Frame::NoSettings.put(&mut none);
        let frames = decode(&[&settings, &window, &none, &ping]).unwrap();
        assert_eq!(frames, [Frame::Ping { id: 1 }]);
    }

    #[test]
    fn other_versions_and_lengths_are_refused() {
        assert_eq!(decode(&[&[0x80, 2, 0, 6, 0, 0, 0, 4]]), Err(FrameError::Version(2)));
        let wrong = |kind, length| Err(FrameError::Length { kind, length });
        assert_eq!(decode(&[&[0x80, 3, 0, 6, 0, 0, 0, 3]]), wrong(6, 3));
        assert_eq!(decode(&[&[0x80, 3, 0, 1, 0, 0, 0, 9]]), wrong(1, 9));
        assert_eq!(decode(&[&[0x80, 3, 0, 8, 0, 1, 0, 1]]), wrong(8, MOST_CONTROL + 1));
    }

    #[test]
    fn data_longer_than_a_frame_becomes_two() {
        let bytes = Bytes::from(vec![7; (LOW_24 + 5) as usize]);
        let mut out = BytesMut::new();
        Frame::Data {
            stream: 1,
            fin: true,
            bytes,
        }
        .put(&mut out);
        let frames = decode(&[&out]).unwrap();
        let lengths: Vec<_> = frames
            .iter()
            .map(|frame| match frame {
                Frame::Data { bytes, fin, .. } => (bytes.len(), *fin),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [(LOW_24 as usize, false), (5, true)]);
    }
}
