//! Limits as writes.
//!
//! Sources: kernel "Control Groups version 1" and "Control Group v2"; OCI runtime-spec, "Linux control groups", for
//! what a missing or negative value means.

use std::path::Path;

use super::{CgroupError, below, files, hierarchy::Hierarchy};
use crate::model::{DeviceRule, Resources};

pub fn apply(hierarchy: &Hierarchy, path: &str, resources: &Resources) -> Result<(), CgroupError> {
    match hierarchy {
        Hierarchy::V1 { .. } => apply_v1(hierarchy, path, resources),
        Hierarchy::V2 { root } => apply_v2(&below(root, path), resources),
    }
}

fn apply_v1(hierarchy: &Hierarchy, path: &str, resources: &Resources) -> Result<(), CgroupError> {
    let set = |controller: &'static str, field: &'static str, file: &str, value: String| {
        let root = hierarchy
            .controller(controller)
            .ok_or(CgroupError::NoController { field, controller })?;
        files::write(&below(&root, path).join(file), value)
    };
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        set("cpu", "cpu_shares", "cpu.shares", shares.to_string())?;
    }
    if let Some(period) = resources.cpu_period_us.filter(|period| *period > 0) {
        set("cpu", "cpu_period", "cpu.cfs_period_us", period.to_string())?;
    }
    if let Some(quota) = resources.cpu_quota_us.filter(|quota| *quota != 0) {
        set("cpu", "cpu_quota", "cpu.cfs_quota_us", quota.to_string())?;
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        set("cpuset", "cpuset_cpus", "cpuset.cpus", cpus.clone())?;
    }
    if let Some(mems) = &resources.cpuset_mems {
        set("cpuset", "cpuset_mems", "cpuset.mems", mems.clone())?;
    }
    apply_memory_v1(hierarchy, path, resources)?;
    if let Some(pids) = resources.pids_limit.filter(|pids| *pids != 0) {
        set("pids", "pids_limit", "pids.max", limit(pids))?;
    }
    for (size, bytes) in &resources.hugepage_limits {
        set(
            "hugetlb",
            "hugepage_limits",
            &format!("hugetlb.{size}.limit_in_bytes"),
            bytes.to_string(),
        )?;
    }
    match resources.unified.keys().next() {
        None => Ok(()),
        Some(key) => Err(CgroupError::Invalid {
            field: "unified",
            why: format!("{key} is for cgroup v2; this host has v1"),
        }),
    }
}

/// memory.limit must never be above memory.memsw.limit: when the limit grows, the sum grows first.
fn apply_memory_v1(hierarchy: &Hierarchy, path: &str, resources: &Resources) -> Result<(), CgroupError> {
    let memory = resources.memory_limit_bytes.filter(|bytes| *bytes != 0);
    let swap = resources.memory_swap_limit_bytes.filter(|bytes| *bytes != 0);
    if memory.is_none() && swap.is_none() {
        return Ok(());
    }
    let missing = CgroupError::NoController {
        field: "memory_limit_in_bytes",
        controller: "memory",
    };
    let folder = below(&hierarchy.controller("memory").ok_or(missing)?, path);
    let (limit, sum) = (
        folder.join("memory.limit_in_bytes"),
        folder.join("memory.memsw.limit_in_bytes"),
    );
    let now: i64 = files::read(&limit)?.trim().parse().unwrap_or(i64::MAX);
    // Hosts without swap accounting have no such file; then there is no swap to limit.
    let write_sum = || match swap {
        Some(bytes) if sum.exists() => files::write(&sum, bytes.to_string()),
        _ => Ok(()),
    };
    match memory {
        Some(bytes) if bytes > now || bytes < 0 => {
            write_sum()?;
            files::write(&limit, bytes.to_string())
        }
        Some(bytes) => {
            files::write(&limit, bytes.to_string())?;
            write_sum()
        }
        None => write_sum(),
    }
}

fn apply_v2(folder: &Path, resources: &Resources) -> Result<(), CgroupError> {
    let set = |controller: &'static str, field: &'static str, file: &str, value: String| {
        let file = folder.join(file);
        if !file.exists() {
            return Err(CgroupError::NoController { field, controller });
        }
        files::write(&file, value)
    };
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        set("cpu", "cpu_shares", "cpu.weight", weight(shares).to_string())?;
    }
    let quota = resources.cpu_quota_us.filter(|quota| *quota != 0);
    let period = resources.cpu_period_us.filter(|period| *period > 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or_else(|| "max".to_owned(), limit);
        set(
            "cpu",
            "cpu_quota",
            "cpu.max",
            format!("{quota} {}", period.unwrap_or(100_000)),
        )?;
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        set("cpuset", "cpuset_cpus", "cpuset.cpus", cpus.clone())?;
    }
    if let Some(mems) = &resources.cpuset_mems {
        set("cpuset", "cpuset_mems", "cpuset.mems", mems.clone())?;
    }
    let memory = resources.memory_limit_bytes.filter(|bytes| *bytes != 0);
    if let Some(bytes) = memory {
        set("memory", "memory_limit_in_bytes", "memory.max", limit(bytes))?;
    }
    if let (Some(sum), Some(memory)) = (resources.memory_swap_limit_bytes.filter(|bytes| *bytes != 0), memory) {
        // The CRI counts memory and swap together, v2 swap alone. Hosts without swap accounting have no such file.
        let swap = if sum < 0 {
            "max".to_owned()
        } else {
            (sum - memory).max(0).to_string()
        };
        if folder.join("memory.swap.max").exists() {
            set("memory", "memory_swap_limit_in_bytes", "memory.swap.max", swap)?;
        }
    }
    if let Some(pids) = resources.pids_limit.filter(|pids| *pids != 0) {
        set("pids", "pids_limit", "pids.max", limit(pids))?;
    }
    for (size, bytes) in &resources.hugepage_limits {
        set(
            "hugetlb",
            "hugepage_limits",
            &format!("hugetlb.{size}.max"),
            bytes.to_string(),
        )?;
    }
    for (key, value) in &resources.unified {
        check_key(key)?;
        files::write(&folder.join(key), value)?;
    }
    Ok(())
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
            rules.iter().try_for_each(|rule| {
                let file = if rule.allow { "devices.allow" } else { "devices.deny" };
                files::write(&folder.join(file), text(rule))
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
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

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
