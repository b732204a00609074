//! What keeps a pod's namespaces and its shared memory alive without a process: bind mounts in the sandbox's folder.
//!
//! Source: namespaces(7), "The /proc/pid/ns/ directory": a bind mount of a namespace file keeps the namespace.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FsWord, statfs},
    mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount},
};

use super::PodError;
use crate::zygote::PodNamespaces;

/// Names of the pinned namespaces, as in /proc/PID/ns; those that others belong to first.
const KINDS: [&str; 4] = ["user", "net", "ipc", "uts"];
/// The file system of namespaces. Source: linux/magic.h.
const NSFS_MAGIC: FsWord = 0x6e73_6673;
/// Size of a pod's /dev/shm, as both peers have it.
const SHM: &str = "mode=1777,size=64m";

/// Binds each namespace to `<folder>/ns/<kind>`.
///
/// # Errors
/// [`PodError::Io`].
pub fn pin_namespaces(folder: &Path, namespaces: &PodNamespaces) -> Result<(), PodError> {
    let dir = folder.join("ns");
    fs::create_dir(&dir).map_err(|source| io_error("make", &dir, source))?;
    let fds = [&namespaces.user, &namespaces.net, &namespaces.ipc, &namespaces.uts];
    for (kind, fd) in KINDS.iter().zip(fds) {
        let Some(fd) = fd else { continue };
        let target = dir.join(kind);
        File::create(&target).map_err(|source| io_error("make", &target, source))?;
        mount_bind(format!("/proc/self/fd/{}", fd.as_raw_fd()), &target)
            .map_err(|errno| io_error("pin the namespace at", &target, errno.into()))?;
    }
    Ok(())
}

/// Where a sandbox's network namespace is pinned.
pub fn network(folder: &Path) -> PathBuf {
    folder.join("ns/net")
}

/// Opens the pinned namespaces again; those that the pod shares with the host are absent.
///
/// # Errors
/// [`PodError::Io`].
pub fn open_namespaces(folder: &Path) -> Result<PodNamespaces, PodError> {
    let open = |kind: &str| -> Result<Option<OwnedFd>, PodError> {
        let path = folder.join("ns").join(kind);
        match File::open(&path) {
            Ok(file) => Ok(Some(file.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("open", &path, source)),
        }
    };
    Ok(PodNamespaces {
        user: open("user")?,
        net: open("net")?,
        ipc: open("ipc")?,
        uts: open("uts")?,
        route: None,
    })
}

/// Whether all that was pinned still is: a stop takes the mounts away and leaves the files.
pub fn are_whole(folder: &Path) -> bool {
    let on_device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    let lost = |kind: &str| statfs(folder.join("ns").join(kind)).is_ok_and(|pin| pin.f_type != NSFS_MAGIC);
    let shm_lost = match (on_device(&folder.join("shm")), on_device(folder)) {
        (Ok(shm), Ok(around)) => shm == around,
        // A pod that shares the host's has none.
        _ => false,
    };
    !shm_lost && !KINDS.iter().any(|kind| lost(kind))
}

/// Mounts the pod's /dev/shm at `<folder>/shm`, for the pod's root as the host counts.
///
/// # Errors
/// [`PodError::Io`].
pub fn mount_shm(folder: &Path, (uid, gid): (u32, u32)) -> Result<PathBuf, PodError> {
    let target = folder.join("shm");
    fs::create_dir(&target).map_err(|source| io_error("make", &target, source))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = CString::new(format!("{SHM},uid={uid},gid={gid}")).expect("no NUL byte in it");
    mount("shm", &target, "tmpfs", flags, options.as_c_str())
        .map_err(|errno| io_error("mount shm on", &target, errno.into()))?;
    Ok(target)
}

/// Takes all of a sandbox's mounts away; what is not there is no error.
///
/// # Errors
/// [`PodError::Io`].
pub fn unpin(folder: &Path) -> Result<(), PodError> {
    // The network namespace behind the others: the kernel begins to take it apart at once, which takes a processor.
    let kinds = KINDS.iter().rev().map(|kind| folder.join("ns").join(kind));
    for target in std::iter::once(folder.join("shm")).chain(kinds) {
        // EINVAL: no mount there; ENOENT: not even a file.
        match unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(io_error("unmount", &target, errno.into())),
        }
    }
    Ok(())
}

pub fn io_error(action: &'static str, path: &Path, source: io::Error) -> PodError {
    PodError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn pins_hold_a_namespace_and_go_without_a_trace() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let own = |kind: &str| Some(OwnedFd::from(File::open(format!("/proc/self/ns/{kind}")).unwrap()));
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let before = mounts();
        pin_namespaces(
            dir.path(),
            &PodNamespaces {
                user: None,
                net: own("net"),
                ipc: None,
                uts: own("uts"),
                route: None,
            },
        )
        .unwrap();
        mount_shm(dir.path(), (0, 0)).unwrap();
        assert_eq!(mounts(), before + 3);
        assert!(are_whole(dir.path()));
        let again = open_namespaces(dir.path()).unwrap();
        assert!(again.net.is_some() && again.ipc.is_none() && again.uts.is_some());
        unmount(dir.path().join("shm"), UnmountFlags::DETACH).unwrap();
        assert!(!are_whole(dir.path()), "without shared memory");
        fs::remove_dir(dir.path().join("shm")).unwrap();
        assert!(are_whole(dir.path()), "with the host's shared memory");
        unmount(dir.path().join("ns/uts"), UnmountFlags::DETACH).unwrap();
        assert!(!are_whole(dir.path()), "without a namespace");
        unpin(dir.path()).unwrap();
        unpin(dir.path()).unwrap();
        assert_eq!(mounts(), before);
    }
}
