//! Running a piece of work in another network namespace.

use std::{io, os::fd::BorrowedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` on a thread of its own inside a network namespace; no other thread ever sees the switch.
///
/// # Errors
/// Those of setns(2), and of `work`.
pub fn in_network_namespace<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
    })
}

/// Runs `work` on a thread with a mount namespace of its own, which ends with it.
///
/// # Errors
/// Those of unshare(2), and of `work`.
pub fn in_own_mount_namespace<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only the file-system context (CLONE_FS, implied) is parted, of a thread that nobody shares it with yet.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the mount namespace panicked")))
    })
}
