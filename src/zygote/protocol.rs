//! What the daemon and the zygote say to each other: one datagram of JSON with its descriptors beside it.
//!
//! The public request types own their descriptors; `wire` gives the same value with each descriptor replaced by its
//! place in the datagram. A body too large for a datagram travels in a memfd.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::{Failure, ZygoteError};
use crate::{
    model::{BaseMount, CapabilitySets, ContainerId, DeviceNode, Hook, Stages, UserNamespace},
    sys::{fdpass, process},
};

/// Descriptors in one request; the kernel's `SCM_MAX_FD` is 253, one is the reply socket and one may be the body.
pub(super) const MAX_FDS: usize = 250;

/// How a process gets into a cgroup without waiting for a grace period.
#[derive(Debug)]
pub enum CgroupJoin<F = OwnedFd> {
    /// The opened `tasks` file of each controller; the process writes `0` to each.
    V1(Vec<F>),
    /// The cgroup's folder; the process is cloned into it.
    V2(F),
    /// The same of a cgroup that exists only with a process in it: one stays there for as long as `hold` is open.
    V2Held { dir: F, hold: F },
}

/// A namespace that a container joins instead of getting its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceKind {
    Net,
    Ipc,
    Uts,
    Pid,
    User,
}

/// The namespaces to join; absent ones are as the spec says (new, or the host's).
#[derive(Debug, Default)]
pub struct NamespaceFds {
    pub net: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
    pub pid: Option<OwnedFd>,
    pub user: Option<OwnedFd>,
}

/// What the container's first process is connected to; the other ends belong to its shim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// A pseudo terminal instead of pipes; the spec must say `terminal` too.
    pub terminal: bool,
    /// Keep standard input open; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Close standard input when the first attached client leaves.
    pub stdin_once: bool,
}

/// Begins a container: its shim and the helper that will make it are forked while the caller still prepares the rest.
#[derive(Debug)]
pub struct BeginRequest {
    pub id: ContainerId,
    /// The container's folder in the run folder; sockets are made in it.
    pub dir: PathBuf,
    pub stdio: Stdio,
    /// The container's log, opened for appending.
    pub log: Option<OwnedFd>,
    /// Init is the first process of a new pid namespace, for which the helper does not have to enter a user namespace.
    pub first_pid: bool,
    /// The helper is to be in its cgroup from its birth on, and waits with it for the rest: v2.
    pub born_in_cgroup: bool,
}

/// Makes a container up to the point where its first process waits for [`super::start`].
///
/// `dir/config.json` holds the derived spec, written by the caller: no `linux.resources`, no `linux.seccomp`, no
/// `process.oomScoreAdj`; no joined net, ipc or uts namespace (the helper is in them), other paths from [`namespace_path`]; `root.path` and the sources of bind
/// mounts from `place`; with a `halt` its hook too; SYS_ADMIN and SETPCAP in bounding, effective and permitted; HOME and PATH in the
/// environment.
#[derive(Debug)]
pub struct CreateRequest {
    /// Detached mount of the root file system.
    pub rootfs: OwnedFd,
    /// The container's root as host ids: owns the folders and files that are made for mounts.
    pub root: (u32, u32),
    /// Made in the root file system, in this order, before the spec's mounts; their places must not be links.
    pub base: Vec<BaseMount>,
    /// Made after `base`; the default ones of the spec's `/dev` are not among them.
    pub devices: Vec<DeviceNode>,
    /// Detached mounts attached over these places in the root file system, in this order, after `base`.
    pub files: Vec<(PathBuf, OwnedFd)>,
    /// Closed when all else is attached.
    pub closed: ClosedPaths,
    /// Folders of the root file system that are made where they are missing, and stay writable when the root is not.
    pub volumes: Vec<PathBuf>,
    /// Detached mounts (open_tree), the Nth attached at `place.mount(N)`.
    pub mounts: Vec<OwnedFd>,
    /// Detached mounts of the container's folder in each v1 hierarchy, by the hierarchy's name, which the helper attaches below
    /// `/sys/fs/cgroup`, after the files; or the one of v2 without a name, attached there. The spec has no mount there.
    pub cgroups: Vec<(String, OwnedFd)>,
    pub namespaces: NamespaceFds,
    pub cgroup: CgroupJoin,
    /// memfd with an array of `struct sock_filter`, installed last.
    pub seccomp: Option<OwnedFd>,
    /// AppArmor profile to change to at exec.
    pub apparmor: Option<String>,
    /// The sets the process ends up with.
    pub capabilities: CapabilitySets,
    /// Owner of the stdio pipes, as host ids (the container's user), so that it can reopen `/dev/stdout`.
    pub owner: (u32, u32),
    /// Working folder, made in the root file system when the image lacks it.
    pub cwd: PathBuf,
    /// `None`: as the daemon's. A lower value than the daemon may give is not fatal, see `Created`.
    pub oom_score_adj: Option<i32>,
    /// Where the pieces are attached; on the host's tree when there is a `halt`.
    pub place: Place,
    /// Init stops before its root is changed, with the host's files around it.
    pub halt: Option<HaltRequest>,
    /// Run by init once it is confined, before its program.
    pub start_hooks: Vec<Hook>,
    /// What those are told, but for the pid.
    pub state: HookState,
}

