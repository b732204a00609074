//! fs-verity: a file that nobody can change any more, and whose every block is checked when it is read.
//!
//! Source: kernel "fs-verity: read-only file-based authenticity protection"; linux/fsverity.h.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// `struct fsverity_enable_arg`.
#[repr(C)]
#[derive(Default)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    later: [u64; 11],
}

/// `struct fsverity_digest` with room for SHA-256.
#[repr(C)]
#[derive(Default)]
struct Measured {
    algorithm: u16,
    size: u16,
    digest: [u8; 32],
}

/// Has the kernel watch over a file, which nobody may have open for writing: with SHA-256, blocks of 4 KiB and no salt.
/// Reads the whole file.
///
/// # Errors
/// Those of the ioctl: ENOTTY or EOPNOTSUPP where the file system or the kernel has no fs-verity.
pub fn enable(file: BorrowedFd<'_>) -> io::Result<()> {
    let enable = Enable {
        version: 1,
        hash_algorithm: SHA256.into(),
        block_size: 4096,
        ..Enable::default()
    };
    // SAFETY: the kernel reads one `struct fsverity_enable_arg`, which this is.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), ENABLE_VERITY as _, std::ptr::from_ref(&enable)) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The SHA-256 digest that the kernel holds a file's blocks against.
///
/// # Errors
/// Those of the ioctl: ENODATA for a file that it does not watch over, EOVERFLOW for a longer digest.
pub fn measure(file: BorrowedFd<'_>) -> io::Result<[u8; 32]> {
    let mut measured = Measured {
        size: 32,
        ..Measured::default()
    };
    // SAFETY: the kernel writes no more than the bytes told into one `struct fsverity_digest`, which this is.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), MEASURE_VERITY as _, std::ptr::from_mut(&mut measured)) };
    match done {
        0 if (measured.algorithm, measured.size) == (SHA256, 32) => Ok(measured.digest),
        0 => Err(io::Error::from(io::ErrorKind::InvalidData)),
        _ => Err(io::Error::last_os_error()),
    }
}

const SHA256: u16 = 1;
/// `FS_IOC_ENABLE_VERITY`, `FS_IOC_MEASURE_VERITY`.
const ENABLE_VERITY: u32 = 0x4080_6685;
const MEASURE_VERITY: u32 = 0xc004_6686;
