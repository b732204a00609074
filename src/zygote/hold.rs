//! A process that does nothing: the first one of a cgroup that exists only with a process in it.

use std::os::fd::AsFd;

use rustix::{process::getpid, thread::set_name};

use super::{protocol::Reply, server::Context};
use crate::sys::{fdpass, fork::exit};

/// Tells its pid and stays until nobody has the other end of its socket any more.
pub(super) fn work(context: Context) -> ! {
    let _ = set_name(c"inro-hold");
    let pid = getpid().as_raw_nonzero().get().unsigned_abs();
    context.answer(&Reply::Held { pid }, &[]);
    // Nothing is ever said to it: this is the end.
    let _ = fdpass::receive(context.reply.as_fd(), 1);
    exit(0)
}
