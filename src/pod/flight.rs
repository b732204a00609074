//! Joining: the same call arriving while it is under way gets the answer of the one under way.

use std::{collections::HashMap, future::Future, hash::Hash, sync::Arc, sync::Mutex};

use tokio::sync::watch;

use super::PodError;

type Outcome<T> = Option<Result<T, Arc<PodError>>>;

/// Calls under way, by what they are about.
pub struct Flights<K, T> {
    /// Guards the table only; never held across an await.
    under_way: Mutex<HashMap<K, watch::Receiver<Outcome<T>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            under_way: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    /// Runs `call`, or waits for the one with the same `key` that is running.
    ///
    /// # Errors
    /// Those of the call, or [`PodError::Joined`] with those of the call that was joined.
    pub async fn join<Fut>(&self, key: &K, call: impl FnOnce() -> Fut) -> Result<T, PodError>
    where
        Fut: Future<Output = Result<T, PodError>>,
    {
        let sender = match self.board(key) {
            Ok(sender) => sender,
            Err(mut receiver) => {
                // The sender goes only after it has sent, unless its task was dropped at shutdown.
                return match receiver.wait_for(Option::is_some).await.as_deref() {
                    Ok(Some(Ok(value))) => Ok(value.clone()),
                    Ok(Some(Err(error))) => Err(PodError::Joined(error.clone())),
                    _ => Err(PodError::Invalid {
                        field: "request",
                        why: "the call it joined was abandoned".into(),
                    }),
                };
            }
        };
        let landing = Landing { flights: self, key };
        let result = call().await;
        drop(landing);
        match result {
            Ok(value) => {
                sender.send_replace(Some(Ok(value.clone())));
                Ok(value)
            }
            Err(error) => {
                let error = Arc::new(error);
                sender.send_replace(Some(Err(error.clone())));
                Err(PodError::Joined(error))
            }
        }
    }

    fn board(&self, key: &K) -> Result<watch::Sender<Outcome<T>>, watch::Receiver<Outcome<T>>> {
        let mut under_way = self.under_way.lock().expect("no panic while the table is held");
        if let Some(receiver) = under_way.get(key) {
            return Err(receiver.clone());
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(key.clone(), receiver);
        Ok(sender)
    }
}

/// Takes a call off the table when it ends, however it ends.
struct Landing<'a, K: Eq + Hash, T> {
    flights: &'a Flights<K, T>,
    key: &'a K,
}

impl<K: Eq + Hash, T> Drop for Landing<'_, K, T> {
    fn drop(&mut self) {
        self.flights
            .under_way
            .lock()
            .expect("no panic while the table is held")
            .remove(self.key);
    }
}

#[cfg(test)]
mod test {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn the_second_call_joins_the_first_and_the_third_runs_anew() {
        let flights: Arc<Flights<&str, u32>> = Arc::default();
        let runs = Arc::new(AtomicU32::new(0));
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn({
            let (flights, runs) = (flights.clone(), runs.clone());
            async move {
                flights
                    .join(&"k", || async move {
                        wait.await.ok();
                        Ok(runs.fetch_add(1, Ordering::SeqCst))
                    })
                    .await
            }
        });
        tokio::task::yield_now().await;
        let second = tokio::spawn({
            let flights = flights.clone();
            async move { flights.join(&"k", || async { Ok(99) }).await }
        });
        tokio::task::yield_now().await;
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 0);
        assert_eq!(second.await.unwrap().unwrap(), 0);
        assert_eq!(flights.join(&"k", || async { Ok(7) }).await.unwrap(), 7);
    }
}
