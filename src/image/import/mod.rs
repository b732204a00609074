//! Images from archives and folders, for nodes and tests without a registry.
//!
//! ```text
//! source (a tar file, compressed or not, or a folder: named files)
//!    └─▶ layout (OCI: index.json) or docker (manifest.json): what images there are, checked as far as documents go
//!           └─▶ here: every layer that is missing through a worker, then one commit, then the names
//! ```
//! An archive is imported as a whole or not at all.

mod docker;
mod layout;
pub mod preload;
mod source;

use std::{
    collections::HashMap,
    io::{self, Read},
    path::Path,
    process::Child,
    sync::Arc,
};

use super::{
    ImageError, Images, blocking,
    content::{Scratch, Writes, chain_ids, io as failed, sha256},
    manifest,
    pull::Lease,
    records::{ImageRecord, VERSION},
    reference::{Reference, shortened},
    store::{Made, MadeImage, Store},
    unpack::{Hashed, Unpacked},
    worker::{self, Tells, Workshop},
};
use crate::model::{ErrorKind, ImageId, ImageView};
use source::Source;

/// Most images of one archive, and most layers of them all.
const MOST_IMAGES: usize = 1000;
const MOST_LAYERS: usize = 10_000;

/// Why an archive or folder cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{0:?} is not an absolute path")]
    Relative(String),
    #[error("neither a file nor a folder")]
    Kind,
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("not a tar archive, or a damaged one")]
    Tar(#[source] io::Error),
    #[error("it has more than {0} bytes when it is decompressed")]
    Large(u64),
    #[error("more files than allowed, or longer names of them")]
    Files,
    #[error("{0} layers are in it: more than allowed")]
    Layers(usize),
    #[error("it is cut off in {}", shortened(.0))]
    Cut(String),
    #[error("neither index.json nor manifest.json is in it")]
    Nothing,
    #[error("{} is missing", shortened(.0))]
    Missing(String),
    #[error("{}: {why}", shortened(file))]
    Document { file: String, why: String },
    #[error("{0} has no name in it: it takes one to import it (--name, for one image)")]
    Nameless(String),
    #[error("{0} images are in it: one name is for one of them")]
    OneName(usize),
}

impl ImportError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(error) if error.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Relative(_) | Self::Nameless(_) | Self::OneName(_) => ErrorKind::InvalidArgument,
            _ => ErrorKind::FailedPrecondition,
        }
    }
}

/// How images are named.
#[derive(Debug, Clone)]
pub enum Naming {
    /// As the archive says.
    Own,
    /// The one image of the archive has this name instead of its own.
    As(Reference),
    /// As the archive says, but for names that are there already.
    Missing,
}

/// What an archive says of one image.
struct Found {
    names: Vec<String>,
    /// Of a manifest or an index, where there is one.
    digest: Option<String>,
    /// Manifests, by digest.
    blobs: Vec<(String, Vec<u8>)>,
    config: Vec<u8>,
    layers: Vec<Layer>,
}

impl Found {
    /// Sizes are those of files, which may have holes, and one file may be several layers.
    fn size_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.size);
        layers.fold(self.config.len() as u64, u64::saturating_add)
    }
}

/// A file of an archive that is a layer.
#[derive(Debug, Clone)]
struct Layer {
    file: String,
    /// Of the file as it is, where somebody says so.
    digest: Option<String>,
    size: u64,
}

/// An image that only lacks its layers.
struct Planned {
    made: MadeImage,
    layers: Vec<Layer>,
    diff_ids: Vec<String>,
}

/// Imports every image of the archive or folder at `path`.
pub async fn import(images: &Images, path: &Path, naming: Naming) -> Result<Vec<ImageView>, ImageError> {
    let named = |error| ImageError::Import {
        path: path.to_owned(),
        source: Box::new(error),
    };
    run(images, path, naming).await.map_err(named)
}

