//! The processes of this host, and the memory of one.

use std::{collections::BTreeMap, fs, io};

use crate::sys::stat::Stat;

/// Of one moment.
pub struct Processes(BTreeMap<u32, Process>);

#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// In ticks since boot: tells a process from a later one with its number.
    pub started: u64,
    pub name: String,
    /// Its arguments, with spaces between them.
    pub command: String,
    /// Its cgroups, a line for each hierarchy.
    pub cgroup: String,
}

impl Processes {
    /// Those of now; one that ends meanwhile may be missing.
    ///
    /// # Errors
    /// When there is no /proc.
    pub fn now() -> io::Result<Self> {
        let entries = fs::read_dir("/proc")?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(pids.filter_map(Process::read).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Process> {
        self.0.values()
    }

    /// Whether this very process was there.
    pub fn has(&self, process: &Process) -> bool {
        self.0
            .get(&process.pid)
            .is_some_and(|known| known.started == process.started)
    }

    /// The parents of a process, the nearest first, the first process of the host left out.
    pub fn ancestors(&self, pid: u32) -> impl Iterator<Item = u32> {
        let parent = |pid: u32| {
            self.0
                .get(&pid)
                .map(|process| process.parent)
                .filter(|parent| *parent > 1)
        };
        std::iter::successors(parent(pid), move |pid| parent(*pid))
    }
}

impl FromIterator<Process> for Processes {
    fn from_iter<I: IntoIterator<Item = Process>>(processes: I) -> Self {
        Self(processes.into_iter().map(|process| (process.pid, process)).collect())
    }
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid.try_into().ok()?)?;
        let text = |name: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).ok();
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        Some(Self {
            pid,
            parent: stat.parent.try_into().ok()?,
            started: stat.started,
            name: stat.name,
            command: text("cmdline")?.replace('\0', " "),
            cgroup: text("cgroup").unwrap_or_default(),
        })
    }
}

/// The proportional set size of a process in KiB: its own pages, and of those it shares its share. `None` when it has
/// ended.
///
/// # Errors
/// Without the right to look.
pub fn pss_kib(pid: u32) -> io::Result<Option<f64>> {
    // proc_pid_smaps(5). A zombie's, and a kernel thread's, cannot be read: ESRCH.
    match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        Ok(text) => Ok(text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_memory() {
        let me = std::process::id();
        let processes = Processes::now().unwrap();
        let found = processes.iter().find(|process| process.pid == me).unwrap();
        assert!(processes.has(found) && !found.command.is_empty());
        assert!(pss_kib(me).unwrap().unwrap() > 0.0);
        assert_eq!(pss_kib(u32::MAX).unwrap(), None);
    }
}
