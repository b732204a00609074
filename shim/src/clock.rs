//! The monotonic clock, in milliseconds.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since some moment before the start. Asked for only when somebody waits: the first use of a clock costs
/// a page, which a quiet container's shim does without.
pub fn now_ms() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}