/// Places in a container that are not for it. Those that it does not have are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedPaths {
    /// Show an empty folder, or a device without content.
    pub masked: Vec<PathBuf>,
    /// Can be read only, but for what is mounted below them.
    pub readonly: Vec<PathBuf>,
}

/// What a create with a halt needs: see [`super::Halt`].
#[derive(Debug)]
pub struct HaltRequest {
    /// Init's end.
    pub socket: OwnedFd,
    /// The host's tree of mounts, detached.
    pub host: OwnedFd,
}

/// Where the helper attaches what a container is made of, in a mount namespace that ends with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place(PathBuf);

impl Place {
    /// In the zygote's own small world.
    pub fn small() -> Self {
        Self("/stage".into())
    }

    /// In the host's tree, below the run folder `state`. Its spec says `rootfs`, so that whoever finds the bundle finds
    /// the root, by whatever path.
    pub fn on_host(state: &Path) -> Self {
        Self(state.join("stage"))
    }

    pub fn is_small(&self) -> bool {
        *self == Self::small()
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// `root.path` of the spec.
    pub fn root_of_spec(&self) -> PathBuf {
        match self.is_small() {
            true => self.rootfs(),
            false => "rootfs".into(),
        }
    }

    /// The source of the Nth bind mount in the spec.
    pub fn mount(&self, index: usize) -> PathBuf {
        self.0.join(format!("m{index}"))
    }

    /// The bundle as init finds it while it halts.
    pub fn bundle(&self) -> PathBuf {
        self.0.clone()
    }

    /// The bundle as a process on the node finds it while init halts.
    pub fn bundle_of(&self, init: u32) -> PathBuf {
        let inside = self.0.strip_prefix("/").unwrap_or(&self.0);
        PathBuf::from(format!("/proc/{init}/root")).join(inside)
    }
}

/// The state of a container as hooks read it. Source: OCI runtime specification, "State".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    pub oci_version: String,
    pub id: String,
    pub status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    pub bundle: PathBuf,
    pub annotations: BTreeMap<String, String>,
}

/// The descriptors an exec'd process gets.
#[derive(Debug)]
pub enum ExecStdio<F = OwnedFd> {
    /// Absent ones are `/dev/null`.
    Pipes {
        stdin: Option<F>,
        stdout: Option<F>,
        stderr: Option<F>,
    },
    /// A new pseudo terminal of the container, with its first size; the master comes back in [`super::Exec`].
    Terminal { columns: u16, rows: u16 },
}

/// A process to run in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecProcess {
    pub args: Vec<String>,
    /// `NAME=value`, used as it is; PATH of it is what `args[0]` is looked up in.
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub capabilities: CapabilitySets,
    pub no_new_privs: bool,
    /// AppArmor profile to change to at exec.
    pub apparmor: Option<String>,
}

/// Runs a process in a container that has been started.
#[derive(Debug)]
pub struct ExecRequest {
    /// The container's first process.
    pub init_pid: u32,
    pub init_pidfd: OwnedFd,
    pub process: ExecProcess,
    /// memfd with an array of `struct sock_filter`, installed last.
    pub seccomp: Option<OwnedFd>,
    pub cgroup: CgroupJoin,
    pub stdio: ExecStdio,
    /// Owner of its pipes, as host ids (the process' user), so that it can reopen `/dev/stdout`.
    pub owner: (u32, u32),
}

/// The namespaces of a new pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NamespacesRequest {
    /// A user namespace with these ids; it owns the others made here.
    pub user: Option<UserNamespace>,
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
    /// Set in the new uts namespace; ignored without one.
    pub hostname: String,
    /// Written inside, after `defaults`; only names of the namespaces made here are accepted.
    pub sysctls: BTreeMap<String, String>,
    /// The same, but left out where the kernel has no such switch.
    pub defaults: BTreeMap<String, String>,
}

