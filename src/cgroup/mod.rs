//! cgroups: made, limited, joined, killed and removed by the daemon; v1, hybrid and v2, with the driver cgroupfs or
//! systemd.
//!
//! A cgroup is told by its path below the hierarchies' roots. One whose path is that of a scope of ours is systemd's,
//! whichever driver makes new ones: what was made before the driver changed is still ended as it was made.
//!
//! On a hybrid host the controllers are where the containers are; the unified leg has none and is left alone. Files
//! are written directly: a limit is one write, and what libcgroups would add is a parse of mountinfo for each call and
//! a pid in `cgroup.procs`, which waits for an RCU grace period (`docs/decisions/0002-cgroups.md`).

mod change;
mod files;
mod hierarchy;
mod limits;
mod own;
mod stats;
mod systemd;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::{
    model::{DeviceRule, ErrorKind, Resources},
    sys::oom,
};
use hierarchy::Hierarchy;
use systemd::{BusError, Starting, Systemd, names};

/// How long the processes of a removed cgroup may take to die.
const DEATH: Duration = Duration::from_secs(5);

/// How often a cgroup's processes are gone through for ones that were forked meanwhile.
const PASSES: u32 = 16;

/// Where a sandbox that names no parent belongs with the driver cgroupfs.
const DEFAULT_PARENT: &str = "/inro";

/// How cgroups are made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The kubelet must use the same; since 1.34 it asks.
    pub driver: Choice,
}

/// The driver that the configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// systemd where it is the first process and the host has cgroup v2, else cgroupfs.
    #[default]
    Auto,
    Cgroupfs,
    Systemd,
}

/// Who makes a container's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// We do, as a folder.
    Cgroupfs,
    /// systemd does, as a scope.
    Systemd,
}

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
    #[error("{parent:?} is {why}")]
    Parent { parent: String, why: String },
    #[error("cgroup.driver: systemd needs {0}")]
    NoSystemd(&'static str),
    #[error("cgroup.driver: systemd is version {version}, the driver needs {oldest}")]
    OldSystemd { version: u32, oldest: u32 },
    #[error("{action} {unit}")]
    Systemd {
        action: &'static str,
        unit: String,
        source: BusError,
    },
}

impl CgroupError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoController { .. } | Self::InUse { .. } => ErrorKind::FailedPrecondition,
            Self::Invalid { .. } | Self::Refused { .. } | Self::BadPath(_) | Self::Parent { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Systemd { source, .. } => match source {
                BusError::Connect(_) | BusError::Lost => ErrorKind::Unavailable,
                BusError::Slow => ErrorKind::DeadlineExceeded,
                _ => ErrorKind::Internal,
            },
            _ => ErrorKind::Internal,
        }
    }
}

/// The host's cgroups. Cheap to clone.
#[derive(Clone)]
pub struct Cgroups {
    hierarchy: Arc<Hierarchy>,
    driver: Driver,
    /// Where it is the host's first process.
    systemd: Option<Arc<Systemd>>,
}

/// A cgroup that was asked for and may not be there yet.
pub struct Making {
    cgroups: Cgroups,
    path: String,
    resources: Resources,
    scope: Option<(Arc<Systemd>, Starting)>,
}

impl Cgroups {
    /// Finds out what is mounted, and which driver makes cgroups.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`]; [`CgroupError::NoSystemd`], [`CgroupError::OldSystemd`] and
    /// [`CgroupError::Systemd`] when that driver cannot be used here.
    pub fn open(config: &Config) -> Result<Self, CgroupError> {
        let hierarchy = Hierarchy::detect()?;
        let v2 = matches!(hierarchy, Hierarchy::V2 { .. });
        let driver = match config.driver {
            Choice::Cgroupfs => Driver::Cgroupfs,
            Choice::Auto if !v2 || !Systemd::runs() => Driver::Cgroupfs,
            Choice::Systemd if !v2 => return Err(CgroupError::NoSystemd("cgroup v2")),
            Choice::Systemd if !Systemd::runs() => return Err(CgroupError::NoSystemd("systemd as the first process")),
            Choice::Auto | Choice::Systemd => Driver::Systemd,
        };
        let systemd = (v2 && Systemd::runs()).then(|| Arc::new(Systemd::default()));
        if let (Driver::Systemd, Some(systemd)) = (driver, &systemd) {
            systemd.check()?;
        }
        Ok(Self {
            hierarchy: Arc::new(hierarchy),
            driver,
            systemd,
        })
    }

    /// Who makes new cgroups.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Whether the controllers are on v2.
    pub fn is_v2(&self) -> bool {
        matches!(*self.hierarchy, Hierarchy::V2 { .. })
    }

    /// The path of what a client names as a sandbox's parent: with the driver systemd a slice, else a folder. Empty is
    /// the default.
    ///
    /// # Errors
    /// [`CgroupError::Parent`] when it is not of this driver's kind.
    pub fn parent(&self, told: &str) -> Result<String, CgroupError> {
        let fault = |why: String| CgroupError::Parent {
            parent: told.to_owned(),
            why,
        };
        match self.driver {
            Driver::Systemd if told.is_empty() => Ok(names::DEFAULT_SLICE.to_owned()),
            Driver::Systemd => names::slice_path(told).map_err(fault),
            Driver::Cgroupfs if told.is_empty() => Ok(DEFAULT_PARENT.to_owned()),
            Driver::Cgroupfs if told.ends_with(".slice") => {
                Err(fault("a systemd slice, and the driver here is cgroupfs".to_owned()))
            }
            // The kubelet writes absolute paths; without the slash the same is meant, as with the peers.
            Driver::Cgroupfs => Ok(format!("/{}", told.trim_matches('/'))),
        }
    }

