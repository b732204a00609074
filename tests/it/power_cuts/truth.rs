//! What a store has after pulls that nothing disturbed, entry by entry, as this file and not the daemon sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use rustix::fs::{lgetxattr, llistxattr};
use serde_json::Value;

use crate::harness::registry::digest_of;

/// The files of a layer, by their path in it.
type Tree = BTreeMap<String, String>;

#[derive(Default)]
pub struct Truth {
    layers: BTreeMap<OsString, Tree>,
    /// Layers of each image.
    images: BTreeMap<OsString, Value>,
    /// See [`names`].
    pub names: BTreeSet<String>,
}

impl Truth {
    pub fn of(root: &Path) -> Truth {
        let layers = entries(&root.join("layers"));
        Truth {
            layers: layers.map(|(name, path)| (name, tree(&path.join("fs")))).collect(),
            images: entries(&root.join("images"))
                .map(|(name, path)| (name, read_layers(&path)))
                .collect(),
            names: names(root),
        }
    }

    /// What of a store is not as it should be. It may have less.
    pub fn wrong_in(&self, root: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, path) in entries(&root.join("layers")) {
            let layer = path.display();
            if !path.join("done").exists() {
                wrong.push(format!("{layer} has no mark"));
            }
            let found = tree(&path.join("fs"));
            match self.layers.get(&name) {
                None => wrong.push(format!("{layer} should not be there")),
                Some(right) if *right == found => {}
                Some(right) => wrong.extend(
                    right
                        .iter()
                        .filter(|entry| found.get(entry.0) != Some(entry.1))
                        .map(|(path, entry)| format!("{layer}: {path} is {:?}, not {entry}", found.get(path))),
                ),
            }
        }
        for (name, path) in entries(&root.join("images")) {
            let layers = read_layers(&path);
            if self.images.get(&name) != Some(&layers) {
                wrong.push(format!("{} says it has {layers}", path.display()));
            }
            let is_there = |layer: &Value| {
                let hex = layer.as_str().unwrap_or_default().trim_start_matches("sha256:");
                root.join("layers").join(hex).join("done").exists()
            };
            if !layers.as_array().is_some_and(|layers| layers.iter().all(is_there)) {
                wrong.push(format!("{} lacks layers", path.display()));
            }
        }
        wrong.extend(entries(&root.join("tmp")).map(|(_, path)| format!("{} is left", path.display())));
        wrong
    }
}

/// What layers, documents and records a store has.
pub fn names(root: &Path) -> BTreeSet<String> {
    let folders = ["layers", "blobs/sha256", "images", "tmp"];
    let all = folders.iter().flat_map(|folder| {
        entries(&root.join(folder)).map(move |(name, _)| format!("{folder}/{}", name.to_string_lossy()))
    });
    all.collect()
}

pub fn is_empty(folder: &Path) -> bool {
    entries(folder).next().is_none()
}

fn entries(folder: &Path) -> impl Iterator<Item = (OsString, std::path::PathBuf)> + use<> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| {
        let entry = entry.expect("an entry");
        (entry.file_name(), entry.path())
    })
}

fn read_layers(record: &Path) -> Value {
    let bytes = fs::read(record).expect("a record");
    let record: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    record["layers"].clone()
}

fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    add(root, root, &mut tree);
    tree
}

fn add(root: &Path, path: &Path, tree: &mut Tree) {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    let kind = meta.file_type();
    let content = if kind.is_dir() {
        entries(path).for_each(|(_, path)| add(root, &path, tree));
        "folder".to_owned()
    } else if kind.is_symlink() {
        format!("link to {}", fs::read_link(path).expect("a link").display())
    } else if kind.is_file() {
        format!("{} bytes, {}", meta.len(), digest_of(&fs::read(path).expect("a file")))
    } else {
        format!("device {} {}", kind.is_char_device(), meta.rdev())
    };
    let inside = path.strip_prefix(root).expect("below it").display().to_string();
    let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
    // Folders that a layer does not list, and what stands for removed files, are as old as the unpacked layer.
    let mtime = kind.is_file().then(|| meta.mtime());
    let described = format!("{content}, {mode:o} {uid}:{gid} of {mtime:?} {:?}", attributes(path));
    tree.insert(inside, described);
}

/// Extended attributes and their values.
fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let size = llistxattr(path, &mut names[..]).expect("names of attributes");
    let names = names[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = String::from_utf8_lossy(name).into_owned();
            let mut value = vec![0; 4096];
            let size = lgetxattr(path, &name, &mut value[..]).expect("an attribute");
            value.truncate(size);
            (name, value)
        })
        .collect()
}
