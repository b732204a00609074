//! Quotas of writable layers: where the file system has projects, each layer is one, with limits of its own.
//!
//! A container's folder is counted to a project before anything is in it, and everything that is made in it inherits that:
//! what overlayfs needs for itself, too. The folder is the record. A project of ours has limits only while a folder is counted to it:
//! they come after the folder and go before it, so whatever ends the daemon, the next one finds the folder and takes both away.

use std::{
    fs, io,
    ops::RangeInclusive,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::{
    model::ContainerId,
    sys::{
        mount, project,
        quota::{self, Limit, Project},
    },
};

/// What a container may take of the node's disk with what it writes to its own root file system.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WritableLayer {
    /// Most bytes of a new container's writable layer; 0: no limit. Takes a file system with project quotas, which are on.
    pub size_bytes: u64,
    /// Most files and folders in it; 0: no limit. About ten are there for each container.
    pub inodes: u64,
}

/// Why layers cannot have the limits that are configured.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    #[error("{key}: {value} is less than {least}, which a container needs to be made")]
    TooSmall { key: &'static str, value: u64, least: u64 },
    #[error(
        "{key}: {} is on {file_system}, which cannot limit what is in a folder as it is mounted here: it takes {missing}",
        folder.display()
    )]
    Missing {
        key: &'static str,
        folder: PathBuf,
        file_system: String,
        missing: &'static str,
    },
    #[error("{key}: try it with a folder in {}", folder.display())]
    Refused {
        key: &'static str,
        folder: PathBuf,
        source: io::Error,
    },
}

impl WritableLayer {
    fn limit(&self) -> Limit {
        Limit {
            bytes: self.size_bytes,
            inodes: self.inodes,
        }
    }

    /// The key that has a limit; `None`: none has.
    fn key(&self) -> Option<&'static str> {
        match (self.size_bytes, self.inodes) {
            (0, 0) => None,
            (0, _) => Some(INODES),
            _ => Some(SIZE),
        }
    }

    fn check(&self) -> Result<(), QuotaError> {
        for (key, value, least) in [
            (SIZE, self.size_bytes, LEAST.bytes),
            (INODES, self.inodes, LEAST.inodes),
        ] {
            if value != 0 && value < least {
                return Err(QuotaError::TooSmall { key, value, least });
            }
        }
        Ok(())
    }
}

/// What new layers are limited to.
#[derive(Debug, Clone, Default)]
pub struct Quotas {
    limit: Limit,
    /// Whose turn it is to look for a project that nothing is counted to.
    choosing: Arc<Mutex<()>>,
}

impl Quotas {
    /// Looks whether layers in `folder` can be limited as `config` has it, and takes back what limits nothing any more.
    ///
    /// # Errors
    /// [`QuotaError`]; never without a limit.
    pub fn open(folder: &Path, config: &WritableLayer) -> Result<Self, QuotaError> {
        let quotas = Self {
            limit: config.limit(),
            ..Self::default()
        };
        let Some(key) = config.key() else {
            return Ok(quotas);
        };
        config.check()?;
        let refused = |source| QuotaError::Refused {
            key,
            folder: folder.to_owned(),
            source,
        };
        let place = open(folder).map_err(|errno| refused(errno.into()))?;
        if let Some(missing) = missing(place.as_fd()) {
            return Err(QuotaError::Missing {
                key,
                folder: folder.to_owned(),
                file_system: mount::file_system(place.as_fd()).unwrap_or_else(|| "an unknown file system".into()),
                missing,
            });
        }
        forget_unused(place.as_fd()).map_err(refused)?;
        quotas.try_in(folder).map_err(refused)?;
        Ok(quotas)
    }

    /// Whether new layers are limited.
    pub fn are_set(&self) -> bool {
        self.limit != Limit::default()
    }

    /// Gives a container's new folder, which is empty, a project and the limits.
    pub(super) fn claim(&self, folder: &Path, id: &ContainerId) -> io::Result<()> {
        if !self.are_set() {
            return Ok(());
        }
        let folder = open(folder)?;
        let folder = folder.as_fd();
        let _turn = self.choosing.lock().expect("nobody panics while choosing");
        for candidate in candidates(id) {
            if quota::read(folder, candidate)? != Project::default() {
                continue;
            }
            project::assign(folder, candidate)?;
            // Another daemon on this file system may have taken the same meanwhile: then both go on.
            if quota::read(folder, candidate)?.inodes == 1 {
                return quota::set_limit(folder, candidate, self.limit);
            }
        }
        Err(io::Error::other("every project of inro's is taken"))
    }

    /// Whether a folder can have limits here: as root of this namespace, with this kernel.
    fn try_in(&self, place: &Path) -> io::Result<()> {
        let id = ContainerId::random();
        let folder = place.join(id.as_str());
        fs::create_dir(&folder)?;
        let tried = self.claim(&folder, &id);
        let released = Held::of(&folder).and_then(|held| held.map_or(Ok(()), |held| held.release()));
        tried.and(released).and(fs::remove_dir(&folder))
    }
}

