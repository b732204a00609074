//! A pull: manifest, config, and all layers at once, each a pipeline from the socket into a jailed worker.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{
    Config, ImageError, Images,
    content::{Scratch, chain_ids, sha256},
    manifest::{self, Descriptor, Document, ManifestError},
    records::{ImageRecord, VERSION},
    reference::Reference,
    registry::{Puller, Registry, Session, Taking, Traffic},
    shares::Asker,
    store::Store,
    unpack::{Refusal, Snapshotter, Unpacked},
};
use crate::model::{Auth, ErrorKind, ImageId};

/// Most bytes of an image's config.
const MOST_CONFIG: u64 = 8 << 20;

/// What pulls share.
pub struct Pulls {
    /// How many layers are unpacked at once.
    workers: Arc<Semaphore>,
    /// What they fetch, all together.
    traffic: Arc<Traffic>,
    askers: AtomicU64,
    /// One download per layer: whoever comes second waits for the first. Guards the table only.
    layers: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Pulls {
    pub fn new(config: &Config) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let count = if config.concurrent_layers == 0 {
            cores + 1
        } else {
            config.concurrent_layers
        };
        Self {
            workers: Arc::new(Semaphore::new(count)),
            traffic: Arc::new(Traffic::new(config.bounds())),
            askers: AtomicU64::new(0),
            layers: Mutex::default(),
        }
    }

    /// Someone who asks for places, and gets as many as the others do.
    fn asker(&self) -> Asker {
        self.askers.fetch_add(1, Ordering::Relaxed)
    }

    /// The turn of whoever fetches a layer.
    fn turn(&self, chain_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut layers = self.layers.lock().expect("no panic while the table is held");
        layers.retain(|_, turn| turn.strong_count() > 0);
        match layers.get(chain_id).and_then(Weak::upgrade) {
            Some(turn) => turn,
            None => {
                let turn = Arc::new(tokio::sync::Mutex::new(()));
                layers.insert(chain_id.to_owned(), Arc::downgrade(&turn));
                turn
            }
        }
    }
}

/// An image in a registry, resolved for this host.
struct Found {
    config: Descriptor,
    layers: Vec<Descriptor>,
    /// What the reference itself means: an index's digest if it is one.
    digest: String,
    /// Manifests on the way, to be kept.
    blobs: Vec<(String, Vec<u8>)>,
}

/// Pulls what a name may mean, the first of it that is there.
pub async fn pull(images: &Images, text: &str, puller: Puller<'_>) -> Result<ImageId, ImageError> {
    let registry = Registry::open(&images.config.files(), text, &puller, Taking::Once)?;
    let mut first = None;
    for candidate in registry.candidates(text)? {
        match pull_one(images, &registry, candidate.reference, puller.auth).await {
            Ok(id) => return Ok(id),
            Err(error) => {
                tracing::debug!(image = text, %error, "next candidate");
                // That it is not in one of them says less than anything else.
                let says_more = |known: &ImageError| known.kind() != ErrorKind::NotFound;
                first = Some(first.filter(says_more).unwrap_or(error));
            }
        }
    }
    Err(first.unwrap_or(ImageError::Abandoned))
}

async fn pull_one(
    images: &Images,
    registry: &Registry,
    reference: Reference,
    auth: Option<&Auth>,
) -> Result<ImageId, ImageError> {
    let pulls = &images.pulls;
    let session = Arc::new(registry.resolve(&reference, auth, &pulls.traffic, pulls.asker())?);
    let found = find(&session, &reference).await?;
    let config_bytes = fetch_config(&session, &found.config).await?;
    let (config, diff_ids) = manifest::config(&config_bytes, found.layers.len())?;
    let chain = chain_ids(&diff_ids);
    let store = images.store.clone();
    let lease = Lease::new(store.clone(), chain.clone());
    fetch_layers(images, &session, &found.layers, &diff_ids, &lease).await?;
    let record = ImageRecord {
        version: VERSION,
        id: ImageId(found.config.digest.clone()),
        repo_tags: reference
            .tagged()
            .filter(|_| reference.digest.is_none())
            .into_iter()
            .collect(),
        repo_digests: vec![format!("{}@{}", reference.name(), found.digest)],
        size_bytes: found.config.size + found.layers.iter().map(|layer| layer.size).sum::<u64>(),
        config,
        layers: chain,
        blobs: found.blobs.iter().map(|(digest, _)| digest.clone()).collect(),
    };
    let config_digest = found.config.digest.clone();
    let named = tokio::task::spawn_blocking(move || {
        for (digest, bytes) in found.blobs.iter().chain([&(config_digest, config_bytes)]) {
            store.content.write_blob(digest, bytes)?;
        }
        let id = store.name(record)?;
        drop(lease);
        Ok(id)
    });
    named.await.map_err(|_| ImageError::Abandoned)?
}

/// Follows indexes down to this host's image.
async fn find(session: &Session, reference: &Reference) -> Result<Found, ImageError> {
    const DEPTH: usize = 3;
    let mut wanted = reference.wanted().to_owned();
    let mut blobs = Vec::new();
    for _ in 0..DEPTH {
        let fetched = session.manifest(&wanted).await?;
        blobs.push((fetched.digest.clone(), fetched.bytes));
        let (_, bytes) = blobs.last().expect("just pushed");
        match manifest::parse(bytes, &fetched.media_type)? {
            Document::Index(index) => wanted.clone_from(&manifest::select(&index)?.digest),
            Document::Image { config, layers } => {
                return Ok(Found {
                    config,
                    layers,
                    digest: blobs[0].0.clone(),
                    blobs,
                });
            }
        }
    }
    Err(ManifestError::Depth.into())
}

