//! Whether the store still has what was put into it, and repair of what it has not.
//!
//! Manifests and configs are hashed again, and compared with the record; a layer's files are compared with the digest of
//! its tree that was taken when it was unpacked. What is damaged is had from the image's registry again: that document,
//! or that layer, and nothing else. A layer below a container is left as it is.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    ImageError, Images, blocking,
    content::{chain_ids, sha256},
    manifest,
    pull::{self, Found, Lease},
    records::ImageRecord,
    reference::Reference,
    registry::{Puller, Registry, Session, Taking},
    store::{self, Store},
    unpack::{digest_of_stored, erofs::verity},
};
use crate::model::{Auth, Damage, Damaged, Layer, Repair, Verified, chain};

/// Verifies the images called `names`, or all, and with `repair` mends what is damaged. Ends early, between two files, when
/// it is dropped.
pub async fn verify(images: &Images, names: &[String], repair: Option<Repairing>) -> Result<Verified, ImageError> {
    let records = records(images, names)?;
    let chains = records.iter().flat_map(|record| record.layers.clone()).collect();
    // None is removed meanwhile, nor a document: there is a lease.
    let lease = Lease::new(images.store.clone(), chains);
    let stop = Stop::default();
    let mut outcome = Verified::default();
    let mut seen = HashSet::new();
    for record in records {
        outcome.images += 1;
        let mut damages = Vec::new();
        for step in steps(&record) {
            if !seen.insert(step.what().1.to_owned()) {
                continue;
            }
            let (store, record, stopped) = (images.store.clone(), record.clone(), stop.0.clone());
            let (step, result) = blocking(move || {
                let result = check(&store, &record, &step, &stopped);
                Ok((step, result))
            })
            .await?;
            let count = match step {
                Step::Layer(_) => &mut outcome.layers,
                _ => &mut outcome.documents,
            };
            *count += 1;
            match result {
                Ok(Checked::Whole) => {}
                Ok(Checked::ByPresence) => outcome.by_presence += 1,
                Err(why) => damages.push((step, why)),
            }
        }
        let mut mender = repair.as_ref().map(|repairing| Mender::new(images, &record, repairing));
        for (step, why) in damages {
            let repair = match &mut mender {
                None => Repair::NotAsked,
                Some(mender) => match mender.mend(&step).await {
                    Ok(()) => Repair::Done,
                    Err(error) => Repair::Failed(chain(&error)),
                },
            };
            let (what, digest) = step.what();
            outcome.damaged.push(Damaged {
                what,
                digest: digest.to_owned(),
                why,
                image: display_name(&record),
                repair,
            });
        }
    }
    drop(lease);
    Ok(outcome)
}

/// How to repair.
pub struct Repairing {
    /// For the registries of the images.
    pub auth: Option<Auth>,
}

fn records(images: &Images, names: &[String]) -> Result<Vec<ImageRecord>, ImageError> {
    if names.is_empty() {
        return Ok(images.store.records());
    }
    let one = |name: &String| {
        let found = images.find(name)?.and_then(|image| images.store.record(&image.id));
        found.ok_or_else(|| ImageError::NotFound(name.clone()))
    };
    names.iter().map(one).collect()
}

fn display_name(record: &ImageRecord) -> String {
    let mut names = record.repo_tags.iter().chain(&record.repo_digests);
    names.next().unwrap_or(&record.id.0).clone()
}

/// Tells the check under way when nobody waits for it any more.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One thing of an image that can be damaged by itself.
enum Step {
    Record(String),
    Config(String),
    Manifest(String),
    /// By chain id.
    Layer(String),
}

impl Step {
    fn what(&self) -> (Damage, &str) {
        match self {
            Self::Record(id) => (Damage::Record, id),
            Self::Config(digest) => (Damage::Config, digest),
            Self::Manifest(digest) => (Damage::Manifest, digest),
            Self::Layer(chain_id) => (Damage::Layer, chain_id),
        }
    }
}

/// The record's is told by the name of its file: the config has the same digest.
fn steps(record: &ImageRecord) -> Vec<Step> {
    let id = &record.id.0;
    let mut steps = vec![Step::Record(format!("images/{}", id.trim_start_matches("sha256:")))];
    if record.artifact.is_none() {
        steps.push(Step::Config(id.clone()));
    }
    steps.extend(record.blobs.iter().cloned().map(Step::Manifest));
    steps.extend(record.layers.iter().cloned().map(Step::Layer));
    steps
}

enum Checked {
    Whole,
    /// A layer without a digest of its tree, of a time when none was taken.
    ByPresence,
}

/// Blocks. The error is what is wrong.
fn check(store: &Store, record: &ImageRecord, step: &Step, stopped: &AtomicBool) -> Result<Checked, String> {
    match step {
        Step::Record(_) => {
            let stored = store::read(&store.content_of(&record.id).image(&record.id.0));
            let same = stored.is_some_and(|stored| stored == *record);
            same.then_some(Checked::Whole)
                .ok_or_else(|| "it is not what the daemon has read at its start".into())
        }
        Step::Config(digest) => {
            let bytes = check_blob(store, record, digest)?;
            let (run, diff_ids) = manifest::config(&bytes, record.layers.len()).map_err(|error| error.to_string())?;
            let same = chain_ids(&diff_ids) == record.layers && run == record.config;
            same.then_some(Checked::Whole)
                .ok_or_else(|| "the image's record says something else".into())
        }
        Step::Manifest(digest) => check_blob(store, record, digest).map(|_| Checked::Whole),
        Step::Layer(chain_id) => check_layer(store, chain_id, stopped),
    }
}

