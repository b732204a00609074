//! Whether who reads a body waits for the network.

use std::time::{Duration, Instant};

/// How much of the time the reader waits for the network.
pub(super) struct Watch {
    since: Instant,
    pub waited: Duration,
    pub bytes: u64,
}

impl Watch {
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Whether the network is what takes the time, and `left` bytes more will take some.
    pub fn is_slow(&mut self, left: u64) -> bool {
        let elapsed = self.since.elapsed();
        if elapsed < WATCHED {
            return false;
        }
        let waits = self.waited.as_millis() * 100 >= elapsed.as_millis() * WAITS;
        let rate = self.bytes as f64 / elapsed.as_secs_f64();
        // What was long ago says little.
        *self = Self::new();
        waits && left as f64 / rate.max(1.0) > WORTH.as_secs_f64()
    }
}

/// How long a body is watched before another is fetched beside it.
const WATCHED: Duration = Duration::from_millis(300);
/// Of that time, how much in a hundred the reader has to have waited.
const WAITS: u128 = 60;
/// How long the rest would have to take at the rate so far.
const WORTH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_a_body_that_is_waited_for_is_slow() {
        let watch = |waited, bytes| Watch {
            since: Instant::now() - Duration::from_secs(1),
            waited: Duration::from_millis(waited),
            bytes,
        };
        assert!(watch(900, 10 << 20).is_slow(100 << 20));
        assert!(!watch(100, 10 << 20).is_slow(100 << 20), "the reader is the slow one");
        assert!(!watch(900, 100 << 20).is_slow(50 << 20), "it is over in a moment");
        assert!(!Watch::new().is_slow(100 << 20), "nothing is known yet");
    }
}