async fn run(images: &Images, path: &Path, naming: Naming) -> Result<Vec<ImageView>, ImageError> {
    let (store, path) = (images.store.clone(), path.to_owned());
    let (source, planned) = blocking(move || {
        let source = Source::open(&path, &store.content)?;
        let planned = plan(&store, &source, &naming)?;
        Ok((Arc::new(source), planned))
    })
    .await?;
    let chains = planned
        .iter()
        .flat_map(|image| image.made.record.layers.clone())
        .collect();
    let lease = Lease::new(images.store.clone(), chains);
    let done = unpack(images, &source, &planned, &lease).await;
    let store = images.store.clone();
    blocking(move || {
        let made = done.and_then(|done| commit(&store, planned, done));
        drop(lease);
        if made.is_err() {
            store.collect();
        }
        made
    })
    .await
}

/// Reads and checks every document.
fn plan(store: &Store, source: &Source, naming: &Naming) -> Result<Vec<Planned>, ImageError> {
    let index = source.document(layout::INDEX)?;
    let list = source.document(docker::LIST)?;
    let found = match (index, list) {
        (Some(index), list) => {
            let found = layout::read(source, &index)?;
            let is_named = found.iter().any(|image| !image.names.is_empty());
            match list {
                // Some write both, and names into one of them only.
                Some(list) if !is_named => docker::read(source, &list)?,
                _ => found,
            }
        }
        (None, Some(list)) => docker::read(source, &list)?,
        (None, None) => return Err(ImportError::Nothing.into()),
    };
    let count = found.len();
    let mut planned = Vec::new();
    for image in found {
        let names = match naming {
            Naming::As(_) if count > 1 => return Err(ImportError::OneName(count).into()),
            Naming::As(name) => vec![name.clone()],
            Naming::Own | Naming::Missing => parse_names(&image)?,
        };
        let names: Vec<Reference> = match naming {
            Naming::Missing => names
                .into_iter()
                .filter(|name| matches!(store.find(&name.to_string()), Ok(None)))
                .collect(),
            _ => names,
        };
        if !names.is_empty() {
            planned.push(plan_one(image, &names)?);
        }
    }
    match planned.iter().map(|image| image.layers.len()).sum() {
        0..=MOST_LAYERS => Ok(planned),
        count => Err(ImportError::Layers(count).into()),
    }
}

fn parse_names(image: &Found) -> Result<Vec<Reference>, ImageError> {
    if image.names.is_empty() {
        let config = sha256(&image.config);
        let what = image.digest.clone().unwrap_or(config);
        return Err(ImportError::Nameless(format!("the image {what}")).into());
    }
    image.names.iter().map(|name| name.parse()).collect()
}

fn plan_one(image: Found, names: &[Reference]) -> Result<Planned, ImageError> {
    let (run, diff_ids) = manifest::config(&image.config, image.layers.len())?;
    let id = sha256(&image.config);
    let by_digest = |digest: &String| {
        let mut all: Vec<_> = names.iter().map(|name| format!("{}@{digest}", name.name())).collect();
        all.sort();
        all.dedup();
        all
    };
    let record = ImageRecord {
        version: VERSION,
        id: ImageId(id.clone()),
        repo_tags: names.iter().filter_map(Reference::tagged).collect(),
        repo_digests: image.digest.as_ref().map(by_digest).unwrap_or_default(),
        size_bytes: image.size_bytes(),
        config: run,
        layers: chain_ids(&diff_ids),
        artifact: None,
        blobs: image.blobs.iter().map(|(digest, _)| digest.clone()).collect(),
        verdicts: Vec::new(),
        signatures: Vec::new(),
    };
    let mut documents = image.blobs;
    documents.push((id, image.config));
    Ok(Planned {
        made: MadeImage { record, documents },
        layers: image.layers,
        diff_ids,
    })
}

/// Layers that are unpacked and have no names yet.
struct Done {
    layers: Vec<(String, Scratch, Unpacked)>,
    writes: Writes,
    /// Nobody else unpacks the same before they have.
    turns: Vec<tokio::sync::OwnedMutexGuard<()>>,
}

