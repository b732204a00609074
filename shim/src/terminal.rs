//! Reading what may be a terminal's master.

use rustix::{
    fd::AsFd,
    io::{Errno, Result, read},
};

/// Reads. A terminal's end is its end only when it is told twice: n_tty_read looks for input first and asks whether the last
/// slave was closed afterwards, so what a process writes and closes in between is still there when EIO has been told.
///
/// # Errors
/// Those of read(2); a master's word for "the last slave was closed" is [`Errno::IO`] (pty(7)).
pub fn read_on(from: impl AsFd, into: &mut [u8]) -> Result<usize> {
    match read(&from, &mut *into) {
        Err(Errno::IO) => read(&from, into),
        result => result,
    }
}
