//! Root file systems of containers: an overlay of an image's layers under a folder of the container's own.
//!
//! The mount is *detached*: it is in no mount table, so the host's never grows, nobody can pin it, and it goes when the
//! last container process goes.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, move_mount,
        open_tree,
    },
};

use super::{ImageError, content::io};
use crate::{
    durable,
    model::{ContainerId, UserNamespace},
    sys::mount::{set_idmap, set_readonly},
};

/// The containers' own folders.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
    /// Where every layer is.
    layers: PathBuf,
    /// Below every image's layers, see [`make_base`].
    base: PathBuf,
    /// See [`Snapshots::place`].
    place: PathBuf,
}

/// A user namespace whose root owns what the image says root owns.
#[derive(Debug, Clone, Copy)]
pub struct Mapped<'a> {
    pub namespace: BorrowedFd<'a>,
    pub ids: UserNamespace,
}

impl Snapshots {
    /// Below `root`, beside the layers: overlayfs copies up within one file system.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let (images, layers) = (root, root.join("layers"));
        let root = root.join("snapshots");
        durable::create_private_dir(&root).map_err(io("make", &root))?;
        let device = |folder: &Path| {
            let found = fs::metadata(folder).map_err(io("examine", folder));
            found.map(|meta| meta.dev())
        };
        let base = images.join("base");
        make_base(&base).map_err(io("make", &base))?;
        let place = match device(&root)? == device(images)? {
            true => images.to_owned(),
            false => root.clone(),
        };
        Ok(Self {
            root,
            layers,
            base,
            place,
        })
    }

    /// The folder that stands for the file system of the writable layers: the images' folder when both are on one, because
    /// the kubelet takes equal paths for one file system and others for two (`stats/cadvisor_stats_provider.go`).
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The folder of what a container changed.
    pub fn upper(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str()).join("upper")
    }

    /// Makes a container's folder and mounts its root file system: `layers` (their `fs` folders, lowest first) under it.
    ///
    /// For a user namespace the layers are id-mapped, all by one mount of the folder they share, and what the container
    /// writes belongs on the disk to the host's ids of who wrote it.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn prepare(
        &self,
        id: &ContainerId,
        layers: &[PathBuf],
        mapped: Option<Mapped<'_>>,
    ) -> Result<OwnedFd, ImageError> {
        let folder = self.folder(id, &["upper", "work"])?;
        let upper = folder.join("upper");
        // The root folder of what the container sees is the upper one: it looks as the topmost layer's.
        let like = layers.last().unwrap_or(&self.base);
        let meta = fs::metadata(like).map_err(io("examine", like))?;
        let mode = meta.permissions().mode() & 0o7777;
        if let Some(Mapped { ids, .. }) = mapped {
            let (uid, gid) = (ids.uids.to_host(meta.uid()), ids.gids.to_host(meta.gid()));
            std::os::unix::fs::chown(&upper, uid.or(Some(ids.uids.host)), gid.or(Some(ids.gids.host)))
                .map_err(io("set the owner of", &upper))?;
        }
        fs::set_permissions(&upper, PermissionsExt::from_mode(mode)).map_err(io("set the mode of", &upper))?;
        let mut lower: Vec<&Path> = layers.iter().rev().map(PathBuf::as_path).collect();
        // It is not id-mapped as the layers are: what is missing is made there for each container.
        if mapped.is_none() || layers.is_empty() {
            lower.push(&self.base);
        }
        self.overlay(&lower, Some(&folder), mapped)
            .map_err(io("mount an overlay on", &folder))
    }

    /// Mounts an image's root file system for a container to read. `layers` as for [`Snapshots::prepare`].
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn view(
        &self,
        id: &ContainerId,
        layers: &[PathBuf],
        mapped: Option<Mapped<'_>>,
    ) -> Result<OwnedFd, ImageError> {
        let folder = self.folder(id, &["empty"])?;
        let empty = folder.join("empty");
        // Without an upper folder overlayfs wants two others: this one shows nothing.
        let lower: Vec<&Path> = layers.iter().rev().chain([&empty]).map(PathBuf::as_path).collect();
        let mounted = match lower.len() {
            1 => open_tree(CWD, &empty, CLONE).map_err(io::Error::from),
            _ => self.overlay(&lower, None, mapped),
        };
        mounted
            .and_then(|mount| set_readonly(mount.as_fd(), false).map(|()| mount))
            .map_err(io("mount an image for", &folder))
    }

    /// Whether root file systems can be made for user namespaces here, with the kernel and the disk as they are.
    ///
    /// # Errors
    /// [`ImageError::Io`] with what the kernel says.
    pub fn probe(&self, mapped: Mapped<'_>) -> Result<(), ImageError> {
        let id = ContainerId::random();
        let probed = self
            .prepare(&id, std::slice::from_ref(&self.layers), Some(mapped))
            .map(drop);
        self.remove(&id)?;
        probed
    }

    /// A container's folder with what overlayfs needs in it.
    fn folder(&self, id: &ContainerId, needed: &[&str]) -> Result<PathBuf, ImageError> {
        let folder = self.root.join(id.as_str());
        for path in needed.iter().map(|name| folder.join(name)) {
            fs::create_dir_all(&path).map_err(io("make", &path))?;
        }
        Ok(folder)
    }

    /// The folder of all.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes a container's folder; nothing to do when it is gone. Its mount must be.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn remove(&self, id: &ContainerId) -> Result<(), ImageError> {
        remove(&self.root.join(id.as_str()))
    }

    /// Removes every folder whose container `is_known` does not know.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn retain(&self, is_known: impl Fn(&str) -> bool) -> Result<(), ImageError> {
        for entry in fs::read_dir(&self.root).map_err(io("list", &self.root))?.flatten() {
            if !is_known(&entry.file_name().to_string_lossy()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// A detached overlay of `lower`, topmost first; with a container's folder a writable one.
    fn overlay(&self, lower: &[&Path], own: Option<&Path>, mapped: Option<Mapped<'_>>) -> io::Result<OwnedFd> {
        let layers = mapped.map(|mapped| self.mapped_layers(mapped)).transpose()?;
        let direct = match &layers {
            None => by_context(lower, own),
            Some(layers) => {
                let base = PathBuf::from(format!("/proc/self/fd/{}", layers.as_raw_fd()));
                let through = |path: &&Path| match path.strip_prefix(&self.layers) {
                    Ok(below) => base.join(below),
                    Err(_) => path.to_path_buf(),
                };
                let lower: Vec<PathBuf> = lower.iter().map(through).collect();
                by_context(&lower.iter().map(PathBuf::as_path).collect::<Vec<_>>(), own)
            }
        };
        match direct {
            // Before Linux 6.5 overlayfs has no `lowerdir+`; before 6.15 it takes no layer of a detached mount.
            Err(Errno::INVAL) => {
                own.map_or(Ok(()), forget_attempt)?;
                by_mount(
                    lower,
                    own,
                    layers.as_ref().map(|layers| (layers.as_fd(), &*self.layers)),
                )
            }
            result => Ok(result?),
        }
    }

    /// The folder of all layers, attached nowhere, with owners as the namespace maps them.
    fn mapped_layers(&self, mapped: Mapped<'_>) -> io::Result<OwnedFd> {
        let layers = open_tree(CWD, &self.layers, CLONE)?;
        set_idmap(layers.as_fd(), mapped.namespace)?;
        Ok(layers)
    }
}

/// The places of what every container gets mounted: they are not made in its own folder then, each on the disk and each to
/// be removed, when its image lacks them. Nobody sees them but below a mount.
fn make_base(base: &Path) -> io::Result<()> {
    for (folder, mode) in [
        ("", 0o755),
        ("dev", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("etc", 0o755),
    ] {
        let path = base.join(folder);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        let file = fs::File::create(base.join("etc").join(name))?;
        file.set_permissions(PermissionsExt::from_mode(0o644))?;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<(), ImageError> {
    remove_if_there(folder).map_err(io("remove", folder))
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn by_context(lower: &[&Path], own: Option<&Path>) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", *layer)?;
    }
    if let Some(own) = own {
        fsconfig_set_string(&context, "upperdir", own.join("upper"))?;
        fsconfig_set_string(&context, "workdir", own.join("work"))?;
        // What a container writes does not outlive it: nothing needs to be synced when it goes.
        fsconfig_set_flag(&context, "volatile")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Takes away the mark that a volatile overlay leaves, also one that was refused: overlayfs mounts no folder that has it.
fn forget_attempt(own: &Path) -> io::Result<()> {
    let work = own.join("work");
    remove_if_there(&work)?;
    fs::create_dir(&work)
}

/// By mount(2) in a mount namespace that ends with its thread; `mapped` is attached there over the folder of layers.
/// The layers are named by short descriptor paths: all options together may have one page.
fn by_mount(lower: &[&Path], own: Option<&Path>, mapped: Option<(BorrowedFd<'_>, &Path)>) -> io::Result<OwnedFd> {
    crate::sys::thread::in_own_mount_namespace(|| {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        if let Some((mapped, place)) = mapped {
            move_mount(mapped, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        let open = |path: &&Path| fs::File::open(path);
        let layers = lower.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let names: Vec<_> = layers
            .iter()
            .map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd()))
            .collect();
        let mut options = format!("lowerdir={}", names.join(":"));
        if let Some(own) = own {
            let own = own.display();
            options += &format!(",upperdir={own}/upper,workdir={own}/work");
        }
        let options = std::ffi::CString::new(options)?;
        // Any folder does in this namespace.
        let target = own.or(lower.last().copied()).unwrap_or(Path::new("/"));
        mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())?;
        Ok(open_tree(CWD, target, CLONE)?)
    })
}

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

#[cfg(test)]
mod test {
    use std::os::fd::AsFd;

    use rustix::fs::{Mode, OFlags, openat};

    use super::*;

    fn read(root: impl AsFd, path: &str) -> io::Result<String> {
        let file = openat(root, path, OFlags::RDONLY, Mode::empty())?;
        io::read_to_string(fs::File::from(file))
    }

    #[test]
    fn many_layers_show_the_topmost_file_and_no_mount() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
        let before = mounts();
        for count in [0, 1, 2, 300] {
            let layers: Vec<_> = (0..count)
                .map(|n| dir.path().join(format!("layer-of-some-length-{count}-{n}")))
                .collect();
            for (n, layer) in layers.iter().enumerate() {
                fs::create_dir(layer).unwrap();
                fs::write(layer.join("top"), n.to_string()).unwrap();
            }
            let id = ContainerId::random();
            let root = snapshots.prepare(&id, &layers, None).unwrap();
            match count {
                0 => assert!(read(&root, "top").is_err()),
                count => assert_eq!(read(&root, "top").unwrap(), (count - 1).to_string()),
            }
            drop(root);
            snapshots.remove(&id).unwrap();
        }
        assert_eq!(mounts(), before);
    }

    #[test]
    fn the_layers_are_where_the_images_are_unless_they_have_their_own_disk() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Snapshots::open(dir.path()).unwrap().place(), dir.path());
        let own = dir.path().join("snapshots");
        let place = crate::sys::thread::in_own_mount_namespace(|| {
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            mount("tmpfs", &own, "tmpfs", MountFlags::empty(), c"")?;
            let snapshots = Snapshots::open(dir.path()).map_err(io::Error::other)?;
            Ok(snapshots.place().to_owned())
        });
        assert_eq!(place.unwrap(), own);
    }

    #[test]
    fn the_older_way_gives_the_same() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "upper", "work", "empty"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("f"), name).unwrap();
        }
        fs::remove_file(dir.path().join("upper/f")).unwrap();
        fs::remove_file(dir.path().join("work/f")).unwrap();
        let path = |name: &str| dir.path().join(name);
        let root = by_mount(&[&path("b"), &path("a")], Some(dir.path()), None).unwrap();
        assert_eq!(read(&root, "f").unwrap(), "b");
        let view = by_mount(&[&path("a"), &path("empty")], None, None).unwrap();
        assert_eq!(read(&view, "f").unwrap(), "a");
    }

    #[test]
    fn the_places_of_mounts_are_there_without_being_made() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let layer = dir.path().join("layer");
        fs::create_dir_all(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/hosts"), "the image's").unwrap();
        let id = ContainerId::random();
        let root = snapshots.prepare(&id, &[layer], None).unwrap();
        assert_eq!(read(&root, "etc/hosts").unwrap(), "the image's");
        for (place, mode) in [("proc", 0o555), ("dev", 0o755), ("etc/resolv.conf", 0o644)] {
            let stat = rustix::fs::statat(&root, place, rustix::fs::AtFlags::empty()).unwrap();
            assert_eq!(stat.st_mode & 0o7777, mode, "{place}");
        }
        assert_eq!(fs::read_dir(snapshots.upper(&id)).unwrap().count(), 0);
    }

    #[test]
    fn a_view_is_read_only_and_one_layer_is_enough() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path()).unwrap();
        let layers: Vec<_> = ["one", "two"].map(|name| dir.path().join("layers").join(name)).into();
        for layer in &layers {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join("f"), layer.to_str().unwrap()).unwrap();
        }
        for count in [1, 2] {
            let id = ContainerId::random();
            let view = snapshots.view(&id, &layers[..count], None).unwrap();
            assert_eq!(read(&view, "f").unwrap(), layers[count - 1].to_str().unwrap());
            let new = openat(&view, "new", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
            assert_eq!(new.unwrap_err(), Errno::ROFS);
            snapshots.remove(&id).unwrap();
        }
        assert!(
            snapshots.view(&ContainerId::random(), &[], None).is_ok(),
            "an image without a layer"
        );
    }
}
