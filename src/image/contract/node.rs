//! A store with one snapshotter, and what its containers see of a layer.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use super::super::{
    snapshot::Snapshots,
    store::{Made, Store},
    unpack::{Compression, Limits, Pulse, Snapshotter, unpack},
};
use crate::model::{ContainerId, Layer};

/// A store with one snapshotter.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub snapshots: Snapshots,
}

impl Node {
    pub fn new(snapshotter: Snapshotter) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), snapshotter, &[]).unwrap();
        let snapshots = Snapshots::open(dir.path(), &[], store.content.mounts.clone()).unwrap();
        Self { dir, store, snapshots }
    }

    /// Unpacks and commits a layer.
    pub fn layer(&self, tar: &[u8]) -> Result<Layer, String> {
        let content = &self.store.content;
        let writes = content.writes().unwrap();
        let scratch = content.scratch().unwrap();
        let target = File::open(scratch.unpacked()).unwrap();
        let limits = Limits {
            entries: 10_000,
            bytes: 1 << 30,
            ..Limits::default()
        };
        let unpacked = unpack(
            tar,
            Compression::Auto,
            &target,
            content.snapshotter,
            &limits,
            &Pulse::new(false),
        );
        let unpacked = unpacked.map_err(|error| crate::model::chain(&error))?;
        let chain_id = format!("sha256:{}", ContainerId::random());
        let made = Made {
            layers: vec![(chain_id.clone(), scratch, unpacked)],
            images: Vec::new(),
        };
        let committed = self.store.commit(made, &writes);
        committed.map_err(|error| crate::model::chain(&error))?;
        let record = content.layer_record(&chain_id).expect("committed");
        Ok(content.layer_in_use(&chain_id, Some(&record)))
    }

    /// The files of one layer by itself, with its marks for overlayfs.
    pub fn files(&self, layer: &Layer) -> Files {
        match layer {
            Layer::Folder(folder) => list(folder),
            Layer::Erofs { file, sealed } => {
                let mount = self.store.content.mounts.of(file, sealed.as_deref()).unwrap();
                list(&PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())))
            }
        }
    }

    pub fn unpacked(&self, tar: &[u8]) -> Result<Files, String> {
        Ok(self.files(&self.layer(tar)?))
    }

    /// Runs `look` in a container's root.
    pub fn within<T>(&self, layers: &[Layer], look: impl FnOnce(&Path) -> T) -> T {
        let id = ContainerId::random();
        let root = self.snapshots.prepare(&id, layers, None).unwrap();
        let seen = look(&PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())));
        drop(root);
        self.snapshots.remove(&id).unwrap();
        seen
    }
}

/// By path: what can be seen of a file.
pub type Files = BTreeMap<PathBuf, String>;

pub fn list(root: &Path) -> Files {
    let mut files = Files::new();
    let mut linked = HashMap::new();
    let mut ahead = vec![PathBuf::new()];
    while let Some(path) = ahead.pop() {
        let place = match path.as_os_str().is_empty() {
            true => root.join("."),
            false => root.join(&path),
        };
        let meta = fs::symlink_metadata(&place).unwrap();
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            let names = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap());
            let mut names: Vec<_> = names.inspect(|entry| assert_kind(entry, &path)).collect();
            names.sort_by_key(fs::DirEntry::file_name);
            ahead.extend(names.iter().map(|entry| path.join(entry.file_name())));
            format!("folder of {}", names.len())
        } else if kind.is_symlink() {
            format!("link to {:?}", fs::read_link(&place).unwrap())
        } else if kind.is_file() {
            let bytes = fs::read(&place).unwrap();
            format!("file of {} {:08x}", meta.size(), crc32fast::hash(&bytes))
        } else {
            let special = match (kind.is_char_device(), kind.is_block_device()) {
                (true, _) => "char",
                (_, true) => "block",
                _ => "other",
            };
            format!("{special} {:x}", meta.rdev())
        };
        let first = linked.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        let links = match kind.is_dir() {
            true => String::new(),
            false => format!("{} names, as {}", meta.nlink(), first.display()),
        };
        // A folder that no entry is about is as old as its layer in the store, or as old as time.
        let mtime = match meta.mtime() {
            0 => "unlisted".to_owned(),
            now if now > 1_700_000_000 => "unlisted".to_owned(),
            mtime => format!("{mtime}.{}", meta.mtime_nsec()),
        };
        files.insert(
            path,
            format!(
                "{what} mode {:o} of {}:{} at {mtime} {links} {:?}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                attributes(&place)
            ),
        );
    }
    files
}

/// What a folder says that a file is, is what it is.
fn assert_kind(entry: &fs::DirEntry, folder: &Path) {
    let told = entry.file_type().unwrap();
    let is = fs::symlink_metadata(entry.path()).unwrap().file_type();
    assert_eq!(told, is, "{:?} in {folder:?}", entry.file_name());
}

pub fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let count = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let count = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(count);
        (String::from_utf8(name.to_vec()).unwrap(), value)
    };
    names.map(value).collect()
}
