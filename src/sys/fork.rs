//! Forking, in processes that are known to have one thread.
//!
//! Only the zygote and its children use this: a fork of a threaded process may only make async-signal-safe calls,
//! which none of our code promises.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::{process::Pid, thread::UnshareFlags};

/// Which side of a fork we are on.
pub enum Side {
    Child,
    Parent(Pid),
}

/// fork(2).
pub fn fork() -> io::Result<Side> {
    // SAFETY: the callers are single-threaded, so the child may go on with any code.
    side(unsafe { libc::fork() }.into())
}

/// How a child differs from what fork(2) makes.
pub struct Birth<'a> {
    /// It is the first process of a new pid namespace (CLONE_NEWPID).
    pub first_pid: bool,
    /// The cgroup (v2) that it is never outside of (CLONE_INTO_CGROUP).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Forks a child that is different from its birth on.
pub fn fork_as(birth: Birth<'_>) -> io::Result<Side> {
    let pids = if birth.first_pid { libc::CLONE_NEWPID as u64 } else { 0 };
    let (into, cgroup) = match birth.cgroup {
        Some(dir) => (CLONE_INTO_CGROUP, dir.as_raw_fd() as u64),
        None => (0, 0),
    };
    clone3(pids | into, libc::SIGCHLD as u64, cgroup)
}

/// Forks a sibling: the child's parent is the caller's parent (CLONE_PARENT).
pub fn fork_sibling() -> io::Result<Side> {
    clone3(libc::CLONE_PARENT as u64, 0, 0)
}

/// Ends the process without running anything of the copied parent's.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// unshare(2) of namespaces.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the danger of unshare is CLONE_FILES in a threaded process; callers are single-threaded and name namespaces only.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// `struct clone_args` of clone3(2), version 2.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn clone3(flags: u64, exit_signal: u64, cgroup: u64) -> io::Result<Side> {
    let args = CloneArgs {
        flags,
        exit_signal,
        cgroup,
        ..CloneArgs::default()
    };
    // SAFETY: no CLONE_VM and no stack: this is fork(2) with flags, and the callers are single-threaded. `args` has the size told.
    side(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })
}

fn side(result: i64) -> io::Result<Side> {
    match i32::try_from(result).ok().filter(|&pid| pid >= 0) {
        Some(pid) => Ok(Pid::from_raw(pid).map_or(Side::Child, Side::Parent)),
        None => Err(io::Error::last_os_error()),
    }
}

/// Since Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
