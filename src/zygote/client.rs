//! The daemon's side: sends requests, waits for answers, starts the zygote again when it died.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio as Redirect},
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    mount::{OpenTreeFlags, open_tree},
    net::{Shutdown, shutdown},
};
use tokio::io::unix::AsyncFd;

use super::{
    error::ZygoteError,
    namespaces,
    protocol::{
        BeginRequest, BeginWire, CreateRequest, CreateWire, ExecRequest, ExecStdio, ExecStdioWire, ExecWire, Incoming,
        KILL, NamespaceKind, NamespacesRequest, Outgoing, PodInitRequest, Reply, Request, namespace_number, now,
        receive, send,
    },
};
use crate::{
    model::Stages,
    sys::{fdpass, mount},
};

type Result<T> = std::result::Result<T, ZygoteError>;

/// The daemon's handle of the zygote. Clones share it.
#[derive(Clone)]
pub struct Zygote {
    launch: Arc<Launch>,
    running: Arc<Mutex<Running>>,
}

/// What to execute as the zygote.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Our own binary.
    pub exe: PathBuf,
    /// Its arguments: the hidden subcommand and the state folder.
    pub args: Vec<OsString>,
}

/// The zygote that lives now; replaced as a whole when it died.
struct Running {
    socket: OwnedFd,
    child: Child,
}

/// A pod's namespaces.
#[derive(Debug)]
pub struct PodNamespaces {
    pub user: Option<OwnedFd>,
    pub net: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
    /// A route socket (rtnetlink) in `net` when that is new; it keeps the namespace as `net` does.
    pub route: Option<OwnedFd>,
}

/// The first process of a pod's shared pid namespace.
#[derive(Debug)]
pub struct PodInit {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub pid_ns: OwnedFd,
}

/// A container that is begun. Dropping it ends what was forked for it, some time later: see [`Beginning::give_up`].
#[derive(Debug)]
pub struct Beginning {
    dir: PathBuf,
    answers: Answers,
}

/// A container whose first process waits to be started.
#[derive(Debug)]
pub struct Created {
    pub init_pid: u32,
    /// What took how long, in order.
    pub stages: Stages,
}

/// A process that does nothing, for as long as `line` or a copy of it is open.
#[derive(Debug)]
pub struct Hold {
    pub pid: u32,
    pub line: OwnedFd,
}

/// A process running in a container. Dropping it kills the process and everything it started in its session.
#[derive(Debug)]
pub struct Exec {
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// The master of its terminal, if one was asked for.
    pub terminal: Option<OwnedFd>,
    answers: Answers,
}

impl Launch {
    /// This very binary, with `state_dir` as the one host folder the zygote sees.
    pub fn own(state_dir: &Path) -> Self {
        Self {
            exe: "/proc/self/exe".into(),
            args: vec!["zygote".into(), state_dir.into()],
        }
    }
}

impl Zygote {
    /// Starts the zygote. It dies with the last clone of this handle, its containers do not.
    ///
    /// # Errors
    /// [`ZygoteError::Launch`].
    pub fn spawn(launch: Launch) -> Result<Self> {
        let running = Running::start(&launch)?;
        Ok(Self {
            launch: Arc::new(launch),
            running: Arc::new(Mutex::new(running)),
        })
    }

    /// The zygote's process id, for the curious.
    pub fn pid(&self) -> u32 {
        self.running.lock().unwrap_or_else(|e| e.into_inner()).child.id()
    }

    /// Makes the namespaces of a pod.
    pub async fn namespaces(&self, request: NamespacesRequest) -> Result<PodNamespaces> {
        let (user, net, ipc, uts) = (request.user.is_some(), request.net, request.ipc, request.uts);
        let fds = match namespaces::need_no_process(&request) {
            true => namespaces::in_thread(request).await.map_err(ZygoteError::Failed)?,
            false => {
                let answers = self.ask(&Request::Namespaces(request), Outgoing::default()).await?;
                let (Reply::Namespaces, fds) = answers.next().await? else {
                    return Err(ZygoteError::Protocol);
                };
                fds.0.into_iter().flatten().collect()
            }
        };
        let mut fds = fds.into_iter();
        let mut next = |asked: bool| match asked {
            true => fds.next().map(Some).ok_or(ZygoteError::Protocol),
            false => Ok(None),
        };
        Ok(PodNamespaces {
            user: next(user)?,
            net: next(net)?,
            ipc: next(ipc)?,
            uts: next(uts)?,
            route: next(net)?,
        })
    }

