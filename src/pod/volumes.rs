//! What a container's mounts show: trees of the host, root file systems of images and files of the pod, all as detached
//! mounts that the helper attaches.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, OFlags, ResolveFlags, readlink},
    io::Errno,
    mount::{MountAttrFlags, MountPropagationFlags, OpenTreeFlags, open_tree},
};

use super::{PodError, index::Sandbox, pins::io_error};
use crate::{
    image::snapshot::{Mapped, Snapshots},
    model::{
        Access, ContainerConfig, ContainerId, ErrorKind, ImageConfig, ImageMount, ImageView, Mount, MountSource,
        NamespaceMode, Propagation, chain,
    },
    spec::{self, StagedMount},
    sys::{
        mount::{set_attributes, set_idmap, set_propagation, set_readonly},
        within,
    },
    zygote::Place,
};

/// Where the client's volumes come from.
pub(super) struct Volumes<'a> {
    pub container: &'a ContainerId,
    pub snapshots: &'a Snapshots,
    /// Those of the mounts that show images, in their order.
    pub images: &'a [ImageView],
    pub mapped: Option<Mapped<'a>>,
}

/// Volumes ready to be attached, in the order in which that is done.
#[derive(Default)]
pub(super) struct Opened {
    /// Complete: the helper attaches them at these places in the container.
    pub complete: Vec<(PathBuf, OwnedFd)>,
    /// For libcontainer: what the helper puts on its stage, in the order of its numbers, and what each is for.
    pub trees: Vec<OwnedFd>,
    pub staged: Vec<StagedMount>,
}

impl Volumes<'_> {
    /// Opens every volume. What lies in one that is for libcontainer is for it too.
    ///
    /// # Errors
    /// [`PodError::ImageVolume`]; [`PodError::Spec`] for a volume over /proc; [`PodError::Invalid`] naming a mount that the
    /// pod's user namespace cannot have.
    pub fn open(&self, mounts: &[Mount], place: &Place) -> Result<Opened, PodError> {
        let mut opened = Opened::default();
        for mount in spec::in_order(mounts)? {
            let (tree, inside) = match &mount.source {
                MountSource::Host(path) => (self.of_host(path, mount)?, PathBuf::new()),
                MountSource::Image(wanted) => self.of_image(wanted, mounts)?,
            };
            let lies_in = |staged: &StagedMount| mount.container_path.starts_with(&staged.mount.container_path);
            if needs_libcontainer(mount) || opened.staged.iter().any(lies_in) {
                let source = place.mount(opened.trees.len()).join(inside);
                opened.trees.push(tree);
                let mount = mount.clone();
                opened.staged.push(StagedMount { mount, source });
            } else {
                complete(&tree, mount)?;
                opened.complete.push((mount.container_path.clone(), tree));
            }
        }
        Ok(opened)
    }

    /// The root of an image, and where in it that is which is shown.
    fn of_image(&self, wanted: &ImageMount, mounts: &[Mount]) -> Result<(OwnedFd, PathBuf), PodError> {
        let number = mounts.iter().filter_map(Mount::image).position(|image| image == wanted);
        let image = number.and_then(|number| self.images.get(number));
        let image = image.ok_or_else(|| missing(wanted))?;
        let tree = self.snapshots.view(self.container, &image.layers, self.mapped);
        let tree = tree.map_err(|error| PodError::ImageVolume {
            kind: error.kind(),
            why: format!("image {:?}: {}", wanted.image, chain(&error)),
        })?;
        let inside = real_path(&tree, wanted)?;
        Ok((tree, inside))
    }

    /// A host path that is missing becomes a folder, as with both peers.
    fn of_host(&self, path: &Path, mount: &Mount) -> Result<OwnedFd, PodError> {
        if !path.exists() {
            fs::create_dir_all(path).map_err(|source| io_error("make", path, source))?;
        }
        let tree = detached(path)?;
        if let Some(mapped) = &self.mapped {
            let place = mount.container_path.display();
            if mount.propagation == Propagation::Bidirectional {
                return Err(PodError::Invalid {
                    field: "config.mounts.propagation",
                    why: format!("{place}: nothing mounted in a user namespace reaches the host"),
                });
            }
            set_idmap(tree.as_fd(), mapped.namespace).map_err(|error| PodError::Invalid {
                field: "config.mounts.host_path",
                why: format!(
                    "{} for {place} cannot be id-mapped for the pod's user namespace: {error}",
                    path.display()
                ),
            })?;
        }
        if mount.access == Access::RecursiveReadOnly {
            set_readonly(tree.as_fd(), true).map_err(|source| PodError::RecursiveReadOnly {
                path: path.to_owned(),
                source,
            })?;
        }
        Ok(tree)
    }
}

