//! Memory for processes that live for milliseconds, or that keep what they have.
//!
//! A forked child finds its parent's heap full of pages that are not its own: each one that an allocation touches is copied
//! first, one fault after the other. Here it gets fresh pages, some at once, and gives nothing back before its end.

use std::{
    alloc::{GlobalAlloc, Layout},
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use dlmalloc::GlobalDlmalloc as System;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// The program's allocator: the C library's, and in a process that called [`open`] first of all the arena.
pub struct Allocator;

/// Addresses: where it begins, of the next free byte, and where it ends. All zero where there is none.
static BEGIN: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Address space; what is not touched costs nothing.
const SIZE: usize = 16 << 20;
/// What a process touches at least.
const AT_ONCE: usize = 32 << 10;
const PAGE: usize = 4096;
/// As from malloc(3): there is code that takes bytes for a C structure.
const ALIGNED: usize = 16;

/// From here on everything is allocated in the arena, on pages that no other process has. Where there is no memory for it,
/// nothing changes.
///
/// The caller must have one thread. A process calls it again after it was forked from one that has an arena: what that one
/// allocated stays where it is.
pub fn open() {
    if END.load(Relaxed) == 0 {
        let (access, flags) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        );
        // SAFETY: a new mapping, which overlaps nothing.
        let Ok(begin) = (unsafe { mmap_anonymous(ptr::null_mut(), SIZE, access, flags) }) else {
            return;
        };
        let begin = begin.expose_provenance();
        BEGIN.store(begin, Relaxed);
        NEXT.store(begin, Relaxed);
        END.store(begin + SIZE, Relaxed);
    }
    NEXT.store(NEXT.load(Relaxed).next_multiple_of(PAGE), Relaxed);
    touch(AT_ONCE);
}

/// Has pages for the next `bytes` of the arena, so that allocating them waits for none. A wish: nothing where there is none.
pub fn touch(bytes: usize) {
    let begin = NEXT.load(Relaxed).next_multiple_of(PAGE);
    if begin + bytes <= END.load(Relaxed) {
        // SAFETY: ours, and nothing in it yet.
        let _ = unsafe {
            madvise(
                ptr::with_exposed_provenance_mut(begin),
                bytes,
                Advice::LinuxPopulateWrite,
            )
        };
    }
}

#[inline(never)]
fn is_in_arena(pointer: *mut u8) -> bool {
    (BEGIN.load(Relaxed)..END.load(Relaxed)).contains(&pointer.addr())
}

/// The next `layout` bytes of the arena; `None` where there is none, or no room in it.
#[inline(never)]
fn take(layout: Layout) -> Option<*mut u8> {
    let end = END.load(Relaxed);
    if end == 0 {
        return None;
    }
    let start = NEXT
        .load(Relaxed)
        .checked_next_multiple_of(layout.align().max(ALIGNED))?;
    let next = start.checked_add(layout.size()).filter(|&next| next <= end)?;
    NEXT.store(next, Relaxed);
    Some(ptr::with_exposed_provenance_mut(start))
}

/// Whether what begins at `start` can have `size` bytes where it is.
fn grows_in_place(start: usize, old: usize, size: usize) -> bool {
    let is_last = start + old == NEXT.load(Relaxed) && size <= END.load(Relaxed) - start;
    if is_last && size > old {
        NEXT.store(start + size, Relaxed);
    }
    is_last || size <= old
}

// SAFETY: what `take` gives out is mapped for good, aligned, and given once: processes with an arena have one thread. All
// else is the C library's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match take(layout) {
            Some(pointer) => pointer,
            // SAFETY: as promised to us.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match take(layout) {
            // It is zero: nothing is given twice.
            Some(pointer) => pointer,
            // SAFETY: as promised to us.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // Nor is anything given back that came from elsewhere: its heap's pages are the parent's.
        if END.load(Relaxed) == 0 {
            // SAFETY: not from `take`.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if END.load(Relaxed) == 0 {
            // SAFETY: not from `take`.
            return unsafe { System.realloc(pointer, layout, size) };
        }
        if is_in_arena(pointer) && grows_in_place(pointer.addr(), layout.size(), size) {
            return pointer;
        }
        // SAFETY: the size is not zero, and did not overflow with its alignment, as promised to us.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both are that long, and the new one is nobody else's. The old one is not given back.
            unsafe { ptr::copy_nonoverlapping(pointer, new, layout.size().min(size)) }
        }
        new
    }
}

#[cfg(test)]
mod test {
    use rustix::process::{WaitOptions, waitpid};

    use super::*;
    use crate::sys::fork::{Side, exit, fork};

    /// The exit code of `child`, in a process that has one thread.
    fn of_child(child: fn() -> i32) -> Option<i32> {
        match fork().unwrap() {
            Side::Child => exit(child()),
            Side::Parent(pid) => waitpid(Some(pid), WaitOptions::empty()).unwrap()?.1.exit_status(),
        }
    }

    #[test]
    fn what_grows_keeps_its_content_and_nothing_is_given_twice() {
        let child = || {
            open();
            let one = Layout::from_size_align(3, 1).unwrap();
            // SAFETY: each pointer is used for what it was given for.
            unsafe {
                let first = Allocator.alloc(one);
                first.write_bytes(7, 3);
                let grown = Allocator.realloc(first, one, 5000);
                let second = Allocator.alloc(one);
                let moved = Allocator.realloc(grown, Layout::from_size_align(5000, 1).unwrap(), 9000);
                let kept = std::slice::from_raw_parts(moved, 3) == [7, 7, 7];
                let apart = second >= grown.add(5000) && moved > second;
                let aligned = second.addr().is_multiple_of(ALIGNED);
                (grown == first && kept && apart && aligned).into()
            }
        };
        assert_eq!(of_child(child), Some(1));
    }

    #[test]
    fn what_does_not_fit_comes_from_elsewhere() {
        let child = || {
            open();
            let large = Layout::from_size_align(SIZE + 1, PAGE).unwrap();
            // SAFETY: the pointer is used for what it was given for.
            unsafe {
                let pointer = Allocator.alloc(large);
                let elsewhere = !pointer.is_null() && !is_in_arena(pointer);
                Allocator.dealloc(pointer, large);
                elsewhere.into()
            }
        };
        assert_eq!(of_child(child), Some(1));
    }

    #[test]
    fn a_child_goes_on_behind_its_parent() {
        let parent = || {
            open();
            let layout = Layout::from_size_align(10, 1).unwrap();
            // SAFETY: the pointer is only looked at.
            let ours = unsafe { Allocator.alloc(layout) };
            open();
            // SAFETY: as above.
            let next = unsafe { Allocator.alloc(layout) };
            (is_in_arena(ours) && next.addr().is_multiple_of(PAGE) && next > ours).into()
        };
        assert_eq!(of_child(parent), Some(1));
    }
}
