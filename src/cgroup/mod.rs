//! cgroups: made, limited, joined, killed and removed by the daemon; v1, hybrid and v2, driver cgroupfs.
//!
//! On a hybrid host the controllers are where the containers are; the unified leg has none and is left alone. Files
//! are written directly: a limit is one write, and what libcgroups would add is a parse of mountinfo for each call and
//! a pid in `cgroup.procs`, which waits for an RCU grace period (`docs/decisions/0002-cgroups.md`).

mod change;
mod files;
mod hierarchy;
mod limits;
mod stats;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    model::{DeviceRule, ErrorKind, Resources},
    sys::oom,
};
use hierarchy::Hierarchy;

/// How long the processes of a removed cgroup may take to die.
const DEATH: Duration = Duration::from_secs(5);

/// How often a cgroup's processes are gone through for ones that were forked meanwhile.
const PASSES: u32 = 16;

/// Why a cgroup could not be made, limited or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("no cgroup hierarchy is mounted at /sys/fs/cgroup")]
    NoHierarchy,
    #[error("{field}: the host has no {controller} controller")]
    NoController {
        field: &'static str,
        controller: &'static str,
    },
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    #[error("{field}: the kernel does not take {value:?}")]
    Refused {
        field: &'static str,
        value: String,
        source: io::Error,
    },
    #[error("{field}: {limit} bytes are less than the {used} in use")]
    InUse { field: &'static str, limit: u64, used: u64 },
    #[error("cgroup path {0:?} is not absolute or has `..` in it")]
    BadPath(String),
    #[error("processes in {} do not die", path.display())]
    Busy { path: PathBuf },
    #[error("this kernel's cgroup v2 needs a BPF program for device rules, and it was refused")]
    Devices(#[source] io::Error),
}

impl CgroupError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoController { .. } | Self::InUse { .. } => ErrorKind::FailedPrecondition,
            Self::Invalid { .. } | Self::Refused { .. } | Self::BadPath(_) => ErrorKind::InvalidArgument,
            _ => ErrorKind::Internal,
        }
    }
}

/// The host's cgroups. Cheap to clone.
#[derive(Clone)]
pub struct Cgroups {
    hierarchy: Arc<Hierarchy>,
}

impl Cgroups {
    /// Finds out what is mounted.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`].
    pub fn detect() -> Result<Self, CgroupError> {
        Ok(Self {
            hierarchy: Arc::new(Hierarchy::detect()?),
        })
    }

    /// Whether the controllers are on v2.
    pub fn is_v2(&self) -> bool {
        matches!(*self.hierarchy, Hierarchy::V2 { .. })
    }

    /// Makes the cgroup `path` (absolute under the hierarchies' roots) and those above it, and limits it. Making one
    /// that exists is no error.
    ///
    /// # Errors
    /// [`CgroupError::NoController`] for a limit that cannot be had, [`CgroupError::Invalid`], [`CgroupError::Io`].
    pub fn create(&self, path: &str, resources: &Resources, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        check_path(path)?;
        self.hierarchy.make(path)?;
        change::set(&self.hierarchy, path, resources)?;
        limits::apply_devices(&self.hierarchy, path, rules)
    }

    /// Changes limits in place: all that `resources` names, or none.
    ///
    /// # Errors
    /// [`CgroupError::InUse`] when memory would shrink below what is in use, else as [`Cgroups::create`].
    pub fn update(&self, path: &str, resources: &Resources) -> Result<(), CgroupError> {
        check_path(path)?;
        change::change(&self.hierarchy, path, resources)
    }

