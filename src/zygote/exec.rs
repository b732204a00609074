//! Runs a process in a started container, by our own code.
//!
//! libcontainer's tenant builder forgets the user namespace (the process would be root of the node) and the seccomp
//! filter, and is several times slower.
//!
//! ```text
//! zygote ─fork─▶ K, the keeper: answers, waits, kills; one for each exec, in no cgroup or namespace of the container
//!                └─fork─▶ E: cgroup, namespaces, user, confinement, exec
//! ```
//! E is forked into the pid namespace, which nobody can enter; all others it enters itself. The keeper survives zygote and
//! daemon only to clean up: when its socket hangs up it kills what it keeps.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Gid, Mode, OFlags, Uid, fchown, fstat, fstatfs, major, minor, open, stat},
    io::Errno,
    process::{
        Pid, PidfdFlags, WaitOptions, chdir, getcwd, getpid, ioctl_tiocsctty, pidfd_open, set_child_subreaper, setsid,
        umask, waitpid,
    },
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcsetwinsize},
    thread::{
        ThreadNameSpaceType, move_into_thread_name_spaces, set_keep_capabilities, set_name, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    confine::{change_profile, confine},
    create::{kill_children, read_program},
    error::{Failure, Stage},
    executor::Program,
    killing,
    protocol::{CgroupJoin, ExecProcess, ExecStdioWire, ExecWire, Incoming, KILL, Reply, receive, send},
    server::{Context, fork_in, join_v1},
};
use crate::sys::{
    fdpass,
    fork::{Side, exit},
    process,
};

type Result<T> = std::result::Result<T, Failure>;

/// What E tells the keeper; the end of the conversation means that E has been executed.
#[derive(Serialize, Deserialize)]
enum News {
    /// With the master as descriptor.
    Terminal,
    Failed(Failure),
}

/// The keeper, from its first instruction on.
pub(super) fn work(context: Context, request: ExecWire, fds: Incoming) -> ! {
    let _ = set_name(c"inro-exec");
    process::ignore_signals(true, false);
    let started = set_child_subreaper(Some(getpid()))
        .map_err(|e| Failure::new(Stage::Fork, "become a subreaper", e))
        .and_then(|()| launch(&context, request, fds));
    match started {
        Ok((pid, terminal)) => keep(&context, pid, terminal),
        Err(failure) => {
            kill_children();
            context.answer(&Reply::Failed(failure), &[]);
            exit(1)
        }
    }
}

/// Everything E needs, out of the way of the standard streams.
struct Parts {
    process: ExecProcess,
    init_pid: u32,
    init: OwnedFd,
    seccomp: Option<Vec<u8>>,
    cgroup: CgroupJoin,
    streams: Streams,
    /// The node's /proc, for what must be written there from inside the container.
    proc: OwnedFd,
}

enum Streams {
    Pipes([OwnedFd; 3]),
    Terminal(Winsize),
}

impl Parts {
    fn collect(request: ExecWire, mut fds: Incoming) -> Result<Self> {
        let step = |what: &'static str| move |error: std::io::Error| Failure::new(Stage::Request, what, error);
        fds.lift()?;
        let streams = match request.stdio {
            ExecStdioWire::Terminal { columns, rows } => Streams::Terminal(Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            }),
            ExecStdioWire::Pipes { stdin, stdout, stderr } => {
                let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
                let null = null.map_err(|e| step("/dev/null")(e.into()))?;
                let mut stream = |index: Option<usize>| match fds.maybe(index)? {
                    Some(fd) => Ok(fd),
                    None => null.try_clone().and_then(process::lift).map_err(step("/dev/null")),
                };
                let streams = [stream(stdin)?, stream(stdout)?, stream(stderr)?];
                streams.iter().for_each(|fd| own_pipe(fd, request.owner));
                Streams::Pipes(streams)
            }
        };
        let proc = open(
            "/proc",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        Ok(Self {
            process: request.process,
            init_pid: request.init_pid,
            init: fds.take(request.init_pidfd)?,
            seccomp: fds.maybe(request.seccomp)?.map(read_program).transpose()?,
            cgroup: fds.join(&request.cgroup)?,
            streams,
            proc: proc
                .map_err(|e| step("/proc")(e.into()))
                .and_then(|fd| process::lift(fd).map_err(step("/proc")))?,
        })
    }
}

