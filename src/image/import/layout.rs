//! OCI layouts, as `skopeo copy … oci-archive:` and `oci:` make them, Docker since 25, nerdctl and BuildKit.
//!
//! Sources: OCI image-spec, "OCI Image Layout Specification", "Pre-Defined Annotation Keys"; containerd
//! `core/images/annotations.go` for the name that it writes.

use super::{Found, ImageError, ImportError, Layer, MOST_IMAGES, source::Source};
use crate::image::{
    content::sha256,
    manifest::{self, Descriptor, Document, ManifestError},
};

/// What makes a folder or archive a layout.
pub const INDEX: &str = "index.json";
/// A whole reference; it wins.
const FULL_NAME: &str = "io.containerd.image.name";
/// A whole reference or a tag alone, as who wrote it liked.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The images of a layout. Entries of its index that mean the same are one image with several names.
pub fn read(source: &Source, index: &[u8]) -> Result<Vec<Found>, ImageError> {
    let document = manifest::parse(index, manifest::OCI_INDEX).map_err(|error| fault(INDEX, &error))?;
    let Document::Index(entries) = document else {
        return Err(fault(INDEX, &"not an index").into());
    };
    let mut chosen: Vec<(&Descriptor, Vec<String>)> = Vec::new();
    for entry in &entries {
        let count = chosen.len();
        match chosen.iter_mut().find(|(known, _)| known.digest == entry.digest) {
            Some((_, names)) => names.extend(name(entry)),
            None if count == MOST_IMAGES => return Err(fault(INDEX, &"more images than allowed").into()),
            None => chosen.push((entry, name(entry).into_iter().collect())),
        }
    }
    // One image for several platforms, not wrapped in an index of its own.
    if chosen.len() > 1 && chosen.iter().all(|(_, names)| names.is_empty()) {
        let entry = manifest::select(&entries).map_err(|error| fault(INDEX, &error))?;
        chosen = vec![(entry, Vec::new())];
    }
    if chosen.is_empty() {
        return Err(fault(INDEX, &"no image is in it").into());
    }
    chosen
        .into_iter()
        .map(|(entry, names)| image(source, &entry.digest, names))
        .collect()
}

/// A tag alone names nothing.
fn name(entry: &Descriptor) -> Option<String> {
    let whole = |name: &&str| name.contains(['/', ':']);
    let name = entry.annotation(FULL_NAME).or(entry.annotation(REF_NAME).filter(whole));
    name.map(str::to_owned)
}

/// Follows indexes down to this host's image.
fn image(source: &Source, digest: &str, names: Vec<String>) -> Result<Found, ImageError> {
    let mut wanted = digest.to_owned();
    let mut blobs = Vec::new();
    for _ in 0..manifest::DEPTH {
        let bytes = blob(source, &wanted)?;
        let document = manifest::parse(&bytes, "").map_err(|error| fault(&file(&wanted), &error))?;
        blobs.push((wanted.clone(), bytes));
        match document {
            Document::Index(inner) => {
                let ours = manifest::select(&inner).map_err(|error| fault(&file(&wanted), &error))?;
                wanted.clone_from(&ours.digest);
            }
            Document::Artifact(artifact) => {
                let why = format!("an artifact ({}), no image: it can only be pulled", artifact.kind);
                return Err(fault(&file(&wanted), &why).into());
            }
            Document::Image { config, layers } => {
                return Ok(Found {
                    names,
                    digest: Some(digest.to_owned()),
                    blobs,
                    config: blob(source, &config.digest)?,
                    layers: layers
                        .iter()
                        .map(|layer| self::layer(source, layer))
                        .collect::<Result<_, _>>()?,
                });
            }
        }
    }
    Err(fault(&file(digest), &ManifestError::Depth).into())
}

fn layer(source: &Source, layer: &Descriptor) -> Result<Layer, ImportError> {
    let file = file(&layer.digest);
    let size = source.require(&file)?.size();
    match size == layer.size {
        true => Ok(Layer {
            file,
            digest: Some(layer.digest.clone()),
            size,
        }),
        false => Err(fault(&file, &format!("{size} bytes, not {}", layer.size))),
    }
}

/// A document by digest, verified.
fn blob(source: &Source, digest: &str) -> Result<Vec<u8>, ImageError> {
    let file = file(digest);
    let bytes = source
        .document(&file)?
        .ok_or_else(|| ImportError::Missing(file.clone()))?;
    match sha256(&bytes) {
        got if got == digest => Ok(bytes),
        got => Err(fault(&file, &format!("its digest is {got}")).into()),
    }
}

/// Digests were checked to be such when their document was parsed.
fn file(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn fault(file: &str, why: &dyn std::fmt::Display) -> ImportError {
    ImportError::Document {
        file: file.to_owned(),
        why: why.to_string(),
    }
}
