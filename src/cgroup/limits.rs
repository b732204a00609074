//! Limits as writes.
//!
//! Sources: kernel "Control Groups version 1" and "Control Group v2"; OCI runtime-spec, "Linux control groups", for
//! what a missing or negative value means.

use std::path::{Path, PathBuf};

use super::{CgroupError, below, files, hierarchy::Hierarchy};
use crate::model::{DeviceRule, Resources};

/// One limit as a file of the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The CRI's name of what asked for it.
    pub field: &'static str,
    pub file: PathBuf,
    pub value: String,
}

/// The writes that bring a cgroup to `resources`, each possible when those before it are done. `now` reads a file; `None`:
/// there is no such file.
pub fn writes(
    hierarchy: &Hierarchy,
    path: &str,
    resources: &Resources,
    now: &dyn Fn(&Path) -> Option<String>,
) -> Result<Vec<Write>, CgroupError> {
    match hierarchy {
        Hierarchy::V1 { .. } => writes_v1(hierarchy, path, resources, now),
        Hierarchy::V2 { root } => writes_v2(&below(root, path), resources, now),
    }
}

fn writes_v1(
    hierarchy: &Hierarchy,
    path: &str,
    resources: &Resources,
    now: &dyn Fn(&Path) -> Option<String>,
) -> Result<Vec<Write>, CgroupError> {
    let set = |controller: &'static str, field: &'static str, name: &str, value: String| {
        let root = hierarchy
            .controller(controller)
            .ok_or(CgroupError::NoController { field, controller })?;
        let file = below(&root, path).join(name);
        Ok::<_, CgroupError>(Write { field, file, value })
    };
    let mut writes = Vec::new();
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        writes.push(set("cpu", "cpu_shares", "cpu.shares", shares.to_string())?);
    }
    let period = resources.cpu_period_us.filter(|period| *period > 0);
    let period = period.map(|us| set("cpu", "cpu_period", "cpu.cfs_period_us", us.to_string()));
    let period = period.transpose()?;
    let quota = resources.cpu_quota_us.filter(|quota| *quota != 0);
    let quota = quota.map(|us| set("cpu", "cpu_quota", "cpu.cfs_quota_us", us.max(-1).to_string()));
    let quota = quota.transpose()?;
    // The share of a CPU that the old value of one and the new value of the other make is never above both the old share
    // and the new one: the parent may have room for no more.
    let grows = period
        .as_ref()
        .is_some_and(|period| number(Some(period.value.clone())) >= number(now(&period.file)));
    let in_order = if grows { [period, quota] } else { [quota, period] };
    writes.extend(in_order.into_iter().flatten());
    if let Some(cpus) = &resources.cpuset_cpus {
        writes.push(set("cpuset", "cpuset_cpus", "cpuset.cpus", cpus.clone())?);
    }
    if let Some(mems) = &resources.cpuset_mems {
        writes.push(set("cpuset", "cpuset_mems", "cpuset.mems", mems.clone())?);
    }
    writes.extend(memory_v1(hierarchy, path, resources, now)?);
    if let Some(pids) = resources.pids_limit.filter(|pids| *pids != 0) {
        writes.push(set("pids", "pids_limit", "pids.max", limit(pids))?);
    }
    for (size, bytes) in &resources.hugepage_limits {
        let name = format!("hugetlb.{size}.limit_in_bytes");
        writes.push(set("hugetlb", "hugepage_limits", &name, bytes.to_string())?);
    }
    match resources.unified.keys().next() {
        None => Ok(writes),
        Some(key) => Err(CgroupError::Invalid {
            field: "unified",
            why: format!("{key} is for cgroup v2; this host has v1"),
        }),
    }
}

