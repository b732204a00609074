//! A number of places that several askers share fairly: one that is free goes to whoever has fewest.
//!
//! A semaphore serves in the order of asking, so that an image of a hundred layers would have them all for as long as it
//! takes, and one of a single layer would wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::oneshot;

/// Who asks: a pull, by its number.
pub type Asker = u64;

/// The places.
pub struct Shares {
    /// Guards who has places and who waits for one.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: usize,
    held: HashMap<Asker, usize>,
    waiting: VecDeque<(Asker, oneshot::Sender<Place>)>,
}

/// One of the places, until it is dropped.
pub struct Place {
    shares: Arc<Shares>,
    asker: Asker,
}

impl Shares {
    pub fn new(count: usize) -> Arc<Self> {
        let free = count.max(1);
        Arc::new(Self {
            state: Mutex::new(State {
                free,
                ..State::default()
            }),
        })
    }

    /// Asks for a place at once, so that who calls first comes first, and waits for it in what is returned.
    pub fn take(self: &Arc<Self>, asker: Asker) -> impl Future<Output = Place> + Send + use<> {
        let asked = {
            let mut state = self.lock();
            if state.free > 0 && state.waiting.is_empty() {
                Ok(self.give(&mut state, asker))
            } else {
                let (sender, waiting) = oneshot::channel();
                state.waiting.push_back((asker, sender));
                Err(waiting)
            }
        };
        let shares = self.clone();
        async move {
            let _held = shares;
            match asked {
                Ok(place) => place,
                Err(waiting) => waiting
                    .await
                    .expect("nobody drops a sender without an answer but the table, which is held"),
            }
        }
    }

    /// A place that nobody waits for, if there is one.
    pub fn try_take(self: &Arc<Self>, asker: Asker) -> Option<Place> {
        let mut state = self.lock();
        (state.free > 0 && state.waiting.is_empty()).then(|| self.give(&mut state, asker))
    }

    fn give(self: &Arc<Self>, state: &mut State, asker: Asker) -> Place {
        state.free -= 1;
        *state.held.entry(asker).or_default() += 1;
        Place {
            shares: self.clone(),
            asker,
        }
    }

    fn take_back(self: &Arc<Self>, asker: Asker) {
        let mut state = self.lock();
        state.leave(asker);
        let unwanted = state.next().and_then(|(asker, sender)| {
            let place = self.give(&mut state, asker);
            sender.send(place).err()
        });
        drop(state);
        // Who waited for it left just now: it comes back here, and goes to the next.
        drop(unwanted);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the table is held")
    }
}

impl State {
    fn leave(&mut self, asker: Asker) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(&asker) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&asker);
            }
        }
    }

    /// Of those who wait the one with fewest places, and of these the first.
    fn next(&mut self) -> Option<(Asker, oneshot::Sender<Place>)> {
        self.waiting.retain(|(_, sender)| !sender.is_closed());
        let held = |asker: &Asker| self.held.get(asker).copied().unwrap_or(0);
        let waiting = self.waiting.iter().enumerate();
        let (at, _) = waiting.min_by_key(|(at, (asker, _))| (held(asker), *at))?;
        self.waiting.remove(at)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shares.take_back(self.asker);
    }
}

#[cfg(test)]
mod test {
    use futures_util::FutureExt;

    use super::*;

    /// Who gets places one after the other when each is given back at once.
    async fn order(shares: &Arc<Shares>, first: Place, askers: &[Asker]) -> Vec<Asker> {
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        for &asker in askers {
            let (shares, told) = (shares.clone(), told.clone());
            tokio::spawn(async move {
                let place = shares.take(asker).await;
                let _ = told.send(asker);
                // Held until nobody else can get one.
                tokio::task::yield_now().await;
                drop(place);
            });
            tokio::task::yield_now().await;
        }
        drop((told, first));
        let mut got = Vec::new();
        while let Some(asker) = order.recv().await {
            got.push(asker);
        }
        got
    }

    #[tokio::test]
    async fn who_has_fewest_is_next() {
        let shares = Shares::new(2);
        let _kept = shares.take(1).await;
        let first = shares.take(1).await;
        assert!(shares.try_take(2).is_none());
        assert_eq!(order(&shares, first, &[1, 1, 2, 3]).await, [2, 3, 1, 1]);
    }

    #[tokio::test]
    async fn who_left_is_passed_over_and_no_place_is_lost() {
        let shares = Shares::new(1);
        let first = shares.take(1).await;
        let gone = {
            let shares = shares.clone();
            tokio::spawn(async move { drop(shares.take(2).await) })
        };
        tokio::task::yield_now().await;
        gone.abort();
        let _ = gone.await;
        assert_eq!(order(&shares, first, &[3]).await, [3]);
        assert!(shares.try_take(4).is_some());
    }

    #[tokio::test]
    async fn one_that_was_given_to_who_left_meanwhile_comes_back() {
        let shares = Shares::new(1);
        let first = shares.take(1).await;
        let mut waits = Box::pin(shares.take(2));
        assert!((&mut waits).now_or_never().is_none());
        drop(first);
        assert!(shares.try_take(3).is_none(), "it is on its way");
        drop(waits);
        assert!(shares.try_take(3).is_some());
    }
}
