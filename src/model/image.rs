//! An image as the store holds it.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// `sha256:` and 64 hex digits of the image's config, or of an artifact's manifest: one value for PullImage, ImageStatus and container status.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub String);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an image says about running it. Source: OCI image-spec, "config".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Raw `User` string: `name`, `uid`, `name:group`, `uid:gid` or empty.
    pub user: String,
    /// `KEY=value` strings.
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Empty: `/`.
    pub working_dir: String,
    /// Signal number of `StopSignal`, if it has a valid one.
    pub stop_signal: Option<i32>,
    /// Paths of `Volumes`.
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    pub id: ImageId,
    /// Tags as fully qualified references, sorted.
    pub repo_tags: Vec<String>,
    /// `repository@digest` references, sorted.
    pub repo_digests: Vec<String>,
    /// Compressed size of config and layers in bytes.
    pub size_bytes: u64,
    pub config: ImageConfig,
    /// Lowest first.
    pub layers: Vec<Layer>,
    pub pinned: bool,
    /// The kind of an artifact, of which nothing can be run; `None`: an image.
    pub artifact: Option<String>,
}

/// A layer on the disk, in the form in which it was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// As overlayfs takes it.
    Folder(PathBuf),
    /// An EROFS image.
    Erofs {
        file: PathBuf,
        /// What fs-verity has to say of the file, where it watches over it.
        sealed: Option<String>,
    },
}

impl ImageView {
    /// What it can be asked for by: its tags, or where it has none its digests.
    pub fn names(&self) -> &[String] {
        match self.repo_tags.is_empty() {
            true => &self.repo_digests,
            false => &self.repo_tags,
        }
    }
}

/// What a look over the store has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    pub images: u64,
    /// Records, configs and manifests; each that several images have counts once, as does a layer.
    pub documents: u64,
    pub layers: u64,
    /// Of the layers, those that only were looked for: they were unpacked before anything was kept to compare them with.
    pub by_presence: u64,
    pub damaged: Vec<Damaged>,
}

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    pub what: Damage,
    /// A layer's chain id, a document's digest, or a record's file.
    pub digest: String,
    pub why: String,
    /// A name of an image that has it.
    pub image: String,
    pub repair: Repair,
}

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    Record,
    Config,
    Manifest,
    Layer,
}

/// What became of a damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    NotAsked,
    Done,
    Failed(String),
}

/// A secret whose `Debug` is `***`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "***" })
    }
}

/// Credentials of one pull. Source: CRI `AuthConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Auth {
    pub username: String,
    pub password: Secret,
    /// Base64 of `username:password`.
    pub auth: Secret,
    /// When set, the credentials are for this registry only.
    pub server_address: String,
    /// An OAuth2 refresh token.
    pub identity_token: Secret,
    /// A bearer token to send as it is.
    pub registry_token: Secret,
}