/// memory.limit must never be above memory.memsw.limit: when the limit grows, the sum grows first.
fn memory_v1(
    hierarchy: &Hierarchy,
    path: &str,
    resources: &Resources,
    now: &dyn Fn(&Path) -> Option<String>,
) -> Result<Vec<Write>, CgroupError> {
    let memory = resources.memory_limit_bytes.filter(|bytes| *bytes != 0);
    let sum = resources.memory_swap_limit_bytes.filter(|bytes| *bytes != 0);
    if memory.is_none() && sum.is_none() {
        return Ok(Vec::new());
    }
    let missing = CgroupError::NoController {
        field: "memory_limit_in_bytes",
        controller: "memory",
    };
    let folder = below(&hierarchy.controller("memory").ok_or(missing)?, path);
    let current = number(now(&folder.join(MEMORY_V1))).unwrap_or(i64::MAX);
    let write = |field, name: &str, bytes: i64| Write {
        field,
        file: folder.join(name),
        value: bytes.to_string(),
    };
    let memory = memory.map(|bytes| write("memory_limit_in_bytes", MEMORY_V1, bytes));
    // Hosts without swap accounting have no such file; then there is no swap to limit.
    let counted = now(&folder.join("memory.memsw.limit_in_bytes")).is_some();
    let sum = sum
        .filter(|_| counted)
        .map(|bytes| write("memory_swap_limit_in_bytes", "memory.memsw.limit_in_bytes", bytes));
    let grows = resources
        .memory_limit_bytes
        .is_some_and(|bytes| bytes > current || bytes < 0);
    let in_order = if grows { [sum, memory] } else { [memory, sum] };
    Ok(in_order.into_iter().flatten().collect())
}

fn writes_v2(
    folder: &Path,
    resources: &Resources,
    now: &dyn Fn(&Path) -> Option<String>,
) -> Result<Vec<Write>, CgroupError> {
    let set = |controller: &'static str, field: &'static str, name: &str, value: String| {
        let file = folder.join(name);
        match now(&file) {
            Some(_) => Ok(Write { field, file, value }),
            None => Err(CgroupError::NoController { field, controller }),
        }
    };
    let mut writes = Vec::new();
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        writes.push(set("cpu", "cpu_shares", "cpu.weight", weight(shares).to_string())?);
    }
    let quota = resources.cpu_quota_us.filter(|quota| *quota != 0).map(limit);
    let period = resources.cpu_period_us.filter(|period| *period > 0);
    match (quota, period) {
        (None, None) => {}
        // Alone it leaves the period as it is.
        (Some(quota), None) => writes.push(set("cpu", "cpu_quota", "cpu.max", quota)?),
        (quota, Some(period)) => {
            let text = now(&folder.join("cpu.max")).unwrap_or_default();
            let current = text.split_whitespace().next().unwrap_or("max").to_owned();
            let field = if quota.is_some() { "cpu_quota" } else { "cpu_period" };
            writes.push(set(
                "cpu",
                field,
                "cpu.max",
                format!("{} {period}", quota.unwrap_or(current)),
            )?);
        }
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        writes.push(set("cpuset", "cpuset_cpus", "cpuset.cpus", cpus.clone())?);
    }
    if let Some(mems) = &resources.cpuset_mems {
        writes.push(set("cpuset", "cpuset_mems", "cpuset.mems", mems.clone())?);
    }
    // Memory before swap: what a lower limit pushes out may still go where the old swap limit lets it.
    let memory = resources.memory_limit_bytes.filter(|bytes| *bytes != 0);
    if let Some(bytes) = memory {
        writes.push(set("memory", "memory_limit_in_bytes", MEMORY_V2, limit(bytes))?);
    }
    if let (Some(sum), Some(memory)) = (resources.memory_swap_limit_bytes.filter(|bytes| *bytes != 0), memory) {
        // The CRI counts memory and swap together, v2 swap alone. Hosts without swap accounting have no such file.
        let swap = limit(swap(sum, memory));
        if now(&folder.join("memory.swap.max")).is_some() {
            writes.push(set("memory", "memory_swap_limit_in_bytes", "memory.swap.max", swap)?);
        }
    }
    if let Some(pids) = resources.pids_limit.filter(|pids| *pids != 0) {
        writes.push(set("pids", "pids_limit", "pids.max", limit(pids))?);
    }
    for (size, bytes) in &resources.hugepage_limits {
        let name = format!("hugetlb.{size}.max");
        writes.push(set("hugetlb", "hugepage_limits", &name, bytes.to_string())?);
    }
    for (key, value) in &resources.unified {
        check_key(key)?;
        let file = folder.join(key);
        if now(&file).is_none() {
            return Err(CgroupError::Invalid {
                field: "unified",
                why: format!("this host's cgroups have no {key}"),
            });
        }
        writes.push(Write {
            field: "unified",
            file,
            value: value.clone(),
        });
    }
    Ok(writes)
}

