//! Manifests: which of an index is ours, and what an image is made of, or an artifact, which is files and no image.
//!
//! Sources: OCI image-spec, "Image Index", "Image Manifest", "Image Configuration"; Docker "Image Manifest V 2, Schema 2".

use std::path::{Path, PathBuf};

use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::reference::{check_digest, shortened};
use crate::model::ImageConfig;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Why a document is not an image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    #[error("not JSON of its kind: {0}")]
    Json(String),
    #[error("schema 1 is not supported: the image must be pushed again by a current tool")]
    Schema1,
    #[error("it has both layers and manifests, so its meaning depends on its media type")]
    Ambiguous,
    #[error("media type {0:?} is not that of an image")]
    MediaType(String),
    #[error("no image for platform {0} in the index")]
    NoPlatform(String),
    #[error("foreign layer {0}: its URL is not fetched")]
    Foreign(String),
    #[error("layer of media type {0:?} is not supported")]
    Layer(String),
    #[error("{0}")]
    Digest(String),
    #[error("{layers} layers but {diff_ids} diff ids")]
    Count { layers: usize, diff_ids: usize },
    #[error("more than {0} layers")]
    TooMany(usize),
    #[error("an index in an index in an index")]
    Depth,
    #[error("file {} of the artifact: {why}", shortened(title))]
    Title { title: String, why: &'static str },
    #[error("the config's {key} has more than an image may say: {MOST_SAID} bytes")]
    TooMuch { key: &'static str },
}

/// Most documents on the way to an image.
pub const DEPTH: usize = 3;

/// Most layers that overlayfs takes.
const MOST_LAYERS: usize = 500;

/// Names content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    /// What a manifest is for that is no image's: of referrers.
    #[serde(default)]
    pub artifact_type: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: String,
}

impl Descriptor {
    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

/// A document: a choice of images, or one, or files that are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Index(Vec<Descriptor>),
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
    Artifact(Artifact),
}

/// What is distributed as images are and can be mounted, but not run. Source: OCI image-spec, "Guidelines for Artifact
/// Usage".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// `artifactType`, or else the config's media type; not empty.
    pub kind: String,
    pub parts: Vec<Part>,
}

