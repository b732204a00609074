//! Makes a container: S becomes its shim, H calls libcontainer and goes.
//!
//! ```text
//! zygote ─fork─▶ S: setsid, subreaper, sockets and pipes ─fork─▶ H: cgroup, mounts, libcontainer, answer, exit
//!                └─ exec: the shim, parent of                     └─ (siblings) intermediate, init
//! ```
//! S executes the shim without waiting for H: the shim learns init's pid over a pipe, or from its end that there is
//! none. Only H enters the container's cgroup.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    rc::Rc,
};

use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use rustix::{
    fs::{CWD, Mode, OFlags, open, openat},
    mount::{MountAttrFlags, MountPropagationFlags, mount_change},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, getpid, kill_process, set_child_subreaper, setsid, umask},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_name},
};

use super::{
    diary::Diary,
    error::{Failure, Stage},
    executor::LastStep,
    furnish::furnish,
    halt,
    home::{attach, file_system, move_to_host, place_for},
    protocol::{CgroupJoin, CreateWire, Incoming, NamespaceKind, Place, Reply, Stdio, namespace_number},
    server::{Context, c, fork_in, join_v1},
    start::{NOTIFY_DIR, STARTED},
};
use crate::{
    model::Stopwatch,
    sys::{
        fork::{Side, exit, unshare},
        process,
    },
};

type Result<T> = std::result::Result<T, Failure>;

/// S, from its first instruction on.
pub(super) fn work(context: Context, request: CreateWire, fds: Incoming) -> ! {
    let dir = request.dir.clone();
    let failure = match become_shim(&context, request, fds) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    kill_children();
    sweep(&dir);
    context.answer(&Reply::Failed(failure), &[]);
    exit(1)
}

/// Removes what a failed create left in the container's folder.
pub(super) fn sweep(dir: &Path) {
    for name in [SHIM_SOCKET, CONSOLE_SOCKET, STARTED] {
        let _ = fs::remove_file(dir.join(name));
    }
    let _ = fs::remove_dir_all(dir.join(NOTIFY_DIR));
}

fn become_shim(context: &Context, request: CreateWire, fds: Incoming) -> Result<std::convert::Infallible> {
    let step = |what: &'static str| move |error: io::Error| Failure::new(Stage::Sockets, what, error);
    process::reset_signals(true, false);
    let _ = setsid();
    set_child_subreaper(Some(getpid())).map_err(|e| step("become a subreaper")(e.into()))?;
    let _ = set_name(c"inro-shim");

    let mut parts = Parts::collect(&request, fds)?;
    let dir = open(
        &request.dir,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Failure::new(Stage::Sockets, request.dir.display(), e))?;
    let dir = process::lift(dir).map_err(step("its folder"))?;
    let control = listener(&dir, SHIM_SOCKET, SocketType::SEQPACKET).map_err(step("its control socket"))?;
    let (pid_read, pid_write) = pipe().map_err(step("the pid pipe"))?;
    let (theirs, ours) = Ends::make(&dir, &request).map_err(step("standard streams"))?;
    let null = process::lift(
        open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| step("/dev/null")(e.into()))?,
    )
    .map_err(step("/dev/null"))?;
    let log = parts.log.take();
    let events = memory_events(&parts.cgroup).map_err(step("its memory.events"))?;

    if let Side::Child = fork_in(&parts.cgroup)? {
        drop((ours, control, pid_read, dir, log, events));
        help(context, request, parts, theirs, pid_write, &null)
    }
    drop((parts, theirs, pid_write));

    let name = c(request.id.as_str())?;
    let flags = c(flags(request.stdio, log.is_some(), events.is_some()))?;
    let numbers = [
        (0, Some(&null)),
        (1, Some(&null)),
        (2, Some(&null)),
        (3, Some(&control)),
        (4, Some(&dir)),
        (5, log.as_ref()),
        (6, Some(&pid_read)),
        (7, ours.output.as_ref()),
        (8, ours.error.as_ref()),
        (9, ours.input.as_ref()),
        (10, events.as_ref()),
    ];
    for (number, fd) in numbers {
        match fd {
            Some(fd) => process::place(fd.as_fd(), number).map_err(step("arrange descriptors"))?,
            None => process::close_numbers(number, number),
        }
    }
    process::exec_fd(context.shim.as_fd(), &[c("inro-shim")?, name, flags], &[])
        .map_err(|error| Failure::new(Stage::Shim, "execute it", error))
}

