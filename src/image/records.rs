//! What is on the disk of an image, and of a layer.

use serde::{Deserialize, Serialize};

use super::{
    trust::{Signature, Verdict},
    unpack::{Made, Unpacked},
};
use crate::model::{ImageConfig, ImageId};

/// One image, or an artifact. A change of shape is a change of `version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What kind of artifact it is, which has no config and whose id is its manifest's digest; `None`: an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// Digests of the manifest and of an index that led to it, for clean-up.
    pub blobs: Vec<String>,
    /// Why it was let in, for each name that it was pulled by under a policy. Older records have none.
    #[serde(default)]
    pub verdicts: Vec<Verdict>,
    /// Signatures that were looked at then, to be judged again by the policy of another day.
    #[serde(default)]
    pub signatures: Vec<Signature>,
}

impl ImageRecord {
    /// Adds a verdict and the signatures that it is of.
    pub fn trust(&mut self, verdict: Verdict, signatures: Vec<Signature>) {
        let known = (std::mem::take(&mut self.verdicts), std::mem::take(&mut self.signatures));
        (self.verdicts, self.signatures) = (vec![verdict], signatures);
        self.keep_known(known);
    }

    /// Takes over what speaks for the image on an older record of it; a verdict on the same name by the same policy is
    /// replaced by the newer one.
    pub fn keep_known(&mut self, (verdicts, signatures): (Vec<Verdict>, Vec<Signature>)) {
        for old in verdicts {
            let is_same = |new: &Verdict| new.reference == old.reference && new.policy == old.policy;
            if !self.verdicts.iter().any(is_same) {
                self.verdicts.push(old);
            }
        }
        for old in signatures {
            if !self.signatures.contains(&old) {
                self.signatures.push(old);
            }
        }
        self.signatures.truncate(MOST_SIGNATURES);
    }
}

/// The newest are kept.
const MOST_SIGNATURES: usize = 128;

pub const VERSION: u32 = 1;

/// `done`: this layer is whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerRecord {
    pub chain_id: String,
    pub diff_id: String,
    pub size_bytes: u64,
    pub entries: u64,
    /// The digest of the unpacked tree; a layer of before there was one has none, nor has an image.
    #[serde(default)]
    pub tree: Option<String>,
    /// The layer is this image, and no folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erofs: Option<ErofsRecord>,
}

/// An EROFS image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErofsRecord {
    /// As fs-verity has it.
    pub digest: String,
    /// Whether fs-verity watches over the file.
    pub sealed: bool,
}

impl LayerRecord {
    /// Of what came out of a layer; an image may be `sealed`.
    pub fn of(chain_id: String, layer: Unpacked, sealed: bool) -> Self {
        let (tree, erofs) = match layer.made {
            Made::Folder { tree, .. } => (Some(tree), None),
            Made::Erofs { digest } => (None, Some(ErofsRecord { digest, sealed })),
        };
        Self {
            chain_id,
            diff_id: layer.diff_id,
            size_bytes: layer.size_bytes,
            entries: layer.entries,
            tree,
            erofs,
        }
    }

    /// How many inodes it takes on the disk.
    pub fn inodes(&self) -> u64 {
        match self.erofs {
            None => self.entries,
            Some(_) => 1,
        }
    }
}