/// Unpacks every layer that is not there, as many at once as pulls may.
async fn unpack(images: &Images, source: &Arc<Source>, planned: &[Planned], lease: &Lease) -> Result<Done, ImageError> {
    let writes = images.store.content.writes()?;
    let mut missing: HashMap<&String, (&Layer, &String)> = HashMap::new();
    for image in planned {
        let layers = image.layers.iter().zip(&image.diff_ids);
        for (chain_id, layer) in image.made.record.layers.iter().zip(layers) {
            if !lease.has(chain_id) {
                missing.insert(chain_id, layer);
            }
        }
    }
    // Turns are taken in one order by everybody, pulls too, or two could wait for each other.
    let mut missing: Vec<_> = missing.into_iter().collect();
    missing.sort_by_key(|(chain_id, _)| *chain_id);
    let (mut turns, mut tasks) = (Vec::new(), tokio::task::JoinSet::new());
    let asker = images.pulls.asker();
    for (chain_id, (layer, diff_id)) in missing {
        turns.push(images.pulls.turn(chain_id).lock_owned().await);
        if lease.has(chain_id) {
            continue;
        }
        let (source, store, workers) = (source.clone(), images.store.clone(), images.pulls.workers.clone());
        let workshop = images.pulls.workshop();
        let (chain_id, layer, diff_id) = (chain_id.clone(), layer.clone(), diff_id.clone());
        tasks.spawn(async move {
            let place = workers.take(asker).await;
            blocking(move || {
                let (scratch, unpacked) = unpack_layer(&store, &workshop, &source, &layer, &diff_id)?;
                drop(place);
                Ok((chain_id, scratch, unpacked))
            })
            .await
        });
    }
    // All of them are waited for: nothing is to be left when this returns.
    let results = tasks.join_all().await;
    let layers = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(Done { layers, writes, turns })
}

/// A worker that does not outlive who started it.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // Both do nothing to one that has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn unpack_layer(
    store: &Store,
    workshop: &Workshop,
    source: &Source,
    layer: &Layer,
    diff_id: &str,
) -> Result<(Scratch, Unpacked), ImageError> {
    let name = layer.digest.clone().unwrap_or_else(|| shortened(&layer.file));
    let fail = |why: String| ImageError::Layer {
        digest: name.clone(),
        why,
    };
    let scratch = store.content.scratch()?;
    let child = workshop.worker(&scratch, Tells::Outcome).spawn();
    let mut worker = Worker(child.map_err(|error| fail(format!("start the unpack worker: {error}")))?);
    let file = source.require(&layer.file)?;
    let mut file = Hashed::new(file);
    if let Some(mut stdin) = worker.0.stdin.take() {
        match io::copy(&mut file, &mut stdin) {
            // A worker that has given up closes its end; it says why below.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            copied => drop(copied.map_err(ImportError::Read)?),
        }
    }
    io::copy(&mut file, &mut io::sink()).map_err(ImportError::Read)?;
    let got = file.digest();
    if let Some(expected) = layer.digest.as_ref().filter(|expected| **expected != got) {
        return Err(ImageError::Digest {
            what: "a layer",
            expected: expected.clone(),
            got,
        });
    }
    let mut told = String::new();
    if let Some(stdout) = worker.0.stdout.take() {
        let read = stdout.take(worker::MOST_ANSWER).read_to_string(&mut told);
        read.map_err(|error| fail(error.to_string()))?;
    }
    let status = worker.0.wait().map_err(|error| fail(error.to_string()))?;
    let unpacked = worker::outcome(&told, status, &scratch, &name, Some(diff_id))?;
    Ok((scratch, unpacked))
}

fn commit(store: &Store, planned: Vec<Planned>, done: Done) -> Result<Vec<ImageView>, ImageError> {
    let images: Vec<_> = planned.into_iter().map(|image| image.made).collect();
    let records: Vec<_> = images.iter().map(|image| image.record.clone()).collect();
    let Done { layers, writes, turns } = done;
    store.commit(Made { layers, images }, &writes)?;
    drop(turns);
    Ok(records.iter().map(|record| store.view(record)).collect())
}
