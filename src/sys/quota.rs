//! Project quotas: what the files of a project take on their file system, and what they may take.
//!
//! The commands are XFS's own; the kernel translates them for every file system that has project quotas. Source: quotactl(2);
//! linux/dqblk_xfs.h; kernel `fs/quota/quota.c`.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// What a file system does with projects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// It counts what each of them takes.
    pub counts: bool,
    /// It holds them to their limits.
    pub limits: bool,
}

/// One project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Project {
    pub used_bytes: u64,
    pub inodes: u64,
    pub limit: Limit,
}

/// What a project may take; 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// The kernel counts 512 of them at once, file systems more.
    pub bytes: u64,
    pub inodes: u64,
}

/// `struct fs_quota_statv`, of which only the flags are read.
#[repr(C)]
struct Status {
    version: i8,
    pad: u8,
    flags: u16,
    rest: [u32; 39],
}

/// `struct fs_disk_quota`; all blocks are of 512 bytes.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    field_mask: u16,
    id: u32,
    block_hard_limit: u64,
    block_soft_limit: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    blocks: u64,
    inodes: u64,
    timers_and_warnings: [u32; 4],
    realtime: [u64; 3],
    realtime_timer_and_warnings: [u32; 2],
    padding: [u8; 8],
}

impl DiskQuota {
    fn project(&self) -> Project {
        Project {
            used_bytes: self.blocks.saturating_mul(BLOCK),
            inodes: self.inodes,
            limit: Limit {
                bytes: self.block_hard_limit.saturating_mul(BLOCK),
                inodes: self.inode_hard_limit,
            },
        }
    }
}

/// Whether the kernel has quotactl_fd(2) at all.
pub fn is_there() -> bool {
    // SAFETY: there is no such descriptor, which is found out before anything else is looked at.
    unsafe { libc::syscall(libc::SYS_quotactl_fd, -1, 0, 0, std::ptr::null::<u8>()) };
    io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// What the file system behind `fd` does with projects.
///
/// # Errors
/// Those of quotactl_fd(2): ENOSYS before Linux 5.14, and of a file system that has no quotas or whose quotas are all off; EINVAL
/// of one that has none of projects.
pub fn state(fd: BorrowedFd<'_>) -> io::Result<State> {
    let mut status = Status {
        version: VERSION_1,
        pad: 0,
        flags: 0,
        rest: [0; 39],
    };
    call(fd, GET_STATE, 0, &mut status)?;
    Ok(State {
        counts: status.flags & ACCOUNTED != 0,
        limits: status.flags & ENFORCED != 0,
    })
}

/// What project `id` takes on the file system behind `fd`; one that nothing is known of takes nothing.
///
/// # Errors
/// Those of quotactl_fd(2).
pub fn read(fd: BorrowedFd<'_>, id: u32) -> io::Result<Project> {
    let mut quota = DiskQuota::default();
    match call(fd, GET_QUOTA, id, &mut quota) {
        // XFS: it was never used.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Project::default()),
        result => result?,
    }
    Ok(quota.project())
}

/// The first project from `id` on that something is known of on the file system behind `fd`, and its id.
///
/// # Errors
/// Those of quotactl_fd(2).
pub fn next(fd: BorrowedFd<'_>, id: u32) -> io::Result<Option<(u32, Project)>> {
    let mut quota = DiskQuota::default();
    match call(fd, GET_NEXT_QUOTA, id, &mut quota) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        result => result.map(|()| Some((quota.id, quota.project()))),
    }
}

/// Limits project `id` on the file system behind `fd` to `limit`, from the next write on.
///
/// # Errors
/// Those of quotactl_fd(2): EPERM without CAP_SYS_ADMIN in the first user namespace.
pub fn set_limit(fd: BorrowedFd<'_>, id: u32, limit: Limit) -> io::Result<()> {
    let mut quota = DiskQuota {
        version: VERSION_1,
        flags: OF_PROJECT,
        field_mask: BLOCK_HARD | BLOCK_SOFT | INODE_HARD | INODE_SOFT,
        id,
        block_hard_limit: limit.bytes.div_ceil(BLOCK),
        inode_hard_limit: limit.inodes,
        ..DiskQuota::default()
    };
    call(fd, SET_LIMIT, id, &mut quota)
}

fn call<T>(fd: BorrowedFd<'_>, command: u32, id: u32, value: &mut T) -> io::Result<()> {
    const { assert!(size_of::<Status>() == 160 && size_of::<DiskQuota>() == 112) };
    // SAFETY: `value` is the structure that `command` reads or writes: each caller passes the one of the command's own,
    // and their sizes are the kernel's.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            fd.as_raw_fd(),
            // QCMD of sys/quota.h.
            (command << 8) | PROJECT,
            id,
            std::ptr::from_mut(value),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const BLOCK: u64 = 512;
/// `FS_QSTATV_VERSION1` and `FS_DQUOT_VERSION`.
const VERSION_1: i8 = 1;
/// `PRJQUOTA`.
const PROJECT: u32 = 2;
/// `FS_PROJ_QUOTA`.
const OF_PROJECT: i8 = 1 << 1;
/// `Q_XGETQUOTA`, `Q_XSETQLIM`, `Q_XGETQSTATV` and `Q_XGETNEXTQUOTA`.
const GET_QUOTA: u32 = 0x5803;
const SET_LIMIT: u32 = 0x5804;
const GET_STATE: u32 = 0x5808;
const GET_NEXT_QUOTA: u32 = 0x5809;
/// `FS_DQ_ISOFT` to `FS_DQ_BHARD`.
const INODE_SOFT: u16 = 1 << 0;
const INODE_HARD: u16 = 1 << 1;
const BLOCK_SOFT: u16 = 1 << 2;
const BLOCK_HARD: u16 = 1 << 3;
/// `FS_QUOTA_PDQ_ACCT` and `FS_QUOTA_PDQ_ENFD`.
const ACCOUNTED: u16 = 1 << 4;
const ENFORCED: u16 = 1 << 5;
