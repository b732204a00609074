//! The namespaces of a pod: made, named and tuned in a thread or a child, then only descriptors.
//!
//! A thread of the daemon's will do where it may write sysctls: it ends with them. Else a child of the zygote does it, whose
//! /proc is its own.
//!
//! With a user namespace a second child does that, as its root: a namespace belongs to the user namespace of who makes
//! it, and the sysctls of an ipc namespace to that root alone. The first child, still the node's root, writes the maps.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::OnceLock,
    thread,
};

use rustix::{
    fs::{Access, Mode, OFlags, access, open},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    process::{Gid, Pid, Uid, WaitOptions, waitpid},
    system::sethostname,
    thread::{
        LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_name, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use tokio::sync::oneshot;

use super::{
    error::{Failure, Stage},
    protocol::{NamespacesRequest, Reply, receive, send},
    server::Context,
};
use crate::{
    model::{IdRange, UserNamespace},
    sys::{
        fdpass,
        fork::{Side, exit, fork, unshare},
        process,
    },
};

/// What it calls is shallow.
const STACK: usize = 256 << 10;

/// The child, from its first instruction on.
pub(super) fn work(context: Context, request: NamespacesRequest) -> ! {
    let _ = set_name(c"inro-pod");
    match make(&request) {
        Ok(fds) => {
            context.answer(&Reply::Namespaces, &fds.iter().map(|fd| fd.as_fd()).collect::<Vec<_>>());
            exit(0)
        }
        Err(failure) => {
            context.answer(&Reply::Failed(failure), &[]);
            exit(1)
        }
    }
}

/// Whether [`in_thread`] can do it.
pub(super) fn need_no_process(request: &NamespacesRequest) -> bool {
    request.user.is_none() && (request.sysctls.is_empty() && request.defaults.is_empty() || sysctls_are_writable())
}

/// Whether this process' /proc takes sysctls: in a container it often does not.
fn sysctls_are_writable() -> bool {
    static WRITABLE: OnceLock<bool> = OnceLock::new();
    *WRITABLE.get_or_init(|| access("/proc/sys/net/ipv4/ip_forward", Access::WRITE_OK).is_ok())
}

/// As [`work`], on a thread that ends with it.
pub(super) async fn in_thread(request: NamespacesRequest) -> Result<Vec<OwnedFd>, Failure> {
    let failed = |error: io::Error| Failure::new(Stage::Namespaces, "a thread that makes them", error);
    let (answer, made) = oneshot::channel();
    let thread = thread::Builder::new().name("namespaces".into()).stack_size(STACK);
    thread
        .spawn(move || {
            // It fails when the client has gone: they go too.
            let _ = answer.send(make(&request));
        })
        .map_err(failed)?;
    let panicked = |_| Failure::said(Stage::Namespaces, "the thread that makes them panicked");
    made.await.map_err(panicked)?
}

/// Makes what is asked for; the calling thread is in it then. The descriptors are in the order of a reply.
fn make(request: &NamespacesRequest) -> Result<Vec<OwnedFd>, Failure> {
    // Checked before anything is made: a name of the host's must not be written.
    let (defaults, sysctls) = (
        sysctls(&request.defaults, request)?,
        sysctls(&request.sysctls, request)?,
    );
    let asked = KINDS.iter().filter(|(asked, ..)| asked(request));
    let kinds = asked
        .clone()
        .fold(UnshareFlags::empty(), |all, (_, flag, _)| all | *flag);
    let furnish = || {
        unshare(kinds).map_err(|e| Failure::new(Stage::Namespaces, "new namespaces", e))?;
        if request.uts {
            sethostname(request.hostname.as_bytes())
                .map_err(|e| Failure::new(Stage::Namespaces, "set the host name", e))?;
        }
        for default in &defaults {
            match default.write() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                written => written.map_err(|e| default.failure(e))?,
            }
        }
        for sysctl in &sysctls {
            sysctl.write().map_err(|e| sysctl.failure(e))?;
        }
        Ok(())
    };
    let names = asked.map(|(.., name)| *name);
    let mut fds = match &request.user {
        Some(user) => owned_by_user(user, furnish, &std::iter::once("user").chain(names).collect::<Vec<_>>())?,
        None => {
            furnish()?;
            names
                .map(|name| namespace_of("thread-self", name))
                .collect::<Result<_, _>>()?
        }
    };
    if request.net {
        fds.push(route_socket(request, &fds)?);
    }
    Ok(fds)
}

/// A route socket in the new network namespace: who has it needs no thread there. Who makes it has nothing else to do, so
/// it may go in.
fn route_socket(request: &NamespacesRequest, fds: &[OwnedFd]) -> Result<OwnedFd, Failure> {
    let open = || {
        // Behind the user namespace, whose other namespaces a child made.
        if let (Some(_), Some(net)) = (&request.user, fds.get(1)) {
            move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
    };
    open().map_err(|e| Failure::new(Stage::Namespaces, "a route socket", e))
}

/// Makes a user namespace and lets a child `furnish` as its root; answers the child's namespaces `names` (of
/// /proc/pid/ns).
fn owned_by_user(
    user: &UserNamespace,
    furnish: impl FnOnce() -> Result<(), Failure>,
    names: &[&str],
) -> Result<Vec<OwnedFd>, Failure> {
    let step = |what: &'static str| move |error: io::Error| Failure::new(Stage::Namespaces, what, error);
    // So that it can be waited for.
    process::ignore_signals(true, false);
    let (ours, theirs) = fdpass::pair().map_err(step("a socket"))?;
    let child = match fork().map_err(step("fork"))? {
        Side::Parent(child) => child,
        Side::Child => {
            drop(ours);
            let failed = become_root(&theirs).and_then(|()| furnish()).err();
            let _ = send(theirs.as_fd(), &failed, &[]);
            // Stays until the descriptors have been opened.
            let _ = receive::<()>(theirs.as_fd());
            exit(0)
        }
    };
    drop(theirs);
    let made = (|| {
        hear(&ours)?;
        write_maps(child, user).map_err(step("write the maps of the user namespace"))?;
        send(ours.as_fd(), &(), &[]).map_err(step("a socket"))?;
        hear(&ours)?;
        let pid = child.as_raw_nonzero().to_string();
        names.iter().map(|name| namespace_of(&pid, name)).collect()
    })();
    drop(ours);
    let _ = waitpid(Some(child), WaitOptions::empty());
    made
}

/// The child: a new user namespace, and when its maps have been written, its root.
fn become_root(parent: &OwnedFd) -> Result<(), Failure> {
    let step = |what: &'static str| move |error: io::Error| Failure::new(Stage::Namespaces, what, error);
    unshare(UnshareFlags::NEWUSER).map_err(step("new user namespace"))?;
    send(parent.as_fd(), &None::<Failure>, &[]).map_err(step("a socket"))?;
    if receive::<()>(parent.as_fd()).map_err(step("a socket"))?.is_none() {
        return Err(Failure::said(Stage::Namespaces, "no maps for the user namespace"));
    }
    let switch = || -> rustix::io::Result<()> {
        set_thread_groups(&[])?;
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
    };
    switch().map_err(|e| step("become the root of the user namespace")(e.into()))
}

/// The child's next word: all is well, or why not.
fn hear(child: &OwnedFd) -> Result<(), Failure> {
    match receive::<Option<Failure>>(child.as_fd()) {
        Ok(Some((None, _))) => Ok(()),
        Ok(Some((Some(failure), _))) => Err(failure),
        Ok(None) => Err(Failure::said(Stage::Namespaces, "the process that makes them died")),
        Err(error) => Err(Failure::new(Stage::Namespaces, "hear of the new ones", error)),
    }
}

fn namespace_of(pid: &str, name: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{pid}/ns/{name}");
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| Failure::new(Stage::Namespaces, name, e))
}

/// Source: user_namespaces(7), "User and group ID mappings".
fn write_maps(pid: Pid, user: &UserNamespace) -> io::Result<()> {
    let line = |ids: IdRange| format!("0 {} {}\n", ids.host, ids.size);
    let pid = pid.as_raw_nonzero();
    fs::write(format!("/proc/{pid}/uid_map"), line(user.uids))?;
    fs::write(format!("/proc/{pid}/gid_map"), line(user.gids))
}

/// A sysctl of a namespace that is being made.
struct Sysctl<'a> {
    name: &'a str,
    value: &'a str,
    path: PathBuf,
}

