//! The supervisor of one container: a freestanding program of a few pages, one per container.
//!
//! It is the parent of the container's init and holds the read ends of its streams. It writes the CRI log and the exit
//! record itself, so the daemon may die at any instruction. See `launch` for what it finds at start.
#![no_std]
#![no_main]

mod attached;
mod clients;
mod clock;
mod memory;
mod raw;
mod sink;
mod start;
mod supervisor;

use inro_shim::launch::Flags;

/// What `start` calls with the program's arguments.
fn main(arguments: start::Arguments) -> i32 {
    match arguments.get(1) {
        Some(b"reaper") => reaper(),
        Some(_) => supervisor::run(Flags::parse(arguments.get(2).unwrap_or_default())),
        None => 2,
    }
}

/// Pid 1 of a shared PID namespace: reaps whatever ends, until it is killed.
///
/// As pid 1 it ignores every signal that it has no handler for but SIGKILL from outside (pid_namespaces(7)).
fn reaper() -> i32 {
    raw::close_from(0);
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::empty()) {
            Ok(_) => {}
            // No children: sleep until the next one ends.
            Err(_) => raw::wait_for_child(),
        }
    }
}
