//! Artifacts: files that are distributed as images are. They can be mounted, and nothing of them can be run.
//!
//! Each file is a layer of its own with nothing else in it, so that two artifacts share what both have, and everything
//! that can be done with images' layers can be done with it: mounting, verification, removal. Archives are unpacked as
//! images' layers are, by the same jailed worker. Source for what of an artifact is a file, and what an archive: CRI-O
//! `internal/ociartifact/store.go`.

use std::{
    fs::{self, File, FileTimes},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use tokio::io::AsyncWriteExt;

use super::{
    ImageError, blocking,
    content::{Scratch, io, sha256},
    manifest::{Artifact, Descriptor, Part},
    pull::{Making, Wanted},
    unpack::{Made, Pulse, Unpacked, Written, digest_of_written},
};

/// The layers of an artifact.
pub fn layers(artifact: &Artifact) -> Vec<Wanted> {
    artifact.parts.iter().map(layer).collect()
}

/// No chain id of an image's begins as these do before they are hashed.
fn layer(part: &Part) -> Wanted {
    let (what, making) = match &part.title {
        Some(title) => (
            format!("file {} {}", part.blob.digest, title.display()),
            Making::File(title.clone()),
        ),
        None => (format!("archive {}", part.blob.digest), Making::Unpacked(None)),
    };
    Wanted {
        chain_id: sha256(format!("artifact {what}").as_bytes()),
        blob: part.blob.clone(),
        making,
    }
}

impl Artifact {
    /// Bytes of its files, as the manifest has them.
    pub fn size(&self) -> u64 {
        let sizes = self.parts.iter().map(|part| part.blob.size);
        sizes.fold(0, u64::saturating_add)
    }
}

/// A file that is being made, at its place below a layer's root, which is empty otherwise.
pub struct NewFile {
    root: PathBuf,
    name: PathBuf,
    path: PathBuf,
    inode: u64,
    file: tokio::fs::File,
    checksum: crc32fast::Hasher,
}

impl NewFile {
    /// # Errors
    /// [`ImageError::Io`].
    pub fn create(scratch: &Scratch, name: &Path) -> Result<Self, ImageError> {
        let root = scratch.unpacked();
        let path = root.join(name);
        let failed = io("write", &path);
        fs::create_dir_all(path.parent().unwrap_or(&root)).map_err(&failed)?;
        let file = File::create_new(&path).map_err(&failed)?;
        let inode = file.metadata().map_err(&failed)?.ino();
        Ok(Self {
            root,
            name: name.to_owned(),
            path,
            inode,
            file: tokio::fs::File::from_std(file),
            checksum: crc32fast::Hasher::new(),
        })
    }

    /// # Errors
    /// [`ImageError::Io`].
    pub async fn add(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        self.checksum.update(chunk);
        self.file.write_all(chunk).await.map_err(io("write", &self.path))
    }

    /// What a worker would tell of a layer with nothing else in it, once all of `blob` was added.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub async fn finish(mut self, blob: &Descriptor) -> Result<Unpacked, ImageError> {
        self.file.flush().await.map_err(io("write", &self.path))?;
        let mut written = Written::default();
        written.add(self.inode, self.checksum.finalize());
        let (diff_id, size_bytes) = (blob.digest.clone(), blob.size);
        let (root, name) = (self.root, self.name);
        blocking(move || {
            for (below, mode) in name
                .ancestors()
                .zip([0o644].into_iter().chain(std::iter::repeat(0o755)))
            {
                let path = root.join(below);
                complete(&path, mode).map_err(io("set the mode of", &path))?;
            }
            let folder = File::open(&root).map_err(io("open", &root))?;
            let tree = digest_of_written(&folder, &written, &[], &Pulse::new(false)).map_err(io("read", &root))?;
            Ok(Unpacked {
                diff_id,
                size_bytes,
                entries: name.components().count() as u64,
                made: Made::Folder {
                    opaque: Vec::new(),
                    tree,
                },
            })
        })
        .await
    }
}

/// The same everywhere, whenever it was pulled and whatever the daemon's umask is.
fn complete(path: &Path, mode: u32) -> std::io::Result<()> {
    let file = File::open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.set_times(FileTimes::new().set_accessed(UNIX_EPOCH).set_modified(UNIX_EPOCH))
}