/// A container's folder that is counted to a project of ours.
pub(super) struct Held {
    folder: OwnedFd,
    project: u32,
}

impl Held {
    /// `None`: it is counted to none of ours, or gone.
    ///
    /// # Errors
    /// Those of opening the folder and of the ioctl.
    pub fn of(folder: &Path) -> io::Result<Option<Self>> {
        let folder = match open(folder) {
            Err(Errno::NOENT) => return Ok(None),
            folder => folder?,
        };
        match project::of(folder.as_fd()) {
            Ok(project) if OURS.contains(&project) => Ok(Some(Self { folder, project })),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is in it, without looking.
    ///
    /// # Errors
    /// Those of quotactl_fd(2), also when quotas are off by now.
    pub fn read(&self) -> io::Result<Project> {
        quota::read(self.folder.as_fd(), self.project)
    }

    /// Takes the limits back. Nothing may be in it any more.
    ///
    /// # Errors
    /// Those of quotactl_fd(2). Where quotas are off by now there is nothing to do; when they are on again, the daemon that
    /// wants limits takes those back.
    pub fn release(&self) -> io::Result<()> {
        match quota::set_limit(self.folder.as_fd(), self.project, Limit::default()) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::ESRCH)) => Ok(()),
            result => result,
        }
    }
}

/// Every project of ours once, in an order that is each container's own.
fn candidates(id: &ContainerId) -> impl Iterator<Item = u32> {
    let digits = |from: usize| u16::from_str_radix(&id.as_str()[from..from + 4], 16).expect("an id is hex digits");
    let (first, step) = (digits(0), digits(4) | 1);
    (0..=u16::MAX).map(move |n| OURS.start() + u32::from(first.wrapping_add(n.wrapping_mul(step))))
}

/// Takes back the limits of what nothing is counted to: those of a root folder that somebody removed by hand.
fn forget_unused(place: BorrowedFd<'_>) -> io::Result<()> {
    let mut from = *OURS.start();
    while let Some((id, project)) = quota::next(place, from)?.filter(|(id, _)| OURS.contains(id)) {
        if project.inodes == 0 && project.limit != Limit::default() {
            quota::set_limit(place, id, Limit::default())?;
        }
        from = id + 1;
    }
    Ok(())
}

/// What the file system of `place` lacks to hold a project to limits.
fn missing(place: BorrowedFd<'_>) -> Option<&'static str> {
    let state = quota::state(place);
    match (mount::file_system(place).as_deref(), state) {
        (_, Ok(state)) if state.limits => None,
        _ if !quota::is_there() => Some("Linux 5.14 with CONFIG_QUOTACTL, for quotactl_fd(2)"),
        (_, Ok(state)) if state.counts => Some("the mount option prjquota"),
        (Some("ext4"), _) => Some(
            "the mount option prjquota, and before that the features quota and project: `tune2fs -O project,quota -Q prjquota DEVICE`",
        ),
        (Some("xfs"), _) => Some("the mount option pquota, for a root file system rootflags=pquota"),
        _ => Some("a file system that has project quotas, as ext4 and XFS"),
    }
}

fn open(folder: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, folder, flags, Mode::empty())
}

/// `in` and 16 bits. Far from where others begin to count: the kubelet at 1048577, containers-storage at low numbers, and
/// administrators in projid(5) by hand.
const OURS: RangeInclusive<u32> = 0x696e_0000..=0x696e_ffff;
/// What a container cannot be made with less than, with room for the places of its mounts.
const LEAST: Limit = Limit {
    bytes: 1 << 20,
    inodes: 100,
};
const SIZE: &str = "image.writable_layer.size_bytes";
const INODES: &str = "image.writable_layer.inodes";

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_container_finds_every_project_once() {
        let id = ContainerId::random();
        let mut all: Vec<_> = candidates(&id).collect();
        assert_ne!(all[..8], candidates(&ContainerId::random()).take(8).collect::<Vec<_>>());
        all.sort_unstable();
        assert!(all.into_iter().eq(OURS));
    }

    #[test]
    fn a_limit_that_nothing_can_be_made_with_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (size_bytes, inodes, key) in [(1, 0, SIZE), (0, 1, INODES), (1 << 20, 99, INODES)] {
            let error = Quotas::open(dir.path(), &WritableLayer { size_bytes, inodes }).unwrap_err();
            assert!(
                matches!(error, QuotaError::TooSmall { key: told, .. } if told == key),
                "{error}"
            );
        }
    }

    #[test]
    fn without_a_limit_nothing_is_asked_of_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let quotas = Quotas::open(Path::new("/nonexistent"), &WritableLayer::default()).unwrap();
        quotas.claim(dir.path(), &ContainerId::random()).unwrap();
        assert!(Held::of(dir.path()).unwrap().is_none());
        assert!(Held::of(&dir.path().join("gone")).unwrap().is_none());
    }
}
