//! Manifests: which of an index is ours, and what an image is made of.
//!
//! Sources: OCI image-spec, "Image Index", "Image Manifest", "Image Configuration"; Docker "Image Manifest V 2, Schema 2".

use serde::Deserialize;

use super::reference::check_digest;
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
}

/// Most layers that overlayfs takes.
const MOST_LAYERS: usize = 500;

/// Names content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
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

/// A document: a choice of images, or one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Index(Vec<Descriptor>),
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentJson {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
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
    let json: DocumentJson = serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
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
        return Err(ManifestError::MediaType(json.media_type));
    }
    let document = match (json.manifests, json.config, json.layers) {
        (Some(_), _, Some(_)) => return Err(ManifestError::Ambiguous),
        (Some(manifests), _, None) if !is_image(served) => Document::Index(manifests),
        (None, Some(config), Some(layers)) if !is_index(served) => Document::Image { config, layers },
        _ => return Err(ManifestError::MediaType(media_type.to_owned())),
    };
    let descriptors: Vec<_> = match &document {
        Document::Index(all) => all.iter().collect(),
        Document::Image { config, layers } => layers.iter().chain([config]).collect(),
    };
    for descriptor in descriptors {
        check_digest(&descriptor.digest).map_err(ManifestError::Digest)?;
    }
    if let Document::Image { layers, .. } = &document {
        check_layers(layers)?;
    }
    Ok(document)
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
        if !kind.starts_with("application/vnd.oci.image.layer.v1.tar")
            && !kind.starts_with("application/vnd.docker.image.rootfs.diff.tar")
        {
            return Err(ManifestError::Layer(kind.to_owned()));
        }
    }
    Ok(())
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
    volumes: Option<std::collections::BTreeMap<String, serde_json::Value>>,
    labels: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RootfsJson {
    diff_ids: Vec<String>,
}

/// What an image's config says, and its layers' diff ids.
///
/// # Errors
/// [`ManifestError::Json`], [`ManifestError::Digest`], [`ManifestError::Count`].
pub fn config(bytes: &[u8], layers: usize) -> Result<(ImageConfig, Vec<String>), ManifestError> {
    let json: ConfigJson = serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
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
mod test {
    use serde_json::json;

    use super::*;

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    #[test]
    fn documents_are_what_they_are_served_as() {
        let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(1), "size": 1});
        let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(2), "size": 1});
        let image = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
        assert!(matches!(
            parse(image.as_bytes(), OCI_MANIFEST),
            Ok(Document::Image { .. })
        ));
        assert!(parse(image.as_bytes(), OCI_INDEX).is_err());
        let both = json!({"schemaVersion": 2, "config": config, "layers": [layer], "manifests": []}).to_string();
        assert_eq!(parse(both.as_bytes(), OCI_MANIFEST), Err(ManifestError::Ambiguous));
        assert_eq!(parse(br#"{"schemaVersion": 1}"#, ""), Err(ManifestError::Schema1));
        let foreign = image.replace("layer.v1.tar+gzip", "layer.nondistributable.v1.tar+gzip");
        assert!(matches!(
            parse(foreign.as_bytes(), OCI_MANIFEST),
            Err(ManifestError::Foreign(_))
        ));
        let climbing = image.replace(&digest(1), "sha256:../../../x");
        assert!(matches!(
            parse(climbing.as_bytes(), OCI_MANIFEST),
            Err(ManifestError::Digest(_))
        ));
    }

    #[test]
    fn the_host_platform_is_chosen() {
        let entry = |arch: &str, variant: &str, n| json!({"digest": digest(n), "size": 1, "platform": {"os": "linux", "architecture": arch, "variant": variant}});
        let arch = architecture();
        let index = json!({"schemaVersion": 2, "manifests": [entry("s390x", "", 1), entry(arch, "v3", 2), entry(arch, "", 3), entry("unknown", "", 4)]});
        let Ok(Document::Index(list)) = parse(index.to_string().as_bytes(), OCI_INDEX) else {
            panic!()
        };
        assert_eq!(select(&list).unwrap().digest, digest(3));
        assert!(matches!(
            select(&[list[0].clone(), list[0].clone()]),
            Err(ManifestError::NoPlatform(_))
        ));
    }

    #[test]
    fn signals_have_numbers_and_names() {
        let table = [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("0", None),
            ("SIGX", None),
            ("99", None),
        ];
        for (text, number) in table {
            assert_eq!(signal(text), number, "{text}");
        }
    }
}
