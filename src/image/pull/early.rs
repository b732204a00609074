//! What is unpacked goes to the disk while more of it comes: the sync at the end of a pull finds little left to do, and the
//! disk's work and the processor's are done at the same time.

use std::sync::{Arc, atomic::Ordering};

use super::progress::Totals;
use crate::image::content::Content;

/// Bytes unpacked from one sync to the next: so many that few layers are cut, so few that a disk has them in a moment.
const STEP: u64 = 64 << 20;

/// Of all pulls together.
pub struct Early {
    content: Content,
    totals: Arc<Totals>,
    /// Bytes that all pulls had unpacked when the last one began. Held while it goes on.
    begun_at: Arc<tokio::sync::Mutex<u64>>,
}

impl Early {
    pub fn new(content: Content, totals: Arc<Totals>) -> Self {
        Self {
            content,
            totals,
            begun_at: Arc::default(),
        }
    }

    /// Begins one in the background when none goes on and pulls have unpacked enough more than at the last.
    pub fn look(&self) {
        let Ok(mut begun_at) = self.begun_at.clone().try_lock_owned() else {
            return;
        };
        let unpacked = self.totals.unpacked_bytes.load(Ordering::Relaxed);
        if unpacked - *begun_at < STEP {
            return;
        }
        *begun_at = unpacked;
        let content = self.content.clone();
        tokio::task::spawn_blocking(move || {
            // Whoever commits a layer is told of it too.
            if let Err(error) = content.writes().and_then(|writes| writes.sync()) {
                tracing::debug!(%error, "an early sync");
            }
            drop(begun_at);
        });
    }
}