/// Forks E and listens to its news until it has been executed or failed.
fn launch(context: &Context, request: ExecWire, fds: Incoming) -> Result<(Pid, Option<OwnedFd>)> {
    let parts = Parts::collect(request, fds)?;
    let (ours, theirs) = fdpass::pair().map_err(|e| Failure::new(Stage::Fork, "a socket", e))?;
    let theirs = process::lift(theirs).map_err(|e| Failure::new(Stage::Fork, "a socket", e))?;
    // By pidfd: never that of a process which got its number later. It is for our children, we stay where we are.
    join(&parts.init, ThreadNameSpaceType::PROCESS_ID)?;
    let pid = match fork_in(Some(&parts.cgroup), false)? {
        Side::Parent(pid) => pid,
        Side::Child => {
            drop(ours);
            let failure = match become_process(&parts, &theirs) {
                Ok(failure) | Err(failure) => failure,
            };
            let _ = send(theirs.as_fd(), &News::Failed(failure), &[]);
            exit(255)
        }
    };
    drop((theirs, parts));
    let mut terminal = None;
    loop {
        // A daemon that hung up or orders a kill now wants nothing to be executed any more.
        let mut wait = [
            PollFd::new(&ours, PollFlags::IN),
            PollFd::new(&context.reply, PollFlags::IN),
        ];
        if poll(&mut wait, None).is_ok() && !wait[1].revents().is_empty() {
            return Err(Failure::said(Stage::Gone, "killed on its way in"));
        }
        match receive::<News>(ours.as_fd()) {
            Ok(Some((News::Terminal, mut fds))) => terminal = Some(fds.take(0)?),
            Ok(Some((News::Failed(failure), _))) => return Err(failure),
            Ok(None) => return Ok((pid, terminal)),
            Err(error) => return Err(Failure::new(Stage::Fork, "hear of the process", error)),
        }
    }
}

/// Answers, then waits for the process, the daemon's order to kill, or the daemon's end.
fn keep(context: &Context, pid: Pid, terminal: Option<OwnedFd>) -> ! {
    let raw = pid.as_raw_nonzero().get();
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            kill_children();
            context.answer(
                &Reply::Failed(Failure::new(Stage::Fork, "open the process", error)),
                &[],
            );
            exit(1)
        }
    };
    let mut fds = vec![pidfd.as_fd()];
    fds.extend(terminal.as_ref().map(|fd| fd.as_fd()));
    context.answer(
        &Reply::Execed {
            pid: raw.unsigned_abs(),
        },
        &fds,
    );
    drop(terminal);

    let mut daemon_is_there = true;
    loop {
        let mut wait = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if daemon_is_there {
            wait.push(PollFd::new(&context.reply, PollFlags::IN));
        }
        if poll(&mut wait, None).is_err() {
            continue;
        }
        let exited = !wait[0].revents().is_empty();
        let spoke = wait.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if exited {
            break;
        }
        if spoke {
            match fdpass::receive(context.reply.as_fd(), KILL.len()) {
                Ok(Some((order, _))) if order == KILL => {}
                Ok(Some(_)) => continue,
                Ok(None) | Err(_) => daemon_is_there = false,
            }
            killing::kill_session(raw);
        }
    }
    let code = loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                break status
                    .exit_status()
                    .or(status.terminating_signal().map(|signal| 128 + signal))
                    .unwrap_or(255);
            }
            Err(Errno::INTR) => {}
            _ => break 255,
        }
    };
    context.answer(&Reply::Exited { code }, &[]);
    exit(0)
}

/// Into the container, but for the pid namespace that we were forked in.
fn enter(parts: &Parts) -> Result<()> {
    join_v1(&parts.cgroup)?;
    // The container's score, not the daemon's; a node that refuses to lower ours has said so at create.
    if let Ok(score) = fs::read(format!("/proc/{}/oom_score_adj", parts.init_pid)) {
        let _ = fs::write("/proc/self/oom_score_adj", score);
    }
    let users = |whose: &str| stat(format!("/proc/{whose}/ns/user")).map(|stat| (stat.st_dev, stat.st_ino));
    let theirs = users(&parts.init_pid.to_string()).map_err(|e| Failure::new(Stage::Gone, "user", e))?;
    let mut kinds = NAMESPACES;
    // Any other may be ours already; this one must not.
    if users("self").map_err(|e| Failure::new(Stage::Namespaces, "user", e))? != theirs {
        kinds |= ThreadNameSpaceType::USER;
    }
    join(&parts.init, kinds)
}

fn join(init: &OwnedFd, kinds: ThreadNameSpaceType) -> Result<()> {
    move_into_thread_name_spaces(init.as_fd(), kinds).map_err(|e| match e {
        Errno::SRCH => Failure::new(Stage::Gone, "its first process has ended", e),
        e => Failure::new(Stage::Namespaces, "the container's", e),
    })
}

