//! Archives as `docker save`, `podman save` and `skopeo copy … docker-archive:` make them.
//!
//! Source: Docker "Image Specification v1.2", "Combined Image JSON + Filesystem Changeset Format". They have no
//! manifests with digests, so images that come from them have no digest either, but for their id.

use serde::Deserialize;

use super::{Found, ImageError, ImportError, Layer, MOST_IMAGES, source::Source};
use crate::image::reference::shortened;

/// What makes an archive one of Docker's.
pub const LIST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The images of an archive.
pub fn read(source: &Source, list: &[u8]) -> Result<Vec<Found>, ImageError> {
    let fault = |why: String| ImportError::Document {
        file: LIST.to_owned(),
        why,
    };
    let entries: Vec<Entry> = serde_json::from_slice(list).map_err(|error| fault(shortened(&error.to_string())))?;
    if entries.is_empty() {
        return Err(fault("no image is in it".into()).into());
    }
    if entries.len() > MOST_IMAGES {
        return Err(fault("more images than allowed".into()).into());
    }
    entries.into_iter().map(|entry| image(source, entry)).collect()
}

fn image(source: &Source, entry: Entry) -> Result<Found, ImageError> {
    let config = source
        .document(&entry.config)?
        .ok_or_else(|| ImportError::Missing(entry.config.clone()))?;
    let layer = |file: String| {
        let size = source.require(&file)?.size();
        Ok::<_, ImportError>(Layer {
            file,
            digest: None,
            size,
        })
    };
    Ok(Found {
        names: entry.repo_tags.unwrap_or_default(),
        digest: None,
        blobs: Vec::new(),
        config,
        layers: entry.layers.into_iter().map(layer).collect::<Result<_, _>>()?,
    })
}
