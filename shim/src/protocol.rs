//! What the daemon asks of a shim, one SEQPACKET message each; every request but [`Request::EndInput`] has one reply, in
//! order, and the shim tells every client once when init has ended.
//!
//! A connection that sends [`Request::Attach`] is that attach from then on: it ends when either side closes it.

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A signal for init.
    Kill { signal: i32 },
    /// A new size for the pty.
    Resize { columns: u16, rows: u16 },
    /// Goes on in the log file whose descriptor comes with the message.
    ReopenLog,
    /// This connection's client has no more input. No reply.
    EndInput,
    /// Shows this client what the container prints from now on, and lets it write the container's input.
    Attach(Wanted),
}

/// Which streams an attach is about. With the request come a stream socket for stdout and one for stderr, in this order
/// and as far as wanted; they are closed when their stream ends. With the reply comes where input is written, if it is
/// wanted and the container has one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// What a shim sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// The request failed with this errno.
    Failed(i32),
    /// Init has ended and the exit record is written. Not a reply.
    Exited,
    /// This attach ends because its client read too slowly. Not a reply.
    TooSlow,
    /// The container's input was closed, because another client that had it has ended. Not a reply.
    InputClosed,
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
            Self::EndInput => with_number(4, 0),
            Self::Attach(Wanted { stdin, stdout, stderr }) => {
                with_number(5, i32::from(stdin) | i32::from(stdout) << 1 | i32::from(stderr) << 2)
            }
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
            4 => Self::EndInput,
            5 if a < 8 && [b, c, d] == [0; 3] => Self::Attach(Wanted {
                stdin: a & 1 != 0,
                stdout: a & 2 != 0,
                stderr: a & 4 != 0,
            }),
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
            Self::TooSlow => with_number(3, 0),
            Self::InputClosed => with_number(4, 0),
        }
    }

    /// The reply in a message; `None` when it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let &[tag, a, b, c, d] = bytes else { return None };
        Some(match tag {
            0 => Self::Done,
            1 => Self::Failed(i32::from_le_bytes([a, b, c, d])),
            2 => Self::Exited,
            3 => Self::TooSlow,
            4 => Self::InputClosed,
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
        fn requests_come_back(signal: i32, columns: u16, rows: u16, stdin: bool, stdout: bool, stderr: bool) {
            let attach = Request::Attach(Wanted { stdin, stdout, stderr });
            let others = [Request::Kill { signal }, Request::Resize { columns, rows }, Request::ReopenLog, Request::EndInput];
            for request in others.into_iter().chain([attach]) {
                prop_assert_eq!(Request::decode(&request.encode()), Some(request));
            }
            for reply in [Reply::Done, Reply::Failed(signal), Reply::Exited, Reply::TooSlow, Reply::InputClosed] {
                prop_assert_eq!(Reply::decode(&reply.encode()), Some(reply));
            }
        }

        #[test]
        fn what_is_understood_is_said_in_one_way_only(tag in 0..8u8, rest: [u8; 4]) {
            let bytes = [tag, rest[0], rest[1], rest[2], rest[3]];
            // Numbers that a message has no use for are not looked at.
            if let Some(request @ Request::Attach(_)) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: std::vec::Vec<u8>) {
            let _ = (Request::decode(&bytes), Reply::decode(&bytes));
        }
    }
}
