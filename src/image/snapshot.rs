//! Root file systems of containers: an overlay of an image's layers, folders and images, under a folder of the container's
//! own.
//!
//! The mount is *detached*: it is in no mount table, so the host's never grows, nobody can pin it, and it goes when the
//! last container process goes.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
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

use super::{
    ImageError, Mounts, WritableLayer,
    content::io,
    quota::{Held, Quotas},
};
use crate::{
    durable,
    model::{ContainerId, Layer, UserNamespace},
    sys::mount::{set_idmap, set_readonly},
};

/// The containers' own folders.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
    /// Where every layer is: our own, and those of additional stores.
    layers: Vec<PathBuf>,
    /// Below every image's layers, see [`make_base`].
    base: PathBuf,
    /// See [`Snapshots::place`].
    place: PathBuf,
    /// Of layers that are images.
    mounts: Mounts,
    quotas: Quotas,
}

/// A user namespace whose root owns what the image says root owns.
#[derive(Debug, Clone, Copy)]
pub struct Mapped<'a> {
    pub namespace: BorrowedFd<'a>,
    pub ids: UserNamespace,
}

impl Snapshots {
    /// Below `root`, beside the layers: overlayfs copies up within one file system. `additional` are other stores' roots.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn open(root: &Path, additional: &[PathBuf], mounts: Mounts) -> Result<Self, ImageError> {
        let images = root;
        let roots = std::iter::once(root).chain(additional.iter().map(PathBuf::as_path));
        let layers = roots.map(|root| root.join("layers")).collect();
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
            mounts,
            quotas: Quotas::default(),
        })
    }

    /// The same with limits for the layers of containers that come; those that are there keep theirs.
    ///
    /// # Errors
    /// [`ImageError::Quota`] when the file system cannot hold them to it.
    pub fn limited(self, config: &WritableLayer) -> Result<Self, ImageError> {
        let quotas = Quotas::open(&self.root, config)?;
        Ok(Self { quotas, ..self })
    }

    /// Whether the layers of containers that come are limited.
    pub fn are_limited(&self) -> bool {
        self.quotas.are_set()
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

    /// Makes a container's folder and mounts its root file system: `layers`, lowest first, under it.
    ///
    /// For a user namespace the layers are id-mapped, folders all by one mount of the folder they share, and what the container
    /// writes belongs on the disk to the host's ids of who wrote it.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn prepare(
        &self,
        id: &ContainerId,
        layers: &[Layer],
        mapped: Option<Mapped<'_>>,
    ) -> Result<OwnedFd, ImageError> {
        let folder = self.folder(id, &["upper", "work"])?;
        let upper = folder.join("upper");
        // The root folder of what the container sees is the upper one: it looks as the topmost layer's.
        let layers = self.lower(layers)?;
        let meta = match layers.last() {
            None => fs::metadata(&self.base).map_err(io("examine", &self.base)),
            Some(layer) => layer.metadata(),
        }?;
        let mode = meta.permissions().mode() & 0o7777;
        if let Some(Mapped { ids, .. }) = mapped {
            let (uid, gid) = (ids.uids.to_host(meta.uid()), ids.gids.to_host(meta.gid()));
            std::os::unix::fs::chown(&upper, uid.or(Some(ids.uids.host)), gid.or(Some(ids.gids.host)))
                .map_err(io("set the owner of", &upper))?;
        }
        fs::set_permissions(&upper, PermissionsExt::from_mode(mode)).map_err(io("set the mode of", &upper))?;
        let mut lower: Vec<Lower> = layers.into_iter().rev().collect();
        // It is not id-mapped as the layers are: what is missing is made there for each container.
        if mapped.is_none() || lower.is_empty() {
            lower.push(Lower::Folder(self.base.clone()));
        }
        self.overlay(&lower, Some(&folder), mapped)
            .map_err(io("mount an overlay on", &folder))
    }

    /// Mounts an image's root file system for a container to read. `layers` as for [`Snapshots::prepare`].
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn view(&self, id: &ContainerId, layers: &[Layer], mapped: Option<Mapped<'_>>) -> Result<OwnedFd, ImageError> {
        let folder = self.folder(id, &["empty"])?;
        let empty = folder.join("empty");
        // Without an upper folder overlayfs wants two others: this one shows nothing.
        let mut lower: Vec<Lower> = self.lower(layers)?.into_iter().rev().collect();
        lower.push(Lower::Folder(empty.clone()));
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
        let place = self.layers.iter().take(1).cloned().map(Layer::Folder);
        let probed = self.prepare(&id, &place.collect::<Vec<_>>(), Some(mapped)).map(drop);
        self.remove(&id)?;
        probed
    }

    /// A container's folder with what overlayfs needs in it.
    fn folder(&self, id: &ContainerId, needed: &[&str]) -> Result<PathBuf, ImageError> {
        let folder = self.root.join(id.as_str());
        match fs::create_dir(&folder) {
            // Before anything is in it: the rest is counted to the same project.
            Ok(()) => self.quotas.claim(&folder, id).map_err(io("limit", &folder))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io("make", &folder)(error)),
        }
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

    /// What an overlay is made of.
    fn lower(&self, layers: &[Layer]) -> Result<Vec<Lower>, ImageError> {
        let one = |layer: &Layer| match layer {
            Layer::Folder(folder) => Ok(Lower::Folder(folder.clone())),
            Layer::Erofs { file, sealed } => Ok(Lower::Mount {
                mount: self.mounts.of(file, sealed.as_deref())?,
                of: file.clone(),
            }),
        };
        layers.iter().map(one).collect()
    }

    /// A detached overlay of `lower`, topmost first; with a container's folder a writable one.
    fn overlay(&self, lower: &[Lower], own: Option<&Path>, mapped: Option<Mapped<'_>>) -> io::Result<OwnedFd> {
        let layers = match mapped {
            None => Vec::new(),
            Some(mapped) => self.mapped_layers(lower, mapped)?,
        };
        let through = |path: &Path| {
            let mut below = layers
                .iter()
                .filter_map(|(tree, place)| Some((tree, path.strip_prefix(place).ok()?)));
            match below.next() {
                Some((tree, below)) => by_descriptor(tree.as_fd()).join(below),
                None => path.to_path_buf(),
            }
        };
        let mut mounts = Vec::new();
        let mut paths = Vec::with_capacity(lower.len());
        for layer in lower {
            paths.push(match (layer, mapped) {
                (Lower::Folder(path), _) => through(path),
                (Lower::Mount { mount, .. }, None) => by_descriptor(mount.as_fd()),
                (Lower::Mount { mount, .. }, Some(mapped)) => {
                    let own = open_tree(&**mount, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH)?;
                    set_idmap(own.as_fd(), mapped.namespace)?;
                    let path = by_descriptor(own.as_fd());
                    mounts.push(own);
                    path
                }
            });
        }
        let folders = lower.iter().map(Lower::folder).collect::<Option<Vec<_>>>();
        match (by_context(&paths, own), folders) {
            // Before Linux 6.5 overlayfs has no `lowerdir+`; before 6.15 it takes no layer of a detached mount.
            (Err(Errno::INVAL), Some(folders)) => {
                own.map_or(Ok(()), forget_attempt)?;
                by_mount(&folders, own, &layers)
            }
            (result, _) => Ok(result?),
        }
    }

    /// The folders of layers that `lower` is in, attached nowhere, with owners as the namespace maps them; and where each
    /// of them is.
    fn mapped_layers<'a>(&'a self, lower: &[Lower], mapped: Mapped<'_>) -> io::Result<Vec<(OwnedFd, &'a Path)>> {
        let needed = |place: &&PathBuf| {
            lower
                .iter()
                .filter_map(Lower::folder)
                .any(|layer| layer.starts_with(place))
        };
        let mapped = self.layers.iter().filter(needed).map(|place| {
            let layers = open_tree(CWD, place, CLONE)?;
            set_idmap(layers.as_fd(), mapped.namespace)?;
            Ok((layers, &**place))
        });
        mapped.collect()
    }
}