/// A blob of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub blob: Descriptor,
    /// Where the file goes; `None`: it is an archive of files, as CRI-O has it.
    pub title: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentJson {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// Reads a document; `media_type` is what it was served as, which its own must not contradict.
///
/// # Errors
/// [`ManifestError`].
pub fn parse(bytes: &[u8], media_type: &str) -> Result<Document, ManifestError> {
    let json: DocumentJson = object(bytes)?;
    if json.schema_version == 1 {
        return Err(ManifestError::Schema1);
    }
    let is_index = |kind: &str| matches!(kind, OCI_INDEX | DOCKER_LIST);
    let is_image = |kind: &str| matches!(kind, OCI_MANIFEST | DOCKER_MANIFEST);
    let served = if is_index(media_type) || is_image(media_type) {
        media_type
    } else {
        ""
    };
    let contradicts =
        !json.media_type.is_empty() && !served.is_empty() && is_index(&json.media_type) != is_index(served);
    if contradicts || (!json.media_type.is_empty() && !is_index(&json.media_type) && !is_image(&json.media_type)) {
        return Err(ManifestError::MediaType(shortened(&json.media_type)));
    }
    let document = match (json.manifests, json.config, json.layers) {
        (Some(_), _, Some(_)) => return Err(ManifestError::Ambiguous),
        (Some(manifests), _, None) if !is_image(served) => Document::Index(manifests),
        (None, Some(config), Some(layers)) if !is_index(served) => match is_image_config(&config.media_type) {
            true => Document::Image { config, layers },
            false => Document::Artifact(artifact(&json.artifact_type, &config, layers)?),
        },
        _ => return Err(ManifestError::MediaType(shortened(media_type))),
    };
    let descriptors: Vec<_> = match &document {
        Document::Index(all) => all.iter().collect(),
        Document::Image { config, layers } => layers.iter().chain([config]).collect(),
        Document::Artifact(artifact) => artifact.parts.iter().map(|part| &part.blob).collect(),
    };
    for descriptor in descriptors {
        check_digest(&descriptor.digest).map_err(ManifestError::Digest)?;
    }
    if let Document::Image { layers, .. } = &document {
        check_layers(layers)?;
    }
    Ok(document)
}

/// Whether a manifest with such a config is an image's. Early tools of Docker's wrote the last one.
fn is_image_config(media_type: &str) -> bool {
    const KINDS: [&str; 4] = [
        "",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
        "application/octet-stream",
    ];
    KINDS.contains(&media_type)
}

/// The config is not looked at: it is the artifact's own affair.
fn artifact(kind: &str, config: &Descriptor, layers: Vec<Descriptor>) -> Result<Artifact, ManifestError> {
    if layers.len() > MOST_LAYERS {
        return Err(ManifestError::TooMany(MOST_LAYERS));
    }
    let mut parts = Vec::<Part>::new();
    for blob in layers {
        let title = match blob.media_type.contains(".tar") {
            true => None,
            false => Some(title(&blob, &parts)?),
        };
        parts.push(Part { blob, title });
    }
    let kind = if kind.is_empty() { &config.media_type } else { kind };
    Ok(Artifact {
        kind: shortened(kind),
        parts,
    })
}

/// The name of a file, with its folders. One without a title is called by its digest.
fn title(blob: &Descriptor, others: &[Part]) -> Result<PathBuf, ManifestError> {
    let Some(title) = blob.annotation(TITLE) else {
        return Ok(blob.digest.replace(':', "-").into());
    };
    let path = Path::new(title);
    let refused = |why| {
        Err(ManifestError::Title {
            title: title.to_owned(),
            why,
        })
    };
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control());
    if !title.split('/').all(is_plain) {
        return refused("it is no plain path inside the artifact");
    }
    if title.len() > MOST_TITLE || title.split('/').any(|part| part.len() > MOST_NAME) {
        return refused("it is too long");
    }
    let mut taken = others.iter().filter_map(|other| other.title.as_deref());
    if taken.any(|other| other.starts_with(path) || path.starts_with(other)) {
        return refused("another file is in its place");
    }
    Ok(path.to_owned())
}

/// Source: OCI image-spec, "Pre-Defined Annotation Keys".
const TITLE: &str = "org.opencontainers.image.title";
/// Bytes of a title, and of one part of it: what the kernel takes, and some place for where it is put.
const MOST_TITLE: usize = 2048;
const MOST_NAME: usize = 255;

/// A document, which is an object: serde takes a list for one too, whose meaning nobody else would see.
fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ManifestError> {
    let wrong = |why: String| ManifestError::Json(shortened(&why));
    if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(wrong("it is no object".into()));
    }
    serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))
}

