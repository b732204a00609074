//! The system calls that rustix does not offer without the C library. Part of the start-up code: see `start`.
#![allow(unsafe_code)]

use core::arch::asm;

use rustix::{
    fd::{FromRawFd, OwnedFd},
    io::Errno,
};

const SIG_BLOCK: usize = 0;
const SIGTERM: u32 = 15;
const SIGCHLD: u32 = 17;
/// The kernel's `sigset_t` with SIGCHLD alone.
static CHILD_SET: u64 = 1 << (SIGCHLD - 1);
/// That and SIGTERM.
static REAPER_SET: u64 = CHILD_SET | 1 << (SIGTERM - 1);

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
    block(&CHILD_SET);
    const SFD_NONBLOCK_CLOEXEC: usize = 0o2_004_000;
    let fd = {
        let set = &raw const CHILD_SET as usize;
        // SAFETY: the set is 8 bytes that live through the call; -1 asks for a new descriptor.
        unsafe { call(number::SIGNALFD4, usize::MAX, set, 8, SFD_NONBLOCK_CLOEXEC) }
    };
    // SAFETY: a non-negative result is a descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Blocks what [`wait_for_child_or_end`] waits for, so that none of it is lost in between.
pub fn block_child_and_end() {
    block(&REAPER_SET);
}

/// Sleeps until a child may have ended, or until somebody outside this PID namespace sends SIGTERM: true then.
///
/// The sender is told as 0 when it has no number here. Source: sigwaitinfo(2), pid_namespaces(7).
pub fn wait_for_child_or_end() -> bool {
    let mut info = [0u64; 16];
    let (set, place) = (&raw const REAPER_SET as usize, &raw mut info as usize);
    // SAFETY: the set is 8 bytes and the information 128 that live through the call; null is "no timeout".
    let signal = unsafe { call(number::RT_SIGTIMEDWAIT, set, place, 0, 8) };
    // Behind signal, error, code and padding; both processors store the low half first.
    let sender = info[2] as u32;
    signal == SIGTERM as isize && sender == 0
}

fn block(set: &'static u64) {
    // SAFETY: the set is 8 bytes that live through the call; null means that the old set is not wanted.
    unsafe { call(number::RT_SIGPROCMASK, SIG_BLOCK, &raw const *set as usize, 0, 8) };
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
