//! Attachments that could not be ended: tried again, later and later, until a plugin lets them go.
//!
//! The pod does not wait for it: a plugin that is broken or gone never keeps a pod. What is not done when the daemon ends is
//! on record, and the next one's to do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use super::Cni;
use crate::model::{SandboxId, chain};

/// What is to be ended.
#[derive(Default)]
pub struct Deletions {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    outstanding: BTreeMap<SandboxId, Next>,
    /// The thread is there.
    working: bool,
}

#[derive(Clone, Copy)]
struct Next {
    at: Instant,
    tries: u32,
}

impl Deletions {
    /// Tries it, after a while when it was tried before.
    pub fn add(&self, cni: &Arc<Cni>, id: &SandboxId, tries: u32) {
        let mut queue = self.queue();
        let at = Instant::now() + pause(tries);
        queue.outstanding.insert(id.clone(), Next { at, tries });
        self.changed.notify_all();
        if std::mem::replace(&mut queue.working, true) {
            return;
        }
        drop(queue);
        let cni = cni.clone();
        let thread = thread::Builder::new().name("cni-deletions".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(move || work(&cni)) {
            tracing::warn!(%error, "no thread that ends attachments: the next start does");
            self.queue().working = false;
        }
    }

    /// The next that is due, which is waited for; `None` when nothing is left.
    fn next(&self) -> Option<(SandboxId, u32)> {
        let mut queue = self.queue();
        loop {
            let first = queue.outstanding.iter().min_by_key(|(_, next)| next.at);
            let Some((id, next)) = first.map(|(id, next)| (id.clone(), *next)) else {
                queue.working = false;
                return None;
            };
            let left = next.at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                queue.outstanding.remove(&id);
                return Some((id, next.tries));
            }
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.expect("no panic while the queue is held").0;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic while the queue is held")
    }
}

fn work(cni: &Arc<Cni>) {
    while let Some((id, tries)) = cni.deletions.next() {
        let tries = tries + 1;
        match cni.delete(&id, "", tries >= PATIENT) {
            Ok(()) => tracing::info!(sandbox = %id, tries, "its attachment is ended now"),
            Err(error) if tries >= MOST => {
                tracing::error!(sandbox = %id, tries, error = %chain(&error), "its attachment is left to the next start");
            }
            Err(error) => {
                tracing::warn!(sandbox = %id, tries, error = %chain(&error), "its attachment is not ended yet");
                cni.deletions.add(cni, &id, tries);
            }
        }
    }
}

fn pause(tries: u32) -> Duration {
    match tries {
        0 => Duration::ZERO,
        _ => FIRST.saturating_mul(2_u32.saturating_pow(tries - 1)).min(LONGEST),
    }
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// Tries before a plugin whose program is gone is left out.
const PATIENT: u32 = 4;
/// A bit more than an hour.
const MOST: u32 = 20;
const STACK: usize = 256 << 10;
