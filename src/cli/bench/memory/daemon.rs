//! The process behind a socket.

use std::{fs, os::unix::net::UnixStream, path::Path};

use anyhow::{Context, bail};
use rustix::net::sockopt::socket_peercred;

/// The daemon that listens at `socket`.
///
/// The kernel tells who called listen(2) (unix(7), SO_PEERCRED). Where that is the service manager, the daemon is who has
/// the same socket open.
///
/// # Errors
/// When nobody listens, or nobody is found.
pub fn behind(socket: &Path) -> anyhow::Result<u32> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    let listener = socket_peercred(&stream)?.pid.as_raw_nonzero().get();
    if listener != 1 {
        return Ok(listener.try_into()?);
    }
    let inode = inode(socket).with_context(|| format!("{} is not in /proc/net/unix", socket.display()))?;
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc")?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    match pids.filter(|pid| *pid != 1).find(|pid| holds(*pid, &link)) {
        Some(pid) => Ok(pid),
        None => bail!("nobody but the service manager has {} open", socket.display()),
    }
}

/// Of the listening socket with that path.
///
/// Source: proc(5), /proc/net/unix: Num RefCount Protocol Flags Type St Inode Path; flag 0x10000 is "listens".
fn inode(socket: &Path) -> Option<u64> {
    let table = fs::read_to_string("/proc/net/unix").ok()?;
    let path = fs::canonicalize(socket).ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let same = fields.get(3) == Some(&"00010000") && fs::canonicalize(fields.get(7)?).ok()? == path;
        same.then(|| fields[6].parse().ok())?
    })
}

fn holds(pid: u32, link: &str) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .flat_map(|entry| fs::read_link(entry.path()))
        .any(|target| target == Path::new(link))
}

#[cfg(test)]
mod test {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_listener_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(behind(&path).unwrap(), std::process::id());
        assert!(holds(
            std::process::id(),
            &format!("socket:[{}]", inode(&path).unwrap())
        ));
        assert!(behind(&dir.path().join("nobody")).is_err());
    }
}
