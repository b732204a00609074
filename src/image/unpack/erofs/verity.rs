//! The digest that fs-verity has of a file, taken while the file is written, or read again.
//!
//! It is that of a tree: of every block there is a digest, of every block full of digests again one, up to the root, and a
//! descriptor says what the root is of. So whoever reads one block can check it, which the kernel does where a file system
//! has fs-verity; elsewhere the digest is as good as any other of the whole file.
//!
//! Source: kernel "fs-verity", "Merkle tree" and "fs-verity descriptor"; SHA-256, blocks of 4 KiB, no salt.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::model::hex;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// The digest of a file whose first block comes last: all other blocks come in their order.
#[derive(Debug)]
pub struct FirstLast {
    levels: Vec<Level>,
    blocks: u64,
}

/// Digests of the blocks below, in blocks of their own. The first is held back, as the digest that it begins with is the
/// last to come; of the others there is the one that fills.
#[derive(Debug)]
struct Level {
    first: Vec<u8>,
    filling: Vec<u8>,
}

impl Default for Level {
    fn default() -> Self {
        Self {
            first: vec![0; DIGEST],
            filling: Vec::new(),
        }
    }
}

impl Default for FirstLast {
    fn default() -> Self {
        Self {
            levels: vec![Level::default()],
            blocks: 1,
        }
    }
}

impl FirstLast {
    /// Takes the next block.
    pub fn add(&mut self, block: &[u8]) {
        self.blocks += 1;
        self.push(0, sha256(block));
    }

    fn push(&mut self, at: usize, digest: [u8; DIGEST]) {
        if at == self.levels.len() {
            self.levels.push(Level::default());
        }
        let level = &mut self.levels[at];
        if level.first.len() < BLOCK {
            return level.first.extend(digest);
        }
        level.filling.extend(digest);
        if level.filling.len() == BLOCK {
            let full = sha256(&level.filling);
            level.filling.clear();
            self.push(at + 1, full);
        }
    }

    /// Takes the first block.
    pub fn finish(mut self, first: &[u8]) -> String {
        let mut carried = sha256(first);
        let mut at = 0;
        // A file of one block is its own root.
        while self.blocks > 1 && at < self.levels.len() {
            let level = &mut self.levels[at];
            if !level.filling.is_empty() {
                level.filling.resize(BLOCK, 0);
                let last = sha256(&level.filling);
                self.push(at + 1, last);
            }
            let level = &mut self.levels[at];
            level.first[..DIGEST].copy_from_slice(&carried);
            level.first.resize(BLOCK, 0);
            carried = sha256(&level.first);
            at += 1;
        }
        described(&carried, self.blocks * BLOCK as u64)
    }
}

/// The digest of a file of whole blocks. `go_on` is asked now and then.
///
/// # Errors
/// Those of reading; [`io::ErrorKind::Interrupted`] when it is not to go on, [`io::ErrorKind::InvalidData`] when the file is
/// not made of whole blocks.
pub fn digest_of(mut file: impl Read, go_on: impl Fn() -> bool) -> io::Result<String> {
    let mut sums = FirstLast::default();
    let mut first = vec![0; BLOCK];
    file.read_exact(&mut first)?;
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        if !go_on() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        buffer.clear();
        (&mut file).take(CHUNK as u64).read_to_end(&mut buffer)?;
        let blocks = buffer.chunks_exact(BLOCK);
        if !blocks.remainder().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "half of a block at its end"));
        }
        if buffer.is_empty() {
            return Ok(sums.finish(&first));
        }
        blocks.for_each(|block| sums.add(block));
    }
}

/// `struct fsverity_descriptor`: version, hash algorithm (SHA-256), the block's size as a power of two, size and root.
fn described(root: &[u8; DIGEST], bytes: u64) -> String {
    let mut descriptor = [0; 256];
    descriptor[..3].copy_from_slice(&[1, 1, 12]);
    descriptor[8..16].copy_from_slice(&bytes.to_le_bytes());
    descriptor[16..16 + DIGEST].copy_from_slice(root);
    format!("sha256:{}", hex(&sha256(&descriptor)))
}

fn sha256(bytes: &[u8]) -> [u8; DIGEST] {
    Sha256::digest(bytes).into()
}

/// Bytes of a digest.
const DIGEST: usize = 32;
const CHUNK: usize = 256 << 10;

#[cfg(test)]
mod test {
    use super::*;

    /// Of files whose every block is full of its own number, modulo 251; by fsverity-utils 1.5.
    #[test]
    fn the_digest_is_the_one_of_fs_verity() {
        for (blocks, expected) in [
            (1, "babc284ee4ffe7f449377fbf6692715b43aec7bc39c094a95878904d34bac97e"),
            (2, "4df2aefd8c2a9101d1d8770dca3ede418232eabce766bb8e020395eae2e97103"),
            (128, "b35207050154c973c3fac454d800ec4a8dd0cc84612d9f9f42187b0d22388869"),
            (129, "9d22e5a8cfb225d5a6b264b0e3a2aadd5ea1368a3c89bf11db3b49c63ced0ffd"),
            (
                16384,
                "c5ada95edf9c781e484180920ff32b1df3ef8d118022093b17d0fdd86aa5f9f0",
            ),
            (
                16385,
                "f1a073557d83baaa58d2ae2315c8ebe1585a6782eef9d032d5ad2756436ad322",
            ),
        ] {
            let file = (0..blocks).flat_map(|n| [(n % 251) as u8; BLOCK]).collect::<Vec<u8>>();
            let digest = digest_of(&file[..], || true).unwrap();
            assert_eq!(digest, format!("sha256:{expected}"), "{blocks} blocks");
        }
    }

    #[test]
    fn what_is_no_whole_file_has_no_digest() {
        let error = |file: &[u8], go_on| digest_of(file, || go_on).unwrap_err().kind();
        assert_eq!(error(&[0; 10], true), io::ErrorKind::UnexpectedEof);
        assert_eq!(error(&[0; BLOCK + 1], true), io::ErrorKind::InvalidData);
        assert_eq!(error(&[0; BLOCK * 2], false), io::ErrorKind::Interrupted);
    }
}
