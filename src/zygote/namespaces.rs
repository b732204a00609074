//! The namespaces of a pod: made, named and tuned in a child, then only descriptors.

use std::{fs::OpenOptions, io::Write, os::fd::AsFd, path::PathBuf};

use rustix::{
    fs::{Mode, OFlags, open},
    system::sethostname,
    thread::{UnshareFlags, set_name},
};

use super::{
    error::{Failure, Stage},
    protocol::{NamespacesRequest, Reply},
    server::Context,
};
use crate::sys::fork::{exit, unshare};

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
    let kinds = [
        (request.net, UnshareFlags::NEWNET, "/proc/self/ns/net"),
        (request.ipc, UnshareFlags::NEWIPC, "/proc/self/ns/ipc"),
        (request.uts, UnshareFlags::NEWUTS, "/proc/self/ns/uts"),
    ];
    let asked = || kinds.iter().filter(|(asked, ..)| *asked);
    // Checked before anything is made: a name of the host's must not be written.
    let sysctls = request
        .sysctls
        .iter()
        .map(|(name, value)| Ok((path_of(name, request)?, name, value)))
        .collect::<Result<Vec<_>, Failure>>()?;
    unshare(asked().fold(UnshareFlags::empty(), |all, (_, flag, _)| all | *flag))
        .map_err(|e| Failure::new(Stage::Namespaces, "new namespaces", e))?;
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
    let mut fds = Vec::new();
    for (_, _, path) in asked() {
        fds.push(open(*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(step("open one"))?);
    }
    context.answer(&Reply::Namespaces, &fds.iter().map(|fd| fd.as_fd()).collect::<Vec<_>>());
    Ok(())
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