/// One layer of an overlay.
#[derive(Debug)]
enum Lower {
    Folder(PathBuf),
    /// Of the image `of`.
    Mount {
        mount: Arc<OwnedFd>,
        of: PathBuf,
    },
}

impl Lower {
    /// Of its root.
    fn metadata(&self) -> Result<fs::Metadata, ImageError> {
        match self {
            Self::Folder(path) => fs::metadata(path).map_err(io("examine", path)),
            Self::Mount { mount, of } => fs::metadata(by_descriptor(mount.as_fd())).map_err(io("examine", of)),
        }
    }

    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Mount { .. } => None,
        }
    }
}

fn by_descriptor(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
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
    let limited = || {
        if let Some(held) = Held::of(folder)? {
            empty(folder)?;
            held.release()?;
        }
        remove_if_there(folder)
    };
    limited().map_err(io("remove", folder))
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        remove_if_there(&entry?.path())?;
    }
    Ok(())
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn by_context(lower: &[PathBuf], own: Option<&Path>) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", layer)?;
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

/// By mount(2) in a mount namespace that ends with its thread; `mapped` are attached there over the folders of layers.
/// The layers are named by short descriptor paths: all options together may have one page.
fn by_mount(lower: &[&Path], own: Option<&Path>, mapped: &[(OwnedFd, &Path)]) -> io::Result<OwnedFd> {
    crate::sys::thread::in_own_mount_namespace(|| {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        for (mapped, place) in mapped {
            move_mount(mapped, "", CWD, *place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
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
mod test;