async fn fetch_config(session: &Session, config: &Descriptor) -> Result<Vec<u8>, ImageError> {
    if config.size > MOST_CONFIG {
        return Err(ManifestError::Json(format!("a config of {} bytes", config.size)).into());
    }
    let mut stream = session.blob(&config.digest, config.size).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
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

/// A pull's claim on its layers: none is removed before the image is named.
pub struct Lease {
    store: Arc<Store>,
    chain: Vec<String>,
}

impl Lease {
    pub fn new(store: Arc<Store>, chain: Vec<String>) -> Self {
        for chain_id in &chain {
            store.lease(chain_id);
        }
        Self { store, chain }
    }

    fn has(&self, chain_id: &str) -> bool {
        let present = self.store.lease(chain_id);
        self.store.end_lease(&[chain_id.to_owned()]);
        present
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.end_lease(&self.chain);
    }
}

/// Fetches and unpacks every layer that is not there, all at once, and commits them together.
async fn fetch_layers(
    images: &Images,
    session: &Arc<Session>,
    layers: &[Descriptor],
    diff_ids: &[String],
    lease: &Lease,
) -> Result<(), ImageError> {
    // Turns are taken in one order by everybody, or two pulls could wait for each other.
    let mut missing: Vec<usize> = (0..layers.len()).filter(|at| !lease.has(&lease.chain[*at])).collect();
    missing.sort_by(|a, b| lease.chain[*a].cmp(&lease.chain[*b]));
    missing.dedup_by(|a, b| lease.chain[*a] == lease.chain[*b]);
    let mut turns = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for at in missing {
        let chain_id = lease.chain[at].clone();
        turns.push(images.pulls.turn(&chain_id).lock_owned().await);
        if lease.has(&chain_id) {
            continue;
        }
        let (session, layer, diff_id) = (session.clone(), layers[at].clone(), diff_ids[at].clone());
        let (store, workers) = (images.store.clone(), images.pulls.workers.clone());
        tasks.spawn(async move {
            let permit = workers.acquire_owned().await.map_err(|_| ImageError::Abandoned)?;
            let (scratch, unpacked) = fetch_layer(&store, &session, &layer, &diff_id, permit).await?;
            Ok::<_, ImageError>((chain_id, scratch, unpacked))
        });
    }
    let mut unpacked = Vec::new();
    while let Some(done) = tasks.join_next().await {
        // The first failure drops the set: the other workers are killed and their folders removed.
        unpacked.push(done.map_err(|_| ImageError::Abandoned)??);
    }
    let store = images.store.clone();
    let commit = tokio::task::spawn_blocking(move || store.content.commit_layers(unpacked));
    commit.await.map_err(|_| ImageError::Abandoned)??;
    drop(turns);
    Ok(())
}

/// One layer's pipeline: the socket, the digest of what came, the worker's stdin.
async fn fetch_layer(
    store: &Store,
    session: &Session,
    layer: &Descriptor,
    diff_id: &str,
    _permit: OwnedSemaphorePermit,
) -> Result<(Scratch, Unpacked), ImageError> {
    let fail = |why: String| ImageError::Layer {
        digest: layer.digest.clone(),
        why,
    };
    let scratch = store.content.scratch()?;
    let mut worker = Command::new("/proc/self/exe")
        .arg0("inro-unpack")
        .args([
            "unpack-worker".as_ref(),
            scratch.path.join("fs").as_os_str(),
            "auto".as_ref(),
            Snapshotter::Overlay.name().as_ref(),
            "outcome".as_ref(),
        ])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| fail(format!("start the unpack worker: {error}")))?;
    let (mut stdin, stdout) = (worker.stdin.take(), worker.stdout.take());
    let mut stream = session.blob(&layer.digest, layer.size).await?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    while let Some(chunk) = stream.chunk().await? {
        hash.update(&chunk);
        size += chunk.len() as u64;
        // A worker that has given up closes its end; it says why below.
        if let Some(pipe) = &mut stdin
            && pipe.write_all(&chunk).await.is_err()
        {
            stdin = None;
        }
    }
    drop(stdin);
    let got = format!(
        "sha256:{}",
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    );
    if size != layer.size {
        return Err(fail(format!("{size} bytes came, not {}", layer.size)));
    }
    if got != layer.digest {
        return Err(ImageError::Digest {
            what: "a layer",
            expected: layer.digest.clone(),
            got,
        });
    }
    let mut told = String::new();
    if let Some(mut stdout) = stdout {
        // Most bytes of an honest answer: a line for each opaque folder.
        let mut bounded = (&mut stdout).take(16 << 20);
        bounded
            .read_to_string(&mut told)
            .await
            .map_err(|error| fail(error.to_string()))?;
    }
    let status = worker.wait().await.map_err(|error| fail(error.to_string()))?;
    let outcome: Result<Unpacked, Refusal> =
        serde_json::from_str(&told).map_err(|_| fail(format!("the unpack worker died: {status}")))?;
    let unpacked = outcome.map_err(|refusal| match refusal.errno {
        // The node's fault, not the layer's.
        Some(errno @ (libc::ENOSPC | libc::EDQUOT)) => ImageError::Io {
            action: "unpack a layer into",
            path: scratch.path.clone(),
            source: std::io::Error::from_raw_os_error(errno),
        },
        _ => fail(refusal.why),
    })?;
    if unpacked.diff_id != diff_id {
        let expected = diff_id.to_owned();
        return Err(ImageError::Digest {
            what: "an uncompressed layer",
            expected,
            got: unpacked.diff_id,
        });
    }
    Ok((scratch, unpacked))
}
