//! Resource limits of a container or a pod, as the CRI states them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits of one container. `None` (and absent entries) mean "not asked for": the kernel's default stays.
///
/// Source: CRI `LinuxContainerResources`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Microseconds of CPU time per `cpu_period_us`; negative means unlimited.
    pub cpu_quota_us: Option<i64>,
    /// The CFS period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Relative weight, 2 to 262144 (cgroup v1 `cpu.shares`).
    pub cpu_shares: Option<u64>,
    /// CPUs as a list such as `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes as a list.
    pub cpuset_mems: Option<String>,
    /// Bytes of memory.
    pub memory_limit_bytes: Option<i64>,
    /// Bytes of memory plus swap (cgroup v1 counting).
    pub memory_swap_limit_bytes: Option<i64>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Most processes and threads; node configuration, the CRI has no field for it.
    pub pids_limit: Option<i64>,
    /// Bytes of huge pages by page size such as `2MB`.
    pub hugepage_limits: BTreeMap<String, u64>,
    /// cgroup v2 files by name: each a single component of `[a-z0-9_.]+`, checked when parsed.
    pub unified: BTreeMap<String, String>,
}

/// One rule of the device controller, applied in order.
///
/// Source: OCI runtime-spec `linux.resources.devices`; kernel "Device Whitelist Controller".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    pub allow: bool,
    /// `a` (all), `b` or `c`.
    pub kind: char,
    /// `None`: any.
    pub major: Option<i64>,
    /// `None`: any.
    pub minor: Option<i64>,
    /// A subset of `rwm`.
    pub access: String,
}
