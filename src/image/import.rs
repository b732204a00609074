//! Images from archives: an OCI layout in a tar file, as `skopeo copy … oci-archive:` makes it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Seek},
    path::Path,
    sync::Arc,
};

use super::{
    ImageError,
    content::{chain_ids, io, sha256},
    manifest::{self, Document, ManifestError},
    pull::Lease,
    records::{ImageRecord, VERSION},
    reference::Reference,
    store::Store,
    unpack::{self, Compression, Limits, Pulse},
};
use crate::model::ImageId;

/// Most bytes of a document of an archive.
const MOST_DOCUMENT: u64 = 8 << 20;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Imports every `*.tar` of a folder under the name that its index gives it.
pub fn preload(store: &Arc<Store>, folder: &Path) {
    let mut archives: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    archives.sort();
    for path in archives {
        let imported = File::open(&path)
            .map_err(io("open", &path))
            .and_then(|file| import(store, file, ""));
        match imported {
            Ok(id) => tracing::info!(archive = %path.display(), image = %id, "imported"),
            Err(error) => tracing::error!(archive = %path.display(), %error, "cannot be imported"),
        }
    }
}

/// Imports an archive's image under `name`, or with an empty one under its own. The archive is the operator's: its
/// layers are unpacked here, by the same extractor.
pub fn import(store: &Arc<Store>, archive: impl Read, name: &str) -> Result<ImageId, ImageError> {
    let blobs = Blobs::read(store, archive)?;
    let index = blobs.document("index.json")?;
    let Document::Index(entries) = manifest::parse(&index, "")? else {
        return Err(ImageError::Archive("index.json is not an index".into()));
    };
    let entry = entries
        .first()
        .ok_or_else(|| ImageError::Archive("index.json is empty".into()))?;
    let name = match (name, entry.annotation(REF_NAME)) {
        ("", Some(own)) => own,
        ("", None) => return Err(ImageError::Archive(format!("index.json names no image by {REF_NAME}"))),
        (name, _) => name,
    };
    let reference: Reference = name.parse()?;
    let mut digest = entry.digest.clone();
    let (config, layers) = loop {
        match manifest::parse(&blobs.blob(&digest)?, "")? {
            Document::Index(inner) => digest.clone_from(&manifest::select(&inner)?.digest),
            Document::Image { config, layers } => break (config, layers),
            Document::Artifact(_) => return Err(ImageError::Archive(format!("{digest} is an artifact"))),
        }
    };
    let config_bytes = blobs.blob(&config.digest)?;
    let (run, diff_ids) = manifest::config(&config_bytes, layers.len())?;
    let chain = chain_ids(&diff_ids);
    let lease = Lease::new(store.clone(), chain.clone());
    let mut unpacked = Vec::new();
    for ((layer, diff_id), chain_id) in layers.iter().zip(&diff_ids).zip(&chain) {
        if store.content.layer_record(chain_id).is_some() {
            continue;
        }
        let scratch = store.content.scratch()?;
        let folder = scratch.unpacked();
        let target = File::open(&folder).map_err(io("open", &folder))?;
        let fail = |why: String| ImageError::Layer {
            digest: layer.digest.clone(),
            why,
        };
        let done = unpack::unpack(
            blobs.open(&layer.digest)?,
            Compression::Auto,
            &target,
            scratch.snapshotter,
            &Limits::default(),
            &Pulse::new(false),
        )
        .map_err(|error| fail(error.to_string()))?;
        if done.diff_id != *diff_id {
            return Err(ImageError::Digest {
                what: "an uncompressed layer",
                expected: diff_id.clone(),
                got: done.diff_id,
            });
        }
        unpacked.push((chain_id.clone(), scratch, done));
    }
    store.content.commit_layers(unpacked)?;
    store.content.write_blob(&digest, &blobs.blob(&digest)?)?;
    store.content.write_blob(&config.digest, &config_bytes)?;
    let id = store.name(ImageRecord {
        version: VERSION,
        id: ImageId(config.digest.clone()),
        repo_tags: reference.tagged().into_iter().collect(),
        repo_digests: vec![format!("{}@{digest}", reference.name())],
        size_bytes: config.size + layers.iter().map(|layer| layer.size).sum::<u64>(),
        config: run,
        layers: chain,
        artifact: None,
        blobs: vec![digest],
    })?;
    drop(lease);
    Ok(id)
}

/// The files of an archive, in `tmp` until the import ends.
struct Blobs {
    files: HashMap<String, File>,
}

impl Blobs {
    fn read(store: &Store, archive: impl Read) -> Result<Self, ImageError> {
        let broken = |error: std::io::Error| ImageError::Archive(error.to_string());
        let scratch = store.content.scratch()?;
        let mut files = HashMap::new();
        let mut tar = tar::Archive::new(archive);
        for (number, entry) in tar.entries().map_err(broken)?.enumerate() {
            let mut entry = entry.map_err(broken)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry
                .path()
                .map_err(broken)?
                .to_string_lossy()
                .trim_start_matches("./")
                .to_owned();
            let path = scratch.path.join(number.to_string());
            let mut file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .map_err(io("make", &path))?;
            std::io::copy(&mut entry, &mut file).map_err(io("write", &path))?;
            files.insert(name, file);
        }
        // The open files outlive their names.
        Ok(Self { files })
    }

    fn open(&self, digest: &str) -> Result<File, ImageError> {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        self.file(&format!("blobs/sha256/{hex}"))
    }

    fn file(&self, name: &str) -> Result<File, ImageError> {
        let broken = |error: std::io::Error| ImageError::Archive(format!("{name}: {error}"));
        let missing = || ImageError::Archive(format!("{name} is missing"));
        let mut file = self.files.get(name).ok_or_else(missing)?.try_clone().map_err(broken)?;
        file.rewind().map_err(broken)?;
        Ok(file)
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let read = self.file(name)?.take(MOST_DOCUMENT).read_to_end(&mut bytes);
        read.map_err(|error| ImageError::Archive(format!("{name}: {error}")))?;
        Ok(bytes)
    }

    /// A document by digest, verified.
    fn blob(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        super::reference::check_digest(digest).map_err(ManifestError::Digest)?;
        let bytes = self.document(&format!("blobs/sha256/{}", &digest["sha256:".len()..]))?;
        let got = sha256(&bytes);
        if got != digest {
            return Err(ImageError::Digest {
                what: "a blob of the archive",
                expected: digest.to_owned(),
                got,
            });
        }
        Ok(bytes)
    }
}
