//! Who makes cgroups in these tests, and what a pod's parent is called with each.

use std::{fs, path::Path, process::Command};

use super::hierarchies;

/// As the daemon's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

impl Driver {
    /// The driver of every daemon here: `INRO_CGROUP_DRIVER`, else what a daemon chooses by itself.
    pub fn of_tests() -> Driver {
        match std::env::var("INRO_CGROUP_DRIVER").as_deref() {
            Ok("systemd") => Driver::Systemd,
            Ok("cgroupfs") => Driver::Cgroupfs,
            Ok(other) => panic!("INRO_CGROUP_DRIVER: {other:?} is no driver"),
            Err(_) if systemd_has_v2() => Driver::Systemd,
            Err(_) => Driver::Cgroupfs,
        }
    }

    /// The lines of the configuration that ask for it, if they are needed.
    pub fn config(self) -> String {
        match std::env::var("INRO_CGROUP_DRIVER") {
            Ok(name) => format!("[cgroup]\ndriver = \"{name}\"\n"),
            Err(_) => String::new(),
        }
    }

    /// The cgroup of a test, by the name of its scratch folder.
    pub fn parent(self, name: &str) -> String {
        match self {
            Driver::Cgroupfs => name.to_owned(),
            Driver::Systemd => format!("{}.slice", name.replace('-', "_")),
        }
    }

    /// The line of `[image]` that has unpack workers below a test's parent, where what is left of them is seen. A folder
    /// in a slice would be none of systemd's.
    pub fn workers(self, parent: &str) -> String {
        match self {
            Driver::Cgroupfs => format!("workers.cgroup = \"/{parent}/unpack\"\n"),
            Driver::Systemd => String::new(),
        }
    }

    /// A cgroup below it.
    pub fn below(self, parent: &str, name: &str) -> String {
        match self {
            Driver::Cgroupfs => format!("{parent}/{name}"),
            Driver::Systemd => {
                let parent = parent.trim_end_matches(".slice");
                format!("{parent}.slice/{}-{name}.slice", parent.trim_start_matches('/'))
            }
        }
    }

    /// Makes a test's cgroup; systemd makes its slice when it is needed.
    pub fn make(self, parent: &str) {
        if self == Driver::Cgroupfs {
            for hierarchy in hierarchies() {
                // A read-only hierarchy is none that a container could be in.
                let _ = fs::create_dir(hierarchy.join(parent));
            }
        }
    }

    /// Removes a cgroup that has no container any more, as the kubelet does with a pod's.
    pub fn remove(self, parent: &str) {
        match self {
            Driver::Cgroupfs => {
                for hierarchy in hierarchies() {
                    let _ = fs::remove_dir(hierarchy.join(parent.trim_start_matches('/')));
                }
            }
            Driver::Systemd => {
                let slice = parent.rsplit('/').next().expect("a name");
                let _ = Command::new("systemctl").args(["stop", slice]).status();
            }
        }
    }

    /// Units of containers, dead or alive.
    pub fn units(self) -> Vec<String> {
        if self == Driver::Cgroupfs {
            return Vec::new();
        }
        let words = ["list-units", "--all", "--plain", "--no-legend", "inro-*.scope"];
        let output = Command::new("systemctl").args(words).output().expect("systemctl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(str::to_owned).collect()
    }
}

fn systemd_has_v2() -> bool {
    Path::new("/run/systemd/system").is_dir() && Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
