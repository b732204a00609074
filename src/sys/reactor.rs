//! Descriptors in tokio's reactor.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Hands a descriptor to the reactor of the current runtime.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open file until it is dropped, and `AsyncFd` deregisters it before that.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