/// The descriptors of the request, out of the way of the numbers that the shim and libcontainer are promised.
struct Parts {
    rootfs: OwnedFd,
    files: Vec<(PathBuf, OwnedFd)>,
    mounts: Vec<OwnedFd>,
    cgroups: Vec<(String, OwnedFd)>,
    namespaces: Vec<(i32, OwnedFd)>,
    cgroup: CgroupJoin,
    seccomp: Option<OwnedFd>,
    log: Option<OwnedFd>,
    /// Init's end of the halt's socket, and the host's tree.
    halt: Option<(OwnedFd, OwnedFd)>,
}

impl Parts {
    fn collect(request: &CreateWire, mut fds: Incoming) -> Result<Self> {
        for slot in &mut fds.0 {
            let lifted = slot.take().map(process::lift).transpose();
            *slot = lifted.map_err(|e| Failure::new(Stage::Request, "move a descriptor", e))?;
        }
        let mut namespaces = Vec::new();
        for &(number, index) in &request.namespaces {
            namespaces.push((number, fds.take(index)?));
        }
        Ok(Self {
            rootfs: fds.take(request.rootfs)?,
            files: request
                .files
                .iter()
                .map(|(place, index)| Ok((place.clone(), fds.take(*index)?)))
                .collect::<Result<_>>()?,
            mounts: request
                .mounts
                .iter()
                .map(|&index| fds.take(index))
                .collect::<Result<_>>()?,
            cgroups: request
                .cgroups
                .iter()
                .map(|(name, index)| Ok((name.clone(), fds.take(*index)?)))
                .collect::<Result<_>>()?,
            namespaces,
            cgroup: fds.join(&request.cgroup)?,
            seccomp: fds.maybe(request.seccomp)?,
            log: fds.maybe(request.log)?,
            halt: match request.halt {
                Some((socket, host)) => Some((fds.take(socket)?, fds.take(host)?)),
                None => None,
            },
        })
    }
}

/// One side's ends of the container's standard streams. With a terminal the shim's `output` is the console listener.
#[derive(Default)]
struct Ends {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    error: Option<OwnedFd>,
}

impl Ends {
    /// The container's and the shim's.
    fn make(dir: &OwnedFd, request: &CreateWire) -> io::Result<(Self, Self)> {
        let (mut theirs, mut ours) = (Self::default(), Self::default());
        if request.stdio.terminal {
            ours.output = Some(listener(dir, CONSOLE_SOCKET, SocketType::STREAM)?);
            return Ok((theirs, ours));
        }
        let (read, write) = pipe()?;
        (ours.output, theirs.output) = (Some(read), Some(write));
        let (read, write) = pipe()?;
        (ours.error, theirs.error) = (Some(read), Some(write));
        if request.stdio.stdin {
            let (read, write) = pipe()?;
            (theirs.input, ours.input) = (Some(read), Some(write));
        }
        // The container's user may open its own /dev/stdout again.
        let (uid, gid) = request.owner;
        for fd in [&theirs.input, &theirs.output, &theirs.error].into_iter().flatten() {
            rustix::fs::fchown(
                fd,
                Some(rustix::fs::Uid::from_raw(uid)),
                Some(rustix::fs::Gid::from_raw(gid)),
            )?;
        }
        Ok((theirs, ours))
    }
}

/// H: makes the container, tells everybody, exits.
fn help(context: &Context, request: CreateWire, parts: Parts, stdio: Ends, pid_write: OwnedFd, null: &OwnedFd) -> ! {
    let _ = set_name(c"inro-create");
    let dir = request.dir.clone();
    let mut clock = Stopwatch::since(context.arrived);
    clock.lap("fork");
    let close = vec![context.reply.as_raw_fd(), pid_write.as_raw_fd(), halt::SOCKET];
    let made = build(&request, parts, stdio, null, close, &mut clock).and_then(|(init, refused)| {
        let line = format!("{}\n", init.as_raw_nonzero());
        if let Err(error) = rustix::io::write(&pid_write, line.as_bytes()) {
            let _ = kill_process(init, Signal::KILL);
            return Err(Failure::new(Stage::Shim, "tell it the first process", error));
        }
        Ok((init, refused))
    });
    match made {
        Ok((init, oom_score_adj_refused)) => {
            let init_pid = init.as_raw_nonzero().get().unsigned_abs();
            context.answer(
                &Reply::Created {
                    init_pid,
                    stages: clock.stages(),
                    oom_score_adj_refused,
                },
                &[],
            );
            exit(0)
        }
        Err(failure) => {
            sweep(&dir);
            context.answer(&Reply::Failed(failure), &[]);
            exit(1)
        }
    }
}