    /// Starts the first process of a pod's shared pid namespace; it survives zygote and daemon.
    pub async fn pod_init(&self, request: PodInitRequest) -> Result<PodInit> {
        let mut fds = Outgoing::default();
        let joined = [request.net, request.ipc, request.uts, request.user];
        let wire = Request::PodInit {
            cgroup: fds.join(request.cgroup),
            joined: joined.into_iter().flatten().map(|fd| fds.put(fd)).collect(),
        };
        let answers = self.ask(&wire, fds).await?;
        let (Reply::PodInit { pid }, mut fds) = answers.next().await? else {
            return Err(ZygoteError::Protocol);
        };
        Ok(PodInit {
            pid,
            pid_ns: descriptor(&mut fds, 0)?,
            pidfd: descriptor(&mut fds, 1)?,
        })
    }

    /// Starts a process for a new cgroup that would else be empty.
    pub async fn hold(&self) -> Result<Hold> {
        let answers = self.ask(&Request::Hold, Outgoing::default()).await?;
        let (Reply::Held { pid }, _) = answers.next().await? else {
            return Err(ZygoteError::Protocol);
        };
        Ok(Hold {
            pid,
            line: answers.0.into_inner(),
        })
    }

    /// Begins a container, whose folder exists: what will make it is forked, and waits for the rest.
    pub async fn begin(&self, request: BeginRequest) -> Result<Beginning> {
        let mut fds = Outgoing::default();
        let dir = request.dir.clone();
        let wire = Request::Begin(BeginWire {
            id: request.id,
            dir: request.dir,
            stdio: request.stdio,
            log: fds.maybe(request.log),
            first_pid: request.first_pid,
            born_in_cgroup: request.born_in_cgroup,
        });
        let answers = self.ask(&wire, fds).await?;
        Ok(Beginning { dir, answers })
    }

    /// Runs a process in a started container.
    pub async fn exec(&self, request: ExecRequest) -> Result<Exec> {
        let mut fds = Outgoing::default();
        let wire = Request::Exec(ExecWire {
            init_pid: request.init_pid,
            init_pidfd: fds.put(request.init_pidfd),
            process: request.process,
            seccomp: fds.maybe(request.seccomp),
            cgroup: fds.join(request.cgroup),
            stdio: match request.stdio {
                ExecStdio::Pipes { stdin, stdout, stderr } => ExecStdioWire::Pipes {
                    stdin: fds.maybe(stdin),
                    stdout: fds.maybe(stdout),
                    stderr: fds.maybe(stderr),
                },
                ExecStdio::Terminal { columns, rows } => ExecStdioWire::Terminal { columns, rows },
            },
            owner: request.owner,
        });
        let answers = self.ask(&wire, fds).await?;
        let (Reply::Execed { pid }, mut fds) = answers.next().await? else {
            return Err(ZygoteError::Protocol);
        };
        Ok(Exec {
            pid,
            pidfd: descriptor(&mut fds, 0)?,
            terminal: descriptor(&mut fds, 1).ok(),
            answers,
        })
    }

