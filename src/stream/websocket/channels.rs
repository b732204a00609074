//! Remote commands over WebSocket: the first byte of a message names its channel.
//!
//! | form | message | closing a channel |
//! |---|---|---|
//! | `v5.channel.k8s.io` | binary: channel, bytes | channel 255 with the channel's number |
//! | `v4.channel.k8s.io`, `channel.k8s.io` | binary: channel, bytes | not possible |
//! | `v4.base64.channel.k8s.io`, `base64.channel.k8s.io` | text: digit, bytes in base64 | not possible |
//!
//! Only the client closes channels: its library takes 255 for an unknown one. We close all of them by closing the connection.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};

use super::frame::{self, Decoder, FrameError, Kind, Piece};

/// How channels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Binary { closes: bool },
    Base64,
}

/// What a client did.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Data { channel: u8, bytes: Bytes },
    Closed { channel: u8 },
    Ping(Bytes),
    GoAway,
}

/// Why a connection cannot go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    #[error("frame")]
    Frame(#[from] FrameError),
    #[error("channel {0:?} is none")]
    Channel(char),
    #[error("a message that is no base64")]
    Base64,
}

/// The client's direction.
#[derive(Debug)]
pub struct Receiver {
    form: Form,
    decoder: Decoder,
    /// The channel of the message that is under way.
    channel: Option<u8>,
    /// Of it: base64 that is not a whole group of four yet, or the channel that it closes.
    rest: Vec<u8>,
    /// Base64 of it has ended: nothing may follow its padding.
    padded: bool,
}

impl Receiver {
    pub fn new(form: Form) -> Self {
        Self {
            form,
            decoder: Decoder::default(),
            channel: None,
            rest: Vec::new(),
            padded: false,
        }
    }