/// Whether a volume can only be attached when the root is nearly done: its mounts are to reach the host, which
/// libcontainer's changes to everything that is there would end; or it is a part of a mount, which is known by its path only
/// once it is attached.
fn needs_libcontainer(mount: &Mount) -> bool {
    let is_part = |image: &ImageMount| !image.sub_path.as_os_str().is_empty();
    mount.propagation == Propagation::Bidirectional || mount.image().is_some_and(is_part)
}

/// Gives a detached tree all that the mount asks for.
fn complete(tree: &OwnedFd, mount: &Mount) -> Result<(), PodError> {
    let fail = |source| io_error("set the attributes of the mount at", &mount.container_path, source);
    let propagation = match mount.propagation {
        Propagation::HostToContainer => MountPropagationFlags::DOWNSTREAM,
        _ => MountPropagationFlags::PRIVATE,
    };
    set_propagation(tree.as_fd(), propagation).map_err(fail)?;
    let mut attributes = MountAttrFlags::empty();
    if mount.access != Access::ReadWrite {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    for option in &mount.options {
        attributes |= match option.as_str() {
            "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
            "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
            other => {
                return Err(PodError::Invalid {
                    field: "config.mounts.mount_options",
                    why: format!("{other:?} is none of noexec, nodev, nosuid"),
                });
            }
        };
    }
    match attributes.is_empty() {
        true => Ok(()),
        false => set_attributes(tree.as_fd(), attributes).map_err(fail),
    }
}

/// The failure of a mount whose image is not there.
pub(super) fn missing(wanted: &ImageMount) -> PodError {
    PodError::ImageVolume {
        kind: ErrorKind::NotFound,
        why: format!("image {:?} is not present", wanted.image),
    }
}

/// Where the sub path really is below an image's root, its links followed inside the root only. The image cannot change,
/// so this holds until the helper uses it.
fn real_path(tree: &OwnedFd, wanted: &ImageMount) -> Result<PathBuf, PodError> {
    if wanted.sub_path.as_os_str().is_empty() {
        return Ok(PathBuf::new());
    }
    let fail = |errno: Errno| PodError::ImageVolume {
        kind: ErrorKind::InvalidArgument,
        why: format!(
            "image_sub_path {:?} in image {:?}: {}",
            wanted.sub_path,
            wanted.image,
            std::io::Error::from(errno)
        ),
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = within::open(tree, &wanted.sub_path, OFlags::PATH, resolve).map_err(fail)?;
    // Of a mount that is attached nowhere the kernel tells paths from its root.
    let path = readlink(format!("/proc/self/fd/{}", found.as_raw_fd()), Vec::new()).map_err(fail)?;
    let path = PathBuf::from(path.to_string_lossy().into_owned());
    path.strip_prefix("/")
        .map(Path::to_owned)
        .map_err(|_| fail(Errno::NOENT))
}

/// The pod's shared memory and files, and where in the container they go unless a volume takes their place.
pub(super) fn pod_files(sandbox: &Sandbox, config: &ContainerConfig) -> Result<Vec<(PathBuf, OwnedFd)>, PodError> {
    let folder = sandbox.folder.path();
    let shm = match config.security.namespaces.ipc {
        NamespaceMode::Node => PathBuf::from("/dev/shm"),
        _ => folder.join("shm"),
    };
    let texts = ["resolv.conf", "hosts", "hostname"].map(|name| (folder.join(name), Path::new("/etc").join(name)));
    let all = std::iter::once((shm, PathBuf::from("/dev/shm"))).chain(texts);
    all.filter(|(_, place)| !spec::covers(&config.mounts, place))
        .map(|(source, place)| {
            let tree = detached(&source)?;
            if config.security.readonly_rootfs && place.starts_with("/etc") {
                set_readonly(tree.as_fd(), false).map_err(|e| io_error("make read-only", &source, e))?;
            }
            Ok((place, tree))
        })
        .collect()
}

/// The image's `Volumes`, but for those whose place a volume of the client's takes. They live in the container's
/// writable layer and go with it, as both peers' do; an image cannot reach a pod's files or devices with them.
pub(super) fn declared_by(image: &ImageConfig, config: &ContainerConfig) -> Vec<PathBuf> {
    let own = |place: &Path| ["/proc", "/sys", "/dev"].iter().any(|base| place.starts_with(base));
    let places = image.volumes.iter().map(|volume| Path::new("/").join(volume));
    places
        .filter(|place| place.parent().is_some() && !own(place) && !spec::covers(&config.mounts, place))
        .collect()
}

/// A copy of the mounts at a host path, attached nowhere.
pub(super) fn detached(source: &Path) -> Result<OwnedFd, PodError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, source, flags).map_err(|errno| io_error("mount", source, errno.into()))
}
