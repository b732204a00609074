//! Makes a container: S becomes its shim, H makes its world and becomes init.
//!
//! ```text
//! zygote ─fork─▶ S: subreaper, sockets and pipes ─fork─▶ H: the rest, cgroup, mounts, init: libcontainer, answer
//!                └─ exec: the shim, parent of H
//! ```
//! The request comes in two parts: what S needs when the create begins, the rest when the daemon has prepared it. On cgroup
//! v2 S waits for the rest too: H is born in the container's cgroup. S executes the shim without waiting for H: the shim
//! learns init's pid over a pipe, or from its end that there is none. Only H enters the container's cgroup.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, Read, Seek},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use oci_spec::runtime::Spec;
use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, fchown, open, openat, unlinkat},
    mount::{MountAttrFlags, MountPropagationFlags, mount_change},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, getpid, kill_process, set_child_subreaper, umask},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_name},
};

use super::{
    diary::Diary,
    error::{Failure, Stage},
    executor::LastStep,
    furnish::furnish,
    halt,
    home::{attach, file_system, move_to_host, place_for},
    init::{Init, Ready, Streams},
    protocol::{
        BeginWire, CgroupJoin, CreateWire, Incoming, NamespaceKind, Place, Reply, Stdio, moment, namespace_number,
        receive,
    },
    server::{Context, c, fork_in, join_v1},
    start::{NOTIFY, STARTED},
};
use crate::{
    model::Stopwatch,
    sys::{
        arena,
        fork::{Side, exit, unshare},
        process,
    },
};

/// Bytes that a container's init allocates before its program is executed, and some more.
const HEAP: usize = 128 << 10;

type Result<T> = std::result::Result<T, Failure>;

