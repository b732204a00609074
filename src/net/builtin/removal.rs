//! What a stopped pod leaves behind: its device, and then its lease.
//!
//! ```text
//! queued ──▶ its device is gone, or was deleted after GRACE ──▶ its address is free
//!   ▲                         │
//!   └── the next removal ── failed: the lease stays
//! ```
//! The pair goes with the pod's network namespace, in a millisecond and many at once. It is deleted only where something
//! keeps the namespace, such as a forwarded connection: a deletion takes 20 ms
//! (`docs/decisions/0015-interfaces-of-stopped-pods.md`).
//!
//! A thread does it, which stays for a moment when nothing is queued any more. Nothing is lost when the daemon dies: the lease file
//! is still there, and [`super::Builtin::recover`] goes by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::{
    Inner, NetError, during, host_end,
    netlink::{Departures, Netlink},
};
use crate::model::{SandboxId, chain};

/// The removals that are outstanding.
#[derive(Default)]
pub struct Removals {
    queue: Mutex<Queue>,
    /// A removal was queued.
    queued: Condvar,
    /// A removal ended.
    ended: Condvar,
}

/// Held for a few lines only.
#[derive(Default)]
struct Queue {
    /// Until when a device may take to go by itself.
    waiting: BTreeMap<SandboxId, Instant>,
    /// Those that could not be removed; tried again with the next one.
    failed: BTreeSet<SandboxId>,
    /// How many devices are gone and addresses free so far.
    done: u64,
    /// The thread is there.
    working: bool,
}

impl Inner {
    /// Frees a pod's address as soon as its device is gone, which is made sure of.
    pub(super) fn remove_later(self: &Arc<Self>, id: &SandboxId) {
        let mut queue = self.removals.queue();
        queue
            .waiting
            .entry(id.clone())
            .or_insert_with(|| Instant::now() + GRACE);
        self.work_on(queue);
    }

    /// Deletes a pod's device, if it is there, and frees its address.
    ///
    /// # Errors
    /// [`NetError::Netlink`], [`NetError::Io`]: the address stays leased then.
    pub(super) fn remove_now(&self, id: &SandboxId) -> Result<(), NetError> {
        let name = host_end(id);
        Netlink::open()
            .and_then(|mut netlink| netlink.delete(&name))
            .map_err(during(&format!("remove {name}")))?;
        // The address may be given to another only when no packet for it can come here any more.
        self.leases.give_back(id)
    }

    /// Waits until more than `seen` removals were done, and tries failed ones again. False when there is none to wait for,
    /// or none is done before `deadline`.
    pub(super) fn wait_for_removal(self: &Arc<Self>, seen: u64, deadline: Instant) -> bool {
        self.work_on(self.removals.queue());
        let mut queue = self.removals.queue();
        while queue.done == seen {
            let left = deadline.saturating_duration_since(Instant::now());
            if queue.waiting.is_empty() || left.is_zero() {
                return false;
            }
            let waited = self.removals.ended.wait_timeout(queue, left);
            queue = waited.expect("no panic while the queue is held").0;
        }
        true
    }

    fn work_on(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        let now = Instant::now();
        let failed = std::mem::take(&mut queue.failed);
        queue.waiting.extend(failed.into_iter().map(|id| (id, now)));
        if queue.waiting.is_empty() {
            return;
        }
        if std::mem::replace(&mut queue.working, true) {
            self.removals.queued.notify_one();
            return;
        }
        drop(queue);
        let inner = self.clone();
        let thread = std::thread::Builder::new().name("inro-removals".into());
        if let Err(error) = thread.spawn(move || inner.work()) {
            tracing::warn!(%error, "no thread for removals: a call waits for them");
            self.work();
        }
    }

    /// Until nothing is queued, nor was for a moment.
    fn work(&self) {
        // Before the first look, so that no end is missed. Without it nothing is waited for.
        let mut departures = Departures::listen().ok();
        while let Some(waiting) = self.removals.waiting() {
            let mut next = None;
            for (id, deadline) in waiting {
                match self.try_removal(&id, departures.as_ref().filter(|_| Instant::now() < deadline)) {
                    Ok(true) => self.removals.end(&id, true),
                    Ok(false) => next = Some(next.map_or(deadline, |next: Instant| next.min(deadline))),
                    Err(error) => {
                        tracing::warn!(sandbox = %id, error = %chain(&error), "a stopped pod's address stays leased");
                        self.removals.end(&id, false);
                    }
                }
            }
            if let (Some(hears), Some(next)) = (&departures, next)
                && let Err(error) = hears.wait(next.saturating_duration_since(Instant::now()))
            {
                tracing::debug!(%error, "cannot hear of interfaces that are gone: deleting them");
                departures = None;
            }
        }
    }

    /// Frees the address of a pod whose device is gone. One that is there may go by itself while there is somebody to hear
    /// of it (then false), and is deleted else.
    fn try_removal(&self, id: &SandboxId, departures: Option<&Departures>) -> Result<bool, NetError> {
        let name = host_end(id);
        match departures.map(|departures| departures.is_gone(&name)) {
            Some(Ok(false)) => Ok(false),
            Some(Ok(true)) => self.leases.give_back(id).map(|()| true),
            Some(Err(_)) | None => self.remove_now(id).map(|()| true),
        }
    }
}

impl Removals {
    /// How many were done so far.
    pub fn done(&self) -> u64 {
        self.queue().done
    }

    /// Waits until nothing is queued, at most for `limit`; how many still are.
    pub fn settle(&self, limit: Duration) -> usize {
        let queue = self.queue();
        let settled = self
            .ended
            .wait_timeout_while(queue, limit, |queue| !queue.waiting.is_empty());
        settled.expect("no panic while the queue is held").0.waiting.len()
    }

    fn end(&self, id: &SandboxId, removed: bool) {
        let mut queue = self.queue();
        queue.waiting.remove(id);
        if removed {
            queue.done += 1;
        } else {
            queue.failed.insert(id.clone());
        }
        self.ended.notify_all();
    }

    /// What the thread has to do, which is waited for; with `None` it ends.
    fn waiting(&self) -> Option<BTreeMap<SandboxId, Instant>> {
        let nothing = |queue: &mut Queue| queue.waiting.is_empty();
        let waited = self.queued.wait_timeout_while(self.queue(), IDLE, nothing);
        let mut queue = waited.expect("no panic while the queue is held").0;
        queue.working = !queue.waiting.is_empty();
        queue.working.then(|| queue.waiting.clone())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic while the queue is held")
    }
}

/// How long the kernel may take to remove a device with its namespace before it is deleted.
const GRACE: Duration = Duration::from_millis(200);
/// How long the thread stays with nothing to do: to start one and its socket for each pod takes as long as the rest of a stop.
const IDLE: Duration = Duration::from_millis(500);
