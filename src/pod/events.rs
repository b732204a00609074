//! The order of all changes, and who is told of them.
//!
//! Every change of state that a client can see is made while a [`Turn`] is held: one after the other, each with a time
//! later than the one before. What is told with a change is the pod as it is right after it, read in the same turn, so an
//! event and a status with times agree: the later one includes the earlier. A turn takes microseconds; records are
//! written before it, and lists do without it.
//!
//! Nobody waits for a listener. Each may fall [`MOST_BEHIND`] events behind; then it is told how many it missed and
//! ends.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::broadcast::{self, error::RecvError};

use super::{PodError, Pods};
use crate::model::{Event, EventKind, PodView, Timestamp};

/// How many events a listener may have before it; shared by all listeners.
const MOST_BEHIND: usize = 1024;

/// Whose turn it is to change something, and the listeners.
pub struct Journal {
    /// The time given last.
    last: Mutex<Timestamp>,
    listeners: broadcast::Sender<Arc<Event>>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
            listeners: broadcast::Sender::new(MOST_BEHIND),
        }
    }
}

impl Journal {
    /// Nothing else changes while the turn is held. Never held across an await or a write to a disk.
    pub fn turn(&self) -> Turn<'_> {
        Turn {
            last: self.last.lock().expect("no panic in a turn"),
            listeners: &self.listeners,
        }
    }

    pub fn listen(&self) -> Events {
        Events {
            receiver: self.listeners.subscribe(),
        }
    }
}

/// The right to change something.
pub struct Turn<'a> {
    last: MutexGuard<'a, Timestamp>,
    listeners: &'a broadcast::Sender<Arc<Event>>,
}

impl Turn<'_> {
    /// The time now, but later than any given before, also when the clock was set back.
    pub fn now(&mut self) -> Timestamp {
        *self.last = Timestamp::now().max(Timestamp(self.last.0 + 1));
        *self.last
    }

    /// Tells what was done in this turn. `pod` reads the pod, if anybody listens.
    pub fn tell(&mut self, kind: EventKind, subject: &str, pod: impl FnOnce(Timestamp) -> Option<PodView>) {
        let at = self.now();
        if self.listeners.receiver_count() == 0 {
            return;
        }
        let event = Event {
            subject: subject.to_owned(),
            kind,
            at,
            pod: pod(at),
        };
        // It fails when the last listener has just gone.
        let _ = self.listeners.send(Arc::new(event));
    }
}

/// What happens from now on.
pub struct Events {
    receiver: broadcast::Receiver<Arc<Event>>,
}

impl Events {
    /// The next event; `None` when there will be none any more.
    ///
    /// # Errors
    /// [`PodError::Missed`] once the listener is too far behind: its next event would not be the next one.
    pub async fn next(&mut self) -> Result<Option<Arc<Event>>, PodError> {
        match self.receiver.recv().await {
            Ok(event) => Ok(Some(event)),
            Err(RecvError::Lagged(count)) => Err(PodError::Missed { count }),
            Err(RecvError::Closed) => Ok(None),
        }
    }
}

impl Pods {
    /// Everything that happens to sandboxes and containers from now on, in order. Source: CRI GetContainerEvents.
    pub fn events(&self) -> Events {
        self.inner.index.listen()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn tell(journal: &Journal, subject: &str) {
        journal.turn().tell(EventKind::Created, subject, |_| None);
    }

    #[tokio::test]
    async fn a_listener_gets_everything_in_order_with_growing_times() {
        let journal = Journal::default();
        tell(&journal, "before");
        let mut events = journal.listen();
        for number in 0..MOST_BEHIND {
            tell(&journal, &number.to_string());
        }
        let mut last = Timestamp(0);
        for number in 0..MOST_BEHIND {
            let event = events.next().await.unwrap().unwrap();
            assert_eq!(event.subject, number.to_string());
            assert!(event.at > last);
            last = event.at;
        }
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_how_many_it_missed_and_the_others_miss_none() {
        let journal = Journal::default();
        let (mut slow, mut quick) = (journal.listen(), journal.listen());
        for number in 0..MOST_BEHIND + 5 {
            tell(&journal, &number.to_string());
            assert_eq!(quick.next().await.unwrap().unwrap().subject, number.to_string());
        }
        let error = slow.next().await.unwrap_err();
        assert!(matches!(error, PodError::Missed { count: 5 }), "{error}");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_turn_the_order_round() {
        let journal = Journal::default();
        let future = Timestamp(Timestamp::now().0 + 3_600_000_000_000);
        *journal.last.lock().unwrap() = future;
        assert_eq!(journal.turn().now(), Timestamp(future.0 + 1));
    }

    #[test]
    fn nobody_reads_a_pod_when_nobody_listens() {
        let journal = Journal::default();
        journal
            .turn()
            .tell(EventKind::Created, "x", |_| unreachable!("nobody listens"));
    }
}
