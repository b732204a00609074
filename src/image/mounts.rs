//! Layers that are EROFS images: each is mounted once for all containers, attached nowhere.
//!
//! What is read of a mount is in memory once for that mount: one for each container would have the same pages many times.
//! A mount stays until its layer goes; one that a container's overlay was made of stays for that, be it after the daemon.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once},
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
        fsopen,
    },
};

use super::{
    ImageError,
    content::{Content, io as failed},
    snapshot::Snapshots,
    unpack::{Compression, IMAGE, Limits, Pulse, Snapshotter, unpack},
};
use crate::{
    model::{ContainerId, Layer, hex},
    sys::verity,
};

/// By the path of the image. Cheap to clone: all clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Mounts(Arc<Mutex<HashMap<PathBuf, Arc<OwnedFd>>>>);

impl Mounts {
    /// The mount of an image, made when it is the first time. `sealed` is the digest that fs-verity has to have of it.
    ///
    /// # Errors
    /// [`ImageError::Io`]; [`ImageError::Digest`].
    pub fn of(&self, file: &Path, sealed: Option<&str>) -> Result<Arc<OwnedFd>, ImageError> {
        let mut mounts = self.lock();
        if let Some(mount) = mounts.get(file) {
            return Ok(mount.clone());
        }
        let mounted = Arc::new(mount(file, sealed)?);
        mounts.insert(file.to_owned(), mounted.clone());
        Ok(mounted)
    }

    /// Lets go of what is below the folder of a layer that goes.
    pub fn forget(&self, layer: &Path) {
        self.lock().retain(|file, _| !file.starts_with(layer));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Arc<OwnedFd>>> {
        self.0.lock().expect("no panic while the table is held")
    }
}

fn mount(file: &Path, sealed: Option<&str>) -> Result<OwnedFd, ImageError> {
    // The worker made it: it is opened once, and never by a link.
    let image = open(file)?;
    if let Some(expected) = sealed {
        check(&image, file, expected)?;
    }
    let mounted = || {
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_flag(&context, "ro")?;
        fsconfig_set_string(&context, "source", format!("/proc/self/fd/{}", image.as_raw_fd()))?;
        fsconfig_create(&context)?;
        fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        )
    };
    mounted().map_err(|errno| failed("mount", file)(errno.into()))
}

/// Looks whether a container can have an image as a layer, with the kernel and the disk as they are.
///
/// # Errors
/// [`ImageError`] with what the kernel says.
pub fn probe(content: &Content, snapshots: &Snapshots) -> Result<(), ImageError> {
    let scratch = content.scratch()?;
    let folder = scratch.unpacked();
    let target = File::open(&folder).map_err(failed("open", &folder))?;
    // No file at all, and the end.
    let unpacked = unpack(
        &[0; 1024][..],
        Compression::None,
        &target,
        Snapshotter::Erofs,
        &Limits::default(),
        &Pulse::new(false),
    );
    unpacked.map_err(|error| failed("make", &folder)(io::Error::other(error)))?;
    let layer = Layer::Erofs {
        file: folder.join(IMAGE),
        sealed: None,
    };
    let id = ContainerId::random();
    let probed = snapshots.prepare(&id, &[layer], None).map(drop);
    content.mounts.forget(&scratch.path);
    snapshots.remove(&id)?;
    probed
}

/// Has fs-verity watch over a new image where the file system can, and answers whether it does.
///
/// # Errors
/// [`ImageError::Io`]; [`ImageError::Digest`] when it is not the one that was written.
pub fn seal(file: &Path, digest: &str) -> Result<bool, ImageError> {
    static TOLD: Once = Once::new();
    let image = open(file)?;
    match verity::enable(image.as_fd()) {
        Ok(()) => check(&image, file, digest).map(|()| true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) => {
            TOLD.call_once(|| tracing::info!(%error, "layers are not sealed: their file system has no fs-verity"));
            Ok(false)
        }
        Err(error) => Err(failed("seal", file)(error)),
    }
}

fn check(image: &File, file: &Path, expected: &str) -> Result<(), ImageError> {
    let got = verity::measure(image.as_fd()).map_err(failed("measure", file))?;
    match format!("sha256:{}", hex(&got)) {
        got if got == expected => Ok(()),
        got => Err(ImageError::Digest {
            what: "the image of a layer",
            expected: expected.to_owned(),
            got,
        }),
    }
}

fn open(file: &Path) -> Result<File, ImageError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = || -> io::Result<File> {
        let image = File::from(rustix::fs::open(file, flags, Mode::empty())?);
        match image.metadata()?.is_file() {
            true => Ok(image),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "no regular file")),
        }
    };
    open().map_err(failed("open", file))
}
