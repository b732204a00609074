//! The shape that a root file system must have before libcontainer touches it.
//!
//! libcontainer makes device nodes and default mounts by paths joined to the root folder. An image in which a parent of
//! such a path is a symlink would have them made on the host.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, mkdirat},
    io::Errno,
};

use super::LockdownError;
use crate::sys::within;

/// The folders of default mounts and device nodes.
const REAL: [&str; 7] = [
    "dev",
    "dev/pts",
    "dev/shm",
    "dev/mqueue",
    "proc",
    "sys",
    "sys/fs/cgroup",
];

/// Refuses a root file system in which a folder of a default mount is anything but a real folder or missing.
///
/// # Errors
/// [`LockdownError::Image`] with its path.
pub fn check(rootfs: BorrowedFd<'_>) -> Result<(), LockdownError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    for path in REAL {
        match within::open(rootfs, path, OFlags::PATH | OFlags::NOFOLLOW, resolve) {
            Ok(file) => {
                let stat = fstat(&file).map_err(|errno| io_error("examine", path, errno))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(LockdownError::Image {
                        what: "not a folder:",
                        path: Path::new("/").join(path),
                    });
                }
            }
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                return Err(LockdownError::Image {
                    what: "a symlink or file is in the way of",
                    path: Path::new("/").join(path),
                });
            }
            Err(errno) => return Err(io_error("examine", path, errno)),
        }
    }
    Ok(())
}

/// Makes a container's working folder inside its root when it is missing; symlinks are followed inside the root only.
/// What is made belongs to `owner`, the container's root as the host counts.
///
/// # Errors
/// [`LockdownError::Image`] when something else is there, [`LockdownError::Io`].
pub fn ensure_dir(rootfs: BorrowedFd<'_>, path: &Path, owner: (u32, u32)) -> Result<(), LockdownError> {
    let mut at: Option<OwnedFd> = None;
    let mut walked = PathBuf::from("/");
    for component in path.components() {
        let name: &OsStr = match component {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => {
                return Err(LockdownError::Invalid {
                    field: "working_dir",
                    why: "it has `..` in it".into(),
                });
            }
        };
        walked.push(name);
        // The whole path anew from the root each time: an absolute link in the middle starts there again.
        let open = || {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            within::open(rootfs, &walked, OFlags::PATH | OFlags::DIRECTORY, resolve)
        };
        let next = match open() {
            Err(Errno::NOENT) => {
                let parent = at.as_ref().map_or(rootfs, AsFd::as_fd);
                let made = match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {
                        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    }
                    Err(Errno::EXIST) => Ok(()),
                    Err(errno) => Err(errno),
                };
                made.and_then(|()| open())
            }
            result => result,
        };
        at = Some(match next {
            Ok(folder) => folder,
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {
                return Err(LockdownError::Image {
                    what: "not a folder:",
                    path: walked,
                });
            }
            Err(errno) => return Err(io_error("make", &walked, errno)),
        });
    }
    Ok(())
}

fn io_error(action: &'static str, path: impl AsRef<Path>, errno: Errno) -> LockdownError {
    LockdownError::Io {
        action,
        path: path.as_ref().to_owned(),
        source: io::Error::from(errno),
    }
}

#[cfg(test)]
mod test {
    use std::{fs, fs::File, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn symlinks_in_the_place_of_default_mounts_are_refused() {
        for (name, target) in [("dev", "/tmp"), ("proc", "/tmp"), ("sys", "../.."), ("dev/pts", "/tmp")] {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
            symlink(target, root.path().join(name)).unwrap();
            let error = check(File::open(root.path()).unwrap().as_fd()).unwrap_err();
            assert!(error.to_string().contains(name.split('/').next().unwrap()), "{error}");
        }
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("sys"), "").unwrap();
        assert!(check(File::open(root.path()).unwrap().as_fd()).is_err());
    }

    #[test]
    fn an_empty_root_is_fine() {
        let root = tempfile::tempdir().unwrap();
        check(File::open(root.path()).unwrap().as_fd()).unwrap();
    }

    #[test]
    fn a_working_folder_is_made_inside_whatever_links_say() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("inside")).unwrap();
        symlink("/inside", root.path().join("link")).unwrap();
        symlink(outside.path(), root.path().join("escape")).unwrap();
        let fd = File::open(root.path()).unwrap();
        let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        ensure_dir(fd.as_fd(), Path::new("/link/a/b"), own).unwrap();
        assert!(root.path().join("inside/a/b").is_dir());
        assert!(ensure_dir(fd.as_fd(), Path::new("/escape/x"), own).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
