//! What a cgroup uses, read from its files.
//!
//! A file that this kernel or this host does not have is no error: its figure is absent, or zero where zero is what it
//! means. Sources: kernel "Memory Resource Controller", "CPU Accounting Controller", "Block IO Controller" (v1) and
//! "Control Group v2".

mod folder;
mod parse;
mod processes;
mod v1;
mod v2;

use std::path::PathBuf;

use folder::Folder;

use super::{Cgroups, below, files, hierarchy::Hierarchy};
use crate::{
    model::{Details, DeviceIo, Timestamp, Usage},
    sys::device::block_device_name,
};

impl Cgroups {
    /// What the cgroup uses, with all below it, but for the processes; `None` when it is gone. Reads some ten files of
    /// the kernel's, no disk.
    pub fn usage(&self, path: &str) -> Option<Usage> {
        let at = Timestamp::now();
        let usage = match &*self.hierarchy {
            Hierarchy::V1 { .. } => v1::usage(&self.folder_of(path)),
            Hierarchy::V2 { root } => v2::usage(&Folder::open(&below(root, path))?),
        };
        let there = usage.cpu.is_some() || usage.memory.is_some();
        there.then_some(Usage { at, ..usage })
    }

    /// How many processes the cgroup has, with all below it.
    pub fn process_count(&self, path: &str) -> u64 {
        self.one_folder(path).map_or(0, |folder| processes::count(&folder))
    }

    /// CPU time of the cgroup in nanoseconds; `None` when it is gone.
    pub fn cpu_ns(&self, path: &str) -> Option<u64> {
        match &*self.hierarchy {
            Hierarchy::V1 { .. } => v1::cpu_ns(&self.folder_of(path)),
            Hierarchy::V2 { root } => v2::cpu_ns(&Folder::open(&below(root, path))?),
        }
    }

    /// The rest of what its files and its processes tell. Reads a link for each open descriptor; `init` is the pid of
    /// the process whose limits are told.
    pub fn details(&self, path: &str, init: u32) -> Details {
        let details = match &*self.hierarchy {
            Hierarchy::V1 { .. } => v1::details(&self.folder_of(path)),
            Hierarchy::V2 { root } => {
                Folder::open(&below(root, path)).map_or_else(Details::default, |f| v2::details(&f))
            }
        };
        let mut pids = Vec::new();
        if let Some(folder) = self.one_folder(path) {
            // One that cannot be listed has none to tell of.
            let _ = files::processes(&folder, &mut pids);
        }
        let (descriptors, sockets) = processes::descriptors(&pids);
        Details {
            descriptors,
            sockets,
            open_files_limit: processes::open_files_limit(init),
            ..details
        }
    }

    /// A folder with the cgroup's processes; on v1 they are the same in each hierarchy.
    fn one_folder(&self, path: &str) -> Option<PathBuf> {
        match &*self.hierarchy {
            Hierarchy::V1 { .. } => {
                let mut controllers = ["pids", "memory", "cpuacct"].into_iter();
                controllers.find_map(|name| Some(below(&self.hierarchy.controller(name)?, path)))
            }
            Hierarchy::V2 { root } => Some(below(root, path)),
        }
    }

    /// Where a v1 controller has the cgroup.
    fn folder_of<'a>(&'a self, path: &'a str) -> impl Fn(&str) -> Option<Folder> + 'a {
        |controller| Folder::open(&below(&self.hierarchy.controller(controller)?, path))
    }
}

/// Gives each device its name.
fn named(mut devices: Vec<DeviceIo>) -> Vec<DeviceIo> {
    for device in &mut devices {
        device.name = block_device_name(device.major, device.minor);
    }
    devices
}

#[cfg(test)]
mod test;