    /// The path of the cgroup of `id` (a sandbox's or a container's) below a parent's path.
    pub fn path(&self, parent: &str, id: &str) -> String {
        match self.driver {
            Driver::Systemd => names::scope_path(parent, id),
            Driver::Cgroupfs => format!("{}/{id}", parent.trim_end_matches('/')),
        }
    }

    /// Begins to make the cgroup `path` (absolute under the hierarchies' roots) and those above it. With the driver
    /// systemd it is there only with a process in it: `first`, which may go when another has joined.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`], [`CgroupError::Systemd`].
    pub fn begin(&self, path: &str, resources: &Resources, first: Option<u32>) -> Result<Making, CgroupError> {
        check_path(path)?;
        let scope = match (self.scope(path), first) {
            (Some((systemd, scope)), Some(first)) => {
                let starting = systemd.begin(&scope, resources, first)?;
                Some((systemd.clone(), starting))
            }
            _ => None,
        };
        Ok(Making {
            cgroups: self.clone(),
            path: path.to_owned(),
            resources: resources.clone(),
            scope,
        })
    }

    /// Changes limits in place: all that `resources` names, or none.
    ///
    /// # Errors
    /// [`CgroupError::InUse`] when memory would shrink below what is in use, else as [`Making::finish`].
    pub fn update(&self, path: &str, resources: &Resources) -> Result<(), CgroupError> {
        check_path(path)?;
        match self.scope(path) {
            None => change::change(&self.hierarchy, path, resources, None),
            Some((systemd, scope)) => {
                let agree = |resources: &Resources| systemd.agree(&scope, resources);
                change::change(&self.hierarchy, path, resources, Some(&agree))
            }
        }
    }

    /// The scope that a path is of, where there is a systemd to know it.
    fn scope(&self, path: &str) -> Option<(&Arc<Systemd>, names::Scope)> {
        self.systemd.as_ref().zip(names::scope_at(path))
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
    /// [`CgroupError::Busy`] when they do not die, [`CgroupError::Io`], [`CgroupError::Systemd`].
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        check_path(path)?;
        if let Some((systemd, scope)) = self.scope(path) {
            // Processes that live it would first ask to end, and give them time.
            self.until_dead(path, |folder| Ok(files::is_populated(folder)))?;
            systemd.stop(&scope)?;
        }
        self.until_dead(path, |folder| match files::remove(folder) {
            Ok(()) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
            Err(source) => Err(CgroupError::Io {
                action: "remove",
                path: folder.to_owned(),
                source,
            }),
        })
    }

    /// The same for a cgroup whose container has ended. Of a scope no more than the processes: systemd removes it once it
    /// is empty, and whoever is told of the exit need not wait for that.
    ///
    /// # Errors
    /// As [`Cgroups::remove`].
    pub fn clear(&self, path: &str) -> Result<(), CgroupError> {
        if self.scope(path).is_none() {
            return self.remove(path);
        }
        self.until_dead(path, |folder| Ok(files::is_populated(folder)))
    }

    /// Kills until no folder of the cgroup is `busy`.
    fn until_dead(&self, path: &str, busy: impl Fn(&Path) -> Result<bool, CgroupError>) -> Result<(), CgroupError> {
        let deadline = Instant::now() + DEATH;
        let mut pause = Duration::from_micros(200);
        loop {
            let mut left = None;
            for folder in self.hierarchy.folders(path) {
                if busy(&folder)? {
                    left = Some(folder);
                }
            }
            let Some(folder) = left else { return Ok(()) };
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

    /// The same for the slice that a scope is in, with all else in it: it is there when systemd has removed the scope.
    /// 0 for a cgroup that is no scope.
    pub fn oom_kills_in_slice(&self, path: &str) -> u64 {
        let slice = self.scope(path).and_then(|_| path.rsplit_once('/'));
        let kills = slice.and_then(|(slice, _)| self.oom_kills(slice).ok());
        kills.unwrap_or(0)
    }

    /// The folders that a container's own /sys/fs/cgroup shows: on v1 each controller's, by its mount's name; on v2 one,
    /// which has no name.
    pub fn views(&self, path: &str) -> Vec<(String, PathBuf)> {
        self.hierarchy.views(path)
    }
}

impl Making {
    /// Waits until the cgroup is there and limits it. Making one that exists is no error.
    ///
    /// # Errors
    /// [`CgroupError::NoController`] for a limit that cannot be had, [`CgroupError::Invalid`], [`CgroupError::Io`],
    /// [`CgroupError::Systemd`].
    pub fn finish(self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        if let Some((systemd, starting)) = self.scope {
            systemd.finish(starting)?;
        }
        let hierarchy = &self.cgroups.hierarchy;
        // Of a scope too: systemd hands down the controllers that it knows, and hugetlb is none of them.
        hierarchy.make(&self.path)?;
        change::set(hierarchy, &self.path, &self.resources)?;
        limits::apply_devices(hierarchy, &self.path, rules)
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
