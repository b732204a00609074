//! Ends a process with everything it started: its descendants and its session, without knowing a cgroup of theirs.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::sys::stat::Stat;

/// Kills `leader`, its session and all their descendants: first everything is stopped, until nothing new is found, so
/// that nobody forks away; then killed.
pub(super) fn kill_session(leader: i32) {
    let mut found: Vec<Stat> = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let new: Vec<Stat> = members(leader)
            .into_iter()
            .filter(|entry| !found.contains(entry))
            .collect();
        if new.is_empty() {
            break;
        }
        for entry in &new {
            signal_very(entry, Signal::STOP);
        }
        found.extend(new);
    }
    for entry in &found {
        signal_very(entry, Signal::KILL);
    }
}

/// Signals this very process: a later one of the same number has another start time.
fn signal_very(process: &Stat, signal: Signal) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if Stat::read(process.pid).is_some_and(|now| now.started == process.started) {
        let _ = pidfd_send_signal(&pidfd, signal);
    }
}

/// All processes now in the session or descending from one that is.
fn members(leader: i32) -> Vec<Stat> {
    let Ok(dir) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = dir.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut rest: Vec<Stat> = pids.filter_map(Stat::read).collect();
    let mut found = Vec::new();
    loop {
        let belongs = |entry: &Stat| {
            entry.pid == leader
                || entry.session == leader
                || found.iter().any(|parent: &Stat| parent.pid == entry.parent)
        };
        let (more, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(belongs);
        if more.is_empty() {
            return found;
        }
        found.extend(more);
        rest = others;
    }
}

const MOST_ROUNDS: usize = 50;
