//! Folders and files of the store.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::fs::{CWD, RenameFlags, XattrFlags, fsetxattr, renameat, renameat_with, syncfs};
use sha2::{Digest, Sha256};

use super::{
    ImageError, Mounts, mounts,
    records::LayerRecord,
    unpack::{IMAGE, Made, OPAQUE, Snapshotter, Unpacked, opaque_folder},
};
use crate::{
    durable::{self, Unnamed},
    model::{Layer, hex},
};

/// The store's folders.
#[derive(Debug, Clone)]
pub struct Content {
    pub root: PathBuf,
    /// What new layers become.
    pub snapshotter: Snapshotter,
    /// Of layers that are images.
    pub mounts: Mounts,
}

impl Content {
    /// The folders below `root`, be they there or not.
    pub fn of(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            snapshotter: Snapshotter::default(),
            mounts: Mounts::default(),
        }
    }

    /// Makes the folders, and has removed what an earlier life did not finish, for which nobody waits.
    pub fn open(root: &Path, snapshotter: Snapshotter) -> Result<Self, ImageError> {
        let content = Self {
            snapshotter,
            ..Self::of(root)
        };
        for name in ["blobs/sha256", "layers", "images", "tmp"] {
            let path = root.join(name);
            durable::create_private_dir(&path).map_err(io("make", &path))?;
        }
        for name in ["", "blobs/sha256", "images"] {
            let path = root.join(name);
            durable::remove_unfinished(&path).map_err(io("clean up", &path))?;
        }
        let mut left = content.left_in_tmp()?;
        left.extend(content.unmarked()?);
        if !left.is_empty()
            && let Err(error) = thread::Builder::new().spawn(move || drop(left))
        {
            tracing::debug!(%error, "what was left is removed at once");
        }
        Ok(content)
    }

    fn left_in_tmp(&self) -> Result<Vec<Trash>, ImageError> {
        let tmp = self.root.join("tmp");
        let entries = fs::read_dir(&tmp).map_err(io("list", &tmp))?;
        let left = entries.map(|entry| entry.map(|entry| Trash(entry.path())));
        left.collect::<Result<_, _>>().map_err(io("list", &tmp))
    }

    /// Layers were named before they were marked, once. One whose mark is there and damaged may be below a container: it
    /// stays.
    fn unmarked(&self) -> Result<Vec<Trash>, ImageError> {
        let layers = self.root.join("layers");
        let mut unmarked = Vec::new();
        for entry in fs::read_dir(&layers).map_err(io("list", &layers))? {
            let path = entry.map_err(io("list", &layers))?.path();
            if fs::symlink_metadata(path.join("done")).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                unmarked.extend(self.put_away(&path)?);
            }
        }
        Ok(unmarked)
    }

    /// A new folder in `tmp`, with one in it for a layer to be unpacked into.
    pub fn scratch(&self) -> Result<Scratch, ImageError> {
        self.scratch_for(self.snapshotter)
    }

    /// The same for a layer that is to have this form.
    pub fn scratch_for(&self, snapshotter: Snapshotter) -> Result<Scratch, ImageError> {
        let scratch = Scratch {
            path: self.in_tmp(),
            snapshotter,
        };
        let folder = scratch.unpacked();
        fs::create_dir_all(&folder).map_err(io("make", &folder))?;
        // A layer that does not list its own root has the mode that engines give it.
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(io("make", &folder))?;
        Ok(scratch)
    }

    pub fn layer(&self, chain_id: &str) -> PathBuf {
        self.root.join("layers").join(hex_of(chain_id))
    }

    /// A layer as it is put below containers.
    pub fn layer_in_use(&self, chain_id: &str, record: Option<&LayerRecord>) -> Layer {
        let layer = self.layer(chain_id);
        match record.and_then(|record| record.erofs.clone()) {
            None => Layer::Folder(layer.join(Snapshotter::Overlay.folder())),
            Some(erofs) => Layer::Erofs {
                file: layer.join(Snapshotter::Erofs.folder()).join(IMAGE),
                sealed: erofs.sealed.then_some(erofs.digest),
            },
        }
    }

    pub fn image(&self, id: &str) -> PathBuf {
        self.root.join("images").join(hex_of(id))
    }

    pub fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(hex_of(digest))
    }

    /// A layer that is whole.
    pub fn layer_record(&self, chain_id: &str) -> Option<LayerRecord> {
        let bytes = fs::read(self.layer(chain_id).join("done")).ok()?;
        serde_json::from_slice(&bytes)
            .ok()
            .filter(|record: &LayerRecord| record.chain_id == chain_id)
    }

    /// All layers that are whole, by their chain ids.
    pub fn layer_records(&self) -> Result<HashMap<String, LayerRecord>, ImageError> {
        let layers = self.root.join("layers");
        let mut records = HashMap::new();
        for entry in fs::read_dir(&layers).map_err(io("list", &layers))?.flatten() {
            let chain_id = format!("sha256:{}", entry.file_name().to_string_lossy());
            if let Some(record) = self.layer_record(&chain_id) {
                records.insert(chain_id, record);
            }
        }
        Ok(records)
    }

    /// Writes a blob, verified by the caller, unless it is there. Not on the disk yet.
    pub fn new_blob(&self, digest: &str, bytes: &[u8]) -> Result<Option<Unnamed>, ImageError> {
        let path = self.blob(digest);
        match path.exists() {
            true => Ok(None),
            false => Unnamed::write(&path, bytes).map(Some).map_err(io("write", &path)),
        }
    }

    /// Writes a blob, verified by the caller, in the place of what is there.
    pub fn replace_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.blob(digest);
        durable::write_synced(&path, bytes).map_err(io("write", &path))
    }

    /// To be had before the first byte of what is to be made durable is written.
    pub fn writes(&self) -> Result<Writes, ImageError> {
        let file = File::open(&self.root).map_err(io("open", &self.root))?;
        Ok(Writes {
            root: self.root.clone(),
            file,
        })
    }

    /// Gives a layer its name that is marked and on the disk, unless another has had it meanwhile. Answers what had the name.
    pub fn name_layer(&self, chain_id: &str, scratch: &Scratch) -> Result<Option<Trash>, ImageError> {
        if self.layer_record(chain_id).is_some() {
            return Ok(None);
        }
        let target = self.layer(chain_id);
        // Its mark cannot be read.
        let damaged = self.put_away(&target)?;
        fs::rename(&scratch.path, &target).map_err(io("name", &target))?;
        Ok(damaged)
    }

    /// Makes an unpacked layer durable that is to take the place of a damaged one.
    pub fn finish_layer(
        &self,
        chain_id: &str,
        scratch: &Scratch,
        layer: Unpacked,
        writes: &Writes,
    ) -> Result<LayerRecord, ImageError> {
        let record = mark(scratch, chain_id, layer)?;
        writes.sync()?;
        Ok(record)
    }

    /// The names in one of the store's folders are on the disk then.
    pub fn sync_folder(&self, name: &str) -> Result<(), ImageError> {
        let folder = self.root.join(name);
        let synced = File::open(&folder).and_then(|folder| folder.sync_all());
        synced.map_err(io("sync", &folder))
    }

    /// Gives a finished layer the place of the one that is there, if any, which goes with `scratch`.
    pub fn swap_layer(&self, chain_id: &str, scratch: &Scratch) -> Result<(), ImageError> {
        let target = self.layer(chain_id);
        let swapped = match target.exists() {
            true => renameat_with(CWD, &scratch.path, CWD, &target, RenameFlags::EXCHANGE),
            false => renameat(CWD, &scratch.path, CWD, &target),
        };
        swapped.map_err(|errno| io("replace", &target)(errno.into()))
    }

    /// Takes a folder's name from it, if it is there: half of a layer is never seen as one. Its files, which may take seconds, go
    /// with the drop of the answer.
    pub fn put_away(&self, path: &Path) -> Result<Option<Trash>, ImageError> {
        let trash = self.in_tmp();
        match fs::rename(path, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io("remove", path)(source)),
            Ok(()) => Ok(Some(Trash(trash))),
        }
    }

    /// A new name.
    fn in_tmp(&self) -> PathBuf {
        self.root.join("tmp").join(crate::model::ContainerId::random().as_str())
    }
}

