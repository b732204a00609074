//! The rest before a measured step, and how busy the machine was in it.

use std::{
    fs,
    time::{Duration, Instant},
};

/// How long to rest.
pub struct Rest {
    pub pause: Duration,
    /// How much longer to wait for a machine that does nothing else.
    pub wait_idle: Duration,
}

impl Rest {
    /// Rests; the share of the processors' time that was used meanwhile, by whomever, or `None` when the rest was too
    /// short to tell.
    pub async fn take(&self) -> Option<f64> {
        let mut busy = busy_share(self.pause).await;
        let deadline = Instant::now() + self.wait_idle;
        while busy.is_none_or(|busy| busy > IDLE) && Instant::now() < deadline {
            busy = busy_share(WINDOW).await;
        }
        busy
    }
}

async fn busy_share(time: Duration) -> Option<f64> {
    if time.is_zero() {
        return None;
    }
    let before = Ticks::now();
    tokio::time::sleep(time).await;
    before?.busy_until(Ticks::now()?)
}

/// The time of all processors since boot, in ticks.
#[derive(Clone, Copy)]
struct Ticks {
    idle: u64,
    all: u64,
}

impl Ticks {
    fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// Waiting for a disk is idle; time that the hypervisor took is not.
    ///
    /// Source: proc_stat(5): user nice system idle iowait irq softirq steal; guest time is in user already.
    fn parse(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let ticks: Vec<u64> = fields.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self {
            idle: ticks.get(3)? + ticks.get(4)?,
            all: ticks.iter().sum(),
        })
    }

    fn busy_until(self, later: Ticks) -> Option<f64> {
        let all = later.all.saturating_sub(self.all);
        // An idle processor's count may step back by one (proc_stat(5), iowait).
        let idle = later.idle.saturating_sub(self.idle).min(all);
        (all > 0).then(|| (all - idle) as f64 / all as f64)
    }
}

/// Above this somebody else is at work.
const IDLE: f64 = 0.1;
/// Long enough for ticks of 10 ms to say something.
const WINDOW: Duration = Duration::from_millis(100);

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_share_is_of_what_passed_between() {
        let before = Ticks::parse("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1").unwrap();
        let after = Ticks::parse("cpu  20 0 10 90 15 0 0 5 5 0\n").unwrap();
        assert_eq!(before.busy_until(after), Some(15.0 / 40.0));
        assert_eq!(before.busy_until(before), None);
        assert!(Ticks::parse("intr 5").is_none());
    }
}
