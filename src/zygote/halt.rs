//! The stop that init makes for the hooks of devices: its namespaces exist, its root is mounted, and it has not yet
//! changed to it.
//!
//! libcontainer offers one moment there: it executes a program in init's place, the hook of its own kind. That program is
//! ours (the hidden subcommand `halt`), and talks with the daemon over a socket that it inherits:
//! ```text
//! halt ── Here { init } ──▶ daemon: runs the hooks of the node
//! halt ◀── Hooks ────────── daemon
//! halt: runs them in the container's namespaces ── Done ──▶ daemon
//! ```
//! A daemon that dies ends the conversation, and with it the create.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::process::{DumpableBehavior, getppid, set_dumpable_behavior};
use serde::{Deserialize, Serialize};

use super::protocol::{HookState, receive, send};
use crate::{
    model::Hook,
    sys::{
        fdpass,
        fork::exit,
        process,
        program::{self, Program},
    },
};

/// The daemon's end.
#[derive(Debug)]
pub struct Halt(OwnedFd);

#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// Init halts; its pid as the node counts.
    Here {
        init: u32,
    },
    Hooks {
        hooks: Vec<Hook>,
        state: HookState,
    },
    Done(Outcome),
}

/// How the hooks went: all well, or which of them failed and why; those after it did not run.
pub type Outcome = Result<(), (usize, String)>;

impl Halt {
    /// Both ends: ours, and the one for [`super::HaltRequest`].
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        fdpass::pair().map(|(ours, theirs)| (Self(ours), theirs))
    }

    /// Waits until init halts: its pid, or `None` when the create failed before. Blocks.
    ///
    /// # Errors
    /// Those of recvmsg(2); `InvalidData`.
    pub fn wait(&self) -> io::Result<Option<u32>> {
        match receive(self.0.as_fd())? {
            Some((Word::Here { init }, _)) => Ok(Some(init)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Ok(None),
        }
    }

    /// Has `hooks` run in the container's namespaces, and lets init go on when all went well. `state` needs no pid: there it
    /// is another. Blocks. `None` when who runs them died.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn run(&self, hooks: Vec<Hook>, state: HookState) -> io::Result<Option<Outcome>> {
        send(self.0.as_fd(), &Word::Hooks { hooks, state }, &[])?;
        match receive(self.0.as_fd())? {
            Some((Word::Done(outcome), _)) => Ok(Some(outcome)),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Ok(None),
        }
    }
}

/// The hidden subcommand `halt`, executed by libcontainer in init: never returns.
pub fn main() -> ! {
    let talk = || -> io::Result<bool> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        let socket = process::take(SOCKET)?;
        send(socket.as_fd(), &Word::Here { init: parent()? }, &[])?;
        let Some((Word::Hooks { hooks, state }, _)) = receive(socket.as_fd())? else {
            return Ok(false);
        };
        let outcome = run_all(&hooks, state)?;
        let went_well = outcome.is_ok();
        send(socket.as_fd(), &Word::Done(outcome), &[])?;
        Ok(went_well)
    };
    exit(if talk().unwrap_or(false) { 0 } else { 1 })
}

fn run_all(hooks: &[Hook], state: HookState) -> io::Result<Outcome> {
    let cwd = state.bundle.join("rootfs");
    let state = HookState {
        pid: getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()),
        ..state
    };
    let input = serde_json::to_vec(&state)?;
    for (number, hook) in hooks.iter().enumerate() {
        let ran = program::run(&Program {
            path: &hook.path,
            args: &hook.args,
            env: &hook.env,
            cwd: &cwd,
            input: &input,
            most_output: 0,
            limit: hook.limit(),
        });
        if let Err(why) = ran {
            return Ok(Err((number, why.to_string())));
        }
    }
    Ok(Ok(()))
}

/// Our parent's pid as the host's /proc has it: for ourselves the container's numbers hold.
fn parent() -> io::Result<u32> {
    let status = fs::read_to_string("/proc/self/status")?;
    let pid = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    pid.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Gives init's end the number under which the program finds it, and which init closes.
pub(super) fn hand_down(socket: BorrowedFd<'_>) -> io::Result<()> {
    process::place(socket, SOCKET)
}

/// The number of init's end.
pub(super) const SOCKET: i32 = 110;

/// What libcontainer is to execute when init halts: our own program, as who executes it runs it, and its arguments.
pub const HALT_PROGRAM: (&str, [&str; 2]) = ("/proc/self/exe", ["inro", "halt"]);
