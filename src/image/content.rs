//! Folders and files of the store.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags, fsetxattr, openat2, syncfs};
use sha2::{Digest, Sha256};

use super::{
    ImageError,
    records::LayerRecord,
    unpack::{Made, Unpacked},
};
use crate::durable;

/// The store's folders.
#[derive(Debug, Clone)]
pub struct Content {
    pub root: PathBuf,
}

impl Content {
    /// Makes the folders and empties `tmp`.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let content = Self { root: root.to_owned() };
        for name in ["blobs/sha256", "layers", "images", "tmp"] {
            let path = root.join(name);
            durable::create_private_dir(&path).map_err(io("make", &path))?;
        }
        content.empty_tmp()?;
        Ok(content)
    }

    fn empty_tmp(&self) -> Result<(), ImageError> {
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(io("list", &tmp))? {
            let path = entry.map_err(io("list", &tmp))?.path();
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(io("remove", &path))?;
        }
        Ok(())
    }

    /// A new folder in `tmp`, with `fs` in it.
    pub fn scratch(&self) -> Result<Scratch, ImageError> {
        let path = self.root.join("tmp").join(crate::model::ContainerId::random().as_str());
        fs::create_dir_all(path.join("fs")).map_err(io("make", &path))?;
        // A layer that does not list its own root has the mode that engines give it.
        let fs_dir = path.join("fs");
        fs::set_permissions(&fs_dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(io("make", &fs_dir))?;
        Ok(Scratch { path })
    }

    pub fn layer(&self, chain_id: &str) -> PathBuf {
        self.root.join("layers").join(hex_of(chain_id))
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

    /// Writes a blob, verified by the caller.
    pub fn write_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.blob(digest);
        if path.exists() {
            return Ok(());
        }
        durable::write_synced(&path, bytes).map_err(io("write", &path))
    }

    /// Makes unpacked layers durable and gives them their names: one sync for all of them, then the renames, then the
    /// `done` marks.
    pub fn commit_layers(&self, unpacked: Vec<(String, Scratch, Unpacked)>) -> Result<(), ImageError> {
        if unpacked.is_empty() {
            return Ok(());
        }
        for (_, scratch, layer) in &unpacked {
            if let Made::Folder { opaque, .. } = &layer.made {
                mark_opaque(&scratch.path.join("fs"), opaque)?;
            }
        }
        let root = File::open(&self.root).map_err(io("open", &self.root))?;
        syncfs(&root).map_err(|errno| io("sync", &self.root)(errno.into()))?;
        for (chain_id, scratch, layer) in unpacked {
            let target = self.layer(&chain_id);
            if self.layer_record(&chain_id).is_some() {
                continue;
            }
            if target.exists() {
                // Without a mark it is no layer: an earlier life died between the rename and the mark.
                fs::remove_dir_all(&target).map_err(io("remove", &target))?;
            }
            fs::rename(&scratch.path, &target).map_err(io("name", &target))?;
            let record = LayerRecord {
                diff_id: layer.diff_id,
                size_bytes: layer.size_bytes,
                entries: layer.entries,
                chain_id,
            };
            let done = target.join("done");
            let bytes = serde_json::to_vec(&record).map_err(|e| io("write", &done)(e.into()))?;
            durable::write_synced(&done, &bytes).map_err(io("write", &done))?;
        }
        Ok(())
    }

    /// Removes a folder by a rename into `tmp` first: half of a layer is never seen as one.
    pub fn discard(&self, path: &Path) -> Result<(), ImageError> {
        let trash = self.root.join("tmp").join(crate::model::ContainerId::random().as_str());
        match fs::rename(path, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io("remove", path)(source)),
            Ok(()) => fs::remove_dir_all(&trash).map_err(io("remove", &trash)),
        }
    }
}

/// A folder in `tmp`, removed unless it was given a name.
#[derive(Debug)]
pub struct Scratch {
    pub path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove; the next start will");
        }
    }
}

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
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// Marks folders that hide what is below them. Source: kernel "Overlay Filesystem", "whiteouts and opaque directories".
fn mark_opaque(fs_dir: &Path, folders: &[String]) -> Result<(), ImageError> {
    let fail = |path: &Path| io("mark as opaque", path);
    let root = File::open(fs_dir).map_err(fail(fs_dir))?;
    for folder in folders {
        let path = if folder.is_empty() {
            Path::new(".")
        } else {
            Path::new(folder)
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat2(
            &root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        let dir = opened.map_err(|errno| fail(path)(errno.into()))?;
        fsetxattr(&dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .map_err(|errno| fail(path)(errno.into()))?;
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