    /// The next event of `bytes`, which loses what was read; `None` when more has to come first.
    ///
    /// # Errors
    /// [`ChannelError`]: the connection has to be closed.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Event>, ChannelError> {
        while let Some(piece) = self.decoder.next(bytes)? {
            let event = match piece {
                Piece::Message { last, bytes, .. } => self.message(bytes, last)?,
                Piece::Ping(payload) => Some(Event::Ping(payload)),
                Piece::Pong => None,
                Piece::Close => Some(Event::GoAway),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn message(&mut self, mut bytes: Bytes, last: bool) -> Result<Option<Event>, ChannelError> {
        let channel = match self.channel {
            Some(channel) => channel,
            None if bytes.is_empty() => return Ok(None),
            None => self.named(bytes.split_to(1)[0])?,
        };
        self.channel = (!last).then_some(channel);
        if channel == CLOSE && self.form == (Form::Binary { closes: true }) {
            // The channel that is closed is the first byte; what else there may be means nothing.
            if self.rest.is_empty() {
                self.rest.extend(bytes.first());
            }
            let closed = if last { self.rest.pop() } else { None };
            return Ok(closed.map(|channel| Event::Closed { channel }));
        }
        if self.form == Form::Base64 {
            bytes = self.decode(&bytes, last)?;
        }
        Ok((!bytes.is_empty()).then_some(Event::Data { channel, bytes }))
    }

    fn named(&self, byte: u8) -> Result<u8, ChannelError> {
        match self.form {
            Form::Binary { .. } => Ok(byte),
            Form::Base64 if byte.is_ascii_digit() => Ok(byte - b'0'),
            Form::Base64 => Err(ChannelError::Channel(byte.into())),
        }
    }

    /// Decodes whole groups of four, and keeps the rest for the next piece.
    fn decode(&mut self, piece: &[u8], last: bool) -> Result<Bytes, ChannelError> {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.len() - self.rest.len() % 4;
        let padded = self.rest[..whole].ends_with(b"=");
        let follows = (self.padded && !self.rest.is_empty()) || (padded && whole != self.rest.len());
        if follows || (last && whole != self.rest.len()) {
            return Err(ChannelError::Base64);
        }
        self.padded = !last && (self.padded || padded);
        let bytes = BASE64_STANDARD
            .decode(&self.rest[..whole])
            .map_err(|_| ChannelError::Base64)?;
        self.rest.drain(..whole);
        Ok(bytes.into())
    }
}

/// Appends a message of a channel.
pub fn put(form: Form, channel: u8, bytes: &[u8], out: &mut BytesMut) {
    match form {
        Form::Binary { .. } => frame::put_message(Kind::Binary, &[&[channel], bytes], out),
        Form::Base64 => {
            let text = BASE64_STANDARD.encode(bytes);
            frame::put_message(Kind::Text, &[&[b'0' + channel], text.as_bytes()], out);
        }
    }
}

/// The channel that says which channel the client closes.
const CLOSE: u8 = 255;

#[cfg(test)]
mod test {
    use super::*;

    /// A client's message in frames of these payloads.
    fn message(kind: u8, frames: &[&[u8]]) -> BytesMut {
        let mut out = BytesMut::new();
        for (number, payload) in frames.iter().enumerate() {
            let fin = if number + 1 == frames.len() { 0x80 } else { 0 };
            let opcode = if number == 0 { kind } else { 0 };
            out.extend_from_slice(&[fin | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
            out.extend_from_slice(payload);
        }
        out
    }

    fn events(form: Form, mut bytes: BytesMut) -> Result<Vec<Event>, ChannelError> {
        let (mut receiver, mut found) = (Receiver::new(form), Vec::new());
        while let Some(event) = receiver.next(&mut bytes)? {
            found.push(event);
        }
        Ok(found)
    }

    fn data(channel: u8, bytes: &'static [u8]) -> Event {
        let bytes = bytes.into();
        Event::Data { channel, bytes }
    }

    const V5: Form = Form::Binary { closes: true };
    const V4: Form = Form::Binary { closes: false };

    #[test]
    fn bytes_and_closing() {
        assert_eq!(events(V5, message(2, &[b"\0in"])), Ok(vec![data(0, b"in")]));
        assert_eq!(
            events(V5, message(2, &[b"\0i", b"n"])),
            Ok(vec![data(0, b"i"), data(0, b"n")])
        );
        assert_eq!(
            events(V5, message(2, &[b"\xff\0"])),
            Ok(vec![Event::Closed { channel: 0 }])
        );
        assert_eq!(
            events(V5, message(2, &[b"\xff", b"\0"])),
            Ok(vec![Event::Closed { channel: 0 }])
        );
        assert_eq!(
            events(V5, message(2, &[b"\xff\0\x01"])),
            Ok(vec![Event::Closed { channel: 0 }])
        );
        assert_eq!(
            events(V5, message(2, &[b"\xff\0", b"\x01"])),
            Ok(vec![Event::Closed { channel: 0 }])
        );
        // An empty message is how the server says hello; it means nothing.
        assert_eq!(events(V5, message(2, &[b"", b"\0"])), Ok(vec![]));
        assert_eq!(events(V4, message(2, &[b"\xff\0"])), Ok(vec![data(255, b"\0")]));
    }

    #[test]
    fn base64_wherever_it_is_cut() {
        let whole = data(4, b"{\"Width\":1}");
        assert_eq!(
            events(Form::Base64, message(1, &[b"4eyJXaWR0aCI6MX0="])),
            Ok(vec![whole])
        );
        let pieces = events(Form::Base64, message(1, &[b"4eyJ", b"XaWR0a", b"CI6MX0="])).unwrap();
        let joined: Vec<u8> = pieces
            .iter()
            .flat_map(|event| match event {
                Event::Data { channel: 4, bytes } => bytes.to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(joined, b"{\"Width\":1}");
        for wrong in [&b"4eyJ="[..], b"4ey", b"4!!!!", b"4eA==eyJX"] {
            assert_eq!(events(Form::Base64, message(1, &[wrong])), Err(ChannelError::Base64));
        }
        let after_the_end = message(1, &[b"4eA==", b"eyJX"]);
        assert_eq!(events(Form::Base64, after_the_end), Err(ChannelError::Base64));
        assert_eq!(
            events(Form::Base64, message(1, &[b"x"])),
            Err(ChannelError::Channel('x'))
        );
    }

    #[test]
    fn our_messages() {
        let mut out = BytesMut::new();
        put(V5, 1, b"out", &mut out);
        put(Form::Base64, 3, b"err", &mut out);
        assert_eq!(&out[..], b"\x82\x04\x01out\x81\x053ZXJy");
    }
}
