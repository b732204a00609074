//! The zygote process itself: receive, fork, again. It never waits for anything but its socket.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    rc::Rc,
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open},
    process::{DumpableBehavior, set_child_subreaper, set_dumpable_behavior, setsid, umask},
    stdio::{dup2_stdin, dup2_stdout},
    thread::{set_name, set_thread_groups},
};

use super::{
    create, exec, hold, home, namespaces, pod_init,
    protocol::{Reply, Request, Sealed, send},
};
use crate::sys::{
    arena, capset,
    fork::{self, Birth, Side, exit, fork},
    process,
};

/// What every worker starts with.
pub(super) struct Context {
    /// The shim, sealed and executable.
    pub shim: OwnedFd,
    /// Where to answer.
    pub reply: Rc<OwnedFd>,
}

/// The hidden subcommand `zygote <state folder>`: never returns. The socket to the daemon is standard input.
///
/// Must be the first thing that `main` does: no thread may exist.
pub fn main(state_dir: PathBuf, shim: &'static [u8]) -> ! {
    match set_up(&state_dir, shim) {
        Ok((socket, shim)) => serve(socket, shim),
        Err(error) => {
            eprintln!("inro: zygote: {error}");
            exit(1)
        }
    }
}

impl Context {
    /// Sends the answer; a daemon that is gone does not care.
    pub fn answer(&self, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        let _ = send(self.reply.as_fd(), reply, fds);
    }
}

/// Everything that all children shall inherit: no privileges by accident, no descriptor, a small world.
fn set_up(state_dir: &std::path::Path, shim: &[u8]) -> io::Result<(OwnedFd, OwnedFd)> {
    process::close_numbers(3, i32::MAX);
    // SIGCHLD ignored: our children need no waiting. SIGPIPE ignored: a lost peer is an error code.
    process::reset_signals(true, true);
    set_name(c"inro-zygote")?;
    // Of all that comes of us: a terminal that the daemon was started on is not its.
    let _ = setsid();
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Orphans of our workers come to us and vanish, also where the node's first process does not reap.
    set_child_subreaper(Some(rustix::process::getpid()))?;
    set_thread_groups(&[])?;
    umask(Mode::empty());
    capset::set_ambient(0)?;
    let (effective, permitted, _) = capset::current()?;
    capset::set(effective, permitted, 0)?;

    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    home::move_in(state_dir)?;
    Ok((socket, sealed(shim)?))
}

/// Requests are opened by the children: each page that the zygote writes is copied at the next fork.
fn serve(socket: OwnedFd, shim: OwnedFd) -> ! {
    loop {
        let mut request = match Sealed::receive(socket.as_fd()) {
            Ok(Some(request)) => request,
            Ok(None) => exit(0),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                eprintln!("inro: zygote: a request that does not fit");
                continue;
            }
            Err(_) => exit(1),
        };
        let Some(reply) = request.first() else { continue };
        match fork() {
            Ok(Side::Parent(_)) => {}
            Ok(Side::Child) => {
                arena::open();
                drop(socket);
                let reply = Rc::new(reply);
                work(Context { shim, reply }, request)
            }
            Err(error) => {
                let failure = super::Failure::new(super::Stage::Fork, "a worker", error);
                let _ = send(reply.as_fd(), &Reply::Failed(failure), &[]);
            }
        }
    }
}

fn work(context: Context, request: Sealed) -> ! {
    context.answer(&Reply::TakenUp, &[]);
    let (request, fds) = match request.open() {
        Ok(opened) => opened,
        Err(error) => {
            let failure = super::Failure::new(super::Stage::Request, "read it", error);
            context.answer(&Reply::Failed(failure), &[]);
            exit(1)
        }
    };
    match request {
        Request::Namespaces(request) => namespaces::work(context, request),
        Request::PodInit { cgroup, joined } => pod_init::work(context, &cgroup, &joined, fds),
        Request::Begin(request) => create::work(context, request, fds),
        Request::Exec(request) => exec::work(context, request, fds),
        Request::Hold => hold::work(context),
    }
}

/// The shim as a sealed memfd: one copy for the node, which nobody can change.
fn sealed(program: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(
        "inro-shim",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    file.write_all(program)?;
    fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    // Executing a descriptor that is open for writing is ETXTBSY.
    process::lift(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}

/// A C string of our own making.
pub(super) fn c(text: impl Into<Vec<u8>>) -> Result<CString, super::Failure> {
    CString::new(text).map_err(|_| super::Failure::said(super::Stage::Request, "a NUL byte in an argument"))
}

/// Joins the v1 hierarchies: `0` names the writing thread, which needs no grace period.
pub(super) fn join_v1(cgroup: &super::CgroupJoin) -> Result<(), super::Failure> {
    let super::CgroupJoin::V1(tasks) = cgroup else {
        return Ok(());
    };
    for fd in tasks {
        rustix::io::write(fd, b"0").map_err(|e| super::Failure::new(super::Stage::Cgroup, "its tasks file", e))?;
    }
    Ok(())
}

/// Forks a process that is in the cgroup: on v2 from its first instruction, on v1 as its first act; and the first one of a
/// new pid namespace if wanted.
pub(super) fn fork_in(cgroup: Option<&super::CgroupJoin>, first_pid: bool) -> Result<Side, super::Failure> {
    let (cgroup, stage) = match cgroup {
        None | Some(super::CgroupJoin::V1(_)) => (None, super::Stage::Fork),
        Some(super::CgroupJoin::V2(dir) | super::CgroupJoin::V2Held { dir, .. }) => {
            (Some(dir.as_fd()), super::Stage::Cgroup)
        }
    };
    let side =
        fork::fork_as(Birth { first_pid, cgroup }).map_err(|e| super::Failure::new(stage, "fork a helper", e))?;
    if let Side::Child = side {
        arena::open();
    }
    Ok(side)
}