fn number(text: Option<String>) -> Option<i64> {
    text?.trim().parse().ok()
}

/// Device rules, in order. The first one denies everything unless the container is privileged: without it v1 allows
/// all.
pub fn apply_devices(hierarchy: &Hierarchy, path: &str, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    match hierarchy {
        Hierarchy::V1 { .. } => {
            let Some(root) = hierarchy.controller("devices") else {
                let missing = CgroupError::NoController {
                    field: "devices",
                    controller: "devices",
                };
                return if rules.is_empty() { Ok(()) } else { Err(missing) };
            };
            let folder = below(&root, path);
            // In their order, and those that follow each other in one file through one descriptor.
            rules.chunk_by(|a, b| a.allow == b.allow).try_for_each(|alike| {
                let file = if alike[0].allow {
                    "devices.allow"
                } else {
                    "devices.deny"
                };
                files::write_each(&folder.join(file), alike.iter().map(text))
            })
        }
        Hierarchy::V2 { root } => {
            let allows_all = rules.last().is_none_or(|rule| rule.allow && rule.kind == 'a');
            if allows_all {
                return Ok(());
            }
            let folder = files::open_folder(&below(root, path))?;
            crate::sys::bpf::attach_device_rules(&folder, rules).map_err(CgroupError::Devices)
        }
    }
}

fn text(rule: &DeviceRule) -> String {
    let number = |number: Option<i64>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    format!(
        "{} {}:{} {}",
        rule.kind,
        number(rule.major),
        number(rule.minor),
        rule.access
    )
}