/// What is written to the store's file system from now on.
///
/// A disk's failure is told once to each descriptor that was open when it happened: to a pull's own also when the sync of
/// another pull, or an early one of the same, was told of it before. Source: syncfs(2), "ERRORS"; kernel lib/errseq.c.
#[derive(Debug)]
pub struct Writes {
    root: PathBuf,
    file: File,
}

impl Writes {
    /// All of it is on the disk then.
    ///
    /// # Errors
    /// [`ImageError::Io`], also when some of it was lost before this was called.
    pub fn sync(&self) -> Result<(), ImageError> {
        syncfs(&self.file).map_err(|errno| io("sync", &self.root)(errno.into()))
    }
}

/// A folder in `tmp`, removed unless it was given a name.
#[derive(Debug)]
pub struct Scratch {
    pub path: PathBuf,
    pub snapshotter: Snapshotter,
}

impl Scratch {
    /// Where the worker unpacks.
    pub fn unpacked(&self) -> PathBuf {
        self.path.join(self.snapshotter.folder())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_or_warn(&self.path);
    }
}

/// What is in `tmp` and was left there or had a name. It is removed with this.
#[derive(Debug)]
pub struct Trash(PathBuf);

impl Drop for Trash {
    fn drop(&mut self) {
        remove_or_warn(&self.0);
    }
}

