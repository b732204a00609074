//! The image as a file that grows at its end, and whose first block comes last.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
};

use super::verity::{BLOCK, FirstLast};

/// Appends to an image and takes its digest.
pub struct Blocks<'a> {
    file: &'a File,
    buffer: Vec<u8>,
    /// Blocks before those in the buffer.
    written: u64,
    sums: FirstLast,
}

impl<'a> Blocks<'a> {
    /// Leaves room for the first block.
    ///
    /// # Errors
    /// Those of lseek(2).
    pub fn after_first(mut file: &'a File) -> io::Result<Self> {
        file.seek(SeekFrom::Start(BLOCK as u64))?;
        Ok(Self {
            file,
            buffer: Vec::with_capacity(BUFFER + BLOCK),
            written: 1,
            sums: FirstLast::default(),
        })
    }

    /// The address of the block that what is added next begins in, which has to be a new one.
    ///
    /// # Errors
    /// For an image of 16 TiB.
    pub fn next(&self) -> io::Result<u32> {
        let next = self.written + (self.buffer.len() / BLOCK) as u64;
        // The number above all others stands for a hole.
        match u32::try_from(next) {
            Ok(next) if next != u32::MAX => Ok(next),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }

    /// Fills up the last block.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn pad(&mut self) -> io::Result<()> {
        self.buffer.resize(self.buffer.len().next_multiple_of(BLOCK), 0);
        self.flush_full()
    }

    fn flush_full(&mut self) -> io::Result<()> {
        if self.buffer.len() < BUFFER {
            return Ok(());
        }
        self.flush()
    }

    /// Writes the first block, and answers the file's digest.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn finish(mut self, first: &[u8; BLOCK]) -> io::Result<String> {
        self.pad()?;
        self.flush()?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(first)?;
        Ok(self.sums.finish(first))
    }
}

impl Write for Blocks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.flush_full()?;
        Ok(bytes.len())
    }

    /// Whole blocks; the beginning of another one stays.
    fn flush(&mut self) -> io::Result<()> {
        let whole = self.buffer.len() - self.buffer.len() % BLOCK;
        self.file.write_all(&self.buffer[..whole])?;
        for block in self.buffer[..whole].chunks_exact(BLOCK) {
            self.sums.add(block);
        }
        self.written += (whole / BLOCK) as u64;
        self.buffer.drain(..whole);
        Ok(())
    }
}

const BUFFER: usize = 256 << 10;
