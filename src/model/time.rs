//! Wall-clock time as the CRI counts it.

use std::time::{SystemTime, UNIX_EPOCH};

use inro_shim::log;
use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch (CRI `created_at`, `started_at`, `finished_at`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Whole seconds since 1970.
    pub fn seconds(self) -> u64 {
        u64::try_from(self.0 / 1_000_000_000).unwrap_or_default()
    }

    /// `2000-02-29T12:34:56.123456789Z`, as the lines of a log have it.
    pub fn rfc3339(self) -> String {
        let nanos = u32::try_from(self.0.rem_euclid(1_000_000_000)).unwrap_or_default();
        let header = log::header(self.0.div_euclid(1_000_000_000), nanos, log::Stream::Stdout, true);
        String::from_utf8_lossy(&header)
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn times_are_written_as_logs_have_them() {
        assert_eq!(
            Timestamp(951_827_696_123_456_789).rfc3339(),
            "2000-02-29T12:34:56.123456789Z"
        );
        assert_eq!(Timestamp(0).rfc3339(), "1970-01-01T00:00:00.000000000Z");
    }
}
