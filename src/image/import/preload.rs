//! Archives that wait in a folder when the daemon starts.
//!
//! What was imported is on record with what its file was then. A file that has not changed is not opened again unless a
//! name of it is gone, and then no other name is taken: it may belong to a newer image by now.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Images, Naming, failed, import, layout};
use crate::{
    durable,
    model::{ImageView, chain},
};

/// What an archive was when it was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    size: u64,
    mtime: (i64, i64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    stamp: Stamp,
    names: Vec<String>,
}

/// Imports what is new in a folder. What is broken is logged and passed over.
pub async fn run(images: &Images, folder: &Path) {
    let paths = match archives(folder) {
        Ok(paths) => paths,
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "nothing can be preloaded: image.preload_dir");
            return;
        }
    };
    let record = images.store.content.root.join("preloaded");
    // Without it everything is imported again, and no layer of that twice.
    let text = fs::read(&record).unwrap_or_default();
    let before: BTreeMap<PathBuf, Seen> = serde_json::from_slice(&text).unwrap_or_default();
    let mut now = BTreeMap::new();
    for path in paths {
        if let Some(seen) = one(images, &path, before.get(&path)).await {
            now.insert(path, seen);
        }
    }
    let written = serde_json::to_vec(&now).map_err(Into::into);
    let written = written.and_then(|bytes| durable::write_synced(&record, &bytes));
    if let Err(error) = written.map_err(failed("write", &record)) {
        tracing::warn!(
            error = chain(&error),
            "what was preloaded is preloaded again at the next start"
        );
    }
}

async fn one(images: &Images, path: &Path, before: Option<&Seen>) -> Option<Seen> {
    let shown = path.display();
    let stamp = match stamp(path) {
        Ok(stamp) => stamp,
        Err(error) => {
            tracing::error!(archive = %shown, %error, "cannot be imported");
            return None;
        }
    };
    let before = before.filter(|seen| seen.stamp == stamp);
    let is_there = |name: &String| matches!(images.store.find(name), Ok(Some(_)));
    if let Some(seen) = before
        && seen.names.iter().all(is_there)
    {
        tracing::debug!(archive = %shown, "imported before");
        let names = seen.names.clone();
        return Some(Seen { stamp, names });
    }
    let naming = before.map_or(Naming::Own, |_| Naming::Missing);
    match import(images, path, naming).await {
        Ok(made) => {
            for image in &made {
                tracing::info!(archive = %shown, image = %image.id, names = ?image.names(), "imported");
            }
            let mut names: Vec<String> = made.iter().flat_map(ImageView::names).cloned().collect();
            names.extend(before.into_iter().flat_map(|seen| seen.names.clone()));
            names.sort();
            names.dedup();
            Some(Seen { stamp, names })
        }
        Err(error) => {
            tracing::error!(error = chain(&error), "cannot be imported");
            None
        }
    }
}

/// Tar files, compressed or not, and folders that are layouts, in the order of their names.
fn archives(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if ENDINGS.iter().any(|ending| name.ends_with(ending)) || path.join(layout::INDEX).is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let mut meta = fs::metadata(path)?;
    if meta.is_dir() {
        meta = fs::metadata(path.join(layout::INDEX))?;
    }
    Ok(Stamp {
        inode: meta.ino(),
        size: meta.size(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
    })
}

const ENDINGS: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"];
