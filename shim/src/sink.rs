//! One stream of the container on its way into the log.

use inro_shim::{
    log::{self, HEADER, PIECE, Stream},
    terminal::read_on,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    io::{Errno, IoSlice, writev},
    time::{ClockId, clock_gettime},
};

use crate::{clients::Clients, memory::Buffer};

/// Entries per write: each write appends whole entries, so no reader sees a torn line.
const BATCH: usize = 32;
/// Reads per turn, so that a flooding stream does not keep the other one and the clients waiting.
const TURNS: usize = 16;

/// The log file. Without one, everything is read and dropped.
pub struct Log {
    file: Option<OwnedFd>,
    /// The last write broke off inside an entry (full disk): the next one begins on a new line.
    torn: bool,
}

impl Log {
    pub fn new(file: Option<OwnedFd>) -> Self {
        Self { file, torn: false }
    }

    /// Goes on in another file; the old one is closed between two entries.
    pub fn replace(&mut self, file: OwnedFd) {
        *self = Self::new(Some(file));
    }

    /// Appends slices that form whole entries. A log that cannot be written loses entries; it never stops the
    /// container: a full disk must not become a hanging workload.
    fn append(&mut self, mut slices: &mut [IoSlice<'_>]) {
        let Some(file) = &self.file else { return };
        if self.torn && writev(file, &[IoSlice::new(b"\n")]).is_ok() {
            self.torn = false;
        }
        let mut begun = false;
        while !slices.is_empty() {
            match writev(file, slices) {
                Ok(written) => {
                    begun = true;
                    slices = advance(slices, written);
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.torn |= begun;
                    return;
                }
            }
        }
    }
}

/// What is left of `slices` after their first `written` bytes.
fn advance<'a, 'b>(slices: &'a mut [IoSlice<'b>], mut written: usize) -> &'a mut [IoSlice<'b>] {
    let mut whole = 0;
    while whole < slices.len() && slices[whole].as_slice().len() <= written {
        written -= slices[whole].as_slice().len();
        whole += 1;
    }
    let rest = &mut slices[whole..];
    if let Some(first) = rest.first_mut() {
        first.advance(written);
    }
    rest
}

/// A stream: where it is read, and what was read but is no entry yet.
pub struct Source {
    pub fd: OwnedFd,
    stream: Stream,
    pending: &'static mut Buffer,
    filled: usize,
}

impl Source {
    pub fn new(fd: OwnedFd, stream: Stream, pending: &'static mut Buffer) -> Self {
        Self {
            fd,
            stream,
            pending,
            filled: 0,
        }
    }

    /// Moves what is there into the log, and shows it to the clients; what one of them has no room for stays where it is
    /// as long as that client's patience lasts. Answers false at the end of the stream.
    pub fn pump(&mut self, log: &mut Log, clients: &mut Clients) -> bool {
        for _ in 0..TURNS {
            if !clients.room(self.stream) {
                return true;
            }
            match read_on(&self.fd, &mut self.pending[self.filled..]) {
                Ok(0) => return self.end(log),
                Ok(count) => {
                    let until = self.filled + count;
                    clients.show(self.stream, &self.pending[self.filled..until]);
                    self.filled = until;
                }
                Err(Errno::AGAIN | Errno::INTR) => return true,
                // A pty's master reports EIO when the last slave is closed.
                Err(_) => return self.end(log),
            }
            self.flush(log, false);
        }
        true
    }

    fn end(&mut self, log: &mut Log) -> bool {
        self.flush(log, true);
        false
    }

    /// Writes every entry that is complete, and moves the rest to the front.
    fn flush(&mut self, log: &mut Log, end: bool) {
        let now = clock_gettime(ClockId::Realtime);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        let whole = log::header(now.tv_sec, nanos, self.stream, true);
        let part = log::header(now.tv_sec, nanos, self.stream, false);
        let mut done = 0;
        loop {
            let mut slices = core::array::from_fn::<_, { BATCH * 3 }, _>(|_| IoSlice::new(&[]));
            let mut count = 0;
            while count < slices.len()
                && let Some((content, is_whole, taken)) = log::entry(&self.pending[done..self.filled], end)
            {
                let header: &[u8; HEADER] = if is_whole { &whole } else { &part };
                slices[count] = IoSlice::new(header);
                slices[count + 1] = IoSlice::new(content);
                slices[count + 2] = IoSlice::new(b"\n");
                count += 3;
                done += taken;
            }
            if count == 0 {
                break;
            }
            log.append(&mut slices[..count]);
        }
        self.pending.copy_within(done..self.filled, 0);
        self.filled -= done;
        debug_assert!(self.filled < PIECE);
    }
}
