//! How a shim is started: which descriptors it finds, and its arguments.
//!
//! `inro-shim <container id> <flags>` supervises a container; `inro-shim reaper` is pid 1 of a shared PID namespace.

/// SEQPACKET listener, bound at `<container folder>/shim.sock`.
pub const CONTROL: i32 = 3;
/// The container's folder in the run folder.
pub const FOLDER: i32 = 4;
/// The log, opened for appending; only with [`Flags::log`].
pub const LOG: i32 = 5;
/// Where init's pid arrives: decimal and a newline. End of file without it: there is no container.
pub const INIT_PID: i32 = 6;
/// Stdout's read end; with a tty the listener at which the pty's master arrives.
pub const STDOUT: i32 = 7;
/// Stderr's read end; absent with a tty.
pub const STDERR: i32 = 8;
/// Stdin's write end; only with [`Flags::stdin`] and without a tty.
pub const STDIN: i32 = 9;
/// `memory.events` of the container's v2 cgroup; only with [`Flags::events`].
pub const EVENTS: i32 = 10;
/// Everything from here on is closed.
pub const FIRST_FOREIGN: i32 = 11;

/// Names in the container's folder.
pub const SOCKET_NAME: &str = "shim.sock";
/// The pty's way to the shim.
pub const CONSOLE_NAME: &str = "console.sock";

/// What a container's streams are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub log: bool,
    pub events: bool,
}

impl Flags {
    /// From the argument's letters; unknown ones are ignored.
    pub fn parse(letters: &[u8]) -> Self {
        let has = |letter| letters.contains(&letter);
        Self {
            tty: has(b't'),
            stdin: has(b'i'),
            stdin_once: has(b'o'),
            log: has(b'l'),
            events: has(b'm'),
        }
    }

    /// Whether the end of an attached client's input is the end of the container's. A terminal's input has no end, as
    /// with both peers: what it prints would end with it.
    pub fn input_ends_with_client(self) -> bool {
        self.stdin && self.stdin_once && !self.tty
    }

    /// The argument's letters, padded with `-` so that the argument is never empty.
    pub fn letters(self) -> [u8; 5] {
        let letter = |set: bool, letter: u8| if set { letter } else { b'-' };
        [
            letter(self.tty, b't'),
            letter(self.stdin, b'i'),
            letter(self.stdin_once, b'o'),
            letter(self.log, b'l'),
            letter(self.events, b'm'),
        ]
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn flags_come_back_from_their_letters() {
        for bits in 0..32 {
            let flags = Flags {
                tty: bits & 1 != 0,
                stdin: bits & 2 != 0,
                stdin_once: bits & 4 != 0,
                log: bits & 8 != 0,
                events: bits & 16 != 0,
            };
            assert_eq!(Flags::parse(&flags.letters()), flags);
        }
    }
}
