//! Signs of life of a worker: that it goes on, and how far it is.

use std::{
    cell::Cell,
    io::{self, Read, Write},
    time::{Duration, Instant},
};

/// How often a worker tells, at most.
const INTERVAL: Duration = Duration::from_millis(250);

/// Counts what a worker does, and tells it every now and then.
#[derive(Debug)]
pub struct Pulse {
    is_told: bool,
    bytes: Cell<u64>,
    last: Cell<Instant>,
}

impl Pulse {
    /// To stdout, if it `is_told`: lines with the number of bytes so far.
    pub fn new(is_told: bool) -> Self {
        Self {
            is_told,
            bytes: Cell::new(0),
            last: Cell::new(Instant::now()),
        }
    }

    /// A reader whose bytes are counted.
    pub fn counted<R: Read>(&self, inner: R) -> Counted<'_, R> {
        Counted { inner, pulse: self }
    }

    /// Something was done, be it that it moved no bytes.
    pub fn beat(&self) {
        if self.is_told && self.last.get().elapsed() >= INTERVAL {
            self.last.set(Instant::now());
            self.tell();
        }
    }

    /// All was done.
    pub fn end(&self) {
        if self.is_told {
            self.tell();
        }
    }

    fn tell(&self) {
        // Who does not read it any more ends us another way.
        let _ = io::stdout().write_all(format!("{}\n", self.bytes.get()).as_bytes());
    }
}

/// Beats with each read.
pub struct Counted<'a, R> {
    inner: R,
    pulse: &'a Pulse,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.pulse.bytes.set(self.pulse.bytes.get() + read as u64);
        self.pulse.beat();
        Ok(read)
    }
}
