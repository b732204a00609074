//! The namespaces of a pod: made, named and tuned in a child, then only descriptors.
//!
//! With a user namespace a second child makes them, as its root: a namespace belongs to the user namespace of who makes
//! it. The first one, still the node's root, writes the maps, and then joins what was made to name and tune it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{Gid, Pid, Uid, WaitOptions, waitpid},
    system::sethostname,
    thread::{
        LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_name, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

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

/// The child, from its first instruction on.
pub(super) fn work(context: Context, request: NamespacesRequest) -> ! {
    let _ = set_name(c"inro-pod");
    if let Err(failure) = make(&context, &request) {
        context.answer(&Reply::Failed(failure), &[]);
        exit(1)
    }
    exit(0)
}

fn make(context: &Context, request: &NamespacesRequest) -> Result<(), Failure> {
    let step = |what: &'static str| move |error: rustix::io::Errno| Failure::new(Stage::Namespaces, what, error);
    let asked = || KINDS.iter().filter(|(asked, ..)| asked(request));
    // Checked before anything is made: a name of the host's must not be written.
    let sysctls = request
        .sysctls
        .iter()
        .map(|(name, value)| Ok((path_of(name, request)?, name, value)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let kinds = asked().fold(UnshareFlags::empty(), |all, (_, flag, _)| all | *flag);
    let mut fds = match &request.user {
        Some(user) => {
            let user = owned_by_user(user, kinds, &asked().map(|(.., name)| *name).collect::<Vec<_>>())?;
            vec![user]
        }
        None => {
            unshare(kinds).map_err(|e| Failure::new(Stage::Namespaces, "new namespaces", e))?;
            Vec::new()
        }
    };
    if request.uts {
        sethostname(request.hostname.as_bytes()).map_err(step("set the host name"))?;
    }
    for (path, name, value) in sysctls {
        let written = OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|e| Failure::new(Stage::Sysctl, format!("{name}={value}"), e))?;
    }
    for (.., name) in asked() {
        let path = format!("/proc/self/ns/{name}");
        fds.push(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(step("open one"))?);
    }
    context.answer(&Reply::Namespaces, &fds.iter().map(|fd| fd.as_fd()).collect::<Vec<_>>());
    Ok(())
}

/// Makes a user namespace and namespaces of `kinds` that belong to it, and enters the latter, whose names in
/// /proc/pid/ns are `names`. The caller stays in its own user namespace.
fn owned_by_user(user: &UserNamespace, kinds: UnshareFlags, names: &[&str]) -> Result<OwnedFd, Failure> {
    let step = |what: &'static str| move |error: io::Error| Failure::new(Stage::Namespaces, what, error);
    // So that it can be waited for.
    process::reset_signals(true, false);
    let (ours, theirs) = fdpass::pair().map_err(step("a socket"))?;
    let child = match fork().map_err(step("fork"))? {
        Side::Parent(child) => child,
        Side::Child => {
            drop(ours);
            let failed = own_namespaces(&theirs, kinds).err();
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
        for name in names {
            move_into_link_name_space(namespace_of(child, name)?.as_fd(), None::<LinkNameSpaceType>)
                .map_err(|e| step("enter the new ones")(e.into()))?;
        }
        namespace_of(child, "user")
    })();
    drop(ours);
    let _ = waitpid(Some(child), WaitOptions::empty());
    made
}

/// The child: first the user namespace, then, with its maps written and as its root, the others.
fn own_namespaces(parent: &OwnedFd, kinds: UnshareFlags) -> Result<(), Failure> {
    let step = |what: &'static str| move |error: io::Error| Failure::new(Stage::Namespaces, what, error);
    unshare(UnshareFlags::NEWUSER).map_err(step("new user namespace"))?;
    send(parent.as_fd(), &None::<Failure>, &[]).map_err(step("a socket"))?;
    if receive::<()>(parent.as_fd()).map_err(step("a socket"))?.is_none() {
        return Err(Failure::said(Stage::Namespaces, "no maps for the user namespace"));
    }
    let become_root = || -> rustix::io::Result<()> {
        set_thread_groups(&[])?;
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
    };
    become_root().map_err(|e| step("become the root of the user namespace")(e.into()))?;
    unshare(kinds).map_err(step("new namespaces"))
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

fn namespace_of(pid: Pid, name: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{}/ns/{name}", pid.as_raw_nonzero());
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| Failure::new(Stage::Namespaces, name, e))
}

/// Source: user_namespaces(7), "User and group ID mappings".
fn write_maps(pid: Pid, user: &UserNamespace) -> io::Result<()> {
    let line = |ids: IdRange| format!("0 {} {}\n", ids.host, ids.size);
    let pid = pid.as_raw_nonzero();
    fs::write(format!("/proc/{pid}/uid_map"), line(user.uids))?;
    fs::write(format!("/proc/{pid}/gid_map"), line(user.gids))
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
