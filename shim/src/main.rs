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

/// Pid 1 of a shared PID namespace: reaps whatever ends, until it is killed or told to end from outside, as a machine does
/// that switches off; what ignores that is waited for, a minute and a half.
///
/// From inside it is ignored, like every signal that a pid 1 has no handler for (pid_namespaces(7)).
fn reaper() -> i32 {
    raw::close_from(0);
    raw::block_child_and_end();
    loop {
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
        if raw::wait_for_child_or_end() {
            return 0;
        }
    }
}
