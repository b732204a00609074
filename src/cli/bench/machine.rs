//! The machine that something was measured on, in so many words as a reader needs to judge the figures.

use std::{fs, path::Path};

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub system: String,
    pub kernel: String,
    pub architecture: String,
    pub processor: String,
    pub processors: usize,
    pub memory_mib: u64,
    /// `v1`, `v2`, or `hybrid`: v1 with the unified hierarchy beside it.
    pub cgroup: &'static str,
    pub hypervisor: bool,
}

impl Machine {
    pub fn this() -> Self {
        let uname = rustix::system::uname();
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let memory_kib = field(&memory, "MemTotal", ':').and_then(|text| text.trim_end_matches(" kB").parse().ok());
        Self {
            system: field(&release, "PRETTY_NAME", '=')
                .unwrap_or("Linux")
                .trim_matches('"')
                .to_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            processor: field(&processors, "model name", ':').unwrap_or("processor").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib.unwrap_or(0u64) / 1024,
            cgroup: cgroup_version(),
            hypervisor: field(&processors, "flags", ':')
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        }
    }
}

/// The value of the first line `name<separator>value`.
fn field<'a>(text: &'a str, name: &str, separator: char) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(separator));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// Source: systemd's "The Unified Control Group Hierarchy": what is mounted at /sys/fs/cgroup and below.
fn cgroup_version() -> &'static str {
    let unified = |path: &str| Path::new(path).join("cgroup.controllers").exists();
    match (unified("/sys/fs/cgroup"), unified("/sys/fs/cgroup/unified")) {
        (true, _) => "v2",
        (false, true) => "hybrid",
        (false, false) => "v1",
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 106\nmodel name\t: A Processor\nflags : fpu hypervisor\n";
        assert_eq!(field(text, "model name", ':'), Some("A Processor"));
        assert_eq!(field(text, "name", ':'), None);
        assert!(Machine::this().memory_mib > 0);
    }
}
