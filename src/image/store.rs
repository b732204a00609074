//! The images that are there, in memory and on the disk.

mod commit;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{
    ImageError,
    additional::Additional,
    content::{Content, Scratch, Trash, Writes, io},
    records::{ImageRecord, LayerRecord, VERSION},
    reference::Reference,
    trust::{Signature, Verdict},
    unpack::{Snapshotter, Unpacked},
};
use crate::{
    durable::{self, Unnamed},
    model::{ContainerId, FsUsage, ImageId, ImageView, Layer, Timestamp},
};
pub use commit::{Made, MadeImage};

/// All images of a root folder, and of additional stores.
pub struct Store {
    pub content: Content,
    additional: Additional,
    /// Held by who changes what is on the disk, as long as that takes: one change comes after the other. Before `state`.
    changes: Mutex<()>,
    /// Guards the table. Never held while files are removed or a sync is waited for: whoever looks for an image waits for it.
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
    /// Pulls that are not named yet: also those of images without layers.
    leases: usize,
}

impl Store {
    /// Reads every record. One that is broken is renamed away and logged: it costs its image and nothing else.
    pub fn open(root: &Path, snapshotter: Snapshotter, additional: &[PathBuf]) -> Result<Self, ImageError> {
        let content = Content::open(root, snapshotter)?;
        let additional = Additional::open(additional);
        let mut state = State {
            layers: content.layer_records()?,
            ..State::default()
        };
        let is_there = |state: &State, layer: &String| {
            state.layers.contains_key(layer) || additional.content_with(layer).is_some()
        };
        let images = root.join("images");
        for entry in fs::read_dir(&images).map_err(io("list", &images))?.flatten() {
            match read(&entry.path()) {
                Some(record) if record.layers.iter().all(|layer| is_there(&state, layer)) => {
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
            additional,
            changes: Mutex::default(),
            state: Mutex::new(state),
        })
    }

    /// By image id or id prefix.
    pub fn find_id(&self, name: &str) -> Option<ImageView> {
        let state = self.lock();
        self.by_id(&state, name).map(|record| self.view_among(&state, record))
    }

    /// By image id, id prefix or reference.
    pub fn find(&self, name: &str) -> Result<Option<ImageView>, ImageError> {
        let state = self.lock();
        let found = self.by_name(&state, name)?;
        Ok(found.map(|record| self.view_among(&state, record)))
    }

    /// The records of all images.
    pub fn records(&self) -> Vec<ImageRecord> {
        let mut records: Vec<_> = self.everything(&self.lock()).cloned().collect();
        records.sort_by(|a, b| a.id.cmp(&b.id));
        records
    }

    pub fn all(&self) -> Vec<ImageView> {
        let state = self.lock();
        let all = self.everything(&state).map(|record| self.view_among(&state, record));
        let mut views: Vec<_> = all.collect();
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    /// As it is told: a tag of an additional store that another image has got since is that one's.
    fn view_among(&self, state: &State, record: &ImageRecord) -> ImageView {
        let mut view = self.view_of(state, record);
        if !state.images.contains_key(&record.id) {
            let first = |tag: &String| self.everything(state).find(|other| other.repo_tags.contains(tag));
            view.repo_tags
                .retain(|tag| first(tag).is_some_and(|first| first.id == record.id));
        }
        view
    }

    /// Every image once.
    fn everything<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a ImageRecord> {
        let mut seen = HashSet::new();
        let all = state.images.values().chain(self.additional.images());
        all.filter(move |record| seen.insert(&record.id))
    }

    fn is_known(&self, state: &State, image: &ImageId) -> bool {
        state.images.contains_key(image) || self.additional.image(image).is_some()
    }

    fn by_name<'a>(&'a self, state: &'a State, name: &str) -> Result<Option<&'a ImageRecord>, ImageError> {
        if let Some(record) = self.by_id(state, name) {
            return Ok(Some(record));
        }
        if name.starts_with("sha256:") && id_prefix(name).is_some() {
            return Ok(None);
        }
        let reference: Reference = name.parse()?;
        let by_digest = reference
            .digest
            .as_ref()
            .map(|digest| format!("{}@{digest}", reference.name()));
        let mut images = self.everything(state);
        Ok(images.find(|record| match (&by_digest, reference.tagged()) {
            (Some(digest), _) => record.repo_digests.contains(digest),
            (None, Some(tag)) => record.repo_tags.contains(&tag),
            (None, None) => false,
        }))
    }

    fn by_id<'a>(&'a self, state: &'a State, name: &str) -> Option<&'a ImageRecord> {
        let hex = id_prefix(name)?;
        let begins = |record: &&ImageRecord| record.id.0["sha256:".len()..].starts_with(hex);
        let mut matching = self.everything(state).filter(begins);
        match (matching.next(), matching.next()) {
            (Some(record), None) => Some(record),
            _ => None,
        }
    }

    /// Where a layer is.
    pub fn content_with(&self, chain_id: &str) -> &Content {
        self.additional.content_with(chain_id).unwrap_or(&self.content)
    }

    /// A layer as it is put below containers, from wherever it is.
    fn layer_in_use(&self, state: &State, chain_id: &str) -> Layer {
        match self.additional.layer(chain_id) {
            Some((content, record)) => content.layer_in_use(chain_id, Some(record)),
            None => self.content.layer_in_use(chain_id, state.layers.get(chain_id)),
        }
    }

    /// Where an image's record and documents are.
    pub fn content_of(&self, image: &ImageId) -> &Content {
        match self.lock().images.contains_key(image) {
            true => &self.content,
            false => self.additional.content_of(image).unwrap_or(&self.content),
        }
    }

    /// The store that an image stays in for ever.
    pub fn read_only(&self, image: &ImageId) -> Option<&Path> {
        self.additional.content_of(image).map(|content| &*content.root)
    }

    /// An image whose layers are there.
    pub fn view(&self, record: &ImageRecord) -> ImageView {
        self.view_of(&self.lock(), record)
    }

    fn view_of(&self, state: &State, record: &ImageRecord) -> ImageView {
        ImageView {
            id: record.id.clone(),
            repo_tags: record.repo_tags.clone(),
            repo_digests: record.repo_digests.clone(),
            size_bytes: record.size_bytes,
            config: record.config.clone(),
            layers: record
                .layers
                .iter()
                .map(|layer| self.layer_in_use(state, layer))
                .collect(),
            pinned: false,
            artifact: record.artifact.clone(),
        }
    }

    /// Begins a pull's claim: layers that are there stay until [`Store::end_lease`], and so does every document.
    pub fn lease(&self, chain_ids: &[String]) {
        let mut state = self.lock();
        state.leases += 1;
        for chain_id in chain_ids {
            *state.leased.entry(chain_id.clone()).or_default() += 1;
        }
    }

    /// Whether a layer is there, whole.
    pub fn has(&self, chain_id: &str) -> bool {
        let mut state = self.lock();
        if !state.layers.contains_key(chain_id)
            && let Some(record) = self.content.layer_record(chain_id)
        {
            state.layers.insert(chain_id.to_owned(), record);
        }
        state.layers.contains_key(chain_id) || self.additional.content_with(chain_id).is_some()
    }

    /// Ends a pull's claim on layers.
    pub fn end_lease(&self, chain_ids: &[String]) {
        let mut state = self.lock();
        state.leases -= 1;
        for chain_id in chain_ids {
            if let Some(count) = state.leased.get_mut(chain_id) {
                *count -= 1;
                if *count == 0 {
                    state.leased.remove(chain_id);
                }
            }
        }
    }

    /// What is on record of an image: by which documents it is known, and what speaks for it.
    pub fn record(&self, id: &ImageId) -> Option<ImageRecord> {
        let state = self.lock();
        state.images.get(id).or(self.additional.image(id)).cloned()
    }

    /// Keeps what a later look at an image's signatures gave. Nothing to do when it was removed meanwhile.
    pub fn trust(&self, id: &ImageId, verdict: Verdict, signatures: Vec<Signature>) -> Result<(), ImageError> {
        let _change = self.change();
        let Some(mut record) = self.lock().images.get(id).cloned() else {
            return Ok(());
        };
        record.trust(verdict, signatures);
        self.write(&record)?;
        self.lock().images.insert(id.clone(), record);
        Ok(())
    }

    /// Removes an image. One of an additional store stays there, and what it got here goes.
    pub fn remove(&self, id: &ImageId) -> Result<(), ImageError> {
        self.remove_own(id)?;
        match self.read_only(id) {
            None => Ok(()),
            Some(store) => Err(ImageError::ReadOnly {
                what: format!("image {id}"),
                store: store.to_owned(),
            }),
        }
    }

    fn remove_own(&self, id: &ImageId) -> Result<(), ImageError> {
        if self.forget(id)? {
            self.collect();
        }
        Ok(())
    }

    /// Removes an image's record. Answers whether there was one.
    fn forget(&self, id: &ImageId) -> Result<bool, ImageError> {
        let _change = self.change();
        if self.lock().images.remove(id).is_none() {
            return Ok(false);
        }
        let path = self.content.image(&id.0);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(io("remove", &path)(error));
        }
        // What it named goes only when nothing names it any more, on the disk too.
        self.content.sync_folder("images")?;
        Ok(true)
    }

    /// What others change, or remove, is on the disk then.
    pub fn settle(&self) {
        drop(self.change());
    }

    pub fn hold(&self, image: &ImageId, container: &ContainerId) {
        self.lock()
            .holds
            .entry(image.clone())
            .or_default()
            .insert(container.clone());
    }

    /// Blocks where the container was the last of an image that is removed.
    pub fn release(&self, image: &ImageId, container: &ContainerId) {
        if self.was_last(image, container) {
            self.collect();
        }
    }

    /// Ends a hold. Answers whether it was the last of an image that is removed.
    fn was_last(&self, image: &ImageId, container: &ContainerId) -> bool {
        let mut state = self.lock();
        let Some(holders) = state.holds.get_mut(image) else {
            return false;
        };
        holders.remove(container);
        if !holders.is_empty() {
            return false;
        }
        state.holds.remove(image);
        !self.is_known(&state, image)
    }

    pub fn usage(&self) -> FsUsage {
        let state = self.lock();
        FsUsage {
            at: Timestamp::now(),
            path: self.content.root.clone(),
            used_bytes: state.layers.values().map(|layer| layer.size_bytes).sum(),
            inodes: state.layers.values().map(LayerRecord::inodes).sum(),
        }
    }

    /// Puts a layer that was unpacked anew in the place of a damaged one, but not below a container, whose root it is a
    /// part of.
    pub fn replace_layer(
        &self,
        chain_id: &str,
        scratch: Scratch,
        layer: Unpacked,
        writes: &Writes,
    ) -> Result<(), ImageError> {
        let record = self.content.finish_layer(chain_id, &scratch, layer, writes)?;
        let _change = self.change();
        let mut state = self.lock();
        self.check_replaceable(&state, chain_id)?;
        self.content.swap_layer(chain_id, &scratch)?;
        self.content.mounts.forget(&self.content.layer(chain_id));
        state.layers.insert(chain_id.to_owned(), record);
        drop(state);
        self.content.sync_folder("layers")
    }

    /// Whether a layer could be replaced.
    pub fn check_unused(&self, chain_id: &str) -> Result<(), ImageError> {
        self.check_replaceable(&self.lock(), chain_id)
    }

    /// An image that is removed may have had the layer: that is not on record any more.
    fn check_replaceable(&self, state: &State, chain_id: &str) -> Result<(), ImageError> {
        if let Some(content) = self.additional.content_with(chain_id) {
            return Err(ImageError::ReadOnly {
                what: format!("layer {chain_id}"),
                store: content.root.clone(),
            });
        }
        let has_it = |image: &ImageId| match state.images.get(image).or(self.additional.image(image)) {
            Some(record) => record.layers.iter().any(|layer| layer == chain_id),
            None => true,
        };
        let users = state.holds.iter().filter(|(image, _)| has_it(image));
        match users.flat_map(|(_, containers)| containers).next() {
            Some(container) => Err(ImageError::InUse {
                layer: chain_id.to_owned(),
                container: container.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Removes layers and blobs that no image, container or pull needs: what an import made that came to nothing.
    pub fn collect(&self) {
        let change = self.change();
        let unused = self.sweep(&mut self.lock());
        drop(change);
        drop(unused);
    }

    /// Takes layers and blobs away that no image, container or pull needs; the layers' files go with the answer. A container
    /// of an image that is removed keeps every layer there is: which ones it uses is not on record any more.
    fn sweep(&self, state: &mut State) -> Vec<Trash> {
        let mut trash = Vec::new();
        if state.holds.keys().any(|image| !self.is_known(state, image)) {
            return trash;
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
            self.content.mounts.forget(&self.content.layer(&layer));
            match self.content.put_away(&self.content.layer(&layer)) {
                Ok(unused) => {
                    state.layers.remove(&layer);
                    trash.extend(unused);
                }
                Err(error) => tracing::warn!(layer, %error, "cannot remove a layer"),
            }
        }
        if state.leases > 0 {
            return trash;
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
        trash
    }

    /// Writes an image's record again, in the place of what is there. Nothing to do when it was removed meanwhile.
    pub fn rewrite(&self, id: &ImageId) -> Result<(), ImageError> {
        let _change = self.change();
        let record = self.lock().images.get(id).cloned();
        record.map_or(Ok(()), |record| self.write(&record))
    }

    fn write(&self, record: &ImageRecord) -> Result<(), ImageError> {
        let (path, bytes) = self.file_of(record)?;
        durable::write_synced(&path, &bytes).map_err(io("write", &path))
    }

    /// The same of what is not on the disk before a later sync.
    fn unnamed(&self, record: &ImageRecord) -> Result<Unnamed, ImageError> {
        let (path, bytes) = self.file_of(record)?;
        Unnamed::write(&path, &bytes).map_err(io("write", &path))
    }

    fn file_of(&self, record: &ImageRecord) -> Result<(PathBuf, Vec<u8>), ImageError> {
        let path = self.content.image(&record.id.0);
        let bytes = serde_json::to_vec(record).map_err(|error| io("write", &path)(error.into()))?;
        Ok((path, bytes))
    }

    fn change(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changes.lock().expect("no panic while something is changed")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the table is held")
    }
}

/// An image's record as it is on the disk.
pub fn read(path: &Path) -> Option<ImageRecord> {
    let record: ImageRecord = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (record.version == VERSION).then_some(record)
}

impl Content {
    fn discard_file(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove");
        }
    }
}

/// The hex digits of a name that can be an image id or the beginning of one.
fn id_prefix(name: &str) -> Option<&str> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = hex.len() >= 3 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_hex.then_some(hex)
}