/// E: from a copy of the zygote to the process asked for. Returns only with why not.
fn become_process(parts: &Parts, news: &OwnedFd) -> Result<Failure> {
    let process = &parts.process;
    enter(parts)?;
    setsid().map_err(|e| Failure::new(Stage::Identity, "new session", e))?;
    let identity = |what: &'static str| move |e: Errno| Failure::new(Stage::Identity, what, e);
    // In a user namespace we are nobody so far, and could not even give the terminal away.
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(identity("become root's group"))?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(identity("become root"))?;
    match &parts.streams {
        Streams::Terminal(size) => own_terminal(*size, process.uid, news)?,
        Streams::Pipes(streams) => {
            for (number, fd) in (0..).zip(streams) {
                process::place(fd.as_fd(), number).map_err(|e| Failure::new(Stage::Request, "its streams", e))?;
            }
        }
    }
    process::close_on_exec_from(3).map_err(|e| Failure::new(Stage::Request, "close descriptors", e))?;
    if let Some(profile) = &process.apparmor {
        change_profile(parts.proc.as_fd(), profile)?;
    }

    // As root, for folders only root may enter; as the user, for those on a file server that trusts no root.
    let early = chdir(&process.cwd);
    set_keep_capabilities(true).map_err(identity("keep capabilities"))?;
    let groups: Vec<Gid> = process.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups).map_err(identity("set groups"))?;
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    set_thread_res_gid(gid, gid, gid).map_err(identity("set the group"))?;
    set_thread_res_uid(uid, uid, uid).map_err(identity("set the user"))?;
    if early.is_err() {
        chdir(&process.cwd).map_err(|e| Failure::new(Stage::WorkingDirectory, process.cwd.display(), e))?;
    }
    is_inside(&process.cwd)?;
    umask(Mode::from_raw_mode(0o022));

    let program = Program::new(&process.args, &process.env)?;
    process::ignore_signals(false, false);
    confine(&process.capabilities, parts.seccomp.as_deref(), process.no_new_privs)?;
    Ok(program.execute())
}

/// A working folder must be below the container's root (CVE-2024-21626).
fn is_inside(cwd: &Path) -> Result<()> {
    match getcwd(Vec::new()) {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Failure::said(
            Stage::WorkingDirectory,
            format!("{} is outside of the container", cwd.display()),
        )),
    }
}

/// The process' user may open its own /dev/stdout again. Only pipes: a terminal or file of others stays theirs.
fn own_pipe(fd: &OwnedFd, (uid, gid): (u32, u32)) {
    let is_pipe = fstat(fd).is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_fifo());
    if is_pipe {
        // When it fails reopening fails too, which is all that is lost.
        let _ = fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    }
}

/// A terminal of the container's own devpts as standard streams; its master goes to the keeper.
fn own_terminal(size: Winsize, uid: u32, news: &OwnedFd) -> Result<()> {
    let step = |what: &'static str| move |e: Errno| Failure::new(Stage::Terminal, what, e);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = open("/dev/pts/ptmx", flags, Mode::empty()).map_err(step("/dev/pts/ptmx"))?;
    let stat = fstat(&master).map_err(step("/dev/pts/ptmx"))?;
    let devpts = fstatfs(&master).map_err(step("/dev/pts/ptmx"))?.f_type == DEVPTS_SUPER_MAGIC;
    if !devpts || (major(stat.st_rdev), minor(stat.st_rdev)) != (5, 2) {
        return Err(Failure::said(Stage::Terminal, "/dev/pts/ptmx is not the kernel's"));
    }
    unlockpt(&master).map_err(step("unlock it"))?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .map_err(step("open it"))?;
    let _ = fchown(&slave, Some(Uid::from_raw(uid)), None);
    tcsetwinsize(&slave, size).map_err(step("set its size"))?;
    ioctl_tiocsctty(&slave).map_err(step("make it the controlling terminal"))?;
    for number in 0..3 {
        process::place(slave.as_fd(), number).map_err(|e| Failure::new(Stage::Terminal, "its streams", e))?;
    }
    send(news.as_fd(), &News::Terminal, &[master.as_fd()]).map_err(|e| Failure::new(Stage::Terminal, "pass it on", e))
}

/// All of a container's that may be entered at once and by everybody.
const NAMESPACES: ThreadNameSpaceType = ThreadNameSpaceType::MOUNT
    .union(ThreadNameSpaceType::NETWORK)
    .union(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION)
    .union(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME)
    .union(ThreadNameSpaceType::CONTROL_GROUP);

const DEVPTS_SUPER_MAGIC: rustix::fs::FsWord = 0x1cd1;
