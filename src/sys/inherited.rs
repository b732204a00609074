//! Descriptors that the service manager passed. Source: sd_listen_fds(3).

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

/// Each with its name, none of them inheritable; nothing when called again. Before anything else is opened.
///
/// # Errors
/// When the environment's `LISTEN_*` are no numbers, or more than there are descriptors.
pub fn take() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: the service manager opened these numbers for this very process (LISTEN_PID), making them close-on-exec
    // showed that they are open, and as this is done once nobody else owns them.
    Ok(passed
        .map(|(number, name)| (name, unsafe { OwnedFd::from_raw_fd(number) }))
        .collect())
}