    /// Sets `oom_score_adj` of every process in the cgroup and below it. Where this node forbids to lower it, a process
    /// gets the lowest that is allowed, as with a new container.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn set_oom_score_adj(&self, path: &str, score: i32) -> Result<(), CgroupError> {
        // A process that is forked meanwhile has its parent's old score: looked for until nothing is left to change.
        for _ in 0..PASSES {
            let mut changed = false;
            for pid in self.processes(path)? {
                changed |= oom::set_score_adj(pid, score).map_err(|source| CgroupError::Io {
                    action: "write",
                    path: format!("/proc/{pid}/oom_score_adj").into(),
                    source,
                })?;
            }
            if !changed {
                break;
            }
        }
        Ok(())
    }

    /// The opened `tasks` file of each v1 hierarchy: a thread that writes `0` into one moves itself.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn join_fds(&self, path: &str) -> Result<Vec<OwnedFd>, CgroupError> {
        check_path(path)?;
        self.hierarchy
            .folders(path)
            .iter()
            .map(|folder| files::open_to_write(&folder.join("tasks")))
            .collect()
    }

    /// The opened folder on v2, for CLONE_INTO_CGROUP.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn v2_dir(&self, path: &str) -> Result<OwnedFd, CgroupError> {
        check_path(path)?;
        let folders = self.hierarchy.folders(path);
        let folder = folders.first().ok_or(CgroupError::NoHierarchy)?;
        files::open_folder(folder)
    }

    /// Pids of all processes in the cgroup and below it.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn processes(&self, path: &str) -> Result<Vec<u32>, CgroupError> {
        check_path(path)?;
        let mut pids = Vec::new();
        for folder in self.hierarchy.folders(path) {
            files::processes(&folder, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Sends a signal to every process in the cgroup and below it; SIGKILL reaches those that are forking too.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn kill(&self, path: &str, signal: i32) -> Result<(), CgroupError> {
        if signal == Signal::KILL.as_raw()
            && let Hierarchy::V2 { root } = &*self.hierarchy
            && fs::write(below(root, path).join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        let Some(signal) = Signal::from_named_raw(signal) else {
            return Err(CgroupError::Invalid {
                field: "signal",
                why: format!("{signal} is not a signal"),
            });
        };
        for pid in self.processes(path)? {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                // One that has just ended is no failure.
                let _ = kill_process(pid, signal);
            }
        }
        Ok(())
    }

    /// Kills what is left in the cgroup and removes it with all below it. Nothing to do when it is gone. Blocks until
    /// the processes are dead.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when they do not die, [`CgroupError::Io`].
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        check_path(path)?;
        let deadline = Instant::now() + DEATH;
        let mut pause = Duration::from_micros(200);
        loop {
            let mut busy = None;
            for folder in self.hierarchy.folders(path) {
                match files::remove(&folder) {
                    Ok(()) => {}
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => busy = Some(folder),
                    Err(source) => {
                        return Err(CgroupError::Io {
                            action: "remove",
                            path: folder,
                            source,
                        });
                    }
                }
            }
            let Some(folder) = busy else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(CgroupError::Busy { path: folder });
            }
            self.kill(path, Signal::KILL.as_raw())?;
            // A killed process leaves its cgroup a moment after it is dead to its parent.
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// How many processes of the cgroup the kernel killed for want of memory.
    ///
    /// Source: v1 `memory.oom_control`, v2 `memory.events`, both `oom_kill`.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn oom_kills(&self, path: &str) -> Result<u64, CgroupError> {
        match &*self.hierarchy {
            // Counts what is below as well.
            Hierarchy::V2 { root } => files::count(&below(root, path).join("memory.events"), "oom_kill"),
            Hierarchy::V1 { .. } => match self.hierarchy.controller("memory") {
                Some(root) => files::count_below(&below(&root, path), "memory.oom_control", "oom_kill"),
                None => Ok(0),
            },
        }
    }

    /// The folders that a container's own /sys/fs/cgroup shows: on v1 each controller's, by its mount's name; on v2 one,
    /// which has no name.
    pub fn views(&self, path: &str) -> Vec<(String, PathBuf)> {
        self.hierarchy.views(path)
    }
}

/// `path` under a hierarchy's root.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn check_path(path: &str) -> Result<(), CgroupError> {
    let bad = !path.starts_with('/') || path.split('/').any(|part| part == ".." || part == ".") || path.len() < 2;
    if bad {
        Err(CgroupError::BadPath(path.to_owned()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod test;
