//! The shim's own record: which process supervises, and which it supervises.

use crate::text::{Line, number, unseal};

/// Name of the record in the container's folder.
pub const NAME: &str = "shim";
const MAGIC: &[u8] = b"inro-shim-1";

/// A shim and its init. The start time tells it from a later process with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShimRecord {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: clock ticks after boot. Source: proc_pid_stat(5).
    pub start_ticks: i64,
    pub init: i32,
}

impl ShimRecord {
    /// `inro-shim-1 <pid> <ticks> <init> <checksum>` and a newline.
    pub fn encode(&self) -> Line<96> {
        let mut line = Line::new();
        line.push(MAGIC).push(b" ").number(i64::from(self.pid)).push(b" ");
        line.number(self.start_ticks).push(b" ").number(i64::from(self.init));
        line.seal()
    }

    /// The record in `bytes`; `None` when they are damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = unseal(bytes)?.split(|&b| b == b' ');
        (words.next()? == MAGIC).then_some(())?;
        let mut next = || number(words.next()?);
        let record = Self {
            pid: i32::try_from(next()?).ok()?,
            start_ticks: next()?,
            init: i32::try_from(next()?).ok()?,
        };
        words.next().is_none().then_some(record)
    }
}

/// The start time in the text of /proc/PID/stat, whose second field may hold anything in parentheses.
pub fn start_ticks(stat: &[u8]) -> Option<i64> {
    let after = stat.iter().rposition(|&b| b == b')')? + 2;
    // Field 3 is the first one after the name.
    number(stat.get(after..)?.split(|&b| b == b' ').nth(22 - 3)?)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_record_comes_back() {
        let record = ShimRecord {
            pid: 4_194_304,
            start_ticks: i64::MAX,
            init: 1,
        };
        assert_eq!(ShimRecord::parse(record.encode().as_bytes()), Some(record));
    }

    #[test]
    fn the_start_time_is_found_behind_a_hostile_name() {
        let stat = std::fs::read("/proc/self/stat").unwrap();
        assert!(start_ticks(&stat).unwrap() > 0);
        let hostile = b"7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        assert_eq!(start_ticks(hostile), Some(777));
    }
}