fn limit(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// v1 shares (2 to 262144) as a v2 weight (1 to 10000), as runc and the kubelet convert them.
pub fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Bytes of swap alone, from the sum of memory and swap; negative means unlimited.
pub fn swap(sum: i64, memory: i64) -> i64 {
    if sum < 0 { -1 } else { (sum - memory).max(0) }
}

/// The files that limit memory.
pub const MEMORY_V1: &str = "memory.limit_in_bytes";
pub const MEMORY_V2: &str = "memory.max";

fn check_key(key: &str) -> Result<(), CgroupError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.';
    if !key.is_empty() && key.bytes().all(plain) && !key.starts_with('.') {
        return Ok(());
    }
    Err(CgroupError::Invalid {
        field: "unified",
        why: format!("{key:?} is not the name of a cgroup file"),
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn weights_span_the_range() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }

    #[test]
    fn keys_that_leave_the_folder_are_refused() {
        for key in ["../cgroup.procs", "/etc/x", "a/b", "", "..", "Memory.max"] {
            assert!(check_key(key).is_err(), "{key}");
        }
        assert!(check_key("memory.high").is_ok());
    }

    /// Names and values of the writes, with what the files have now.
    fn told(v2: bool, resources: &Resources, files: &[(&str, &str)]) -> Vec<String> {
        let hierarchy = if v2 {
            Hierarchy::V2 { root: "/c".into() }
        } else {
            Hierarchy::v1_of(&["cpu", "cpuset", "memory", "pids", "hugetlb"])
        };
        let now = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            files
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let writes = writes(&hierarchy, "/x", resources, &now).unwrap();
        let name = |write: &Write| write.file.file_name().unwrap().to_str().unwrap().to_owned();
        writes
            .iter()
            .map(|write| format!("{}={}", name(write), write.value))
            .collect()
    }

    fn memory(limit: i64, sum: i64) -> Resources {
        Resources {
            memory_limit_bytes: Some(limit),
            memory_swap_limit_bytes: Some(sum),
            ..Resources::default()
        }
    }

    fn cpu(quota: Option<i64>, period: Option<u64>) -> Resources {
        Resources {
            cpu_quota_us: quota,
            cpu_period_us: period,
            ..Resources::default()
        }
    }

    #[test]
    fn memory_and_the_sum_with_swap_are_written_so_that_the_sum_is_never_below() {
        let v1 = |limit, sum| {
            let now = [
                ("memory.limit_in_bytes", "100\n"),
                ("memory.memsw.limit_in_bytes", "150\n"),
            ];
            told(false, &memory(limit, sum), &now)
        };
        assert_eq!(
            v1(200, 300),
            ["memory.memsw.limit_in_bytes=300", "memory.limit_in_bytes=200"]
        );
        assert_eq!(
            v1(50, 60),
            ["memory.limit_in_bytes=50", "memory.memsw.limit_in_bytes=60"]
        );
        assert_eq!(
            v1(-1, -1),
            ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]
        );
        let unaccounted = [("memory.limit_in_bytes", "100")];
        assert_eq!(told(false, &memory(50, 60), &unaccounted), ["memory.limit_in_bytes=50"]);

        let v2 = |limit, sum| {
            told(
                true,
                &memory(limit, sum),
                &[("memory.max", "100"), ("memory.swap.max", "50")],
            )
        };
        assert_eq!(v2(200, 300), ["memory.max=200", "memory.swap.max=100"]);
        assert_eq!(v2(50, 60), ["memory.max=50", "memory.swap.max=10"]);
        assert_eq!(v2(-1, -1), ["memory.max=max", "memory.swap.max=max"]);
    }

    #[test]
    fn quota_and_period_are_written_so_that_no_share_between_is_larger() {
        let v1 = |quota, period| told(false, &cpu(quota, period), &[("cpu.cfs_period_us", "100000\n")]);
        assert_eq!(
            v1(Some(5000), Some(200_000)),
            ["cpu.cfs_period_us=200000", "cpu.cfs_quota_us=5000"]
        );
        assert_eq!(
            v1(Some(5000), Some(10_000)),
            ["cpu.cfs_quota_us=5000", "cpu.cfs_period_us=10000"]
        );
        assert_eq!(v1(Some(-5), None), ["cpu.cfs_quota_us=-1"]);
        let v2 = |quota, period| told(true, &cpu(quota, period), &[("cpu.max", "7000 100000\n")]);
        assert_eq!(v2(Some(5000), Some(10_000)), ["cpu.max=5000 10000"]);
        assert_eq!(v2(Some(5000), None), ["cpu.max=5000"]);
        assert_eq!(v2(None, Some(10_000)), ["cpu.max=7000 10000"]);
        assert_eq!(v2(Some(-1), None), ["cpu.max=max"]);
    }

    #[test]
    fn every_limit_has_its_file() {
        let resources = Resources {
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0".into()),
            cpuset_mems: Some("0".into()),
            pids_limit: Some(9),
            hugepage_limits: [("2MB".to_owned(), 4096)].into(),
            ..Resources::default()
        };
        let v1 = [
            "cpu.shares=1024",
            "cpuset.cpus=0",
            "cpuset.mems=0",
            "pids.max=9",
            "hugetlb.2MB.limit_in_bytes=4096",
        ];
        assert_eq!(told(false, &resources, &[]), v1);
        let with_unified = Resources {
            unified: [("memory.high".to_owned(), "5".to_owned())].into(),
            ..resources
        };
        let names = [
            "cpu.weight",
            "cpuset.cpus",
            "cpuset.mems",
            "pids.max",
            "hugetlb.2MB.max",
            "memory.high",
        ];
        let now = names.map(|name| (name, ""));
        let v2 = [
            "cpu.weight=39",
            "cpuset.cpus=0",
            "cpuset.mems=0",
            "pids.max=9",
            "hugetlb.2MB.max=4096",
            "memory.high=5",
        ];
        assert_eq!(told(true, &with_unified, &now), v2);
    }

    #[test]
    fn rules_read_as_the_kernel_wants_them() {
        let rule = DeviceRule {
            allow: true,
            kind: 'c',
            major: Some(1),
            minor: None,
            access: "rwm".into(),
        };
        assert_eq!(text(&rule), "c 1:* rwm");
    }
}
