//! Ends a process with everything it started: its descendants and its session, without knowing a cgroup of theirs.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills `leader`, its session and all their descendants: first everything is stopped, until nothing new is found, so
/// that nobody forks away; then killed.
pub(super) fn kill_session(leader: i32) {
    let mut found: Vec<Entry> = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let new: Vec<Entry> = members(leader)
            .into_iter()
            .filter(|entry| !found.contains(entry))
            .collect();
        if new.is_empty() {
            break;
        }
        for entry in &new {
            entry.signal(Signal::STOP);
        }
        found.extend(new);
    }
    for entry in &found {
        entry.signal(Signal::KILL);
    }
}

/// A process as /proc told it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    pid: i32,
    parent: i32,
    session: i32,
    start: u64,
}

impl Entry {
    fn read(pid: i32) -> Option<Self> {
        parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Signals this very process: a later one of the same number has another start time.
    fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        if Self::read(self.pid).is_some_and(|now| now.start == self.start) {
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }
}

/// All processes now in the session or descending from one that is.
fn members(leader: i32) -> Vec<Entry> {
    let Ok(dir) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = dir.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut rest: Vec<Entry> = pids.filter_map(Entry::read).collect();
    let mut found = Vec::new();
    loop {
        let belongs = |entry: &Entry| {
            entry.pid == leader
                || entry.session == leader
                || found.iter().any(|parent: &Entry| parent.pid == entry.parent)
        };
        let (more, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(belongs);
        if more.is_empty() {
            return found;
        }
        found.extend(more);
        rest = others;
    }
}

/// The fields of /proc/pid/stat after the name, which may itself hold spaces and parentheses (proc_pid_stat(5)).
fn parse(pid: i32, stat: &str) -> Option<Entry> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse().ok();
    Some(Entry {
        pid,
        parent: number(1)?,
        session: number(3)?,
        start: fields.get(19)?.parse().ok()?,
    })
}

const MOST_ROUNDS: usize = 50;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 10";
        assert_eq!(
            parse(7, stat),
            Some(Entry {
                pid: 7,
                parent: 1,
                session: 5,
                start: 12345
            })
        );
    }
}
