//! Root file systems of containers: an overlay of an image's layers under a folder of the container's own.
//!
//! The mount is *detached*: it is in no mount table, so the host's never grows, nobody can pin it, and it goes when the
//! last container process goes.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, mount, open_tree,
    },
};

use super::{ImageError, content::io};
use crate::{durable, model::ContainerId};

/// The containers' own folders.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
}

impl Snapshots {
    /// Below `root`, beside the layers: overlayfs copies up within one file system.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let root = root.join("snapshots");
        durable::create_private_dir(&root).map_err(io("make", &root))?;
        Ok(Self { root })
    }

    /// Makes a container's folder and mounts its root file system: `layers` (their `fs` folders, lowest first) under it.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn prepare(&self, id: &ContainerId, layers: &[PathBuf]) -> Result<OwnedFd, ImageError> {
        let folder = self.root.join(id.as_str());
        let [upper, work, empty] = ["upper", "work", "empty"].map(|name| folder.join(name));
        for path in [&upper, &work, &empty] {
            fs::create_dir_all(path).map_err(io("make", path))?;
        }
        // The root folder of what the container sees is the upper one: it looks as the topmost layer's.
        let like = layers.last().unwrap_or(&empty);
        let mode = fs::metadata(like).map_err(io("examine", like))?.permissions().mode() & 0o7777;
        let mode = if layers.is_empty() { 0o755 } else { mode };
        fs::set_permissions(&upper, PermissionsExt::from_mode(mode)).map_err(io("set the mode of", &upper))?;
        let lower: Vec<&Path> = if layers.is_empty() {
            vec![&empty]
        } else {
            layers.iter().rev().map(PathBuf::as_path).collect()
        };
        overlay(&lower, &upper, &work).map_err(io("mount an overlay on", &folder))
    }

    /// Where everything that a container writes is.
    pub(super) fn upper(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str()).join("upper")
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
}

fn remove(folder: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// A detached overlay; `lower` is topmost first.
fn overlay(lower: &[&Path], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    match by_context(lower, upper, work) {
        // Before Linux 6.5 overlayfs has no `lowerdir+`.
        Err(Errno::INVAL) => by_mount(lower, upper, work),
        result => Ok(result?),
    }
}

fn by_context(lower: &[&Path], upper: &Path, work: &Path) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", *layer)?;
    }
    fsconfig_set_string(&context, "upperdir", upper)?;
    fsconfig_set_string(&context, "workdir", work)?;
    // What a container writes does not outlive it: nothing needs to be synced when it goes.
    fsconfig_set_flag(&context, "volatile")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// By mount(2) in a mount namespace that ends with its thread. The layers are named by short descriptor paths: all
/// options together may have one page.
fn by_mount(lower: &[&Path], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    crate::sys::thread::in_own_mount_namespace(|| {
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
        )?;
        let open = |path: &&Path| fs::File::open(path);
        let layers = lower.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let names: Vec<_> = layers
            .iter()
            .map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd()))
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            names.join(":"),
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options)?;
        let target = upper.parent().unwrap_or(upper).join("empty");
        mount("overlay", &target, "overlay", MountFlags::empty(), options.as_c_str())?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(open_tree(CWD, &target, flags)?)
    })
}

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
            let root = snapshots.prepare(&id, &layers).unwrap();
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
        let root = by_mount(&[&path("b"), &path("a")], &path("upper"), &path("work")).unwrap();
        assert_eq!(read(&root, "f").unwrap(), "b");
    }
}