    /// Sends a request with a reply socket of its own and waits until a worker has taken it up. What the zygote dies
    /// over before that was not begun, and is asked again of the next one.
    async fn ask(&self, request: &Request, fds: Outgoing) -> Result<Answers> {
        let fds = fds.borrowed()?;
        let mut attempt = 1;
        loop {
            let (ours, theirs) = fdpass::pair().map_err(ZygoteError::Send)?;
            let sent = {
                let all: Vec<_> = std::iter::once(theirs.as_fd()).chain(fds.iter().copied()).collect();
                self.send_once(request, &all)
            };
            drop(theirs);
            let taken_up = match sent {
                Ok(()) => Answers::new(ours)?.taken_up().await,
                Err(error) => Err(error),
            };
            match taken_up {
                Err(ZygoteError::Send(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(ZygoteError::Send(error)) if died(&error) && attempt < ATTEMPTS => {
                    attempt += 1;
                    self.restart()?;
                }
                Err(ZygoteError::Lost) if attempt < ATTEMPTS => {
                    attempt += 1;
                    self.restart()?;
                }
                done => return done,
            }
        }
    }

    fn send_once(&self, request: &Request, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<()> {
        let running = self.running.lock().unwrap_or_else(|e| e.into_inner());
        send(running.socket.as_fd(), request, fds).map_err(ZygoteError::Send)
    }

    fn restart(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(|e| e.into_inner());
        // Somebody else may have been faster.
        if running.child.try_wait().is_ok_and(|exited| exited.is_none()) && !running.hung_up() {
            return Ok(());
        }
        tracing::warn!(pid = running.child.id(), "the zygote died, starting another");
        *running = Running::start(&self.launch)?;
        Ok(())
    }
}

impl Beginning {
    /// Makes the container; its first process then waits for [`super::start`], under a shim that is already listening.
    ///
    /// A failure leaves no process, socket or mount, except when [`ZygoteError::Lost`]: then the container's cgroup
    /// may hold a process that waits forever, which killing the cgroup ends.
    pub async fn create(self, request: CreateRequest) -> Result<Created> {
        let mut fds = Outgoing::default();
        let joined = request.namespaces;
        let namespaces = [
            (NamespaceKind::Net, joined.net),
            (NamespaceKind::Ipc, joined.ipc),
            (NamespaceKind::Uts, joined.uts),
            (NamespaceKind::Pid, joined.pid),
            (NamespaceKind::User, joined.user),
        ];
        let wire = CreateWire {
            sent: now(),
            rootfs: fds.put(request.rootfs),
            root: request.root,
            base: request.base,
            devices: request.devices,
            files: request
                .files
                .into_iter()
                .map(|(place, fd)| (place, fds.put(fd)))
                .collect(),
            closed: request.closed,
            volumes: request.volumes,
            mounts: request.mounts.into_iter().map(|fd| fds.put(fd)).collect(),
            cgroups: request
                .cgroups
                .into_iter()
                .map(|(name, fd)| (name, fds.put(fd)))
                .collect(),
            namespaces: namespaces
                .into_iter()
                .filter_map(|(kind, fd)| Some((namespace_number(kind), fds.put(fd?))))
                .collect(),
            cgroup: fds.join(request.cgroup),
            seccomp: fds.maybe(request.seccomp),
            apparmor: request.apparmor,
            capabilities: request.capabilities,
            owner: request.owner,
            cwd: request.cwd,
            oom_score_adj: request.oom_score_adj,
            place: request.place,
            halt: request.halt.map(|halt| (fds.put(halt.socket), fds.put(halt.host))),
            start_hooks: request.start_hooks,
            state: request.state,
        };
        match self.answer_to(&wire, fds).await {
            Ok((
                Reply::Created {
                    init_pid,
                    stages,
                    oom_score_adj_refused,
                },
                _,
            )) => {
                if oom_score_adj_refused {
                    static ONCE: Once = Once::new();
                    ONCE.call_once(|| tracing::warn!("this node refuses to lower oom_score_adj: containers keep ours"));
                }
                Ok(Created { init_pid, stages })
            }
            Ok(_) => Err(ZygoteError::Protocol),
            Err(error) => {
                self.give_up().await;
                Err(error)
            }
        }
    }

    async fn answer_to(&self, rest: &CreateWire, fds: Outgoing) -> Result<(Reply, Incoming)> {
        // Who died, did so before it could say why, or has said it.
        match send(self.answers.as_fd(), rest, &fds.borrowed()?) {
            Err(error) if !died(&error) => Err(ZygoteError::Send(error)),
            _ => self.answers.next().await,
        }
    }

    /// Ends what was begun: nothing of it is left in the container's folder.
    pub async fn give_up(self) {
        let _ = shutdown(self.answers.as_fd(), Shutdown::Write);
        let _ = self.answers.next().await;
        super::create::sweep(&self.dir);
    }
}

impl Exec {
    /// Waits until the process has ended: its exit code, or 128 + the signal that killed it. May be cancelled and
    /// called again.
    pub async fn wait(&self) -> Result<i32> {
        match self.answers.next().await? {
            (Reply::Exited { code }, _) => Ok(code),
            _ => Err(ZygoteError::Protocol),
        }
    }

    /// Waits at most `limit`; `None` when the process still runs.
    pub async fn wait_for(&self, limit: Duration) -> Result<Option<i32>> {
        tokio::time::timeout(limit, self.wait()).await.ok().transpose()
    }

    /// Kills the process, its descendants and its session; [`Exec::wait`] then reports it.
    pub fn kill_all(&self) {
        // A failure means that its keeper has ended, and with it the process.
        let _ = fdpass::send(self.answers.as_fd(), KILL, &[]);
    }
}

impl Running {
    fn start(launch: &Launch) -> Result<Self> {
        let (ours, theirs) = fdpass::pair().map_err(|source| ZygoteError::Launch {
            step: "make its socket",
            source,
        })?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|e| ZygoteError::Launch {
            step: "make its socket",
            source: e.into(),
        })?;
        let program = protected(&launch.exe)?;
        // The descriptor closes at exec, after the kernel has followed the link; the zygote's executable is then the
        // read-only mount, whatever a container does to /proc/<pid>/exe (CVE-2019-5736).
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0("inro")
            .args(&launch.args)
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Redirect::null())
            .spawn()
            .map_err(|source| ZygoteError::Launch {
                step: "execute our own binary",
                source,
            })?;
        Ok(Self { socket: ours, child })
    }

    fn hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It would end by itself as its socket closes; killed it can be waited for, and it has nothing to finish.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reply socket of one request.
#[derive(Debug)]
struct Answers(AsyncFd<OwnedFd>);

impl Answers {
    fn new(socket: OwnedFd) -> Result<Self> {
        fdpass::watch(socket).map(Self).map_err(ZygoteError::Receive)
    }

    /// Waits for the worker's first word.
    async fn taken_up(self) -> Result<Self> {
        match self.next().await? {
            (Reply::TakenUp, _) => Ok(self),
            _ => Err(ZygoteError::Protocol),
        }
    }

    /// The next answer; a failure told by the worker is an error here.
    async fn next(&self) -> Result<(Reply, Incoming)> {
        let answer = self
            .0
            .async_io(tokio::io::Interest::READABLE, |socket| receive(socket.as_fd()))
            .await;
        match answer.map_err(ZygoteError::Receive)? {
            None => Err(ZygoteError::Lost),
            Some((Reply::Failed(failure), _)) => Err(ZygoteError::Failed(failure)),
            Some(answer) => Ok(answer),
        }
    }
}

impl AsFd for Answers {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// Our binary so that nobody can write it through the process: a detached read-only mount of it, or where the kernel
/// cannot do that (the binary's mount belongs to another namespace), a sealed copy.
fn protected(exe: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let bind = open_tree(rustix::fs::CWD, exe, flags).map_err(io::Error::from);
    if let Ok(fd) = bind.and_then(|fd| mount::set_readonly(fd.as_fd(), false).map(|()| fd)) {
        return Ok(fd);
    }
    let copy = || -> io::Result<OwnedFd> {
        let mut copy = File::from(memfd_create("inro", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        io::copy(&mut File::open(exe)?, &mut copy)?;
        fcntl_add_seals(
            &copy,
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
        )?;
        // Executing a descriptor that is open for writing is ETXTBSY.
        Ok(File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?.into())
    };
    copy().map_err(|source| ZygoteError::Launch {
        step: "copy our own binary",
        source,
    })
}

fn descriptor(fds: &mut Incoming, index: usize) -> Result<OwnedFd> {
    fds.take(index).map_err(|_| ZygoteError::Protocol)
}

fn died(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN | libc::ECONNREFUSED)
    )
}

/// Restarts within one request.
const ATTEMPTS: u32 = 3;
