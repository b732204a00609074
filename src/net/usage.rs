//! What went through the interfaces of pods.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::model::{InterfaceUsage, Traffic};

/// The interfaces of each network namespace but `lo`, the default one first. One thread enters them one after the
/// other; it ends with the call, so no namespace is kept alive by having been looked at.
///
/// An error is that of open(2), setns(2) or of reading the interfaces of one namespace; a pod on the host's network has
/// no namespace at its path.
pub fn interfaces_of(namespaces: &[PathBuf]) -> Vec<io::Result<Vec<InterfaceUsage>>> {
    let read = || {
        let own = fs::File::open("/proc/thread-self");
        let read = |path: &PathBuf| match &own {
            Ok(own) => enter_and_read(path, own.as_fd()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        namespaces.iter().map(read).collect()
    };
    std::thread::scope(|scope| scope.spawn(read).join()).unwrap_or_default()
}

/// `own` is the calling thread's folder of /proc: what is below its `net` is of the namespace that the thread is in.
fn enter_and_read(namespace: &Path, own: BorrowedFd<'_>) -> io::Result<Vec<InterfaceUsage>> {
    let file = fs::File::open(namespace)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    let dev = openat(own, "net/dev", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(parse(&io::read_to_string(fs::File::from(dev))?))
}

/// Source: proc_pid_net(5), `dev`: two lines of headings, then for each interface what it received and what it sent.
fn parse(text: &str) -> Vec<InterfaceUsage> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut interfaces: Vec<_> = lines
        .filter_map(|(name, counts)| interface(name.trim(), counts))
        .filter(|interface| interface.name != "lo")
        .collect();
    // The sort is stable: the others stay in the kernel's order.
    interfaces.sort_by_key(|interface| interface.name != DEFAULT);
    interfaces
}

fn interface(name: &str, counts: &str) -> Option<InterfaceUsage> {
    let counts: Vec<u64> = counts
        .split_whitespace()
        .map_while(|count| count.parse().ok())
        .collect();
    let traffic = |at: usize| {
        Some(Traffic {
            bytes: *counts.get(at)?,
            packets: *counts.get(at + 1)?,
            errors: *counts.get(at + 2)?,
            dropped: *counts.get(at + 3)?,
        })
    };
    Some(InterfaceUsage {
        name: name.to_owned(),
        received: traffic(0)?,
        sent: traffic(8)?,
    })
}

/// The interface that carries a pod's address, with the built-in bridge as with CNI.
const DEFAULT: &str = "eth0";

#[cfg(test)]
mod test {
    use super::*;

    const DEV: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     504       6    0    0    0     0          0         0      504       6    0    0    0     0       0          0
  net1:      90       1    0    0    0     0          0         0      180       2    0    0    0     0       0          0
  eth0:10486612     301    1    2    0     0          0         0    21034     299    3    4    0     0       0          0
";

    #[test]
    fn the_default_interface_comes_first_and_lo_not_at_all() {
        let interfaces = parse(DEV);
        let names: Vec<_> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["eth0", "net1"]);
        let received = Traffic {
            bytes: 10_486_612,
            packets: 301,
            errors: 1,
            dropped: 2,
        };
        assert_eq!(interfaces[0].received, received);
        assert_eq!((interfaces[0].sent.bytes, interfaces[0].sent.dropped), (21_034, 4));
    }

    #[test]
    fn lines_that_are_cut_are_left_out() {
        assert!(parse("eth0: 1 2 3 4 5 6 7 8 9\n").is_empty());
        assert!(parse("").is_empty());
    }

    #[test]
    fn a_namespace_is_entered_by_a_thread_of_its_own() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let before = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let paths = ["/proc/self/ns/net", "/nonexistent"].map(PathBuf::from);
        let read = interfaces_of(&paths);
        assert!(read[0].is_ok());
        assert_eq!(read[1].as_ref().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
    }
}