fn build(
    request: &CreateWire,
    parts: Parts,
    stdio: Ends,
    null: &OwnedFd,
    close: Vec<i32>,
    clock: &mut Stopwatch,
) -> Result<(Pid, bool)> {
    join_v1(&parts.cgroup)?;
    drop(parts.cgroup);
    clock.lap("cgroup");

    enter_namespaces(parts.namespaces)?;
    unshare(UnshareFlags::NEWNS).map_err(|e| Failure::new(Stage::Mounts, "new mount namespace", e))?;
    let mut bundle = request.dir.as_path();
    if let Some((socket, host)) = parts.halt {
        halt::hand_down(socket.as_fd()).map_err(|e| Failure::new(Stage::Sockets, "pass the halt's socket", e))?;
        move_to_host(host, &request.dir, request.place.path())
            .map_err(|e| Failure::new(Stage::Mounts, "move to the host's tree", e))?;
        bundle = request.place.path();
    }
    stage_mounts(&request.place, parts.rootfs, parts.mounts)?;
    if !request.place.is_small() {
        fs::copy(request.dir.join(CONFIG), bundle.join(CONFIG))
            .map_err(|e| Failure::new(Stage::Mounts, "put the spec into the bundle", e))?;
    }
    furnish(request, &parts.files)?;
    drop(parts.files);
    clock.lap("mounts");

    let refused = lower_or_raise(request.oom_score_adj)?;
    let seccomp = parts.seccomp.map(read_program).transpose()?;
    let started = Rc::new(started_pipe(&request.dir)?);
    let diary = Diary::open()?;

    let step = LastStep {
        capabilities: request.capabilities,
        seccomp,
        apparmor: request.apparmor.clone(),
        close,
        started,
        cgroups: Rc::new(parts.cgroups),
        hooks: request.start_hooks.clone(),
        state: request.state.clone(),
    };
    let mut builder = ContainerBuilder::new(request.id.as_str().to_owned(), SyscallType::default())
        .with_executor(step)
        .with_root_path(request.dir.join(NOTIFY_DIR))
        .map_err(|error| diary.explain(&error))?;
    if request.stdio.terminal {
        builder = builder.with_console_socket(Some(request.dir.join(CONSOLE_SOCKET)));
    } else {
        let input = match stdio.input {
            Some(fd) => fd,
            None => process::lift(
                null.try_clone()
                    .map_err(|e| Failure::new(Stage::Sockets, "/dev/null", e))?,
            )
            .map_err(|e| Failure::new(Stage::Sockets, "/dev/null", e))?,
        };
        builder = builder.with_stdin(input);
        if let (Some(output), Some(error)) = (stdio.output, stdio.error) {
            builder = builder.with_stdout(output).with_stderr(error);
        }
    }
    let container = builder
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(|error| diary.explain(&error))?;
    clock.lap("build");
    let _ = fs::remove_file(request.dir.join(CONSOLE_SOCKET));
    let pid = container.pid().and_then(|pid| Pid::from_raw(pid.as_raw()));
    Ok((
        pid.ok_or_else(|| Failure::said(Stage::Build, "the container has no first process"))?,
        refused,
    ))
}

/// Enters those that init inherits from us; libcontainer finds the others, which need a fork, at their numbers.
fn enter_namespaces(namespaces: Vec<(i32, OwnedFd)>) -> Result<()> {
    for (number, fd) in namespaces {
        let kind = match number {
            _ if number == namespace_number(NamespaceKind::Net) => LinkNameSpaceType::Network,
            _ if number == namespace_number(NamespaceKind::Ipc) => LinkNameSpaceType::InterProcessCommunication,
            _ if number == namespace_number(NamespaceKind::Uts) => LinkNameSpaceType::HostNameAndNISDomainName,
            _ => {
                process::place(fd.as_fd(), number).map_err(|e| Failure::new(Stage::Namespaces, "pass one", e))?;
                continue;
            }
        };
        move_into_link_name_space(fd.as_fd(), Some(kind))
            .map_err(|e| Failure::new(Stage::Namespaces, "the pod's", e))?;
    }
    Ok(())
}

