//! What a connection carries, whichever way it is written: the one language of `carrier` and the sessions.
//!
//! Three ways: SPDY on the bare connection, SPDY inside the binary messages of a WebSocket, channels of a WebSocket.

use bytes::{Bytes, BytesMut};

use super::{
    spdy::{
        connection::{self, ConnectionError},
        frame::Frame,
        headers::{Deflater, Headers},
    },
    websocket::{
        channels::{self, ChannelError, Form},
        frame::{self as websocket, FrameError, Kind, Piece},
    },
};

/// How a connection is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Spdy,
    /// SPDY in the messages of a WebSocket.
    Tunnel,
    /// A WebSocket whose channels are there from the start.
    Channels(Form),
}

/// From the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Opened {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    /// The protocol wants this answered.
    Answer(Outgoing),
    GoAway,
}

/// To the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A stream is accepted.
    Reply {
        stream: u32,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    Pong(Bytes),
    /// Means nothing and wants no answer. To a client whose bytes we do not read it says that we live, which its pings
    /// stuck behind them cannot find out; and the system of a client that is gone answers it with a reset.
    StillHere,
    /// Nothing comes after it.
    Goodbye,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("SPDY")]
    Spdy(#[from] ConnectionError),
    #[error("WebSocket")]
    WebSocket(#[from] FrameError),
    #[error("WebSocket channels")]
    Channels(#[from] ChannelError),
}

/// The client's bytes to what they mean.
#[derive(Debug)]
pub enum Decoder {
    Spdy(connection::Receiver),
    Tunnel {
        outer: websocket::Decoder,
        inner: connection::Receiver,
        /// Bytes that came out of the tunnel.
        bytes: BytesMut,
    },
    Channels(channels::Receiver),
}

impl Decoder {
    pub fn new(wire: Wire) -> Self {
        match wire {
            Wire::Spdy => Self::Spdy(Default::default()),
            Wire::Tunnel => Self::Tunnel {
                outer: Default::default(),
                inner: Default::default(),
                bytes: BytesMut::new(),
            },
            Wire::Channels(form) => Self::Channels(channels::Receiver::new(form)),
        }
    }

    /// The next thing in `bytes`, which loses what was read; `None` when more has to come first.
    ///
    /// # Errors
    /// [`WireError`]: the connection has to be closed.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, WireError> {
        match self {
            Self::Spdy(receiver) => Ok(receiver.next(bytes)?.map(of_spdy)),
            Self::Channels(receiver) => Ok(receiver.next(bytes)?.map(of_channels)),
            Self::Tunnel {
                outer,
                inner,
                bytes: tunnelled,
            } => loop {
                if let Some(event) = inner.next(tunnelled)? {
                    return Ok(Some(of_spdy(event)));
                }
                match outer.next(bytes)? {
                    None => return Ok(None),
                    Some(Piece::Message { bytes, .. }) => tunnelled.extend_from_slice(&bytes),
                    Some(Piece::Ping(payload)) => return Ok(Some(Incoming::Answer(Outgoing::Pong(payload)))),
                    Some(Piece::Pong) => {}
                    Some(Piece::Close) => return Ok(Some(Incoming::GoAway)),
                }
            },
        }
    }
}

fn of_spdy(event: connection::Event) -> Incoming {
    use connection::Event;
    match event {
        Event::Opened { stream, headers, fin } => Incoming::Opened { stream, headers, fin },
        Event::Data { stream, bytes, fin } => Incoming::Data { stream, bytes, fin },
        Event::Reset { stream } => Incoming::Reset { stream },
        Event::Refused { stream, status } => Incoming::Answer(Outgoing::Reset { stream, status }),
        Event::Ping { id } => Incoming::Answer(Outgoing::Ping { id }),
        Event::GoAway => Incoming::GoAway,
    }
}

fn of_channels(event: channels::Event) -> Incoming {
    use channels::Event;
    let data = |channel: u8, bytes, fin| Incoming::Data {
        stream: channel.into(),
        bytes,
        fin,
    };
    match event {
        Event::Data { channel, bytes } => data(channel, bytes, false),
        Event::Closed { channel } => data(channel, Bytes::new(), true),
        Event::Ping(payload) => Incoming::Answer(Outgoing::Pong(payload)),
        Event::GoAway => Incoming::GoAway,
    }
}

/// What we say to bytes.
#[derive(Debug)]
pub struct Encoder {
    wire: Wire,
    deflater: Deflater,
}

impl Encoder {
    pub fn new(wire: Wire) -> Self {
        Self {
            wire,
            deflater: Deflater::default(),
        }
    }

    /// Appends `what` to `out`, if this way of writing has a form for it.
    pub fn put(&mut self, what: &Outgoing, out: &mut BytesMut) {
        match (self.wire, what) {
            (Wire::Spdy, what) => self.spdy(what, out),
            (Wire::Channels(form), Outgoing::Data { stream, bytes, fin }) => {
                // An empty message says hello when a channel opens, so an end that has no form is not sent as one.
                if !(bytes.is_empty() && *fin) {
                    let channel = u8::try_from(*stream).expect("channels of ours are numbered 0 to 4");
                    channels::put(form, channel, bytes, out);
                }
            }
            (_, Outgoing::Pong(payload)) => websocket::put_pong(payload, out),
            (_, Outgoing::StillHere) => websocket::put_pong(&[], out),
            (Wire::Tunnel, what) => {
                let mut inner = BytesMut::new();
                self.spdy(what, &mut inner);
                if !inner.is_empty() {
                    websocket::put_message(Kind::Binary, &[&inner], out);
                }
                if *what == Outgoing::Goodbye {
                    websocket::put_close(out);
                }
            }
            (Wire::Channels(_), Outgoing::Goodbye) => websocket::put_close(out),
            (Wire::Channels(_), Outgoing::Reply { .. } | Outgoing::Reset { .. } | Outgoing::Ping { .. }) => {}
        }
    }

    fn spdy(&mut self, what: &Outgoing, out: &mut BytesMut) {
        let frame = match what {
            Outgoing::Data { bytes, fin: false, .. } if bytes.is_empty() => return,
            Outgoing::Reply { stream } => Frame::SynReply {
                stream: *stream,
                fin: false,
                block: self.deflater.block(&Headers::default()),
            },
            Outgoing::Data { stream, bytes, fin } => Frame::Data {
                stream: *stream,
                fin: *fin,
                bytes: bytes.clone(),
            },
            Outgoing::Reset { stream, status } => Frame::RstStream {
                stream: *stream,
                status: *status,
            },
            Outgoing::Ping { id } => Frame::Ping { id: *id },
            Outgoing::Goodbye => Frame::GoAway {
                last: EVERY_STREAM,
                status: 0,
            },
            // Not a ping: the library would hold up everything else until its answer is written.
            Outgoing::StillHere => Frame::NoSettings,
            Outgoing::Pong(_) => return,
        };
        frame.put(out);
    }
}

/// The last stream that a farewell says was served.
const EVERY_STREAM: u32 = 0x7fff_ffff;

#[cfg(test)]
mod test;
