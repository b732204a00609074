//! What this process takes of the machine.

use std::time::Duration;

use procfs::{boot_time_secs, page_size, process::Process, ticks_per_second};

/// Of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Own {
    /// User and system time of all threads.
    pub cpu: Duration,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub open_files: u64,
    /// How many there may be; `None`: any number.
    pub most_files: Option<u64>,
    /// Since the Unix epoch.
    pub started: Duration,
}

impl Own {
    /// `None` when /proc does not tell. Source: proc_pid_stat(5), getrlimit(2).
    pub fn read() -> Option<Self> {
        let process = Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks = |count: u64| Duration::from_secs_f64(count as f64 / ticks_per_second() as f64);
        Some(Self {
            cpu: ticks(stat.utime + stat.stime),
            resident_bytes: stat.rss * page_size(),
            virtual_bytes: stat.vsize,
            open_files: process.fd_count().ok()?.try_into().ok()?,
            most_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            started: Duration::from_secs(boot_time_secs().ok()?) + ticks(stat.starttime),
        })
    }
}

#[cfg(test)]
mod test {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let before = Own::read().unwrap();
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let memory = vec![1_u8; 64 << 20];
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(&memory);
        }
        let after = Own::read().unwrap();
        drop((file, memory));
        assert!(
            after.cpu >= before.cpu + Duration::from_millis(50),
            "{before:?} {after:?}"
        );
        assert!(after.resident_bytes > 64 << 20, "{after:?}");
        assert!(after.virtual_bytes > after.resident_bytes, "{after:?}");
        assert!(
            (3..=after.most_files.unwrap_or(u64::MAX)).contains(&after.open_files),
            "{after:?}"
        );
        let age = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .abs_diff(after.started);
        assert_eq!(before.started, after.started);
        assert!(age < Duration::from_secs(600), "{after:?}");
    }
}