fn remove_or_warn(path: &Path) {
    let removed = match path.is_dir() {
        true => remove_tree(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove; the next start will");
        }
        _ => {}
    }
}

/// Removes a folder that a worker may still write into: the one of a daemon that was killed ends a moment after its input.
fn remove_tree(path: &Path) -> io::Result<()> {
    let mut wait = Duration::from_millis(1);
    loop {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && wait < LONGEST_WAIT => {
                thread::sleep(wait);
                wait *= 2;
            }
            removed => return removed,
        }
    }
}

/// Doubled from a millisecond on, that is four seconds in all.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// Source: OCI image-spec, "Layer ChainID".
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => sha256(format!("{parent} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// `sha256:` and hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Finishes what a worker left, and marks the layer as whole. Not on the disk yet.
pub fn mark(scratch: &Scratch, chain_id: &str, layer: Unpacked) -> Result<LayerRecord, ImageError> {
    let sealed = finish(scratch, &layer)?;
    let record = LayerRecord::of(chain_id.to_owned(), layer, sealed);
    let done = scratch.path.join("done");
    let bytes = serde_json::to_vec(&record).map_err(|e| io("write", &done)(e.into()))?;
    fs::write(&done, &bytes).map_err(io("write", &done))?;
    Ok(record)
}

/// The hex digits of a digest.
pub fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// What the worker could not do. Answers whether the layer is sealed.
fn finish(scratch: &Scratch, layer: &Unpacked) -> Result<bool, ImageError> {
    let folder = scratch.unpacked();
    match &layer.made {
        Made::Folder { opaque, .. } => mark_opaque(&folder, opaque).map(|()| false),
        Made::Erofs { digest } => mounts::seal(&folder.join(IMAGE), digest),
    }
}

/// Marks folders that hide what is below them. Source: kernel "Overlay Filesystem", "whiteouts and opaque directories".
fn mark_opaque(fs_dir: &Path, folders: &[String]) -> Result<(), ImageError> {
    let fail = |path: &Path| io("mark as opaque", path);
    let root = File::open(fs_dir).map_err(fail(fs_dir))?;
    for folder in folders {
        let fail = fail(Path::new(folder));
        if let Some(dir) = opaque_folder(&root, folder).map_err(|errno| fail(errno.into()))? {
            fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty()).map_err(|errno| fail(errno.into()))?;
        }
    }
    Ok(())
}

pub fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> ImageError + use<> {
    let path = path.to_owned();
    move |source| ImageError::Io {
        action,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
pub mod test;