/// Attaches everything in a mount namespace of our own: the host's table does not change, and it ends with us.
fn stage_mounts(place: &Place, rootfs: OwnedFd, mounts: Vec<OwnedFd>) -> Result<()> {
    let step = |what: String| move |error: io::Error| Failure::new(Stage::Mounts, what, error);
    let top = place.path();
    // Passable for the root of a user namespace, who is nobody here.
    let stage = file_system("tmpfs", &[("mode", "0711"), ("size", "1m")], MountAttrFlags::empty())
        .and_then(|stage| attach(&stage, top));
    stage.map_err(step(top.display().to_string()))?;
    let mounts = mounts
        .into_iter()
        .enumerate()
        .map(|(index, fd)| (place.mount(index), fd));
    for (path, fd) in std::iter::once((place.rootfs(), rootfs)).chain(mounts) {
        let attached = place_for(&fd, &path).and_then(|()| attach(&fd, &path));
        attached.map_err(step(path.display().to_string()))?;
    }
    // libcontainer requires a parent that does not propagate; the pieces keep the propagation they came with.
    mount_change(top, MountPropagationFlags::PRIVATE).map_err(|e| step(top.display().to_string())(e.into()))
}

/// Sets our own score, which init inherits; libcontainer would fail where the node refuses to lower it.
fn lower_or_raise(score: Option<i32>) -> Result<bool> {
    let Some(score) = score else { return Ok(false) };
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Ok(()) => Ok(false),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => Ok(true),
        Err(error) => Err(Failure::new(Stage::OomScore, score, error)),
    }
}

/// A fifo whose other end tells [`super::start`] whether init's exec went well.
fn started_pipe(dir: &Path) -> Result<File> {
    let path = dir.join(STARTED);
    let made = rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .and_then(|()| open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()));
    let fd = made.map_err(|e| Failure::new(Stage::Sockets, path.display(), e))?;
    process::lift(fd)
        .map(File::from)
        .map_err(|e| Failure::new(Stage::Sockets, path.display(), e))
}

pub(super) fn read_program(memfd: OwnedFd) -> Result<Vec<u8>> {
    let mut file = File::from(memfd);
    let mut program = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut program));
    read.map_err(|e| Failure::new(Stage::Request, "read the seccomp filter", e))?;
    Ok(program)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((process::lift(read)?, process::lift(write)?))
}

/// A listening socket in the container's folder, for root only. Bound through the descriptor: the path may be longer
/// than a socket address.
fn listener(dir: &OwnedFd, name: &str, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?;
    let before = umask(Mode::from_raw_mode(0o177));
    let bound = bind(&socket, &address);
    umask(before);
    bound?;
    listen(&socket, 16)?;
    process::lift(socket)
}

/// What the shim reads how many were killed for want of memory from; only v2, and only with its memory controller.
fn memory_events(cgroup: &CgroupJoin) -> io::Result<Option<OwnedFd>> {
    let (CgroupJoin::V2(dir) | CgroupJoin::V2Held { dir, .. }) = cgroup else {
        return Ok(None);
    };
    let file = openat(dir, "memory.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    file.ok().map(process::lift).transpose()
}

fn flags(stdio: Stdio, log: bool, events: bool) -> String {
    [
        (stdio.terminal, 't'),
        (stdio.stdin, 'i'),
        (stdio.stdin_once, 'o'),
        (log, 'l'),
        (events, 'm'),
    ]
    .into_iter()
    .filter_map(|(set, letter)| set.then_some(letter))
    .collect()
}

/// Kills all our children, as often as there are new ones: a helper may be in the middle of cloning.
pub(super) fn kill_children() {
    use rustix::process::{WaitOptions, wait};
    loop {
        let path = format!("/proc/self/task/{}/children", getpid().as_raw_nonzero());
        for pid in fs::read_to_string(path).unwrap_or_default().split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if wait(WaitOptions::empty()).is_err() {
            return;
        }
    }
}

const CONFIG: &str = "config.json";
const SHIM_SOCKET: &str = "shim.sock";
const CONSOLE_SOCKET: &str = "console.sock";
