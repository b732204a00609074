//! What a manifest means: the parts of an image, or of an artifact.

use std::path::PathBuf;

use crate::image::{
    ImageError, artifact,
    content::{chain_ids, sha256},
    manifest::{self, Artifact, Descriptor, Document, ManifestError},
    reference::Reference,
    registry::Session,
};
use crate::model::ImageConfig;

/// Most bytes of an image's config.
const MOST_CONFIG: u64 = 8 << 20;

/// An image in a registry, resolved for this host, or an artifact.
pub struct Found {
    content: Named,
    /// What the reference itself means: an index's digest if it is one.
    pub(super) digest: String,
    /// Manifests on the way, to be kept.
    pub blobs: Vec<(String, Vec<u8>)>,
}

/// What a manifest names.
enum Named {
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
    Artifact(Artifact),
}

/// A layer and where it comes from.
#[derive(Clone)]
pub struct Wanted {
    pub chain_id: String,
    pub blob: Descriptor,
    pub making: Making,
}

/// What becomes of a blob.
#[derive(Clone)]
pub enum Making {
    /// It is unpacked, and this is its diff id if its image says so.
    Unpacked(Option<String>),
    /// It is a file of this name.
    File(PathBuf),
}

/// What an image is made of, as far as its documents say.
pub struct Parts {
    /// Whose bytes are the image's config; an artifact's is not fetched.
    pub(super) config: Option<(String, Vec<u8>)>,
    pub(super) run: ImageConfig,
    pub(super) size_bytes: u64,
    pub layers: Vec<Wanted>,
}

impl Found {
    /// The image's id.
    pub fn id(&self) -> &str {
        match (&self.content, self.blobs.last()) {
            (Named::Artifact(_), Some((manifest, _))) => manifest,
            (Named::Artifact(_), None) => &self.digest,
            (Named::Image { config, .. }, _) => &config.digest,
        }
    }

    /// An image's config.
    pub async fn config(&self, session: &Session) -> Result<Vec<u8>, ImageError> {
        match &self.content {
            Named::Image { config, .. } => fetch_config(session, config).await,
            Named::Artifact(_) => Err(ImageError::NotFound("config of an artifact".into())),
        }
    }

    /// What it is made of, for which an image's config is fetched.
    pub async fn parts(&self, session: &Session) -> Result<Parts, ImageError> {
        let (config, layers) = match &self.content {
            Named::Image { config, layers } => (config, layers),
            Named::Artifact(artifact) => {
                return Ok(Parts {
                    config: None,
                    run: ImageConfig::default(),
                    size_bytes: artifact.size(),
                    layers: artifact::layers(artifact),
                });
            }
        };
        let bytes = fetch_config(session, config).await?;
        let (run, diff_ids) = manifest::config(&bytes, layers.len())?;
        let wanted = chain_ids(&diff_ids).into_iter().zip(layers).zip(diff_ids);
        Ok(Parts {
            config: Some((config.digest.clone(), bytes)),
            run,
            size_bytes: manifest::size(config, layers),
            layers: wanted
                .map(|((chain_id, blob), diff_id)| Wanted {
                    chain_id,
                    blob: blob.clone(),
                    making: Making::Unpacked(Some(diff_id)),
                })
                .collect(),
        })
    }

    pub(super) fn artifact_kind(&self) -> Option<String> {
        match &self.content {
            Named::Image { .. } => None,
            Named::Artifact(artifact) => Some(artifact.kind.clone()),
        }
    }

    /// Digests of the manifest and of the indexes that led to it, these first.
    pub(super) fn documents(&self) -> Vec<String> {
        self.blobs.iter().map(|(digest, _)| digest.clone()).collect()
    }
}

/// Follows indexes down to this host's image.
pub async fn find(session: &Session, reference: &Reference) -> Result<Found, ImageError> {
    let mut wanted = reference.wanted().to_owned();
    let mut blobs = Vec::new();
    for _ in 0..manifest::DEPTH {
        let fetched = session.manifest(&wanted).await?;
        blobs.push((fetched.digest.clone(), fetched.bytes));
        let (_, bytes) = blobs.last().expect("just pushed");
        let content = match manifest::parse(bytes, &fetched.media_type)? {
            Document::Index(index) => {
                wanted.clone_from(&manifest::select(&index)?.digest);
                continue;
            }
            Document::Image { config, layers } => Named::Image { config, layers },
            Document::Artifact(artifact) => Named::Artifact(artifact),
        };
        return Ok(Found {
            content,
            digest: blobs[0].0.clone(),
            blobs,
        });
    }
    Err(ManifestError::Depth.into())
}

async fn fetch_config(session: &Session, config: &Descriptor) -> Result<Vec<u8>, ImageError> {
    if config.size > MOST_CONFIG {
        return Err(ManifestError::Json(format!("a config of {} bytes", config.size)).into());
    }
    let bytes = session.short_blob(&config.digest, config.size).await?;
    let got = sha256(&bytes);
    if got != config.digest {
        return Err(ImageError::Digest {
            what: "the config",
            expected: config.digest.clone(),
            got,
        });
    }
    Ok(bytes)
}
