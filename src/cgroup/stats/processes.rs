//! What only /proc knows of a cgroup's processes.

use std::{fs, path::Path};

use super::{super::files, folder::Folder};

/// How many processes a cgroup has, with those below it.
pub fn count(path: &Path) -> u64 {
    let Some(folder) = Folder::open(path) else { return 0 };
    if !folder.has_children() {
        return folder
            .read("cgroup.procs", |procs| Some(procs.lines().count() as u64))
            .unwrap_or(0);
    }
    let mut pids = Vec::new();
    // One that cannot be listed has none to tell of.
    let _ = files::processes(path, &mut pids);
    pids.len() as u64
}

/// Open descriptors of all, and how many of them are sockets.
pub fn descriptors(pids: &[u32]) -> (u64, u64) {
    let (mut all, mut sockets) = (0, 0);
    for pid in pids {
        // One that has ended meanwhile has none.
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            all += 1;
            let target = fs::read_link(entry.path()).unwrap_or_default();
            sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    (all, sockets)
}

/// A process's soft limit of open files; `None` when there is none or the process is gone.
pub fn open_files_limit(pid: u32) -> Option<u64> {
    soft_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

/// Source: proc_pid_limits(5): name, soft limit, hard limit, unit, in columns.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_first_column() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             unlimited            unlimited            processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit(&limits.replace("1024 ", "unlimited ")), None);
    }

    #[test]
    fn this_process_has_descriptors_and_a_limit() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (all, sockets) = descriptors(&[std::process::id()]);
        assert!(all >= 1 && sockets >= 1 && all >= sockets, "{all} {sockets}");
        drop(socket);
        assert!(open_files_limit(std::process::id()).is_none_or(|limit| limit > 0));
        assert_eq!((descriptors(&[u32::MAX]), open_files_limit(u32::MAX)), ((0, 0), None));
    }
}
