//! What a container sees of the cgroups: its own folder of each v1 hierarchy below /sys/fs/cgroup, or the one of v2 there.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, symlink},
    },
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, openat, statfs, symlinkat},
    mount::{MountAttrFlags, OpenTreeFlags, open_tree},
};

use super::home::{file_system, onto};
use crate::sys::mount::{set_attributes, set_readonly};

/// A folder with a place for each of the node's v1 hierarchies, in the zygote's small world: containers have copies of the
/// one mount, which nobody can write to.
pub(super) const PLACES: &str = "cgroup";

/// Makes [`PLACES`] in the current folder, before the host's mounts are left behind. Empty on v2.
pub(super) fn make_places() -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(PLACES)?;
    if statfs(CGROUPS)?.f_type != TMPFS_MAGIC {
        return Ok(());
    }
    for entry in fs::read_dir(CGROUPS)? {
        let entry = entry?;
        let place = Path::new(PLACES).join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            DirBuilder::new().mode(0o755).create(&place)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &place)?;
        }
    }
    Ok(())
}

/// Attaches the hierarchies, each by its name, over `target`, which is the container's /sys/fs/cgroup.
pub(super) fn show(hierarchies: &[(String, OwnedFd)], target: &OwnedFd) -> io::Result<()> {
    if let [(name, whole)] = hierarchies
        && name.is_empty()
    {
        return onto(whole, target);
    }
    let (folder, is_shared) = match places_for(hierarchies)? {
        Some(places) => (places, true),
        None => (new_places(hierarchies)?, false),
    };
    onto(&folder, target)?;
    for (name, hierarchy) in hierarchies {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        onto(hierarchy, &openat(&folder, name, flags, Mode::empty())?)?;
    }
    match is_shared {
        true => Ok(()),
        false => set_readonly(folder.as_fd(), false),
    }
}

/// A read-only copy of the small world's places; `None` when these are not for the very same hierarchies.
fn places_for(hierarchies: &[(String, OwnedFd)]) -> io::Result<Option<OwnedFd>> {
    let places = Path::new("/").join(PLACES);
    // In the host's tree there are none.
    let Ok(entries) = fs::read_dir(&places) else {
        return Ok(None);
    };
    let mut there = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            there.insert(entry.file_name());
        }
    }
    if !there.iter().eq(hierarchies
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<BTreeSet<_>>())
    {
        return Ok(None);
    }
    let places = open_tree(
        CWD,
        places,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    set_attributes(places.as_fd(), ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(Some(places))
}

/// Places in a file system of the container's own.
fn new_places(hierarchies: &[(String, OwnedFd)]) -> io::Result<OwnedFd> {
    let folder = file_system("tmpfs", &[("mode", "0755"), ("size", "64k")], ATTRIBUTES)?;
    for (name, _) in hierarchies {
        mkdirat(&folder, name, Mode::from_raw_mode(0o755))?;
        // A hierarchy of several controllers is found by each one's name too.
        for controller in name.split(',').filter(|part| part != name) {
            symlinkat(name, &folder, controller)?;
        }
    }
    Ok(folder)
}

/// Where cgroups are looked for.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";

const ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
