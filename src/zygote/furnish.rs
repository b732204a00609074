//! The mounts of a container's root: file systems, files of the pod, volumes, and what closes paths; in place before
//! libcontainer looks.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmodat, chownat, makedev, mkdirat, mknodat, open,
        openat,
    },
    io::Errno,
    mount::{MountAttrFlags, OpenTreeFlags, open_tree},
};

use super::{
    error::{Failure, Stage},
    hierarchies,
    home::{file_system, is_folder, onto},
    protocol::{ClosedPaths, CreateWire},
};
use crate::{
    model::{BaseMount, DeviceKind, DeviceNode},
    sys::{mount::set_attributes, within},
};

/// Makes what the request wants in the staged root file system, and never outside it: the file systems of the base, the
/// device nodes, a mount of its own for each volume of the image; then attaches `files` over their places, shows
/// the cgroups, and closes paths.
///
/// The calling process must be in the pod's namespaces: sysfs shows the network namespace of who mounts it, mqueue
/// the ipc namespace, and proc the pid namespace. It must not be in the pod's user namespace, whose root may make no device.
///
/// # Errors
/// A [`Failure`] of the stage `mounts` that names the place.
pub(super) fn furnish(
    request: &CreateWire,
    files: &[(PathBuf, OwnedFd)],
    cgroups: &[(String, OwnedFd)],
) -> Result<(), Failure> {
    let top =
        open(request.place.rootfs(), FOLDER, Mode::empty()).map_err(|e| Failure::new(Stage::Mounts, "the root", e))?;
    let root = Root {
        top,
        owner: request.root,
    };
    for mount in &request.base {
        root.put_new(mount).map_err(at(&mount.place))?;
    }
    for device in &request.devices {
        root.node(device).map_err(at(&device.place))?;
    }
    for place in &request.volumes {
        root.put_itself(place).map_err(at(place))?;
    }
    for (place, file) in files {
        root.put(place, file.as_fd()).map_err(at(place))?;
    }
    if !cgroups.is_empty() {
        let place = Path::new(hierarchies::CGROUPS);
        let shown = root.folder(place, ResolveFlags::empty());
        shown
            .and_then(|target| hierarchies::show(cgroups, &target))
            .map_err(at(place))?;
    }
    root.close(&request.closed, request.place.path())?;
    // The working folder may be on a read-only root, or come with a mount: then the chdir decides.
    let _ = root.folder(&request.cwd, ResolveFlags::empty());
    Ok(())
}

/// A failure at `place`.
fn at(place: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(Stage::Mounts, place.display(), error)
}

/// The staged root file system.
struct Root {
    top: OwnedFd,
    /// Whose everything new is, as host ids: the container's root.
    owner: (u32, u32),
}

impl Root {
    fn put_new(&self, mount: &BaseMount) -> io::Result<()> {
        let options: Vec<_> = mount.options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let attributes = MountAttrFlags::from_bits_retain(mount.attributes);
        let made = file_system(&mount.kind, &options, attributes)?;
        // A link here could put the file system over something else of the image that is trusted to be itself.
        let place = self.folder(&mount.place, ResolveFlags::NO_SYMLINKS)?;
        onto(made, place)
    }

    /// Makes a node, in the place of a file of the image if there is one.
    fn node(&self, device: &DeviceNode) -> io::Result<()> {
        let parent = self.folder(device.place.parent().ok_or(Errno::INVAL)?, ResolveFlags::empty())?;
        let name = device.place.file_name().ok_or(Errno::INVAL)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let kind = match device.kind {
            DeviceKind::Char => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        };
        let mode = Mode::from_raw_mode(device.mode);
        mknodat(&parent, name, kind, mode, makedev(device.major, device.minor))?;
        give(parent.as_fd(), name, (device.uid, device.gid))?;
        // Again: chown clears what it thinks dangerous.
        Ok(chmodat(&parent, name, mode, AtFlags::empty())?)
    }

