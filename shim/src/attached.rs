//! A client that is shown what the container prints.

use inro_shim::{log::Stream, patience::Patience};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{SendFlags, send},
};

/// What a client was promised by its attach.
pub struct Attached {
    /// Of stdout and stderr; gone when it was not asked for, when the stream ended or when the client closed it.
    pub outputs: [Option<Output>; 2],
    /// It may write the container's stdin.
    pub stdin: bool,
    pub patience: Patience,
    /// It missed bytes and must not be shown later ones.
    pub lost: bool,
}

/// A stream socket; its buffer is all that a client can be behind.
pub struct Output {
    pub fd: OwnedFd,
    /// There was no room when it was last looked at.
    pub full: bool,
}

impl Attached {
    pub fn new([stdout, stderr]: [Option<OwnedFd>; 2], stdin: bool) -> Self {
        let output = |fd: Option<OwnedFd>| fd.map(|fd| Output { fd, full: false });
        Self {
            outputs: [output(stdout), output(stderr)],
            stdin,
            patience: Patience::new(),
            lost: false,
        }
    }

    /// Shows it some bytes. There was room a moment ago, so what does not fit now is a buffer smaller than any we make.
    pub fn show(&mut self, stream: Stream, bytes: &[u8]) {
        let output = &mut self.outputs[stream as usize];
        let Some(Output { fd, .. }) = output else { return };
        match send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) if count == bytes.len() => self.patience.took(count),
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => self.lost = true,
            // It does not want this stream any more.
            Err(_) => *output = None,
        }
    }

    /// Notes whether there is room for a stream.
    pub fn note(&mut self, stream: Stream, full: bool, now: i64) {
        if let Some(output) = &mut self.outputs[stream as usize] {
            output.full = full;
        }
        if self.outputs.iter().flatten().any(|output| output.full) {
            self.patience.full(now);
        } else {
            self.patience.freed(now);
        }
    }
}
