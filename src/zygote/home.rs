//! The zygote's own small mount namespace.
//!
//! Each container begins as a copy of it, and libcontainer reads its table: the host's hundreds of mounts on a busy node
//! must not be in it.

use std::{
    fs::{DirBuilder, Permissions, create_dir_all, set_permissions, write},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    },
    path::Path,
};

use pathrs::procfs::ProcfsHandle;
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, mount_move, move_mount,
        open_tree, unmount,
    },
    process::{chdir, chroot, pivot_root},
    thread::UnshareFlags,
};

use super::hierarchies;
use crate::sys::{fork::unshare, mount::set_readonly};

/// Leaves the host's mounts behind: a tmpfs with /proc, /dev, /sys, /stage, the places of v1 hierarchies, and the state folder
/// at its own path.
pub(super) fn move_in(state_dir: &Path) -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let state = open_tree(
        CWD,
        state_dir,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let root = file_system("tmpfs", &[("mode", "0755"), ("size", "1m")], MountAttrFlags::empty())?;
    // Any folder does as a place to stand on; this one is known to exist.
    attach(&root, state_dir)?;
    chdir(state_dir)?;

    for dir in ["proc", "sys", "dev", "stage"] {
        DirBuilder::new().mode(0o755).create(dir)?;
    }
    hierarchies::make_places()?;
    let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attach(
        &file_system("proc", &[], nosuid | MountAttrFlags::MOUNT_ATTR_NODEV)?,
        "proc",
    )?;
    attach(
        &file_system("sysfs", &[], nosuid | MountAttrFlags::MOUNT_ATTR_NODEV)?,
        "sys",
    )?;
    attach(
        &file_system("tmpfs", &[("mode", "0755"), ("size", "64k")], nosuid)?,
        "dev",
    )?;
    for (name, major, minor) in DEVICES {
        let path = Path::new("dev").join(name);
        mknodat(
            CWD,
            &path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(*major, *minor),
        )?;
        set_permissions(&path, Permissions::from_mode(0o666))?;
    }
    symlink("/proc/self/fd", "dev/fd")?;
    let place = state_dir.strip_prefix("/").map_err(|_| io::ErrorKind::InvalidInput)?;
    create_dir_all(place)?;
    attach(&state, place)?;

    if pivot_root(".", ".").is_ok() {
        unmount(".", UnmountFlags::DETACH)?;
    } else {
        // The node runs on its initramfs, which cannot be pivoted away.
        mount_move(".", "/")?;
        chroot(".")?;
    }
    chdir("/")?;
    set_readonly(root.as_fd(), false)?;
    // libcontainer looks through a /proc of its own, which is made once in a process and its children: here, not in each
    // container. One that cannot be made now is told of when it is needed.
    let _ = ProcfsHandle::new();
    Ok(())
}

/// Leaves the small world for the host's tree, which comes detached: for a container whose devices bring programs of the
/// host. In it the run folder is covered, passable for everybody, with nothing in it but the container's folder `dir` and
/// the empty `place`. The calling process has a mount namespace of its own.
pub(super) fn move_to_host(host: OwnedFd, dir: &Path, place: &Path) -> io::Result<()> {
    let folder = open_tree(
        CWD,
        dir,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    attach(&host, "/stage")?;
    chdir("/stage")?;
    // What the host unmounts is unmounted here, so that nothing is kept; what is mounted here stays here.
    mount_change(".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    drop(host);

    let state = place.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let cover = file_system("tmpfs", &[("mode", "0711"), ("size", "64k")], MountAttrFlags::empty())?;
    attach(&cover, state)?;
    for new in [dir, place] {
        DirBuilder::new().recursive(true).mode(0o711).create(new)?;
    }
    attach(&folder, dir)
}

/// A new, detached file system. An option without a value is a flag.
pub(super) fn file_system(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match *value {
            "" => fsconfig_set_flag(context.as_fd(), *key)?,
            value => fsconfig_set_string(context.as_fd(), *key, value)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Attaches a detached mount at `place`.
pub(super) fn attach(mount: impl AsFd, place: impl AsRef<Path>) -> io::Result<()> {
    Ok(move_mount(
        mount,
        "",
        CWD,
        place.as_ref(),
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// Attaches a detached mount over what `target` is.
pub(super) fn onto(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Creates the place for a mount: a folder for a folder, an empty file for anything else.
pub(super) fn place_for(mount: impl AsFd, place: &Path) -> io::Result<()> {
    match is_folder(mount)? {
        true => DirBuilder::new().mode(0o755).create(place),
        false => write(place, b""),
    }
}

/// Whether a descriptor is of a folder.
pub(super) fn is_folder(fd: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode).is_dir())
}

/// What libcontainer opens or binds from the host's /dev.
const DEVICES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