fn check_layers(layers: &[Descriptor]) -> Result<(), ManifestError> {
    if layers.len() > MOST_LAYERS {
        return Err(ManifestError::TooMany(MOST_LAYERS));
    }
    for layer in layers {
        let kind = layer.media_type.as_str();
        if kind.contains("foreign") || kind.contains("nondistributable") {
            return Err(ManifestError::Foreign(layer.digest.clone()));
        }
        let packed = kind
            .strip_prefix("application/vnd.oci.image.layer.v1.tar")
            .or_else(|| kind.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"));
        // Not `+encrypted`, which nobody here can read.
        if !matches!(packed, Some("" | "+gzip" | ".gzip" | "+zstd" | ".zstd")) {
            return Err(ManifestError::Layer(shortened(kind)));
        }
    }
    Ok(())
}

/// Compressed size as the manifest has it. What is on the node already is not fetched, so nobody has looked at its size.
pub fn size(config: &Descriptor, layers: &[Descriptor]) -> u64 {
    let sizes = layers.iter().map(|layer| layer.size);
    sizes.fold(config.size, u64::saturating_add)
}

/// The entry of an index that is for this host: the same os and architecture, the plainest variant that runs.
///
/// # Errors
/// [`ManifestError::NoPlatform`].
pub fn select(index: &[Descriptor]) -> Result<&Descriptor, ManifestError> {
    let architecture = architecture();
    let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture;
    // Attestations stand in an index with platform "unknown"; an index of one image may not say any platform.
    let mut fitting: Vec<_> = index
        .iter()
        .filter(|d| d.platform.as_ref().map_or(index.len() == 1, fits))
        .collect();
    // amd64 v2 and above may not run here; arm64 v8 is plain.
    fitting.sort_by_key(
        |d| match d.platform.as_ref().map_or("", |platform| platform.variant.as_str()) {
            "" => 0,
            "v1" | "v8" => 1,
            _ => 2,
        },
    );
    fitting
        .first()
        .copied()
        .ok_or_else(|| ManifestError::NoPlatform(format!("linux/{architecture}")))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    config: Option<RunJson>,
    rootfs: RootfsJson,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RunJson {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<std::collections::BTreeMap<String, IgnoredAny>>,
    labels: Option<std::collections::BTreeMap<String, String>>,
}

impl RunJson {
    /// What an image says of its processes stays in memory for as long as the image is here.
    fn check(&self) -> Result<(), ManifestError> {
        let texts = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| said(text)).sum();
        let text = |text: &Option<String>| text.as_ref().map_or(0, |text| said(text));
        let volumes = self.volumes.iter().flatten().map(|(path, _)| said(path)).sum();
        let labels = self.labels.iter().flatten().map(|(key, value)| said(key) + said(value));
        let parts: [(&str, usize); 8] = [
            ("User", text(&self.user)),
            ("Env", texts(&self.env)),
            ("Entrypoint", texts(&self.entrypoint)),
            ("Cmd", texts(&self.cmd)),
            ("WorkingDir", text(&self.working_dir)),
            ("StopSignal", text(&self.stop_signal)),
            ("Volumes", volumes),
            ("Labels", labels.sum()),
        ];
        match parts.into_iter().find(|(_, bytes)| *bytes > MOST_SAID) {
            Some((key, _)) => Err(ManifestError::TooMuch { key }),
            None => Ok(()),
        }
    }
}

/// What a text takes, an empty one too.
fn said(text: &str) -> usize {
    text.len() + size_of::<String>()
}

/// Most bytes of one field of a config.
const MOST_SAID: usize = 1 << 20;

#[derive(Deserialize)]
struct RootfsJson {
    diff_ids: Vec<String>,
}

/// What an image's config says, and its layers' diff ids.
///
/// # Errors
/// [`ManifestError::Json`], [`ManifestError::Digest`], [`ManifestError::Count`], [`ManifestError::TooMany`],
/// [`ManifestError::TooMuch`].
pub fn config(bytes: &[u8], layers: usize) -> Result<(ImageConfig, Vec<String>), ManifestError> {
    if layers > MOST_LAYERS {
        return Err(ManifestError::TooMany(MOST_LAYERS));
    }
    let json: ConfigJson = object(bytes)?;
    let diff_ids = json.rootfs.diff_ids;
    if diff_ids.len() != layers {
        return Err(ManifestError::Count {
            layers,
            diff_ids: diff_ids.len(),
        });
    }
    diff_ids
        .iter()
        .try_for_each(|id| check_digest(id))
        .map_err(ManifestError::Digest)?;
    let run = json.config.unwrap_or_default();
    run.check()?;
    let config = ImageConfig {
        user: run.user.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        working_dir: run.working_dir.unwrap_or_default(),
        stop_signal: run.stop_signal.as_deref().and_then(signal),
        volumes: run.volumes.unwrap_or_default().into_keys().collect(),
        labels: run.labels.unwrap_or_default(),
    };
    Ok((config, diff_ids))
}

/// A signal by number or name, with or without `SIG`, such as `SIGRTMIN+3`.
pub fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |rest: &str| {
        if rest.is_empty() {
            Some(0)
        } else {
            rest.parse::<i32>().ok()
        }
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return offset(rest).map(|n| 34 + n).filter(|n| (34..=64).contains(n));
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return offset(rest).map(|n| 64 + n).filter(|n| (34..=64).contains(n));
    }
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let name = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        "UNUSED" => "SYS",
        name => name,
    };
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|at| i32::try_from(at + 1).ok())
}

#[cfg(test)]
mod test;
