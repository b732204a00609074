//! What a client's frames mean: streams that open, bring bytes and end.
//!
//! ```text
//! (unknown) ──SYN_STREAM──▶ open ──FIN or RST_STREAM──▶ ended
//! ```
//! Only the client opens streams, with odd numbers that grow. What comes for a stream that has ended is dropped: it may
//! have been on its way when we reset it.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};

use super::{
    frame::{Decoder, Frame, FrameError},
    headers::{HeaderError, Headers, Inflater},
};

/// Something that a client did.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
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
    /// The client wants nothing more of a stream, in both directions.
    Reset {
        stream: u32,
    },
    /// A stream that is not let in: answer with RST_STREAM.
    Refused {
        stream: u32,
        status: u32,
    },
    /// To be sent back as it is.
    Ping {
        id: u32,
    },
    GoAway,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("frame")]
    Frame(#[from] FrameError),
    #[error("headers")]
    Headers(#[from] HeaderError),
    #[error("data for stream {0}, which was never opened")]
    NeverOpened(u32),
}

/// Most streams that send at the same time.
pub const MOST_STREAMS: usize = 2000;

/// Status codes of RST_STREAM. Source: SPDY draft 3.1, section 2.6.3.
pub mod status {
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const REFUSED_STREAM: u32 = 3;
    pub const CANCEL: u32 = 5;
}

/// The client's direction of a connection.
#[derive(Debug, Default)]
pub struct Receiver {
    decoder: Decoder,
    inflater: Inflater,
    /// The greatest number of a stream so far.
    last: u32,
    /// Streams that the client may still send on.
    open: HashSet<u32>,
}

impl Receiver {
    /// The next event of `bytes`, which loses what was read; `None` when more has to come first.
    ///
    /// # Errors
    /// [`ConnectionError`]: the connection has to be closed.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Event>, ConnectionError> {
        while let Some(frame) = self.decoder.next(bytes)? {
            if let Some(event) = self.event(frame)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn event(&mut self, frame: Frame) -> Result<Option<Event>, ConnectionError> {
        Ok(match frame {
            Frame::SynStream { stream, fin, block } => {
                let headers = self.inflater.headers(&block)?;
                Some(self.opened(stream, headers, fin))
            }
            // Nothing in them matters, but the stream of compressed headers has to be followed.
            Frame::SynReply { block, .. } => self.inflater.headers(&block).map(|_| None)?,
            Frame::Headers { stream, fin, block } => {
                self.inflater.headers(&block)?;
                let ended = fin && self.open.remove(&stream);
                ended.then_some(Event::Data {
                    stream,
                    bytes: Bytes::new(),
                    fin,
                })
            }
            Frame::Data { stream, fin, bytes } => {
                if !self.open.contains(&stream) {
                    let was_open = stream % 2 == 1 && stream <= self.last;
                    return if was_open {
                        Ok(None)
                    } else {
                        Err(ConnectionError::NeverOpened(stream))
                    };
                }
                if fin {
                    self.open.remove(&stream);
                }
                Some(Event::Data { stream, bytes, fin })
            }
            Frame::RstStream { stream, .. } => {
                self.open.remove(&stream);
                Some(Event::Reset { stream })
            }
            // An even number is the answer to a ping of ours, and we send none.
            Frame::Ping { id } => (id % 2 == 1).then_some(Event::Ping { id }),
            Frame::GoAway { .. } => Some(Event::GoAway),
            Frame::NoSettings => None,
        })
    }

    fn opened(&mut self, stream: u32, headers: Headers, fin: bool) -> Event {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Event::Refused {
                stream,
                status: status::PROTOCOL_ERROR,
            };
        }
        self.last = stream;
        if self.open.len() >= MOST_STREAMS {
            return Event::Refused {
                stream,
                status: status::REFUSED_STREAM,
            };
        }
        if !fin {
            self.open.insert(stream);
        }
        Event::Opened { stream, headers, fin }
    }
}

#[cfg(test)]
mod test {
    use super::{super::headers::Deflater, *};

    /// A client that says what it is told to, and what the server makes of it.
    #[derive(Default)]
    struct Pair {
        deflater: Deflater,
        receiver: Receiver,
    }

    impl Pair {
        fn open(&mut self, stream: u32, fin: bool) -> Vec<Event> {
            let block = self.deflater.block(&Headers::default());
            self.say(Frame::SynStream { stream, fin, block }).unwrap()
        }

        fn data(&mut self, stream: u32, bytes: &'static [u8], fin: bool) -> Result<Vec<Event>, ConnectionError> {
            let bytes = Bytes::from_static(bytes);
            self.say(Frame::Data { stream, fin, bytes })
        }

        fn say(&mut self, frame: Frame) -> Result<Vec<Event>, ConnectionError> {
            let (mut bytes, mut events) = (BytesMut::new(), Vec::new());
            frame.put(&mut bytes);
            while let Some(event) = self.receiver.next(&mut bytes)? {
                events.push(event);
            }
            Ok(events)
        }
    }

    #[test]
    fn a_stream_opens_brings_bytes_and_ends() {
        let mut pair = Pair::default();
        let headers = Headers::default();
        let opened = [Event::Opened {
            stream: 1,
            headers,
            fin: false,
        }];
        assert_eq!(pair.open(1, false), opened);
        let brought = |bytes: &'static [u8], fin| {
            let bytes = bytes.into();
            [Event::Data { stream: 1, bytes, fin }]
        };
        assert_eq!(pair.data(1, b"ab", false).unwrap(), brought(b"ab", false));
        assert_eq!(pair.data(1, b"c", true).unwrap(), brought(b"c", true));
        assert_eq!(pair.data(1, b"late", false).unwrap(), []);
    }

    #[test]
    fn numbers_are_odd_and_grow() {
        let mut pair = Pair::default();
        let refused = |stream| {
            let status = status::PROTOCOL_ERROR;
            [Event::Refused { stream, status }]
        };
        pair.open(5, true);
        assert_eq!(pair.open(5, true), refused(5));
        assert_eq!(pair.open(3, true), refused(3));
        assert_eq!(pair.open(8, true), refused(8));
        assert_eq!(pair.open(0, true), refused(0));
        assert_eq!(pair.open(7, true).len(), 1);
    }

    #[test]
    fn data_for_what_was_never_opened_ends_the_connection() {
        for stream in [0, 1, 2] {
            let error = Pair::default().data(stream, b"x", false).unwrap_err();
            assert!(matches!(error, ConnectionError::NeverOpened(which) if which == stream));
        }
    }

    #[test]
    fn streams_are_bounded() {
        let mut pair = Pair::default();
        for number in 0..MOST_STREAMS as u32 {
            assert!(matches!(pair.open(2 * number + 1, false)[..], [Event::Opened { .. }]));
        }
        let next = 2 * MOST_STREAMS as u32 + 1;
        let status = status::REFUSED_STREAM;
        assert_eq!(pair.open(next, false), [Event::Refused { stream: next, status }]);
        pair.say(Frame::RstStream { stream: 1, status: 5 }).unwrap();
        assert!(matches!(pair.open(next + 2, false)[..], [Event::Opened { .. }]));
    }

    #[test]
    fn replies_and_headers_keep_the_compressed_stream_in_step() {
        let mut pair = Pair::default();
        pair.open(1, false);
        let named = Headers(vec![("name".into(), "value".into())]);
        let block = pair.deflater.block(&named);
        let fin = false;
        assert_eq!(pair.say(Frame::SynReply { stream: 1, fin, block }).unwrap(), []);
        let block = pair.deflater.block(&named);
        assert_eq!(pair.say(Frame::Headers { stream: 1, fin, block }).unwrap(), []);
        assert!(matches!(pair.open(3, true)[..], [Event::Opened { stream: 3, .. }]));
    }
}