/// The first process of a pid namespace that a pod's containers share.
#[derive(Debug)]
pub struct PodInitRequest {
    pub cgroup: CgroupJoin,
    /// Owns the pid namespace.
    pub user: Option<OwnedFd>,
    pub net: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
}

/// Where the spec finds a namespace passed in [`NamespaceFds`].
pub fn namespace_path(kind: NamespaceKind) -> PathBuf {
    format!("/proc/self/fd/{}", namespace_number(kind)).into()
}

/// The descriptor a namespace has in H.
pub(super) fn namespace_number(kind: NamespaceKind) -> i32 {
    match kind {
        NamespaceKind::Net => 100,
        NamespaceKind::Ipc => 101,
        NamespaceKind::Uts => 102,
        NamespaceKind::Pid => 103,
        NamespaceKind::User => 104,
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Namespaces(NamespacesRequest),
    PodInit {
        cgroup: JoinWire,
        /// Of net, ipc, uts and then user, those that there are.
        joined: Vec<usize>,
    },
    Begin(BeginWire),
    Exec(ExecWire),
    Hold,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum JoinWire {
    V1(Vec<usize>),
    V2(usize),
    V2Held { dir: usize, hold: usize },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BeginWire {
    pub id: ContainerId,
    pub dir: PathBuf,
    pub stdio: Stdio,
    pub log: Option<usize>,
    pub first_pid: bool,
    pub born_in_cgroup: bool,
}

/// Follows a [`BeginWire`], on its reply socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CreateWire {
    /// When it was sent: CLOCK_MONOTONIC, in nanoseconds.
    pub sent: u64,
    pub rootfs: usize,
    pub root: (u32, u32),
    pub base: Vec<BaseMount>,
    pub devices: Vec<DeviceNode>,
    pub files: Vec<(PathBuf, usize)>,
    pub closed: ClosedPaths,
    pub volumes: Vec<PathBuf>,
    pub mounts: Vec<usize>,
    pub cgroups: Vec<(String, usize)>,
    /// Descriptor number in the helper, place in the datagram.
    pub namespaces: Vec<(i32, usize)>,
    pub cgroup: JoinWire,
    pub seccomp: Option<usize>,
    pub apparmor: Option<String>,
    pub capabilities: CapabilitySets,
    pub owner: (u32, u32),
    pub cwd: PathBuf,
    pub oom_score_adj: Option<i32>,
    pub place: Place,
    /// Init's end of the halt's socket, and the host's tree.
    pub halt: Option<(usize, usize)>,
    pub start_hooks: Vec<Hook>,
    pub state: HookState,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExecWire {
    pub init_pid: u32,
    pub init_pidfd: usize,
    pub process: ExecProcess,
    pub seccomp: Option<usize>,
    pub cgroup: JoinWire,
    pub stdio: ExecStdioWire,
    pub owner: (u32, u32),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ExecStdioWire {
    Pipes {
        stdin: Option<usize>,
        stdout: Option<usize>,
        stderr: Option<usize>,
    },
    Terminal {
        columns: u16,
        rows: u16,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// A worker exists and begins; the first answer to everything.
    TakenUp,
    /// Descriptors in the order user, net, ipc, uts of those asked for, and with net a route socket in it.
    Namespaces,
    /// Descriptors: the pid namespace, a pidfd.
    PodInit {
        pid: u32,
    },
    Created {
        init_pid: u32,
        stages: Stages,
        oom_score_adj_refused: bool,
    },
    /// Descriptors: a pidfd, and the terminal's master if there is one.
    Execed {
        pid: u32,
    },
    Exited {
        code: i32,
    },
    Held {
        pid: u32,
    },
    Failed(Failure),
}

/// CLOCK_MONOTONIC in nanoseconds: the same in every process of the node.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The moment that [`now`] told somewhere else.
pub(super) fn moment(told: u64) -> Instant {
    let ago = Duration::from_nanos(now().saturating_sub(told));
    let here = Instant::now();
    here.checked_sub(ago).unwrap_or(here)
}

/// What the daemon may say on an exec's reply socket: kill it all.
pub(super) const KILL: &[u8] = b"kill";

/// Descriptors on their way into a datagram.
#[derive(Default)]
pub(super) struct Outgoing(pub Vec<OwnedFd>);

impl Outgoing {
    pub fn put(&mut self, fd: OwnedFd) -> usize {
        self.0.push(fd);
        self.0.len() - 1
    }

    pub fn maybe(&mut self, fd: Option<OwnedFd>) -> Option<usize> {
        fd.map(|fd| self.put(fd))
    }

    /// All of them, if they fit into one.
    pub fn borrowed(&self) -> Result<Vec<BorrowedFd<'_>>, ZygoteError> {
        match self.0.len() {
            too_many if too_many > MAX_FDS => Err(ZygoteError::TooManyDescriptors(too_many)),
            _ => Ok(self.0.iter().map(AsFd::as_fd).collect()),
        }
    }

    pub fn join(&mut self, cgroup: CgroupJoin) -> JoinWire {
        match cgroup {
            CgroupJoin::V1(tasks) => JoinWire::V1(tasks.into_iter().map(|fd| self.put(fd)).collect()),
            CgroupJoin::V2(dir) => JoinWire::V2(self.put(dir)),
            CgroupJoin::V2Held { dir, hold } => JoinWire::V2Held {
                dir: self.put(dir),
                hold: self.put(hold),
            },
        }
    }
}

/// Descriptors that came with a datagram, each taken once.
pub(super) struct Incoming(pub Vec<Option<OwnedFd>>);

impl Incoming {
    /// Moves them out of the way of the numbers that others are promised.
    pub fn lift(&mut self) -> Result<(), Failure> {
        for slot in &mut self.0 {
            let lifted = slot.take().map(process::lift).transpose();
            *slot = lifted.map_err(|e| Failure::new(super::Stage::Request, "move a descriptor", e))?;
        }
        Ok(())
    }

    pub fn take(&mut self, index: usize) -> Result<OwnedFd, Failure> {
        let fd = self.0.get_mut(index).and_then(Option::take);
        fd.ok_or_else(|| Failure::said(super::Stage::Request, format!("descriptor {index} is missing")))
    }

    pub fn maybe(&mut self, index: Option<usize>) -> Result<Option<OwnedFd>, Failure> {
        index.map(|index| self.take(index)).transpose()
    }

    pub fn join(&mut self, cgroup: &JoinWire) -> Result<CgroupJoin, Failure> {
        Ok(match cgroup {
            JoinWire::V1(tasks) => CgroupJoin::V1(tasks.iter().map(|&i| self.take(i)).collect::<Result<_, _>>()?),
            JoinWire::V2(dir) => CgroupJoin::V2(self.take(*dir)?),
            JoinWire::V2Held { dir, hold } => CgroupJoin::V2Held {
                dir: self.take(*dir)?,
                hold: self.take(*hold)?,
            },
        })
    }
}

/// Sends one value. A body over [`INLINE`] bytes goes as a memfd after the other descriptors.
pub(super) fn send<T: Serialize>(socket: BorrowedFd<'_>, value: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(value)?;
    if body.len() <= INLINE {
        return fdpass::send(socket, &body, fds);
    }
    let memfd = memfd_create("inro-request", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(&body)?;
    let mut fds = fds.to_vec();
    fds.push(file.as_fd());
    fdpass::send(socket, IN_MEMFD, &fds)
}

/// Receives one value; `None` at the end of the conversation.
pub(super) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Incoming)>> {
    Sealed::receive(socket)?.map(Sealed::open).transpose()
}

/// A value as it came: whoever is to work on it opens it.
pub(super) struct Sealed {
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Sealed {
    /// Receives one; `None` at the end of the conversation.
    pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let received = fdpass::receive(socket, INLINE)?;
        Ok(received.map(|(body, fds)| Self { body, fds }))
    }

    /// Takes the first descriptor out.
    pub fn first(&mut self) -> Option<OwnedFd> {
        (!self.fds.is_empty()).then(|| self.fds.remove(0))
    }

    pub fn open<T: DeserializeOwned>(mut self) -> io::Result<(T, Incoming)> {
        if self.body == IN_MEMFD {
            let memfd = self.fds.pop().ok_or(io::ErrorKind::InvalidData)?;
            let mut file = std::fs::File::from(memfd);
            io::Seek::rewind(&mut file)?;
            self.body.clear();
            file.read_to_end(&mut self.body)?;
        }
        let fds = self.fds.into_iter().map(Some).collect();
        Ok((serde_json::from_slice(&self.body)?, Incoming(fds)))
    }
}

/// Well below the default socket buffer.
const INLINE: usize = 32 * 1024;

const IN_MEMFD: &[u8] = b"M";

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn values_of_any_size_arrive_with_their_descriptors() {
        for size in [10, INLINE, 1 << 20] {
            let (a, b) = fdpass::pair().unwrap();
            let value = "x".repeat(size);
            send(a.as_fd(), &value, &[a.as_fd()]).unwrap();
            let (got, fds): (String, Incoming) = receive(b.as_fd()).unwrap().unwrap();
            assert_eq!((got.len(), fds.0.len()), (size, 1));
        }
    }
}
