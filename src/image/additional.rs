//! Stores that somebody else filled, such as one that is a part of the node's system image: read, and never written.
//!
//! They are folders as this daemon's own root folder, on a file system that may be read-only. Their images are listed and
//! used, pinned against the kubelet's clean-up, and cannot be removed; their layers are nobody's download.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    ImageError,
    content::{Content, io},
    records::{ImageRecord, LayerRecord},
    store::read,
};
use crate::model::{ImageId, chain};

/// The additional stores that can be read, in the order of the configuration, in which the first wins.
pub struct Additional {
    stores: Vec<Shared>,
}

struct Shared {
    content: Content,
    images: HashMap<ImageId, ImageRecord>,
    layers: HashMap<String, LayerRecord>,
}

impl Additional {
    /// Reads all of them. One that is not there or not to be read is logged: it costs its images and nothing else.
    pub fn open(roots: &[PathBuf]) -> Self {
        let mut stores = Vec::new();
        for root in roots {
            match Shared::open(root) {
                Ok(shared) => {
                    tracing::info!(store = %root.display(), images = shared.images.len(), "additional store");
                    stores.push(shared);
                }
                Err(error) => tracing::error!(
                    store = %root.display(),
                    error = %chain(&error),
                    "no additional store: image.additional_stores"
                ),
            }
        }
        Self { stores }
    }

    /// What is on record of all images, those of the first store first.
    pub fn images(&self) -> impl Iterator<Item = &ImageRecord> {
        self.stores.iter().flat_map(|shared| shared.images.values())
    }

    pub fn image(&self, id: &ImageId) -> Option<&ImageRecord> {
        self.stores.iter().find_map(|shared| shared.images.get(id))
    }

    /// Where an image's record and documents are.
    pub fn content_of(&self, id: &ImageId) -> Option<&Content> {
        let shared = self.stores.iter().find(|shared| shared.images.contains_key(id));
        shared.map(|shared| &shared.content)
    }

    /// Where a layer is.
    pub fn content_with(&self, chain_id: &str) -> Option<&Content> {
        self.layer(chain_id).map(|(content, _)| content)
    }

    /// The same, and what is on record of it.
    pub fn layer(&self, chain_id: &str) -> Option<(&Content, &LayerRecord)> {
        let mut found = self
            .stores
            .iter()
            .filter_map(|shared| Some((&shared.content, shared.layers.get(chain_id)?)));
        found.next()
    }
}

impl Shared {
    fn open(root: &Path) -> Result<Self, ImageError> {
        let content = Content::of(root);
        let layers = content.layer_records()?;
        let images = root.join("images");
        let mut shared = Self {
            content,
            images: HashMap::new(),
            layers,
        };
        for entry in std::fs::read_dir(&images).map_err(io("list", &images))? {
            let path = entry.map_err(io("list", &images))?.path();
            match read(&path) {
                Some(record) if record.layers.iter().all(|layer| shared.layers.contains_key(layer)) => {
                    shared.images.insert(record.id.clone(), record);
                }
                _ => tracing::error!(record = %path.display(), "an image is damaged or incomplete; it is passed over"),
            }
        }
        Ok(shared)
    }
}
