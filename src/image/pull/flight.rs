//! Pulls under way: who asks for the same joins, and a pull ends early only when the last who waits for it has left.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use tokio::{sync::watch, task::JoinHandle};

use super::progress::{Progress, PullView};
use crate::{image::ImageError, model::ImageId};

/// What makes two pulls the same: the reference, and as whom it is asked for. Secrets are in it as a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub reference: String,
    pub puller: String,
}

type Outcome = Result<ImageId, Arc<ImageError>>;

/// The pulls of this daemon that are under way.
#[derive(Default)]
pub struct Flights {
    /// Guards the table only.
    under_way: Mutex<HashMap<Key, Weak<Flight>>>,
}

struct Flight {
    progress: Arc<Progress>,
    outcome: watch::Receiver<Option<Outcome>>,
    task: JoinHandle<()>,
}

/// One who waits for a pull. The pull goes on for as long as there is one.
#[derive(Clone)]
pub struct Waiting(Arc<Flight>);

impl Flights {
    /// Joins the pull that is under way under this key, or begins one.
    pub fn join<F>(&self, key: Key, progress: Progress, pull: impl FnOnce(Arc<Progress>) -> F) -> Waiting
    where
        F: Future<Output = Result<ImageId, ImageError>> + Send + 'static,
    {
        let mut under_way = self.lock();
        under_way.retain(|_, flight| flight.strong_count() > 0);
        let known = under_way.get(&key).and_then(Weak::upgrade);
        // One that is over has nothing to tell whoever comes after it.
        if let Some(flight) = known.filter(|flight| flight.outcome.borrow().is_none()) {
            return Waiting(flight);
        }
        let progress = Arc::new(progress);
        let (tell, outcome) = watch::channel(None);
        let pull = pull(progress.clone());
        let task = tokio::spawn(async move {
            let outcome = pull.await.map_err(Arc::new);
            tell.send_replace(Some(outcome));
        });
        let flight = Arc::new(Flight {
            progress,
            outcome,
            task,
        });
        under_way.insert(key, Arc::downgrade(&flight));
        Waiting(flight)
    }

    /// What is under way, the oldest first.
    pub fn views(&self) -> Vec<PullView> {
        let flights: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        let under_way = flights.iter().filter(|flight| flight.outcome.borrow().is_none());
        // One reference is ours.
        let mut views: Vec<_> = under_way
            .map(|flight| flight.progress.view(Arc::strong_count(flight) - 1))
            .collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.elapsed));
        views
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Weak<Flight>>> {
        self.under_way.lock().expect("no panic while the table is held")
    }
}

impl Waiting {
    /// Waits for the image.
    ///
    /// # Errors
    /// Those of the pull.
    pub async fn outcome(&self) -> Result<ImageId, ImageError> {
        let mut outcome = self.0.outcome.clone();
        let told = outcome.wait_for(Option::is_some).await;
        // The sender goes without a word only in a panic.
        let told = told.ok().and_then(|told| told.clone());
        told.unwrap_or_else(|| Err(Arc::new(ImageError::Abandoned)))
            .map_err(ImageError::Joined)
    }

    pub fn view(&self) -> PullView {
        self.0.progress.view(Arc::strong_count(&self.0))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod test {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    struct Scene {
        flights: Flights,
        begun: AtomicUsize,
        ended: Arc<AtomicUsize>,
    }

    /// Counts whoever is dropped, whole or not.
    struct End(Arc<AtomicUsize>);

    impl Drop for End {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Scene {
        fn new() -> Self {
            Self {
                flights: Flights::default(),
                begun: AtomicUsize::new(0),
                ended: Arc::default(),
            }
        }

        /// Joins a pull that ends as the sender says.
        fn join(&self, puller: &str) -> (Waiting, oneshot::Sender<Result<ImageId, ImageError>>) {
            let key = Key {
                reference: "shell".into(),
                puller: puller.into(),
            };
            let (tell, told) = oneshot::channel();
            let end = self.ended.clone();
            let waiting = self.flights.join(key, Progress::new("shell", Arc::default()), |_| {
                self.begun.fetch_add(1, Ordering::Relaxed);
                let end = End(end);
                async move {
                    let outcome = told.await.unwrap_or(Err(ImageError::Abandoned));
                    drop(end);
                    outcome
                }
            });
            (waiting, tell)
        }

        fn counts(&self) -> (usize, usize) {
            (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
        }
    }

    #[tokio::test]
    async fn the_same_is_pulled_once_and_all_are_told() {
        let scene = Scene::new();
        let (first, tell) = scene.join("a");
        let (second, _) = scene.join("a");
        assert_eq!(scene.flights.views()[0].waiting, 2);
        tell.send(Ok(ImageId("sha256:1".into()))).unwrap();
        assert_eq!(first.outcome().await.unwrap().0, "sha256:1");
        assert_eq!(second.outcome().await.unwrap().0, "sha256:1");
        assert_eq!(scene.counts().0, 1);
        // It is over: whoever comes now begins anew, though somebody still holds the old one.
        let (_third, _tell) = scene.join("a");
        assert_eq!((scene.counts().0, scene.flights.views().len()), (2, 1));
    }

    #[tokio::test]
    async fn other_credentials_are_another_pull() {
        let scene = Scene::new();
        let (good, tell_good) = scene.join("a");
        let (bad, tell_bad) = scene.join("b");
        assert_eq!(scene.counts().0, 2);
        tell_good.send(Ok(ImageId("sha256:1".into()))).unwrap();
        tell_bad.send(Err(ImageError::NotFound("x".into()))).unwrap();
        assert!(good.outcome().await.is_ok());
        let error = bad.outcome().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (crate::model::ErrorKind::NotFound, "x: not found")
        );
    }

    #[tokio::test]
    async fn only_the_last_who_leaves_ends_it() {
        let scene = Scene::new();
        let (first, _tell) = scene.join("a");
        let (second, _) = scene.join("a");
        drop(first);
        tokio::task::yield_now().await;
        assert_eq!(scene.counts(), (1, 0));
        drop(second);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert_eq!((scene.counts(), scene.flights.views()), ((1, 1), vec![]));
        let (_again, _tell) = scene.join("a");
        assert_eq!(scene.counts().0, 2);
    }
}