fn sysctls<'a>(
    all: impl IntoIterator<Item = (&'a String, &'a String)>,
    request: &NamespacesRequest,
) -> Result<Vec<Sysctl<'a>>, Failure> {
    let sysctl = |(name, value): (&'a String, &'a String)| {
        Ok(Sysctl {
            name,
            value,
            path: path_of(name, request)?,
        })
    };
    all.into_iter().map(sysctl).collect()
}

impl Sysctl<'_> {
    /// Writes it in the calling thread's namespaces.
    fn write(&self) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all(self.value.as_bytes())
    }

    fn failure(&self, error: io::Error) -> Failure {
        Failure::new(Stage::Sysctl, format!("{}={}", self.name, self.value), error)
    }
}

/// The file of a sysctl, if it belongs to a namespace that is being made.
///
/// As sysctl(8): the separator is whichever of `.` and `/` comes first, the other one then stands for a dot in a name
/// (`net/ipv4/conf/eth0.100/forwarding`).
fn path_of(name: &str, request: &NamespacesRequest) -> Result<PathBuf, Failure> {
    let refuse = |why: &str| Failure::said(Stage::Sysctl, format!("{name}: {why}"));
    let swapped = |c: char| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let path: String = match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name.chars().map(swapped).collect(),
        _ => name.to_owned(),
    };
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:@".contains(&b))
    };
    if !path.split('/').all(plain) {
        return Err(refuse("not a sysctl's name"));
    }
    let of_net = path.starts_with("net/");
    let of_ipc =
        path.starts_with("fs/mqueue/") || IPC_NAMES.contains(&path.strip_prefix("kernel/").unwrap_or_default());
    let of_uts = path == "kernel/domainname";
    if (of_net && request.net) || (of_ipc && request.ipc) || (of_uts && request.uts) {
        return Ok(PathBuf::from("/proc/sys").join(path));
    }
    Err(refuse(match of_net || of_ipc || of_uts {
        true => "its namespace is the node's",
        false => "does not belong to a namespace",
    }))
}

