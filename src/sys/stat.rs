//! What /proc/PID/stat tells of a process: its kin, and when it began.

use std::fs;

/// Of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub name: String,
    pub parent: i32,
    pub session: i32,
    /// In ticks since boot: tells a process from a later one with its number.
    pub started: u64,
}

impl Stat {
    /// `None` when there is no such process.
    pub fn read(pid: i32) -> Option<Self> {
        // A process names itself as it likes, not always in UTF-8.
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&stat))
    }

    /// The name may itself hold spaces and parentheses. Source: proc_pid_stat(5): pid (comm) state ppid pgrp session ...,
    /// starttime is the 22nd.
    fn parse(stat: &str) -> Option<Self> {
        let (head, tail) = stat.rsplit_once(')')?;
        let (pid, name) = head.split_once(" (")?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            parent: number(1)?,
            session: number(3)?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 10";
        assert_eq!(
            Stat::parse(stat),
            Some(Stat {
                pid: 7,
                name: "a) b (c)".into(),
                parent: 1,
                session: 5,
                started: 12345
            })
        );
    }

    #[test]
    fn a_name_may_look_like_fields() {
        let stat = "42 (a) S (b) S 7 42 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 999 0";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.pid, stat.parent, stat.started), (42, 7, 999));
        assert_eq!(stat.name, "a) S (b");
    }

    #[test]
    fn a_name_need_not_be_utf_8() {
        rustix::thread::set_name(c"\xff\xfe").unwrap();
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!(Stat::read(thread).unwrap().name, "\u{fffd}\u{fffd}");
    }
}
