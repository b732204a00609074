//! What a container or a pod uses of the node.

use std::path::PathBuf;

use super::{ContainerView, SandboxView, Timestamp};

/// What a cgroup used, with all below it, as read at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    pub at: Timestamp,
    pub cpu: Option<CpuUsage>,
    pub memory: Option<MemoryUsage>,
    pub swap: Option<SwapUsage>,
    pub io: Option<Pressure>,
    /// Counted apart; 0 until then.
    pub processes: u64,
}

/// Source: CRI `CpuUsage`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuUsage {
    /// Since the cgroup was made, of all processors.
    pub total_ns: u64,
    /// Nanoseconds of all processors per second, lately; `None` when there is nothing to compare with.
    pub nano_cores: Option<u64>,
    pub pressure: Option<Pressure>,
}

/// Source: CRI `MemoryUsage`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MemoryUsage {
    pub used_bytes: u64,
    /// Of `used_bytes`: file pages that nobody looked at lately.
    pub inactive_file_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// What limits it, here or further up; `None`: nothing.
    pub limit_bytes: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pressure: Option<Pressure>,
}

impl MemoryUsage {
    /// What cannot be had back at once: the figure that the kubelet evicts by.
    pub fn working_set_bytes(&self) -> u64 {
        self.used_bytes.saturating_sub(self.inactive_file_bytes)
    }

    /// What is left below the limit; `None` without a limit.
    pub fn available_bytes(&self) -> Option<u64> {
        Some(self.limit_bytes?.saturating_sub(self.working_set_bytes()))
    }
}

/// Swap alone, without memory. Source: CRI `SwapUsage`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SwapUsage {
    pub used_bytes: u64,
    /// `None`: no limit.
    pub limit_bytes: Option<u64>,
}

/// Pressure stall information of one resource. Source: kernel "PSI - Pressure Stall Information".
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Time in which at least one task waited.
    pub some: Stall,
    /// Time in which all did.
    pub full: Stall,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    pub total_us: u64,
    /// Percent of the last 10, 60 and 300 seconds.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// What a container's writable layer takes, and when that was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerUsage {
    pub at: Timestamp,
    pub used_bytes: u64,
    pub inodes: u64,
}

/// What all images, or all writable layers, take on their file system. Source: CRI `FilesystemUsage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    pub at: Timestamp,
    /// A folder that stands for the file system.
    pub path: PathBuf,
    pub used_bytes: u64,
    pub inodes: u64,
}

/// An interface of a pod. Source: CRI `NetworkInterfaceUsage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceUsage {
    pub name: String,
    pub received: Traffic,
    pub sent: Traffic,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// A container and what it uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    pub view: ContainerView,
    /// `None`: it has no processes any more.
    pub usage: Option<Usage>,
    /// `None`: not measured yet.
    pub layer: Option<LayerUsage>,
}

/// A sandbox and what its pod uses.
#[derive(Debug, Clone)]
pub struct SandboxUsage {
    pub view: SandboxView,
    pub usage: Usage,
    /// The default interface first; empty on the host's network.
    pub interfaces: Vec<InterfaceUsage>,
    pub containers: Vec<ContainerUsage>,
}

/// What only the metrics tell of a cgroup.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    pub throttling: Throttling,
    pub cpu_shares: u64,
    pub cpu_period_us: u64,
    /// `None`: no limit.
    pub cpu_quota_us: Option<u64>,
    pub cache_bytes: u64,
    pub mapped_bytes: u64,
    pub kernel_bytes: u64,
    pub most_used_bytes: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// How often `memory.high` was exceeded; v1 has none.
    pub high_hits: u64,
    /// The cgroup's own. 0: none.
    pub memory_limit_bytes: u64,
    /// 0: none.
    pub reservation_bytes: u64,
    /// What the kernel is told about swap: on v1 memory and swap together, on v2 swap alone. 0: no limit.
    pub swap_limit_bytes: u64,
    pub oom_kills: u64,
    pub devices: Vec<DeviceIo>,
    pub huge_pages: Vec<HugePages>,
    pub threads: u64,
    /// 0: no limit.
    pub threads_limit: u64,
    pub descriptors: u64,
    pub sockets: u64,
    /// Soft limit of init's open files; `None`: no limit, or init is gone.
    pub open_files_limit: Option<u64>,
}

/// Source: kernel `cpu.stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

/// What went to and from a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    pub major: u32,
    pub minor: u32,
    /// Such as `/dev/vda`; `major:minor` when it has no name.
    pub name: String,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// Such as `2MB`.
    pub size: String,
    pub used_bytes: u64,
    /// `None`: this kernel does not say.
    pub most_used_bytes: Option<u64>,
}

/// The file system of the writable layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskTotals {
    /// Such as `/dev/vda`.
    pub device: String,
    pub size_bytes: u64,
    pub inodes: u64,
    pub free_inodes: u64,
}

/// Everything of a pod that there is a metric for.
#[derive(Debug, Clone)]
pub struct PodMeasures {
    pub view: SandboxView,
    pub interfaces: Vec<InterfaceUsage>,
    /// Those that have processes.
    pub containers: Vec<(ContainerUsage, Details)>,
}
