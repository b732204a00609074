//! A pull: manifest, config, and all layers at once, each a pipeline from the socket into a jailed worker.

mod early;
mod flight;
mod found;
mod layer;
mod partial;
pub mod progress;

use std::{
    cmp::Reverse,
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use super::{
    Config, ImageError, Images, blocking,
    content::Content,
    manifest::Descriptor,
    records::{ImageRecord, VERSION},
    reference::Reference,
    registry::{Puller, Registry, Session, Taking, Traffic},
    shares::{Asker, Shares},
    store::{Made, MadeImage, Store},
    worker::Workshop,
};
use crate::model::{Auth, ErrorKind, ImageId};
use early::Early;
pub use flight::Waiting;
use flight::{Flights, Key};
pub use found::{Found, Making, Wanted, find};
use layer::Fetched;
pub use layer::fetch as fetch_layer;
use partial::{Keeping, Partials};
use progress::{Layer, Progress, PullView, Stage, Totals};

/// Makes the cgroup of the unpack workers and tells by which files it is joined.
pub type Confine = Box<dyn Fn() -> Result<Vec<PathBuf>, String> + Send + Sync>;
/// Is told of each pull that ends: whether it succeeded, and how long it took.
pub type PullObserver = Box<dyn Fn(bool, Duration) + Send + Sync>;

/// What pulls share.
pub struct Pulls {
    flights: Flights,
    /// Layers that are unpacked at once.
    pub workers: Arc<Shares>,
    pub traffic: Arc<Traffic>,
    partials: Arc<Partials>,
    /// How long a layer may stand still.
    progress_timeout: Duration,
    totals: Arc<Totals>,
    early: Early,
    askers: AtomicU64,
    confine: OnceLock<Confine>,
    observer: OnceLock<PullObserver>,
    /// One download per layer: whoever comes second waits for the first. Guards the table only.
    layers: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Pulls {
    /// # Errors
    /// [`ImageError::Io`].
    pub fn new(config: &Config, content: &Content) -> Result<Self, ImageError> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let count = match config.concurrent_layers {
            0 => cores + 1,
            count => count,
        };
        let keeping = Keeping {
            from_bytes: config.keep_partial_from,
            most_bytes: config.keep_partial_most,
        };
        let totals = Arc::<Totals>::default();
        Ok(Self {
            flights: Flights::default(),
            workers: Shares::new(count),
            traffic: Arc::new(Traffic::new(config.bounds())),
            partials: Partials::open(&content.root, keeping)?,
            progress_timeout: Duration::from_secs(config.progress_timeout_s),
            early: Early::new(content.clone(), totals.clone()),
            totals,
            askers: AtomicU64::new(0),
            confine: OnceLock::new(),
            observer: OnceLock::new(),
            layers: Mutex::default(),
        })
    }

    /// A number for who shares places with others.
    pub fn asker(&self) -> Asker {
        self.askers.fetch_add(1, Ordering::Relaxed)
    }

    /// How workers are started just now.
    pub fn workshop(&self) -> Workshop {
        let joins = match self.confine.get().map(|confine| confine()) {
            None => Vec::new(),
            Some(Ok(joins)) => joins,
            Some(Err(error)) => {
                tracing::debug!(error, "a worker is in the daemon's own cgroup");
                Vec::new()
            }
        };
        Workshop { joins }
    }

    /// From now on workers are in a cgroup of their own. There is one for good.
    ///
    /// # Errors
    /// Why it cannot be made; it is tried again for each worker.
    pub fn confine(&self, confine: Confine) -> Result<(), String> {
        let tried = confine().map(drop);
        let _ = self.confine.set(confine);
        tried
    }

    pub fn observe(&self, observer: PullObserver) {
        let _ = self.observer.set(observer);
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    pub fn views(&self) -> Vec<PullView> {
        self.flights.views()
    }

    /// Of a layer that is fetched for no pull.
    pub fn lone(&self, layer: &Descriptor) -> Layer {
        Layer::new(layer, self.totals.clone())
    }

    /// The turn of whoever fetches a layer.
    pub fn turn(&self, chain_id: &str) -> Arc<tokio::sync::Mutex<()>> {
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

/// Begins a pull of what a name means, or joins one of the same name by somebody with the same credentials.
///
/// # Errors
/// [`ImageError`] for what can be said before anybody is asked.
pub fn begin(images: &Images, text: &str, puller: Puller<'_>) -> Result<Waiting, ImageError> {
    // Read by each who asks: a namespace's file is for one pull, and its content is a part of who asks.
    let registry = Registry::open(&images.config.files(), text, &puller, Taking::Once)?;
    let key = Key {
        reference: text.to_owned(),
        puller: registry.fingerprint(&puller),
    };
    let pull = Pull {
        images: images.clone(),
        registry,
        auth: puller.auth.cloned(),
        namespace: puller.namespace.map(str::to_owned),
        asker: images.pulls.asker(),
    };
    let progress = Progress::new(text, images.pulls.totals.clone());
    Ok(images.pulls.flights.join(key, progress, |progress| async move {
        let outcome = pull.run(&progress).await;
        pull.ended(&progress, outcome.is_ok());
        outcome
    }))
}

/// A pull and for whom it is.
struct Pull {
    images: Images,
    registry: Registry,
    auth: Option<Auth>,
    namespace: Option<String>,
    asker: Asker,
}

impl Pull {
    /// Of several candidates the first that can be had.
    async fn run(&self, progress: &Progress) -> Result<ImageId, ImageError> {
        let text = &progress.reference;
        let mut first = None;
        for candidate in self.registry.candidates(text)? {
            match self.pull(candidate.reference, progress).await {
                Ok(id) => return Ok(id),
                // What a policy refuses is not looked for elsewhere under the same name.
                Err(error @ ImageError::Trust(_)) => return Err(error),
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

    /// Tells what a pull has cost.
    fn ended(&self, progress: &Progress, succeeded: bool) {
        let view = progress.view(0);
        if let Some(observer) = self.images.pulls.observer.get() {
            observer(succeeded, view.elapsed);
        }
        let sum = |of: fn(&progress::LayerView) -> u64| view.layers.iter().map(of).sum::<u64>();
        let present = view.layers.iter().filter(|layer| layer.stage == Stage::Present).count();
        let mut from: Vec<_> = view.layers.iter().filter_map(|layer| layer.endpoint.clone()).collect();
        from.sort();
        from.dedup();
        let elapsed_ms = view.elapsed.as_secs_f64() * 1000.0;
        tracing::info!(
            image = view.reference,
            succeeded,
            layers = view.layers.len(),
            layers_present = present,
            fetched_bytes = sum(|layer| layer.fetched_bytes - layer.kept_bytes),
            kept_bytes = sum(|layer| layer.kept_bytes),
            unpacked_bytes = sum(|layer| layer.unpacked_bytes),
            from = from.join(" "),
            elapsed_ms,
            "pulled"
        );
    }

    async fn pull(&self, reference: Reference, progress: &Progress) -> Result<ImageId, ImageError> {
        let images = &self.images;
        let policy = images.trust.in_force(self.namespace.as_deref().unwrap_or_default())?;
        // A registry that the policy rejects is not even asked.
        policy.iter().try_for_each(|policy| policy.check_name(&reference))?;
        let traffic = &images.pulls.traffic;
        let session = self
            .registry
            .resolve(&reference, self.auth.as_ref(), traffic, self.asker)?;
        let session = Arc::new(session);
        let found = find(&session, &reference).await?;
        // Nothing that the manifest names is fetched before.
        let trusted = match &policy {
            None => None,
            Some(policy) => Some(policy.judge_in(&session, &reference, &found.documents()).await?),
        };
        let parts = found.parts(&session).await?;
        let chain: Vec<String> = parts.layers.iter().map(|layer| layer.chain_id.clone()).collect();
        let store = images.store.clone();
        let lease = Lease::new(store.clone(), chain.clone());
        let layers = progress.set_layers(parts.layers.iter().map(|layer| &layer.blob));
        // Before the first byte is written.
        let writes = store.content.writes()?;
        let layers = parts.layers.into_iter().zip(layers).collect();
        let fetched = self.fetch_layers(&session, layers, &lease).await?;
        let mut record = ImageRecord {
            version: VERSION,
            id: ImageId(found.id().to_owned()),
            repo_tags: reference
                .tagged()
                .filter(|_| reference.digest.is_none())
                .into_iter()
                .collect(),
            repo_digests: vec![format!("{}@{}", reference.name(), found.digest)],
            size_bytes: parts.size_bytes,
            config: parts.run,
            layers: chain,
            artifact: found.artifact_kind(),
            blobs: found.documents(),
            verdicts: Vec::new(),
            signatures: Vec::new(),
        };
        if let Some((verdict, signatures)) = trusted {
            let (policy, scope) = (verdict.policy.display(), &verdict.scope);
            tracing::info!(image = %reference, %policy, scope, keys = ?verdict.keys, "trusted");
            record.trust(verdict, signatures);
        }
        let id = record.id.clone();
        let documents = found.blobs.into_iter().chain(parts.config).collect();
        blocking(move || {
            let images = vec![MadeImage { record, documents }];
            let layers = fetched.layers.into_iter().map(Fetched::settle).collect();
            let committed = store.commit(Made { layers, images }, &writes);
            drop((fetched.turns, lease));
            if committed.is_err() {
                store.collect();
            }
            committed.map(|()| id)
        })
        .await
    }

    /// Fetches and unpacks every layer that is not there, several at once.
    async fn fetch_layers(
        &self,
        session: &Arc<Session>,
        mut layers: Vec<(Wanted, Arc<Layer>)>,
        lease: &Lease,
    ) -> Result<FetchedLayers, ImageError> {
        let images = &self.images;
        let is_missing = |(layer, progress): &(Wanted, Arc<Layer>)| {
            let is_missing = !lease.has(&layer.chain_id);
            if !is_missing {
                progress.is_present();
            }
            is_missing
        };
        layers.retain(is_missing);
        // Turns are taken in one order by everybody, or two pulls could wait for each other.
        layers.sort_by(|(a, _), (b, _)| a.chain_id.cmp(&b.chain_id));
        layers.dedup_by(|(a, _), (b, _)| a.chain_id == b.chain_id);
        let (mut turns, mut ready) = (Vec::new(), Vec::new());
        let mut tasks = JoinSet::new();
        for layer in layers {
            let turn = images.pulls.turn(&layer.0.chain_id);
            let turn = match turn.clone().try_lock_owned() {
                Ok(turn) => turn,
                // Another pull fetches it: the others do not wait for that.
                Err(_) => {
                    self.begin(session, &mut ready, &mut tasks);
                    turn.lock_owned().await
                }
            };
            turns.push(turn);
            if is_missing(&layer) {
                ready.push(layer);
            }
        }
        self.begin(session, &mut ready, &mut tasks);
        let mut layers = Vec::new();
        while let Some(done) = tasks.join_next().await {
            match done.map_err(|_| ImageError::Abandoned).flatten() {
                Ok(layer) => layers.push(layer),
                Err(error) => {
                    // Nothing is left when it is told: the other workers are killed and their folders removed.
                    tasks.shutdown().await;
                    return Err(error);
                }
            }
        }
        Ok(FetchedLayers { layers, turns })
    }

    /// Lets layers be fetched, the largest first: one that is begun last is waited for alone.
    fn begin(&self, session: &Arc<Session>, layers: &mut Vec<(Wanted, Arc<Layer>)>, tasks: &mut JoinSet<FetchedLayer>) {
        layers.sort_by_key(|(layer, _)| Reverse(layer.blob.size));
        for (layer, progress) in layers.drain(..) {
            let (images, session, asker) = (self.images.clone(), session.clone(), self.asker);
            // Asked for here: tasks begin in any order.
            let place = images.pulls.workers.take(asker);
            tasks.spawn(async move {
                let _place = place.await;
                fetch_layer(&images, &session, &layer, &progress).await
            });
        }
    }
}

type FetchedLayer = Result<Fetched, ImageError>;

/// What a pull has fetched.
struct FetchedLayers {
    layers: Vec<Fetched>,
    /// Nobody else fetches the same before they have their names.
    turns: Vec<tokio::sync::OwnedMutexGuard<()>>,
}

/// A pull's claim on its layers and documents: none is removed before the image is named.
pub struct Lease {
    store: Arc<Store>,
    chain: Vec<String>,
}

impl Lease {
    pub fn new(store: Arc<Store>, chain: Vec<String>) -> Self {
        store.lease(&chain);
        Self { store, chain }
    }

    /// Whether a layer is there, whole.
    pub fn has(&self, chain_id: &str) -> bool {
        self.store.has(chain_id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.end_lease(&self.chain);
    }
}
