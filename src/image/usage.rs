//! What a writable layer takes on the disk, counted as du(1) counts: blocks, and a file with several names once.
//!
//! The layer belongs to a container that may change it at any moment, so folders are entered by descriptor only, never
//! through a link, and the way back up is checked. One descriptor is held at a time, however deep the folders are.

use std::{
    collections::HashSet,
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, fstatvfs, major, minor, openat, statat},
    io::Errno,
};

use super::{ImageError, content::io as failed, quota::Held, snapshot::Snapshots};
use crate::{
    model::{ContainerId, DiskTotals, LayerUsage, Timestamp},
    sys::{device::block_device_name, quota::Project},
};

impl Snapshots {
    /// Counts a container's writable layer; where it has a quota the kernel has counted it, with all of the container's folder.
    /// `pause` is called after every few hundred files: who has to bound the load
    /// sleeps there.
    ///
    /// # Errors
    /// [`ImageError::Io`]: also when the container moved a folder while it was being counted.
    pub fn measure(&self, id: &ContainerId, pause: impl FnMut()) -> Result<LayerUsage, ImageError> {
        if let Some(counted) = self.counted(id) {
            return Ok(LayerUsage {
                at: Timestamp::now(),
                used_bytes: counted.used_bytes,
                inodes: counted.inodes,
            });
        }
        let upper = self.upper(id);
        let flags = FOLDER.difference(OFlags::NOFOLLOW);
        let root = openat(CWD, &upper, flags, Mode::empty()).map_err(|errno| failed("open", &upper)(errno.into()))?;
        let at = Timestamp::now();
        let count = Count::of(root, pause).map_err(failed("count", &upper))?;
        Ok(LayerUsage {
            at,
            used_bytes: count.bytes,
            inodes: count.inodes,
        })
    }

    /// What is in a container's folder, where a quota counts that.
    fn counted(&self, id: &ContainerId) -> Option<Project> {
        let held = Held::of(&self.root().join(id.as_str())).ok()??;
        held.read().ok()
    }

    /// The file system that the writable layers are on.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn disk(&self) -> Result<DiskTotals, ImageError> {
        let examine = || {
            let folder = openat(CWD, self.root(), FOLDER, Mode::empty())?;
            let (stat, totals) = (fstat(&folder)?, fstatvfs(&folder)?);
            Ok(DiskTotals {
                device: block_device_name(major(stat.st_dev), minor(stat.st_dev)),
                size_bytes: totals.f_blocks * totals.f_frsize,
                inodes: totals.f_files,
                free_inodes: totals.f_ffree,
            })
        };
        examine().map_err(|errno: Errno| failed("examine", self.root())(errno.into()))
    }
}

/// A folder on the way down: which one it is, and its folders that are still to be entered.
struct Level {
    inode: u64,
    ahead: Vec<CString>,
}

struct Count<P> {
    bytes: u64,
    inodes: u64,
    device: u64,
    /// Files with several names that were counted.
    linked: HashSet<u64>,
    since_pause: usize,
    pause: P,
}

impl<P: FnMut()> Count<P> {
    fn of(root: OwnedFd, pause: P) -> io::Result<Self> {
        let stat = fstat(&root)?;
        let mut count = Self {
            bytes: 0,
            inodes: 0,
            device: stat.st_dev,
            linked: HashSet::new(),
            since_pause: 0,
            pause,
        };
        count.add(&stat);
        let mut here = root;
        let mut levels = vec![Level {
            inode: stat.st_ino,
            ahead: count.files(here.as_fd())?,
        }];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.ahead.pop() {
                match openat(&here, &name, FOLDER, Mode::empty()) {
                    Ok(below) => {
                        here = below;
                        levels.push(Level {
                            inode: fstat(&here)?.st_ino,
                            ahead: count.files(here.as_fd())?,
                        });
                    }
                    // Removed or replaced meanwhile.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => return Err(errno.into()),
                }
                continue;
            }
            levels.pop();
            if let Some(above) = levels.last() {
                here = openat(&here, c"..", FOLDER, Mode::empty())?;
                if fstat(&here)?.st_ino != above.inode {
                    return Err(io::Error::other("a folder was moved while it was counted"));
                }
            }
        }
        Ok(count)
    }

    /// Counts what is in a folder, and answers the folders among it.
    fn files(&mut self, folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
        let mut folders = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            // Nothing can be mounted there by the container; what is on another device is not the layer's.
            if stat.st_dev != self.device {
                continue;
            }
            if self.add(&stat) == FileType::Directory {
                folders.push(name.to_owned());
            }
            self.since_pause += 1;
            if self.since_pause >= STEP {
                self.since_pause = 0;
                (self.pause)();
            }
        }
        Ok(folders)
    }

    fn add(&mut self, stat: &Stat) -> FileType {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let counted = kind != FileType::Directory && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino);
        if !counted {
            self.inodes += 1;
            // The unit of st_blocks is 512 bytes, whatever the file system's is. Source: inode(7).
            self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        kind
    }
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Files between two pauses.
const STEP: usize = 512;

#[cfg(test)]
mod test {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    fn count(root: &Path) -> io::Result<(u64, u64)> {
        let root = openat(CWD, root, FOLDER, Mode::empty())?;
        let count = Count::of(root, || {})?;
        Ok((count.bytes, count.inodes))
    }

    #[test]
    fn bytes_and_inodes_are_those_of_du() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("a/b/c")).unwrap();
        fs::write(path("a/b/c/big"), vec![7; 300_000]).unwrap();
        fs::write(path("a/small"), "x").unwrap();
        fs::hard_link(path("a/b/c/big"), path("a/again")).unwrap();
        symlink("/", path("a/root")).unwrap();
        let du = std::process::Command::new("du")
            .args(["-s", "-B512"])
            .arg(dir.path())
            .output()
            .unwrap();
        let du = String::from_utf8(du.stdout).unwrap();
        let blocks: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(count(dir.path()).unwrap(), (blocks * 512, 7));
    }

    #[test]
    fn folders_deeper_than_a_path_can_be_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut here = openat(CWD, dir.path(), FOLDER, Mode::empty()).unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&here, "folder", Mode::RWXU).unwrap();
            here = openat(&here, "folder", FOLDER, Mode::empty()).unwrap();
        }
        assert_eq!(count(dir.path()).unwrap().1, 2001);
    }

    #[test]
    fn the_caller_is_given_pauses() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..STEP * 2 + 1 {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        let mut pauses = 0;
        Count::of(openat(CWD, dir.path(), FOLDER, Mode::empty()).unwrap(), || pauses += 1).unwrap();
        assert_eq!(pauses, 2);
    }

    #[test]
    fn the_disk_has_a_size() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path(), &[], crate::image::Mounts::default()).unwrap();
        let disk = snapshots.disk().unwrap();
        assert!(disk.size_bytes > 0 && !disk.device.is_empty(), "{disk:?}");
    }
}
