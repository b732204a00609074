//! What the daemon asks of a shim, one SEQPACKET message each; every request has one reply, in order, and the shim
//! tells every client once when init has ended.

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A signal for init.
    Kill { signal: i32 },
    /// A new size for the pty.
    Resize { columns: u16, rows: u16 },
    /// Goes on in the log file whose descriptor comes with the message.
    ReopenLog,
    /// Closes the container's stdin.
    CloseStdin,
}

/// What a shim sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// The request failed with this errno.
    Failed(i32),
    /// Init has ended and the exit record is written. Not a reply.
    Exited,
}

/// Size of every message.
pub const SIZE: usize = 5;

impl Request {
    /// The message.
    pub fn encode(self) -> [u8; SIZE] {
        match self {
            Self::Kill { signal } => with_number(1, signal),
            Self::Resize { columns, rows } => {
                let ([a, b], [c, d]) = (columns.to_le_bytes(), rows.to_le_bytes());
                [2, a, b, c, d]
            }
            Self::ReopenLog => with_number(3, 0),
            Self::CloseStdin => with_number(4, 0),
        }
    }

    /// The request in a message; `None` when it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let &[tag, a, b, c, d] = bytes else { return None };
        Some(match tag {
            1 => Self::Kill {
                signal: i32::from_le_bytes([a, b, c, d]),
            },
            2 => Self::Resize {
                columns: u16::from_le_bytes([a, b]),
                rows: u16::from_le_bytes([c, d]),
            },
            3 => Self::ReopenLog,
            4 => Self::CloseStdin,
            _ => return None,
        })
    }
}

impl Reply {
    /// The message.
    pub fn encode(self) -> [u8; SIZE] {
        match self {
            Self::Done => with_number(0, 0),
            Self::Failed(errno) => with_number(1, errno),
            Self::Exited => with_number(2, 0),
        }
    }

    /// The reply in a message; `None` when it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let &[tag, a, b, c, d] = bytes else { return None };
        Some(match tag {
            0 => Self::Done,
            1 => Self::Failed(i32::from_le_bytes([a, b, c, d])),
            2 => Self::Exited,
            _ => return None,
        })
    }
}

fn with_number(tag: u8, number: i32) -> [u8; SIZE] {
    let [a, b, c, d] = number.to_le_bytes();
    [tag, a, b, c, d]
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requests_come_back(signal: i32, columns: u16, rows: u16) {
            let all = [Request::Kill { signal }, Request::Resize { columns, rows }, Request::ReopenLog, Request::CloseStdin];
            for request in all {
                prop_assert_eq!(Request::decode(&request.encode()), Some(request));
            }
            for reply in [Reply::Done, Reply::Failed(signal), Reply::Exited] {
                prop_assert_eq!(Reply::decode(&reply.encode()), Some(reply));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: std::vec::Vec<u8>) {
            let _ = (Request::decode(&bytes), Reply::decode(&bytes));
        }
    }
}
