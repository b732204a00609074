//! What is on the disk of an image, and of a layer.

use serde::{Deserialize, Serialize};

use crate::model::{ImageConfig, ImageId};

/// One image. A change of shape is a change of `version`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRecord {
    pub version: u32,
    pub id: ImageId,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// Compressed, config included.
    pub size_bytes: u64,
    pub config: ImageConfig,
    /// Chain ids, lowest first.
    pub layers: Vec<String>,
    /// Digests of the manifest and of an index that led to it, for clean-up.
    pub blobs: Vec<String>,
}

pub const VERSION: u32 = 1;

/// `done`: this layer is whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerRecord {
    pub chain_id: String,
    pub diff_id: String,
    pub size_bytes: u64,
    pub entries: u64,
}
