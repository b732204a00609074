//! The base of a container's root: file systems and files of the pod, in place before libcontainer looks.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, fstat, mkdirat, open, openat, openat2},
    io::Errno,
    mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::{
    error::{Failure, Stage},
    home::file_system,
    protocol::staged_rootfs,
};
use crate::model::BaseMount;

/// Makes `base`, gives each of `volumes` a mount of its own, then attaches `files` over their places, all in the
/// staged root file system and never outside it.
///
/// The calling process must be in the pod's namespaces: sysfs shows the network namespace of who mounts it, mqueue
/// the ipc namespace.
///
/// # Errors
/// A [`Failure`] of the stage `mounts` that names the place.
pub(super) fn furnish(base: &[BaseMount], volumes: &[PathBuf], files: &[(PathBuf, OwnedFd)]) -> Result<(), Failure> {
    let root = open(staged_rootfs(), FOLDER, Mode::empty()).map_err(|e| Failure::new(Stage::Mounts, "the root", e))?;
    for mount in base {
        put_new(root.as_fd(), mount).map_err(|e| Failure::new(Stage::Mounts, mount.place.display(), e))?;
    }
    for place in volumes {
        put_itself(root.as_fd(), place).map_err(|e| Failure::new(Stage::Mounts, place.display(), e))?;
    }
    for (place, file) in files {
        put(root.as_fd(), place, file.as_fd()).map_err(|e| Failure::new(Stage::Mounts, place.display(), e))?;
    }
    Ok(())
}

fn put_new(root: BorrowedFd<'_>, mount: &BaseMount) -> io::Result<()> {
    let options: Vec<_> = mount.options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let attributes = MountAttrFlags::from_bits_retain(mount.attributes);
    let made = file_system(&mount.kind, &options, attributes)?;
    // A link here could put the file system over something else of the image that is trusted to be itself.
    let place = folder(root, &mount.place, ResolveFlags::NO_SYMLINKS)?;
    Ok(move_mount(made, "", place, "", ONTO)?)
}

/// Attaches a folder over itself: what makes the root read-only does not reach it, and the image's content shows.
fn put_itself(root: BorrowedFd<'_>, place: &Path) -> io::Result<()> {
    let place = folder(root, place, ResolveFlags::empty())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&place, "", flags)?;
    Ok(move_mount(tree, "", place, "", ONTO)?)
}

/// Attaches a folder over a folder, anything else over a file; the image's links are followed inside the root.
fn put(root: BorrowedFd<'_>, place: &Path, mount: BorrowedFd<'_>) -> io::Result<()> {
    let is_folder = rustix::fs::FileType::from_raw_mode(fstat(mount)?.st_mode).is_dir();
    let target = match is_folder {
        true => folder(root, place, ResolveFlags::empty())?,
        false => file(root, place)?,
    };
    Ok(move_mount(mount, "", target, "", ONTO)?)
}

/// The folder at `place`, made with its parents where it is missing.
fn folder(root: BorrowedFd<'_>, place: &Path, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let find = |path: &Path| openat2(root, path, FOLDER, Mode::empty(), INSIDE | resolve);
    match find(place) {
        Err(Errno::NOENT) => {}
        found => return Ok(found?),
    }
    let parent = match place.parent() {
        Some(parent) => folder(root, parent, resolve)?,
        None => return Err(Errno::NOENT.into()),
    };
    let name = place.file_name().ok_or(Errno::INVAL)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(find(place)?),
        Err(errno) => Err(errno.into()),
    }
}

/// The file at `place`, made empty where it is missing; never opened for reading, it may be a device or a fifo.
fn file(root: BorrowedFd<'_>, place: &Path) -> io::Result<OwnedFd> {
    let find = || openat2(root, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), INSIDE);
    match find() {
        Err(Errno::NOENT) => {}
        found => return Ok(found?),
    }
    let parent = folder(root, place.parent().ok_or(Errno::INVAL)?, ResolveFlags::empty())?;
    let name = place.file_name().ok_or(Errno::INVAL)?;
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(&parent, name, new, Mode::from_raw_mode(0o644))?;
    Ok(find()?)
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const ONTO: MoveMountFlags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH.union(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);