fn check_blob(store: &Store, record: &ImageRecord, digest: &str) -> Result<Vec<u8>, String> {
    let path = store.content_of(&record.id).blob(digest);
    let bytes = fs::read(path).map_err(|error| format!("it cannot be read: {error}"))?;
    match sha256(&bytes) {
        got if got == digest => Ok(bytes),
        got => Err(format!("its digest is {got}")),
    }
}

fn check_layer(store: &Store, chain_id: &str, stopped: &AtomicBool) -> Result<Checked, String> {
    let content = store.content_with(chain_id);
    let record = content.layer_record(chain_id).ok_or("its mark is missing or damaged")?;
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    let go_on = || !stopped.load(Ordering::Relaxed);
    let (known, got) = match content.layer_in_use(chain_id, Some(&record)) {
        Layer::Folder(folder) => {
            let root = File::open(folder).map_err(unreadable)?;
            let Some(tree) = record.tree else {
                return Ok(Checked::ByPresence);
            };
            (Some(tree), digest_of_stored(&root, go_on))
        }
        Layer::Erofs { file, .. } => {
            let file = File::open(file).map_err(unreadable)?;
            (record.erofs.map(|erofs| erofs.digest), verity::digest_of(file, go_on))
        }
    };
    match got.map_err(unreadable)? {
        got if Some(&got) == known.as_ref() => Ok(Checked::Whole),
        _ => Err("its files are not those that were unpacked".into()),
    }
}

/// Mends one image; its registry is asked when it is needed.
struct Mender<'a> {
    images: &'a Images,
    record: &'a ImageRecord,
    repairing: &'a Repairing,
    found: Option<(Arc<Session>, Found)>,
}

impl<'a> Mender<'a> {
    fn new(images: &'a Images, record: &'a ImageRecord, repairing: &'a Repairing) -> Self {
        Self {
            images,
            record,
            repairing,
            found: None,
        }
    }

    async fn mend(&mut self, step: &Step) -> Result<(), ImageError> {
        let (store, id) = (&self.images.store, &self.record.id);
        if let Some(place) = store.read_only(id).filter(|place| *place == store.content_of(id).root) {
            return Err(ImageError::ReadOnly {
                what: step.what().1.to_owned(),
                store: place.to_owned(),
            });
        }
        match step {
            Step::Record(_) => {
                let (store, id) = (self.images.store.clone(), self.record.id.clone());
                blocking(move || store.rewrite(&id)).await
            }
            Step::Config(digest) => {
                let (session, found) = self.found().await?;
                let bytes = found.config(session).await?;
                self.replace(digest, bytes).await
            }
            Step::Manifest(digest) => {
                let (_, found) = self.found().await?;
                let served = found.blobs.iter().find(|(served, _)| served == digest);
                let bytes = served.map(|(_, bytes)| bytes.clone());
                let bytes = bytes.ok_or_else(|| ImageError::NotFound(format!("manifest {digest}")))?;
                self.replace(digest, bytes).await
            }
            Step::Layer(chain_id) => self.mend_layer(chain_id).await,
        }
    }

    async fn replace(&self, digest: &str, bytes: Vec<u8>) -> Result<(), ImageError> {
        let (store, digest) = (self.images.store.clone(), digest.to_owned());
        blocking(move || store.content.replace_blob(&digest, &bytes)).await
    }

    async fn mend_layer(&mut self, chain_id: &str) -> Result<(), ImageError> {
        let images = self.images;
        images.store.check_unused(chain_id)?;
        let (session, found) = self.found().await?;
        let layers = found.parts(session).await?.layers;
        let missing = || ImageError::NotFound(format!("layer {chain_id}"));
        let layer = layers
            .iter()
            .find(|layer| layer.chain_id == chain_id)
            .ok_or_else(missing)?;
        let _turn = images.pulls.turn(chain_id).lock_owned().await;
        let _place = images.pulls.workers.take(images.pulls.asker()).await;
        let progress = images.pulls.lone(&layer.blob);
        let writes = images.store.content.writes()?;
        let fetched = pull::fetch_layer(images, session, layer, &progress).await?;
        let store = images.store.clone();
        blocking(move || {
            let (chain_id, scratch, unpacked) = fetched.settle();
            store.replace_layer(&chain_id, scratch, unpacked, &writes)
        })
        .await
    }

    /// The image where it came from: by digest, or by a tag that still means it.
    async fn found(&mut self) -> Result<&(Arc<Session>, Found), ImageError> {
        if self.found.is_none() {
            self.found = Some(self.ask().await?);
        }
        Ok(self.found.as_ref().expect("just asked"))
    }

    async fn ask(&self) -> Result<(Arc<Session>, Found), ImageError> {
        let mut last = ImageError::NotFound(format!("registry of {}, which has no name", self.record.id));
        for name in self.record.repo_digests.iter().chain(&self.record.repo_tags) {
            match self.ask_for(name).await {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask_for(&self, name: &str) -> Result<(Arc<Session>, Found), ImageError> {
        let reference: Reference = name.parse()?;
        let auth = self.repairing.auth.as_ref();
        let puller = Puller { auth, namespace: None };
        let registry = Registry::open(&self.images.config.files(), name, &puller, Taking::Never)?;
        let pulls = &self.images.pulls;
        let session = Arc::new(registry.resolve(&reference, auth, &pulls.traffic, pulls.asker())?);
        let found = pull::find(&session, &reference).await?;
        match found.id() == self.record.id.0 {
            true => Ok((session, found)),
            false => Err(ImageError::Digest {
                what: "the image of this name",
                expected: self.record.id.0.clone(),
                got: found.id().to_owned(),
            }),
        }
    }
}
