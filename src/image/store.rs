//! The images that are there, in memory and on the disk.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    sync::Mutex,
};

use super::{
    ImageError,
    content::{Content, io},
    records::{ImageRecord, LayerRecord, VERSION},
    reference::Reference,
};
use crate::{
    durable,
    model::{ContainerId, FsUsage, ImageId, ImageView, Timestamp},
};

/// All images of a root folder.
pub struct Store {
    pub content: Content,
    /// Guards the table, and with it what may be removed from the disk.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    images: HashMap<ImageId, ImageRecord>,
    layers: HashMap<String, LayerRecord>,
    /// Containers that use an image, also one that is removed.
    holds: HashMap<ImageId, HashSet<ContainerId>>,
    /// Layers of pulls that are not named yet.
    leased: HashMap<String, usize>,
}

impl Store {
    /// Reads every record. One that is broken is renamed away and logged: it costs its image and nothing else.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let content = Content::open(root)?;
        let mut state = State::default();
        let layers = root.join("layers");
        for entry in fs::read_dir(&layers).map_err(io("list", &layers))?.flatten() {
            let chain_id = format!("sha256:{}", entry.file_name().to_string_lossy());
            if let Some(record) = content.layer_record(&chain_id) {
                state.layers.insert(chain_id, record);
            }
        }
        let images = root.join("images");
        for entry in fs::read_dir(&images).map_err(io("list", &images))?.flatten() {
            match read(&entry.path()) {
                Some(record) if record.layers.iter().all(|layer| state.layers.contains_key(layer)) => {
                    state.images.insert(record.id.clone(), record);
                }
                _ => {
                    tracing::error!(record = %entry.path().display(), "an image is damaged or incomplete; it is forgotten");
                    content.discard_file(&entry.path());
                }
            }
        }
        Ok(Self {
            content,
            state: Mutex::new(state),
        })
    }

    /// By image id or id prefix.
    pub fn find_id(&self, name: &str) -> Option<ImageView> {
        let hex = id_prefix(name)?;
        let state = self.lock();
        let begins = |record: &&ImageRecord| record.id.0["sha256:".len()..].starts_with(hex);
        let mut matching = state.images.values().filter(begins);
        match (matching.next(), matching.next()) {
            (Some(record), None) => Some(self.view(record)),
            _ => None,
        }
    }

    /// By image id, id prefix or reference.
    pub fn find(&self, name: &str) -> Result<Option<ImageView>, ImageError> {
        if let Some(image) = self.find_id(name) {
            return Ok(Some(image));
        }
        if name.starts_with("sha256:") && id_prefix(name).is_some() {
            return Ok(None);
        }
        let state = self.lock();
        let reference: Reference = name.parse()?;
        let by_digest = reference
            .digest
            .as_ref()
            .map(|digest| format!("{}@{digest}", reference.name()));
        let found = state
            .images
            .values()
            .find(|record| match (&by_digest, reference.tagged()) {
                (Some(digest), _) => record.repo_digests.contains(digest),
                (None, Some(tag)) => record.repo_tags.contains(&tag),
                (None, None) => false,
            });
        Ok(found.map(|record| self.view(record)))
    }

    pub fn all(&self) -> Vec<ImageView> {
        let mut views: Vec<_> = self.lock().images.values().map(|record| self.view(record)).collect();
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    fn view(&self, record: &ImageRecord) -> ImageView {
        ImageView {
            id: record.id.clone(),
            repo_tags: record.repo_tags.clone(),
            repo_digests: record.repo_digests.clone(),
            size_bytes: record.size_bytes,
            config: record.config.clone(),
            layers: record
                .layers
                .iter()
                .map(|layer| self.content.layer(layer).join("fs"))
                .collect(),
            pinned: false,
        }
    }

    /// Whether a layer is there, whole. It then stays until [`Store::end_lease`].
    pub fn lease(&self, chain_id: &str) -> bool {
        let mut state = self.lock();
        *state.leased.entry(chain_id.to_owned()).or_default() += 1;
        if !state.layers.contains_key(chain_id)
            && let Some(record) = self.content.layer_record(chain_id)
        {
            state.layers.insert(chain_id.to_owned(), record);
        }
        state.layers.contains_key(chain_id)
    }

    /// Ends a pull's claim on layers.
    pub fn end_lease(&self, chain_ids: &[String]) {
        let mut state = self.lock();
        for chain_id in chain_ids {
            if let Some(count) = state.leased.get_mut(chain_id) {
                *count -= 1;
                if *count == 0 {
                    state.leased.remove(chain_id);
                }
            }
        }
    }

    /// Names an image whose layers are committed: adds its names to those it has, and takes them from other images.
    pub fn name(&self, mut record: ImageRecord) -> Result<ImageId, ImageError> {
        let mut state = self.lock();
        for chain_id in &record.layers {
            if let Some(layer) = self.content.layer_record(chain_id) {
                state.layers.insert(chain_id.clone(), layer);
            }
        }
        if let Some(known) = state.images.get(&record.id) {
            merge(&mut record.repo_tags, &known.repo_tags);
            merge(&mut record.repo_digests, &known.repo_digests);
            merge(&mut record.blobs, &known.blobs);
        }
        record.repo_tags.sort();
        record.repo_digests.sort();
        let others: Vec<_> = state
            .images
            .values()
            .filter(|other| other.id != record.id)
            .cloned()
            .collect();
        for mut other in others {
            let before = other.repo_tags.len();
            other.repo_tags.retain(|tag| !record.repo_tags.contains(tag));
            if other.repo_tags.len() != before {
                self.write(&other)?;
                state.images.insert(other.id.clone(), other);
            }
        }
        self.write(&record)?;
        let id = record.id.clone();
        state.images.insert(id.clone(), record);
        Ok(id)
    }

    pub fn remove(&self, id: &ImageId) -> Result<(), ImageError> {
        let mut state = self.lock();
        if state.images.remove(id).is_none() {
            return Ok(());
        }
        let path = self.content.image(&id.0);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(io("remove", &path)(error));
        }
        self.sweep(&mut state);
        Ok(())
    }

    pub fn hold(&self, image: &ImageId, container: &ContainerId) {
        self.lock()
            .holds
            .entry(image.clone())
            .or_default()
            .insert(container.clone());
    }

    pub fn release(&self, image: &ImageId, container: &ContainerId) {
        let mut state = self.lock();
        let Some(holders) = state.holds.get_mut(image) else {
            return;
        };
        holders.remove(container);
        if holders.is_empty() {
            state.holds.remove(image);
            if !state.images.contains_key(image) {
                self.sweep(&mut state);
            }
        }
    }

    pub fn usage(&self) -> FsUsage {
        let state = self.lock();
        FsUsage {
            at: Timestamp::now(),
            path: self.content.root.clone(),
            used_bytes: state.layers.values().map(|layer| layer.size_bytes).sum(),
            inodes: state.layers.values().map(|layer| layer.entries).sum(),
        }
    }

    /// Removes layers and blobs that no image, container or pull needs. A container of an image that is removed keeps
    /// every layer there is: which ones it uses is not on record any more.
    fn sweep(&self, state: &mut State) {
        if state.holds.keys().any(|image| !state.images.contains_key(image)) {
            return;
        }
        let images = state.images.values();
        let layers: HashSet<&String> = images
            .clone()
            .flat_map(|image| &image.layers)
            .chain(state.leased.keys())
            .collect();
        let unused: Vec<String> = state
            .layers
            .keys()
            .filter(|layer| !layers.contains(layer))
            .cloned()
            .collect();
        for layer in unused {
            match self.content.discard(&self.content.layer(&layer)) {
                Ok(()) => {
                    state.layers.remove(&layer);
                }
                Err(error) => tracing::warn!(layer, %error, "cannot remove a layer"),
            }
        }
        if !state.leased.is_empty() {
            return;
        }
        let needed: HashSet<String> = images
            .flat_map(|image| image.blobs.iter().chain([&image.id.0]))
            .cloned()
            .collect();
        let blobs = self.content.root.join("blobs/sha256");
        for entry in fs::read_dir(&blobs).into_iter().flatten().flatten() {
            if !needed.contains(&format!("sha256:{}", entry.file_name().to_string_lossy())) {
                self.content.discard_file(&entry.path());
            }
        }
    }

    fn write(&self, record: &ImageRecord) -> Result<(), ImageError> {
        let path = self.content.image(&record.id.0);
        let bytes = serde_json::to_vec(record).map_err(|error| io("write", &path)(error.into()))?;
        durable::write_synced(&path, &bytes).map_err(io("write", &path))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the table is held")
    }
}

impl Content {
    fn discard_file(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove");
        }
    }
}

fn read(path: &Path) -> Option<ImageRecord> {
    let record: ImageRecord = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (record.version == VERSION).then_some(record)
}

fn merge(into: &mut Vec<String>, from: &[String]) {
    for name in from {
        if !into.contains(name) {
            into.push(name.clone());
        }
    }
}

/// The hex digits of a name that can be an image id or the beginning of one.
fn id_prefix(name: &str) -> Option<&str> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = hex.len() >= 3 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_hex.then_some(hex)
}
