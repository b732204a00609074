//! The project of a folder: whom a quota counts what is in it to.
//!
//! Source: ioctl_xfs_fsgetxattr(2); linux/fs.h.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// The project of the file or folder behind `fd`; 0: none.
///
/// # Errors
/// Those of the ioctl: ENOTTY or EOPNOTSUPP where the file system has no such attributes.
pub fn of(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(attributes(fd)?.project)
}

/// Counts the folder behind `fd` to `project`, and with it whatever is made in it from now on, at any depth.
///
/// # Errors
/// Those of the ioctl: EINVAL in a user namespace, EOPNOTSUPP where the file system has no projects.
pub fn assign(fd: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = attributes(fd)?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    // SAFETY: the kernel reads one `struct fsxattr`, which this is.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), SET as _, std::ptr::from_ref(&attributes)) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn attributes(fd: BorrowedFd<'_>) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes one `struct fsxattr`, which this is.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), GET as _, std::ptr::from_mut(&mut attributes)) };
    match done {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `FS_XFLAG_PROJINHERIT`.
const INHERIT: u32 = 0x200;
/// `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`.
const GET: u32 = 0x801c_581f;
const SET: u32 = 0x401c_5820;