    /// Attaches a folder over itself: what makes the root read-only does not reach it, and the image's content shows.
    fn put_itself(&self, place: &Path) -> io::Result<()> {
        let place = self.folder(place, ResolveFlags::empty())?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&place, "", flags)?;
        onto(tree, place)
    }

    /// Attaches a folder over a folder, anything else over a file; the image's links are followed inside the root.
    fn put(&self, place: &Path, mount: BorrowedFd<'_>) -> io::Result<()> {
        let target = match is_folder(mount)? {
            true => self.folder(place, ResolveFlags::empty())?,
            false => self.file(place)?,
        };
        onto(mount, target)
    }

    /// Makes paths read-only and hides others, with an empty folder and a null device that are made on the stage.
    fn close(&self, closed: &ClosedPaths, stage: &Path) -> Result<(), Failure> {
        for place in &closed.readonly {
            let Some(target) = self.existing(place).map_err(at(place))? else {
                continue;
            };
            show(&target, "", READ_ONLY, &target).map_err(at(place))?;
        }
        if closed.masked.is_empty() {
            return Ok(());
        }
        let stage = make_nothing(stage).map_err(at(stage))?;
        for place in &closed.masked {
            let Some(target) = self.existing(place).map_err(at(place))? else {
                continue;
            };
            let nothing = match is_folder(&target).map_err(at(place))? {
                true => NO_FOLDER,
                false => NO_FILE,
            };
            show(&stage, nothing, MountAttrFlags::MOUNT_ATTR_RDONLY, &target).map_err(at(place))?;
        }
        Ok(())
    }

    /// What is at `place`, the image's links followed inside the root; `None` where there is nothing.
    fn existing(&self, place: &Path) -> io::Result<Option<OwnedFd>> {
        match within::open(&self.top, place, OFlags::PATH, INSIDE) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The folder at `place`, made with its parents where it is missing.
    fn folder(&self, place: &Path, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let find = |path: &Path| within::open(&self.top, path, FOLDER, INSIDE | resolve);
        match find(place) {
            Err(Errno::NOENT) => {}
            found => return Ok(found?),
        }
        let parent = match place.parent() {
            Some(parent) => self.folder(parent, resolve)?,
            None => return Err(Errno::NOENT.into()),
        };
        let name = place.file_name().ok_or(Errno::INVAL)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => give(parent.as_fd(), name, self.owner)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(find(place)?)
    }

    /// The file at `place`, made empty where it is missing; never opened for reading, it may be a device or a fifo.
    fn file(&self, place: &Path) -> io::Result<OwnedFd> {
        let find = || within::open(&self.top, place, OFlags::PATH, INSIDE);
        match find() {
            Err(Errno::NOENT) => {}
            found => return Ok(found?),
        }
        let parent = self.folder(place.parent().ok_or(Errno::INVAL)?, ResolveFlags::empty())?;
        let name = place.file_name().ok_or(Errno::INVAL)?;
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&parent, name, new, Mode::from_raw_mode(0o644))?;
        give(parent.as_fd(), name, self.owner)?;
        Ok(find()?)
    }
}

/// Attaches what is at `path` below `from`, with the mounts below it and with further attributes of its own, over `target`.
fn show(from: &OwnedFd, path: &str, attributes: MountAttrFlags, target: &OwnedFd) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(from, path, flags)?;
    set_attributes(tree.as_fd(), attributes)?;
    onto(tree, target)
}

/// Makes a folder and a device in which there is nothing; answers where.
fn make_nothing(stage: &Path) -> io::Result<OwnedFd> {
    let stage = open(stage, FOLDER, Mode::empty())?;
    mkdirat(&stage, NO_FOLDER, Mode::from_raw_mode(0o755))?;
    let mode = Mode::from_raw_mode(0o666);
    mknodat(&stage, NO_FILE, FileType::CharacterDevice, mode, makedev(1, 3))?;
    Ok(stage)
}

/// Changes the owner of what has just been made by us, who are the node's root.
fn give(parent: BorrowedFd<'_>, name: &std::ffi::OsStr, (uid, gid): (u32, u32)) -> rustix::io::Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Names on the stage.
const NO_FOLDER: &str = "nothing";
const NO_FILE: &str = "null";

const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