/// Whether it is asked for, its flag and its name in /proc/pid/ns.
type Kind = (fn(&NamespacesRequest) -> bool, UnshareFlags, &'static str);

/// In the order in which they are answered.
const KINDS: [Kind; 3] = [
    (|request| request.net, UnshareFlags::NEWNET, "net"),
    (|request| request.ipc, UnshareFlags::NEWIPC, "ipc"),
    (|request| request.uts, UnshareFlags::NEWUTS, "uts"),
];

/// Of the ipc namespace: ipc_namespaces(7).
const IPC_NAMES: &[&str] = &[
    "msgmax",
    "msgmnb",
    "msgmni",
    "msg_next_id",
    "sem",
    "sem_next_id",
    "shmall",
    "shmmax",
    "shmmni",
    "shm_next_id",
    "shm_rmid_forced",
];

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_sysctls_of_the_new_namespaces_are_written() {
        let all = NamespacesRequest {
            net: true,
            ipc: true,
            uts: true,
            ..Default::default()
        };
        let none = NamespacesRequest::default();
        for (name, request, path) in [
            ("net.ipv4.ip_forward", &all, Some("/proc/sys/net/ipv4/ip_forward")),
            (
                "net/ipv4/conf/eth0.100/forwarding",
                &all,
                Some("/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
            ),
            (
                "net.ipv4.conf.eth0/100.forwarding",
                &all,
                Some("/proc/sys/net/ipv4/conf/eth0.100/forwarding"),
            ),
            ("kernel.shm_rmid_forced", &all, Some("/proc/sys/kernel/shm_rmid_forced")),
            ("fs.mqueue.msg_max", &all, Some("/proc/sys/fs/mqueue/msg_max")),
            ("net.ipv4.ip_forward", &none, None),
            ("kernel.shmmax", &none, None),
            ("kernel.core_pattern", &all, None),
            ("kernel.hostname", &all, None),
            ("vm.swappiness", &all, None),
            ("net/../kernel/core_pattern", &all, None),
            ("net..kernel", &all, None),
            ("", &all, None),
        ] {
            assert_eq!(path_of(name, request).ok(), path.map(PathBuf::from), "{name}");
        }
    }
}
