//! Start-up without a C library: the entry point, the arguments, the buffers, and the memory functions that the
//! compiler calls. With `raw` the only unsafe code of the shim.
#![allow(unsafe_code)]

use core::{
    cell::UnsafeCell,
    ffi::CStr,
    sync::atomic::{AtomicBool, Ordering},
};

use inro_shim::log::PIECE;
use rustix::fd::{FromRawFd, OwnedFd};

/// The program's arguments as the kernel laid them out.
#[derive(Clone, Copy)]
pub struct Arguments {
    count: usize,
    first: *const *const core::ffi::c_char,
}

impl Arguments {
    /// Argument `at`; 0 is the program's name.
    pub fn get(&self, at: usize) -> Option<&'static [u8]> {
        if at >= self.count {
            return None;
        }
        // SAFETY: the kernel puts `count` pointers to strings here, which live as long as the process.
        Some(unsafe { CStr::from_ptr(*self.first.add(at)) }.to_bytes())
    }
}

// The kernel starts a program with the stack pointer at the argument count; see execve(2) and the psABI. The zeroed
// frame pointer ends a back trace.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {entry}", "ud2",
    entry = sym entry
);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x0, sp", "bl {entry}", "brk 1", entry = sym entry);

/// # Safety
/// `stack` is the stack pointer that the kernel gave.
unsafe extern "C" fn entry(stack: *const usize) -> ! {
    // SAFETY: the count is at the stack pointer and the argument pointers follow it.
    let arguments = unsafe {
        Arguments {
            count: *stack,
            first: stack.add(1).cast(),
        }
    };
    crate::raw::exit(crate::main(arguments))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    crate::raw::exit(101)
}

/// A descriptor that the launcher put at a fixed number. Each number is taken once.
pub fn inherited(number: i32) -> OwnedFd {
    // SAFETY: `launch` says which numbers are open, and the supervisor takes each of them once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// One stream's bytes that are not in the log yet.
pub type Buffer = [u8; PIECE];

struct Buffers(UnsafeCell<[Buffer; 2]>);
// SAFETY: there is one thread, and `buffers` hands them out once.
unsafe impl Sync for Buffers {}

/// In .bss, so that a quiet container's buffers never become pages.
static BUFFERS: Buffers = Buffers(UnsafeCell::new([[0; PIECE]; 2]));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The two buffers; the second call ends the program.
pub fn buffers() -> &'static mut [Buffer; 2] {
    if TAKEN.swap(true, Ordering::Relaxed) {
        crate::raw::exit(101);
    }
    // SAFETY: the flag makes this the only reference.
    unsafe { &mut *BUFFERS.0.get() }
}

/// # Safety
/// As memcpy(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for both areas; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..count {
        // SAFETY: the caller vouches for both areas; a volatile read keeps this from becoming a call of itself.
        unsafe { *to.add(at) = from.add(at).read_volatile() };
    }
    to
}

/// # Safety
/// As memmove(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize) <= from as usize || to as usize >= from as usize + count {
        // SAFETY: copying upwards never overwrites what is still to be read; the caller vouches for the areas.
        return unsafe { memcpy(to, from, count) };
    }
    for at in (0..count).rev() {
        // SAFETY: as above, downwards.
        unsafe { *to.add(at) = from.add(at).read_volatile() };
    }
    to
}

/// # Safety
/// As memset(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for the area.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..count {
        // SAFETY: the caller vouches for the area.
        unsafe { to.add(at).write_volatile(value as u8) };
    }
    to
}

/// # Safety
/// As memcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: the caller vouches for both areas.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// As bcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the caller vouches for both areas.
    unsafe { memcmp(a, b, count) }
}

/// # Safety
/// As strlen(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller vouches for a terminated string.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// The personality routine that `core`'s unwind tables name; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    crate::raw::exit(101)
}
