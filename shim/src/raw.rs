//! The system calls that rustix does not offer without the C library. Part of the start-up code: see `start`.
#![allow(unsafe_code)]

use core::arch::asm;

use rustix::{
    fd::{FromRawFd, OwnedFd},
    io::Errno,
};

const SIG_BLOCK: usize = 0;
const SIGCHLD: u32 = 17;
/// The kernel's `sigset_t` with SIGCHLD alone.
static CHILD_SET: u64 = 1 << (SIGCHLD - 1);

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const KILL: usize = 62;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const SIGNALFD4: usize = 289;
    pub const CLOSE_RANGE: usize = 436;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const KILL: usize = 129;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const SIGNALFD4: usize = 74;
    pub const CLOSE_RANGE: usize = 436;
}

/// Makes a system call with up to four arguments.
///
/// # Safety
/// The arguments must be what the call expects; pointers must be valid for it.
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers only the registers named; the caller vouches for the arguments.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
            options(nostack));
    }
    result
}

/// Blocks SIGCHLD and gives a descriptor that is readable while one is pending. Source: signalfd(2).
pub fn child_events() -> Option<OwnedFd> {
    block_child_signal();
    const SFD_NONBLOCK_CLOEXEC: usize = 0o2_004_000;
    let fd = {
        let set = &raw const CHILD_SET as usize;
        // SAFETY: the set is 8 bytes that live through the call; -1 asks for a new descriptor.
        unsafe { call(number::SIGNALFD4, usize::MAX, set, 8, SFD_NONBLOCK_CLOEXEC) }
    };
    // SAFETY: a non-negative result is a descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sleeps until a child has ended. Source: sigwaitinfo(2).
pub fn wait_for_child() {
    block_child_signal();
    let set = &raw const CHILD_SET as usize;
    // SAFETY: the set is 8 bytes that live through the call; null for "no information" and "no timeout" is allowed.
    unsafe { call(number::RT_SIGTIMEDWAIT, set, 0, 0, 8) };
}

fn block_child_signal() {
    let set = &raw const CHILD_SET as usize;
    // SAFETY: the set is 8 bytes that live through the call; null means that the old set is not wanted.
    unsafe { call(number::RT_SIGPROCMASK, SIG_BLOCK, set, 0, 8) };
}

/// Sends any signal, real-time ones too. Source: kill(2).
pub fn kill(pid: i32, signal: i32) -> rustix::io::Result<()> {
    // SAFETY: numbers only.
    match unsafe { call(number::KILL, pid as usize, signal as usize, 0, 0) } {
        0 => Ok(()),
        result => Err(Errno::from_raw_os_error(-(result as i32))),
    }
}

/// Closes every descriptor from `first` on. Source: close_range(2).
pub fn close_from(first: u32) {
    // SAFETY: nothing owns descriptors that this program was not told of; the reaper owns none at all.
    unsafe { call(number::CLOSE_RANGE, first as usize, u32::MAX as usize, 0, 0) };
}
