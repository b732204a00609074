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

impl Resources {
    /// These limits with what `change` asks for; what it leaves out stays.
    ///
    /// The sum of memory and swap is never below memory: a larger memory limit alone takes the sum along.
    pub fn changed_by(&self, change: &Self) -> Self {
        let memory = change.memory_limit_bytes.or(self.memory_limit_bytes);
        let sum = change.memory_swap_limit_bytes.or_else(|| {
            let (sum, memory) = (self.memory_swap_limit_bytes?, memory?);
            Some(if memory < 0 || sum < 0 { -1 } else { sum.max(memory) })
        });
        let (mut hugepage_limits, mut unified) = (self.hugepage_limits.clone(), self.unified.clone());
        hugepage_limits.extend(change.hugepage_limits.clone());
        unified.extend(change.unified.clone());
        Self {
            cpu_quota_us: change.cpu_quota_us.or(self.cpu_quota_us),
            cpu_period_us: change.cpu_period_us.or(self.cpu_period_us),
            cpu_shares: change.cpu_shares.or(self.cpu_shares),
            cpuset_cpus: change.cpuset_cpus.clone().or_else(|| self.cpuset_cpus.clone()),
            cpuset_mems: change.cpuset_mems.clone().or_else(|| self.cpuset_mems.clone()),
            memory_limit_bytes: memory,
            memory_swap_limit_bytes: sum,
            oom_score_adj: change.oom_score_adj.or(self.oom_score_adj),
            pids_limit: change.pids_limit.or(self.pids_limit),
            hugepage_limits,
            unified,
        }
    }

    /// What has to be written for `change` to become these limits: memory and its sum with swap depend on each other.
    pub fn needed_for(&self, change: &Self) -> Self {
        let memory = change.memory_limit_bytes.is_some() || change.memory_swap_limit_bytes.is_some();
        Self {
            memory_limit_bytes: self.memory_limit_bytes.filter(|_| memory),
            memory_swap_limit_bytes: self.memory_swap_limit_bytes.filter(|_| memory),
            ..change.clone()
        }
    }
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

#[cfg(test)]
mod test {
    use super::*;

    fn memory(limit: Option<i64>, sum: Option<i64>) -> Resources {
        Resources {
            memory_limit_bytes: limit,
            memory_swap_limit_bytes: sum,
            ..Resources::default()
        }
    }

    #[test]
    fn what_a_change_leaves_out_stays() {
        let before = Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            unified: [
                ("memory.high".to_owned(), "1".to_owned()),
                ("memory.low".to_owned(), "1".to_owned()),
            ]
            .into(),
            ..memory(Some(100), Some(150))
        };
        let change = Resources {
            cpu_quota_us: Some(-1),
            unified: [("memory.high".to_owned(), "2".to_owned())].into(),
            ..Resources::default()
        };
        let after = before.changed_by(&change);
        assert_eq!((after.cpu_shares, after.cpu_quota_us), (Some(512), Some(-1)));
        assert_eq!(
            (after.memory_limit_bytes, after.memory_swap_limit_bytes),
            (Some(100), Some(150))
        );
        assert_eq!(after.unified.values().collect::<Vec<_>>(), ["2", "1"]);
        assert_eq!(after.needed_for(&change), change);
        assert_eq!(before.changed_by(&Resources::default()), before);
    }

    #[test]
    fn the_sum_with_swap_is_never_below_memory() {
        let before = memory(Some(100), Some(150));
        for (limit, sum) in [(120, 150), (200, 200), (-1, -1)] {
            let change = memory(Some(limit), None);
            let after = before.changed_by(&change);
            assert_eq!(after.memory_swap_limit_bytes, Some(sum), "{limit}");
            assert_eq!(after.needed_for(&change), memory(Some(limit), Some(sum)));
        }
        assert_eq!(
            memory(None, None).changed_by(&memory(Some(1), None)),
            memory(Some(1), None)
        );
        let swap_only = memory(None, Some(300));
        assert_eq!(
            before.changed_by(&swap_only).needed_for(&swap_only),
            memory(Some(100), Some(300))
        );
    }
}
