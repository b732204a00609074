//! A cgroup for processes of inro's own, which move themselves into it.

use std::{fs, path::PathBuf};

use super::{CgroupError, Cgroups, below, change, check_path, hierarchy::Hierarchy};
use crate::model::Resources;

impl Cgroups {
    /// Makes the cgroup `path` if it is not there, with these limits, and answers by which files a process moves itself
    /// into it: it writes `0`. On v1 it is one of the controllers for CPU and memory only. With either driver it is a
    /// folder at the root, which systemd leaves alone.
    ///
    /// # Errors
    /// [`CgroupError`] naming the limit or the file.
    pub fn make_own(&self, path: &str, resources: &Resources) -> Result<Vec<PathBuf>, CgroupError> {
        check_path(path)?;
        for folder in self.own_folders(path) {
            fs::create_dir_all(&folder).map_err(|source| CgroupError::Io {
                action: "make",
                path: folder,
                source,
            })?;
        }
        if self.is_v2() {
            // With the controllers that the limits need.
            self.hierarchy.make(path)?;
        }
        change::set(&self.hierarchy, path, resources)?;
        let file = if self.is_v2() { "cgroup.procs" } else { "tasks" };
        let folders = self.own_folders(path).into_iter();
        Ok(folders.map(|folder| folder.join(file)).collect())
    }

    /// Removes it if nobody is in it: another daemon may have one of this name.
    pub fn drop_own(&self, path: &str) {
        for folder in self.own_folders(path) {
            let _ = fs::remove_dir(folder);
        }
    }

    fn own_folders(&self, path: &str) -> Vec<PathBuf> {
        let mut roots = match &*self.hierarchy {
            Hierarchy::V2 { root } => vec![root.clone()],
            Hierarchy::V1 { .. } => ["cpu", "memory"]
                .into_iter()
                .filter_map(|name| self.hierarchy.controller(name))
                .collect(),
        };
        roots.dedup();
        roots.into_iter().map(|root| below(&root, path)).collect()
    }
}
