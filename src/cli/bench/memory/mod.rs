//! Memory of a runtime without that of its workloads.
//!
//! Of a runtime are its daemon, that one's descendants, and what came with the pods. Shims are nobody's children, so what
//! came is found by comparing the processes from before with those of now; whatever else begins on the host meanwhile is
//! told apart by its kinship.

pub mod daemon;
mod processes;

use std::collections::BTreeMap;

use anyhow::Context;

pub use processes::Processes;
use processes::{Process, pss_kib};

/// KiB, and the number of processes, by the processes' name.
pub type ByName = BTreeMap<String, (f64, usize)>;

/// What came with some pods.
pub struct Kin<'a> {
    pub daemon: u32,
    /// From before the pods.
    pub before: &'a Processes,
    /// In the command of each process of a workload and of no other.
    pub workload: &'a str,
    /// Of the pods and their containers.
    pub ids: Vec<&'a str>,
}

/// Of the daemon and its descendants.
///
/// # Errors
/// Without the right to look.
pub fn of_daemon(daemon: u32, processes: &Processes) -> anyhow::Result<ByName> {
    let family = processes.iter().filter(|process| is_of(daemon, process, processes));
    sum(family)
}

/// The same, and what came with the pods.
///
/// # Errors
/// Without the right to look.
pub fn with_pods(kin: &Kin<'_>, now: &Processes) -> anyhow::Result<ByName> {
    sum(kin.runtimes(now).into_iter())
}

impl Kin<'_> {
    /// The processes of the runtime: the daemon's, and new ones that are between a workload and the first process of the
    /// host, descend from such a one, or name one of our pods in their command or cgroup.
    fn runtimes<'p>(&self, now: &'p Processes) -> Vec<&'p Process> {
        let is_workload = |process: &Process| process.command.contains(self.workload);
        let is_new = |process: &Process| !self.before.has(process);
        let keepers: Vec<&Process> = {
            let above = now.iter().filter(|process| is_workload(process));
            let above: Vec<u32> = above.flat_map(|process| now.ancestors(process.pid)).collect();
            now.iter()
                .filter(|process| above.contains(&process.pid) && is_new(process))
                .collect()
        };
        let is_kin = |process: &Process| {
            let by_birth = keepers.iter().any(|keeper| is_of(keeper.pid, process, now));
            by_birth
                || self
                    .ids
                    .iter()
                    .any(|id| process.command.contains(id) || process.cgroup.contains(id))
        };
        let runtimes = now.iter().filter(|process| {
            !is_workload(process) && (is_of(self.daemon, process, now) || (is_new(process) && is_kin(process)))
        });
        runtimes.collect()
    }
}

/// Whether a process is `family` or descends from it.
fn is_of(family: u32, process: &Process, processes: &Processes) -> bool {
    process.pid == family || processes.ancestors(process.pid).any(|ancestor| ancestor == family)
}

fn sum<'p>(processes: impl Iterator<Item = &'p Process>) -> anyhow::Result<ByName> {
    let mut names = ByName::new();
    for Process { pid, name, .. } in processes {
        let pss = pss_kib(*pid).with_context(|| format!("look at the memory of process {pid} ({name})"))?;
        if let Some(kib) = pss {
            let (sum, count) = names.entry(name.clone()).or_default();
            *sum += kib;
            *count += 1;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod test {
    use super::*;

    fn process(pid: u32, parent: u32, name: &str, command: &str) -> Process {
        Process {
            pid,
            parent,
            started: u64::from(pid),
            name: name.into(),
            command: command.into(),
            cgroup: String::new(),
        }
    }

    #[test]
    fn shims_pauses_and_monitors_are_the_runtimes_and_strangers_are_not() {
        let old = [
            process(10, 1, "daemon", "daemon"),
            process(11, 10, "zygote", "daemon"),
            process(20, 1, "old-shim", "shim -id other"),
            process(30, 1, "ssh", "ssh"),
        ];
        let mut new = vec![
            // As containerd has it: a shim of nobody's, with pause and workload below it.
            process(100, 1, "shim", "shim -id pod-1"),
            process(101, 100, "pause", "/pause"),
            process(102, 100, "sleep", "sleep 100000007"),
            // As CRI-O has it: a monitor for each container, the pause's with no workload below.
            process(110, 1, "conmon", "conmon -c pod-2"),
            process(111, 110, "pause", "/pause"),
            process(112, 1, "conmon", "conmon -c container-2"),
            process(113, 112, "sleep", "sleep 100000007"),
            // Strangers.
            process(120, 30, "bash", "bash"),
            process(121, 1, "cron", "cron"),
        ];
        new[4].cgroup = "0::/pods/pod-2/pause".into();
        let before: Processes = old.iter().cloned().collect();
        let now: Processes = old.into_iter().chain(new).collect();
        let kin = Kin {
            daemon: 10,
            before: &before,
            workload: "100000007",
            ids: vec!["pod-1", "pod-2", "container-2"],
        };
        let found: Vec<u32> = kin.runtimes(&now).iter().map(|process| process.pid).collect();
        assert_eq!(found, [10, 11, 100, 101, 110, 111, 112]);
    }
}
