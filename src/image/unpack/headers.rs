//! Bounds of what an archive may say between the data of two entries, whoever reads it.

use std::{
    cell::Cell,
    io::{self, Read, Seek, SeekFrom},
};

/// Bounds what an archive may say between the data of two entries: names, extended headers and maps of sparse files are
/// read into memory whole.
pub struct Headers {
    left: Cell<Option<usize>>,
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            left: Cell::new(Some(MOST_HEADERS)),
        }
    }
}

impl Headers {
    /// A reader that fails where there are more.
    pub fn bound<R: Read>(&self, inner: R) -> Bounded<'_, R> {
        Bounded { inner, headers: self }
    }

    /// An entry was found: its data has no bound here.
    pub fn over(&self) {
        self.left.set(None);
    }

    /// All data was read: what follows is headers.
    pub fn next(&self) {
        self.left.set(Some(MOST_HEADERS));
    }
}

/// Reads no more headers than allowed.
pub struct Bounded<'a, R> {
    inner: R,
    headers: &'a Headers,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.headers.left.get() {
            None => {}
            Some(left) if left >= read => self.headers.left.set(Some(left - read)),
            Some(_) => return Err(io::Error::other("more headers than allowed before one entry")),
        }
        Ok(read)
    }
}

impl<R: Seek> Seek for Bounded<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// An honest entry has some hundred bytes of attributes; the kernel takes 64 KiB for one.
const MOST_HEADERS: usize = 1 << 20;
