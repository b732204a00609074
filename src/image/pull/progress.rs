//! How far pulls are: counted by whoever moves bytes, looked at by whoever wants to know.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::image::manifest::Descriptor;

/// What all pulls of this daemon together have done.
#[derive(Debug, Default)]
pub struct Totals {
    pub fetched_bytes: AtomicU64,
    /// Had from what an earlier try had kept.
    pub kept_bytes: AtomicU64,
    pub unpacked_bytes: AtomicU64,
}

/// One pull.
pub struct Progress {
    pub reference: String,
    pub began: Instant,
    totals: Arc<Totals>,
    /// Guards the list; empty until the manifest is there.
    layers: Mutex<Vec<Arc<Layer>>>,
}

/// One layer of a pull.
pub struct Layer {
    pub digest: String,
    pub size_bytes: u64,
    totals: Arc<Totals>,
    /// Guards what follows from one step to the next.
    state: Mutex<LayerState>,
}

#[derive(Debug, Clone)]
struct LayerState {
    stage: Stage,
    fetched: u64,
    kept: u64,
    unpacked: u64,
    endpoint: Option<String>,
    moved: Instant,
}

/// What becomes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// For a place, or for another pull that fetches it.
    Waiting,
    Fetching,
    /// All of it is there, and in its folder.
    Unpacked,
    /// It was there before.
    Present,
}

/// A layer as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerView {
    pub digest: String,
    pub size_bytes: u64,
    pub stage: Stage,
    /// Of its compressed bytes, with those that an earlier try had kept.
    pub fetched_bytes: u64,
    pub kept_bytes: u64,
    /// Of what is in it.
    pub unpacked_bytes: u64,
    pub endpoint: Option<String>,
}

/// A pull as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullView {
    pub reference: String,
    /// Calls that wait for it.
    pub waiting: usize,
    pub elapsed: Duration,
    pub layers: Vec<LayerView>,
}

impl Progress {
    pub fn new(reference: &str, totals: Arc<Totals>) -> Self {
        Self {
            reference: reference.to_owned(),
            began: Instant::now(),
            totals,
            layers: Mutex::default(),
        }
    }

    /// Now it is known which layers there are.
    pub fn set_layers<'a>(&self, layers: impl Iterator<Item = &'a Descriptor>) -> Vec<Arc<Layer>> {
        let layers = layers.map(|layer| Layer::new(layer, self.totals.clone()));
        let layers: Vec<_> = layers.map(Arc::new).collect();
        self.layers
            .lock()
            .expect("no panic while the list is held")
            .clone_from(&layers);
        layers
    }

    pub fn view(&self, waiting: usize) -> PullView {
        let layers = self.layers.lock().expect("no panic while the list is held");
        PullView {
            reference: self.reference.clone(),
            waiting,
            elapsed: self.began.elapsed(),
            layers: layers.iter().map(|layer| layer.view()).collect(),
        }
    }
}

impl Layer {
    pub fn new(layer: &Descriptor, totals: Arc<Totals>) -> Self {
        Self {
            digest: layer.digest.clone(),
            size_bytes: layer.size,
            totals,
            state: Mutex::new(LayerState {
                stage: Stage::Waiting,
                fetched: 0,
                kept: 0,
                unpacked: 0,
                endpoint: None,
                moved: Instant::now(),
            }),
        }
    }

    pub fn is_present(&self) {
        self.state().stage = Stage::Present;
    }

    /// From the beginning, also of another try.
    pub fn begin(&self) {
        let mut state = self.state();
        (state.fetched, state.kept, state.unpacked) = (0, 0, 0);
        (state.stage, state.moved) = (Stage::Fetching, Instant::now());
    }

    pub fn is_unpacked(&self) {
        self.state().stage = Stage::Unpacked;
    }

    pub fn comes_from(&self, endpoint: Option<String>) {
        self.state().endpoint = endpoint;
    }

    /// Bytes came, or only such as were there before.
    pub fn fetched(&self, bytes: u64) {
        self.totals.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut state = self.state();
        state.fetched += bytes;
        state.moved = Instant::now();
    }

    /// Bytes that an earlier try had kept.
    pub fn had(&self, bytes: u64) {
        self.totals.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut state = self.state();
        (state.fetched, state.kept) = (state.fetched + bytes, state.kept + bytes);
        state.moved = Instant::now();
    }

    /// The worker goes on; so many bytes it has unpacked by now.
    pub fn unpacked(&self, bytes: u64) {
        let mut state = self.state();
        let more = bytes.saturating_sub(state.unpacked);
        self.totals.unpacked_bytes.fetch_add(more, Ordering::Relaxed);
        state.unpacked += more;
        state.moved = Instant::now();
    }

    /// Returns when nothing has moved for so long.
    pub async fn stands_still(&self, limit: Duration) {
        loop {
            let until = self.state().moved + limit;
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }

    pub fn view(&self) -> LayerView {
        let state = self.state().clone();
        LayerView {
            digest: self.digest.clone(),
            size_bytes: self.size_bytes,
            stage: state.stage,
            fetched_bytes: state.fetched,
            kept_bytes: state.kept,
            unpacked_bytes: state.unpacked,
            endpoint: state.endpoint,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LayerState> {
        self.state.lock().expect("no panic while it is held")
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn layer() -> Layer {
        let mut descriptor = Descriptor::default();
        descriptor.digest = "sha256:0".into();
        descriptor.size = 100;
        Layer::new(&descriptor, Arc::default())
    }

    #[tokio::test]
    async fn whoever_moves_does_not_stand_still() {
        let layer = layer();
        layer.begin();
        let limit = Duration::from_millis(600);
        let begin = Instant::now();
        let moves = async {
            for step in 0..3 {
                tokio::time::sleep(Duration::from_millis(250)).await;
                match step % 2 {
                    0 => layer.fetched(1),
                    // Also when there are no more bytes than before.
                    _ => layer.unpacked(0),
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = moves => {}
            () = layer.stands_still(limit) => {}
        }
        assert!(begin.elapsed() >= Duration::from_millis(3 * 250 + 600));
    }

    #[test]
    fn another_try_counts_from_the_beginning_and_totals_go_on() {
        let layer = layer();
        layer.begin();
        layer.had(60);
        layer.fetched(20);
        layer.unpacked(500);
        layer.begin();
        layer.fetched(10);
        layer.unpacked(7);
        let view = layer.view();
        assert_eq!((view.fetched_bytes, view.kept_bytes, view.unpacked_bytes), (10, 0, 7));
        let total = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let totals = &layer.totals;
        assert_eq!(total(&totals.fetched_bytes), 30);
        assert_eq!(total(&totals.kept_bytes), 60);
        assert_eq!(total(&totals.unpacked_bytes), 507);
    }
}
