//! How long the reader of an attach may keep the container waiting.
//!
//! The reader is a daemon, which reads at once whatever its own client does. Even so it may be stopped, or have to wait for
//! a processor. A short pause must not cost it the stream, so while it has no room the container's stream is not read. One
//! that takes at least [`RATE`] may go on like that for ever; a slower one, or one that has stopped, uses its credit up and
//! is dismissed.

/// Milliseconds of credit that a client begins with, and the most it can have.
pub const CREDIT_MS: u64 = 1000;
/// Bytes that a client must take for each second in which it has no room.
pub const RATE: u64 = 1 << 20;

const BYTES_PER_MS: u64 = RATE.div_ceil(1000);

/// One client's credit. Times are milliseconds of one monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// In bytes that it must take: one clock and one unit for both of the credit's sides.
    credit: u64,
    full_since: Option<i64>,
}

impl Patience {
    pub fn new() -> Self {
        Self {
            credit: CREDIT_MS * BYTES_PER_MS,
            full_since: None,
        }
    }

    /// It has no room; the credit runs until [`Patience::freed`].
    pub fn full(&mut self, now: i64) {
        self.full_since.get_or_insert(now);
    }

    /// It has room again.
    pub fn freed(&mut self, now: i64) {
        self.credit = self.left(now);
        self.full_since = None;
    }

    /// It was given `count` bytes.
    pub fn took(&mut self, count: usize) {
        self.credit = self.credit.saturating_add(count as u64).min(CREDIT_MS * BYTES_PER_MS);
    }

    /// Milliseconds until it must be dismissed, 0 when that is now; `None` while it has room.
    pub fn left_ms(&self, now: i64) -> Option<i64> {
        self.full_since?;
        Some(i64::try_from(self.left(now) / BYTES_PER_MS).unwrap_or(i64::MAX))
    }

    fn left(&self, now: i64) -> u64 {
        let waited = self
            .full_since
            .map_or(0, |since| u64::try_from(now - since).unwrap_or(0));
        self.credit.saturating_sub(waited.saturating_mul(BYTES_PER_MS))
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Full,
        Freed,
        Took(usize),
        Later(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Full),
            Just(Step::Freed),
            (0..200_000usize).prop_map(Step::Took),
            (0..400i64).prop_map(Step::Later),
        ]
    }

    proptest! {
        /// Whatever a client does, it costs the container no more than its credit and a second for each `RATE` bytes.
        #[test]
        fn nobody_is_waited_for_longer_than_what_it_took_is_worth(steps in proptest::collection::vec(step(), 0..200)) {
            let (mut patience, mut now, mut took, mut waited) = (Patience::new(), 0i64, 0u64, 0u64);
            for step in steps {
                match step {
                    Step::Full => patience.full(now),
                    Step::Freed => patience.freed(now),
                    Step::Took(count) => { patience.took(count); took += count as u64; }
                    Step::Later(ms) => {
                        if let Some(left) = patience.left_ms(now) {
                            if left == 0 { return Ok(()); }
                            waited += u64::try_from(ms.min(left)).unwrap();
                        }
                        now += ms;
                    }
                }
                prop_assert!(waited <= CREDIT_MS + took / BYTES_PER_MS + 1, "{waited} ms for {took} bytes");
            }
        }

        /// A client that takes more than `RATE` is never dismissed, however often it has no room.
        #[test]
        fn a_client_that_keeps_up_the_rate_stays(pauses in proptest::collection::vec(1..900i64, 1..200)) {
            let (mut patience, mut now) = (Patience::new(), 0i64);
            for pause in pauses {
                patience.full(now);
                now += pause;
                prop_assert!(patience.left_ms(now).unwrap() > 0);
                patience.freed(now);
                patience.took(usize::try_from(pause).unwrap() * usize::try_from(BYTES_PER_MS).unwrap());
            }
        }
    }

    #[test]
    fn one_that_stops_is_dismissed_after_its_credit() {
        let mut patience = Patience::new();
        assert_eq!(patience.left_ms(0), None);
        patience.full(5000);
        patience.full(5400);
        assert_eq!(patience.left_ms(5400), Some(600));
        assert_eq!(patience.left_ms(6000), Some(0));
        assert_eq!(patience.left_ms(60_000), Some(0));
    }
}
