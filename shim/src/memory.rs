//! What the supervisor is given: descriptors at fixed numbers, and two buffers outside the stack.
#![allow(unsafe_code)]

use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, Ordering},
};

use inro_shim::log::PIECE;
use rustix::fd::{FromRawFd, OwnedFd};

use crate::start::exit;

/// A descriptor that the launcher put at a fixed number. Each number is taken once.
pub fn inherited(number: i32) -> OwnedFd {
    // SAFETY: `launch` says which numbers are open, and the supervisor takes each of them once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// One stream's bytes that are not in the log yet.
pub type Buffer = [u8; PIECE];

/// The flag first: it shares a page with the linker's own data, which is touched anyway; after the buffers it would have
/// a page for itself.
#[repr(C)]
struct Buffers {
    taken: AtomicBool,
    both: UnsafeCell<[Buffer; 2]>,
}
// SAFETY: there is one thread, and `buffers` hands them out once.
unsafe impl Sync for Buffers {}

/// In .bss, so that a quiet container's buffers never become pages.
static BUFFERS: Buffers = Buffers {
    taken: AtomicBool::new(false),
    both: UnsafeCell::new([[0; PIECE]; 2]),
};

/// The two buffers; the second call ends the program.
pub fn buffers() -> &'static mut [Buffer; 2] {
    if BUFFERS.taken.swap(true, Ordering::Relaxed) {
        exit(101);
    }
    // SAFETY: the flag makes this the only reference.
    unsafe { &mut *BUFFERS.both.get() }
}