/// S, from its first instruction on.
pub(super) fn work(context: Context, begin: BeginWire, fds: Incoming) -> ! {
    let dir = begin.dir.clone();
    let failure = match become_shim(&context, begin, fds) {
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
    for name in [SHIM_SOCKET, CONSOLE_SOCKET, NOTIFY, STARTED] {
        let _ = fs::remove_file(dir.join(name));
    }
}

fn become_shim(context: &Context, begin: BeginWire, mut fds: Incoming) -> Result<std::convert::Infallible> {
    let step = |what: &'static str| move |error: io::Error| Failure::new(Stage::Sockets, what, error);
    process::ignore_signals(true, false);
    set_child_subreaper(Some(getpid())).map_err(|e| step("become a subreaper")(e.into()))?;
    let _ = set_name(c"inro-shim");

    fds.lift()?;
    let log = fds.maybe(begin.log)?;
    let dir = open(
        &begin.dir,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Failure::new(Stage::Sockets, begin.dir.display(), e))?;
    let dir = process::lift(dir).map_err(step("its folder"))?;
    let control = listener(&dir, SHIM_SOCKET, SocketType::SEQPACKET).map_err(step("its control socket"))?;
    let (pid_read, pid_write) = pipe().map_err(step("the pid pipe"))?;
    let (theirs, ours) = Ends::make(&dir, begin.stdio).map_err(step("standard streams"))?;
    let null = process::lift(
        open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| step("/dev/null")(e.into()))?,
    )
    .map_err(step("/dev/null"))?;
    let rest = begin.born_in_cgroup.then(|| Rest::receive(context)).transpose()?;
    let cgroup = rest.as_ref().map(|rest| &rest.parts.cgroup);
    let events = cgroup.map(memory_events).transpose();
    let events = events.map_err(step("its memory.events"))?.flatten();

    if let Side::Child = fork_in(cgroup, begin.first_pid)? {
        drop((ours, control, pid_read, dir, log, events));
        help(context, begin, rest, theirs, pid_write, &null)
    }
    drop((rest, theirs, pid_write));

    let name = c(begin.id.as_str())?;
    let flags = c(flags(begin.stdio, log.is_some(), events.is_some()))?;
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

/// What the daemon has prepared meanwhile.
struct Rest {
    request: CreateWire,
    parts: Parts,
}

impl Rest {
    /// Waits for it, as who has time until then.
    fn await_it(context: &Context) -> Result<Self> {
        arena::touch(HEAP);
        Self::receive(context)
    }

    /// Waits for it. The daemon gives up by saying nothing.
    fn receive(context: &Context) -> Result<Self> {
        let received = receive(context.reply.as_fd());
        let received = received.map_err(|e| Failure::new(Stage::Request, "read the rest of it", e))?;
        let (request, fds): (CreateWire, _) =
            received.ok_or_else(|| Failure::said(Stage::Request, "the rest of it did not come"))?;
        let parts = Parts::collect(&request, fds)?;
        Ok(Self { request, parts })
    }
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
    /// Init's end of the halt's socket, and the host's tree.
    halt: Option<(OwnedFd, OwnedFd)>,
}

impl Parts {
    fn collect(request: &CreateWire, mut fds: Incoming) -> Result<Self> {
        fds.lift()?;
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
    fn make(dir: &OwnedFd, stdio: Stdio) -> io::Result<(Self, Self)> {
        let (mut theirs, mut ours) = (Self::default(), Self::default());
        if stdio.terminal {
            ours.output = Some(listener(dir, CONSOLE_SOCKET, SocketType::STREAM)?);
            return Ok((theirs, ours));
        }
        let (read, write) = pipe()?;
        (ours.output, theirs.output) = (Some(read), Some(write));
        let (read, write) = pipe()?;
        (ours.error, theirs.error) = (Some(read), Some(write));
        if stdio.stdin {
            let (read, write) = pipe()?;
            (theirs.input, ours.input) = (Some(read), Some(write));
        }
        Ok((theirs, ours))
    }

    /// Gives them to the container's user, who may open its own /dev/stdout again.
    fn give(&self, (uid, gid): (u32, u32)) -> io::Result<()> {
        for fd in [&self.input, &self.output, &self.error].into_iter().flatten() {
            fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(())
    }

    /// All three of the container's; `null` where there is nothing to read.
    fn of_init(self, null: &OwnedFd) -> io::Result<[OwnedFd; 3]> {
        let or_null = |fd: Option<OwnedFd>| fd.map_or_else(|| process::lift(null.try_clone()?), Ok);
        Ok([or_null(self.input)?, or_null(self.output)?, or_null(self.error)?])
    }
}

/// H: makes the container's world and becomes its init, or tells why not. What is in the container's folder by then, the
/// daemon removes.
fn help(context: &Context, begin: BeginWire, rest: Option<Rest>, stdio: Ends, shim: OwnedFd, null: &OwnedFd) -> ! {
    let _ = set_name(c"inro-create");
    let attempt = || -> Result<Failure> {
        let diary = Diary::open()?;
        let rest = rest.map_or_else(|| Rest::await_it(context), Ok);
        let Rest { request, mut parts } = rest?;
        let mut clock = Stopwatch::since(moment(request.sent));
        clock.lap("fork");
        let spec = read_spec(&begin.dir)?;
        make_world(&begin.dir, &request, &mut parts, &mut clock)?;
        let ready = Ready {
            reply: context.reply.clone(),
            shim,
            oom_score_adj_refused: lower_or_raise(request.oom_score_adj)?,
            clock: Some(clock).into(),
            pid: 0.into(),
        };
        let init = Init {
            id: begin.id.to_string(),
            spec,
            rootfs: request.place.rootfs(),
            stdio: streams(&begin, stdio, request.owner, null)?,
            last_step: last_step(&begin.dir, request, parts, ready)?,
            dir: begin.dir,
        };
        Ok(init.run(&diary))
    };
    let failure = attempt().unwrap_or_else(|failure| failure);
    context.answer(&Reply::Failed(failure), &[]);
    exit(1)
}

/// The cgroups, the pod's namespaces, and a mount namespace in which the root is complete but for what is init's.
fn make_world(dir: &Path, request: &CreateWire, parts: &mut Parts, clock: &mut Stopwatch) -> Result<()> {
    join_v1(&parts.cgroup)?;
    clock.lap("join cgroup");

    enter_namespaces(std::mem::take(&mut parts.namespaces))?;
    unshare(UnshareFlags::NEWNS).map_err(|e| Failure::new(Stage::Mounts, "new mount namespace", e))?;
    let mut bundle = dir;
    if let Some((socket, host)) = parts.halt.take() {
        halt::hand_down(socket.as_fd()).map_err(|e| Failure::new(Stage::Sockets, "pass the halt's socket", e))?;
        move_to_host(host, dir, request.place.path())
            .map_err(|e| Failure::new(Stage::Mounts, "move to the host's tree", e))?;
        bundle = request.place.path();
    }
    stage_mounts(&request.place, &parts.rootfs, std::mem::take(&mut parts.mounts))?;
    if !request.place.is_small() {
        fs::copy(dir.join(CONFIG), bundle.join(CONFIG))
            .map_err(|e| Failure::new(Stage::Mounts, "put the spec into the bundle", e))?;
    }
    let (files, cgroups) = (std::mem::take(&mut parts.files), std::mem::take(&mut parts.cgroups));
    furnish(request, &files, &cgroups)?;
    clock.lap("mounts");
    Ok(())
}

fn read_spec(dir: &Path) -> Result<Spec> {
    let explain = |error: &dyn Error| Failure::said(Stage::Request, format!("{CONFIG}: {error}"));
    // Not by `Spec::load`, which reads byte by byte.
    let text = fs::read(dir.join(CONFIG)).map_err(|error| explain(&error))?;
    serde_json::from_slice(&text).map_err(|error| explain(&error))
}

fn last_step(dir: &Path, request: CreateWire, parts: Parts, ready: Ready) -> Result<LastStep> {
    Ok(LastStep {
        capabilities: request.capabilities,
        seccomp: parts.seccomp.map(read_program).transpose()?,
        apparmor: request.apparmor,
        ready: Rc::new(ready),
        started: Rc::new(started_pipe(dir)?),
        hooks: request.start_hooks,
        state: request.state,
    })
}

/// Init's streams.
fn streams(begin: &BeginWire, stdio: Ends, owner: (u32, u32), null: &OwnedFd) -> Result<Streams> {
    match begin.stdio.terminal {
        true => console(&begin.dir)
            .map(Streams::Console)
            .map_err(|e| Failure::new(Stage::Sockets, CONSOLE_SOCKET, e)),
        false => stdio
            .give(owner)
            .and_then(|()| stdio.of_init(null))
            .map(Streams::Files)
            .map_err(|e| Failure::new(Stage::Sockets, "standard streams", e)),
    }
}

/// Connects to the shim, which passes the terminal on; nobody else may.
fn console(dir: &Path) -> io::Result<OwnedFd> {
    let folder = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let socket = UnixStream::connect(format!("/proc/self/fd/{}/{CONSOLE_SOCKET}", folder.as_raw_fd()))?;
    unlinkat(&folder, CONSOLE_SOCKET, AtFlags::empty())?;
    process::lift(socket.into())
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
fn stage_mounts(place: &Place, rootfs: &OwnedFd, mounts: Vec<OwnedFd>) -> Result<()> {
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
    let put = |path: &Path, fd: &OwnedFd| {
        let attached = place_for(fd, path).and_then(|()| attach(fd, path));
        attached.map_err(step(path.display().to_string()))
    };
    put(&place.rootfs(), rootfs)?;
    for (path, fd) in mounts {
        put(&path, &fd)?;
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
