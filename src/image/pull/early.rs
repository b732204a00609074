//! What is unpacked goes to the disk while more of it comes: the sync at the end of a pull finds little left to do, and the
//! disk's work and the processor's are done at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::image::content::Content;

/// Bytes unpacked from one sync to the next: so many that few layers are cut, so few that a disk has them in a moment.
const STEP: u64 = 64 << 20;

/// Of all pulls together.
#[derive(Clone)]
pub struct Early {
    content: Content,
    /// Bytes that all pulls had unpacked when the last one began.
    begun_at: Arc<AtomicU64>,
    /// One at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Early {
    pub fn new(content: Content) -> Self {
        Self {
            content,
            begun_at: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// Begins one, in the background, when pulls have unpacked `total` bytes by now and that is enough more than at the last.
    pub fn look(&self, total: u64) {
        if total.saturating_sub(self.begun_at.load(Ordering::Relaxed)) < STEP {
            return;
        }
        let Ok(turn) = self.turn.clone().try_lock_owned() else {
            return;
        };
        self.begun_at.store(total, Ordering::Relaxed);
        let content = self.content.clone();
        tokio::task::spawn_blocking(move || {
            // Whoever commits a layer is told of it too.
            if let Err(error) = content.writes().and_then(|writes| writes.sync()) {
                tracing::debug!(%error, "an early sync");
            }
            drop(turn);
        });
    }
}
