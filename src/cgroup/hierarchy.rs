//! Where the host's controllers are mounted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use procfs::process::Process;

use super::{CgroupError, below, files};

/// The host's layout.
pub enum Hierarchy {
    /// One mount for each set of controllers; a named one (`name=systemd`) has none.
    V1 {
        mounts: Vec<Mount>,
    },
    V2 {
        root: PathBuf,
    },
}

/// A v1 hierarchy.
pub struct Mount {
    /// Its folder's name in /sys/fs/cgroup, such as `cpu,cpuacct`.
    name: String,
    root: PathBuf,
    controllers: Vec<String>,
}

const V1_CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

impl Hierarchy {
    pub fn detect() -> Result<Self, CgroupError> {
        let mountinfo = Process::myself()
            .and_then(|me| me.mountinfo())
            .map_err(|_| CgroupError::NoHierarchy)?;
        let base = Path::new("/sys/fs/cgroup");
        let mut mounts: Vec<Mount> = Vec::new();
        for mount in mountinfo.0.iter().filter(|mount| mount.mount_point.starts_with(base)) {
            if mount.fs_type == "cgroup2" && mount.mount_point == base {
                return Ok(Self::V2 { root: base.to_owned() });
            }
            // The same hierarchy may be mounted twice (symlinked names): once is enough.
            let known = mounts.iter().any(|known| known.root == mount.mount_point);
            if mount.fs_type == "cgroup" && !known {
                let name = mount
                    .mount_point
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let options = mount.super_options.keys();
                let controllers = options
                    .filter(|key| V1_CONTROLLERS.contains(&key.as_str()))
                    .cloned()
                    .collect();
                mounts.push(Mount {
                    name,
                    root: mount.mount_point.clone(),
                    controllers,
                });
            }
        }
        if mounts.is_empty() {
            Err(CgroupError::NoHierarchy)
        } else {
            Ok(Self::V1 { mounts })
        }
    }

    /// A host of v1 with one mount for each controller.
    #[cfg(test)]
    pub fn v1_of(controllers: &[&str]) -> Self {
        let mounts = controllers.iter().map(|name| Mount {
            name: (*name).to_owned(),
            root: Path::new("/c").join(name),
            controllers: vec![(*name).to_owned()],
        });
        Self::V1 {
            mounts: mounts.collect(),
        }
    }

    /// The root of the hierarchy that has a v1 controller.
    pub fn controller(&self, name: &str) -> Option<PathBuf> {
        let Self::V1 { mounts } = self else { return None };
        mounts
            .iter()
            .find(|mount| mount.controllers.iter().any(|c| c == name))
            .map(|mount| mount.root.clone())
    }

    /// The folder of `path` in every hierarchy.
    pub fn folders(&self, path: &str) -> Vec<PathBuf> {
        match self {
            Self::V1 { mounts } => mounts.iter().map(|mount| below(&mount.root, path)).collect(),
            Self::V2 { root } => vec![below(root, path)],
        }
    }

    /// The folder of `path` in every hierarchy, with the hierarchy's name.
    pub fn views(&self, path: &str) -> Vec<(String, PathBuf)> {
        match self {
            Self::V1 { mounts } => mounts
                .iter()
                .map(|mount| (mount.name.clone(), below(&mount.root, path)))
                .collect(),
            Self::V2 { root } => vec![(String::new(), below(root, path))],
        }
    }

    /// Makes the folder of `path`, and those above it, in every hierarchy.
    pub fn make(&self, path: &str) -> Result<(), CgroupError> {
        match self {
            Self::V1 { mounts } => mounts.iter().try_for_each(|mount| make_v1(mount, path)),
            Self::V2 { root } => make_v2(root, path),
        }
    }
}

fn make_v1(mount: &Mount, path: &str) -> Result<(), CgroupError> {
    let target = below(&mount.root, path);
    if !mount.controllers.iter().any(|c| c == "cpuset") {
        return make_all(&target);
    }
    // A new cpuset is empty and takes no process: each level starts with its parent's, also one somebody else made.
    let mut folder = mount.root.clone();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let parent = folder.clone();
        folder.push(part);
        make_all(&folder)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if files::read(&folder.join(file))?.trim().is_empty() {
                files::write(&folder.join(file), files::read(&parent.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

/// On v2 each level hands its controllers down, but for the last, which holds processes.
fn make_v2(root: &Path, path: &str) -> Result<(), CgroupError> {
    let mut folder = root.to_owned();
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    for part in parts {
        let available = files::read(&folder.join("cgroup.controllers"))?;
        let enabled = files::read(&folder.join("cgroup.subtree_control"))?;
        for controller in available
            .split_whitespace()
            .filter(|c| !enabled.split_whitespace().any(|e| e == *c))
        {
            // One that cannot be handed down (threaded, in use) is missed when a limit asks for it.
            let _ = files::write(&folder.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        folder.push(part);
        make_all(&folder)?;
    }
    Ok(())
}

fn make_all(folder: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(folder).map_err(|source| CgroupError::Io {
        action: "make",
        path: folder.to_owned(),
        source,
    })
}
