//! Limits as properties of a unit, so that systemd writes what we write.
//!
//! What a value means, and whether it is one, the kernel decides when it is written to the file: here a value that
//! cannot be told to systemd is left out.
//!
//! Sources: systemd.resource-control(5), org.freedesktop.systemd1(5).

use super::{names::Scope, wire::Value};
use crate::{
    cgroup::limits::{swap, weight},
    model::Resources,
};

/// A property's name and value.
pub type Property = (&'static str, Value);

/// Every limit of `resources` that systemd knows. Hugepages and most `unified` files have no property.
pub fn limits(resources: &Resources) -> Vec<Property> {
    let mut properties = Vec::new();
    let mut set = |name, value| properties.push((name, Value::Number(value)));
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        set("CPUWeight", weight(shares));
    }
    quota(resources.cpu_quota_us, resources.cpu_period_us, &mut set);
    let memory = resources.memory_limit_bytes.filter(|bytes| *bytes != 0);
    if let Some(bytes) = memory {
        set("MemoryMax", limit(bytes));
    }
    let sum = resources.memory_swap_limit_bytes.filter(|bytes| *bytes != 0);
    if let (Some(sum), Some(memory)) = (sum, memory) {
        set("MemorySwapMax", limit(swap(sum, memory)));
    }
    if let Some(pids) = resources.pids_limit.filter(|pids| *pids != 0) {
        set("TasksMax", limit(pids));
    }
    for (file, value) in &resources.unified {
        unified(file, value.trim(), &mut set);
    }
    let unified = |file: &str| resources.unified.get(file).map(|value| value.trim());
    for (name, list) in [
        ("AllowedCPUs", resources.cpuset_cpus.as_deref()),
        ("AllowedMemoryNodes", resources.cpuset_mems.as_deref()),
        ("AllowedCPUs", unified("cpuset.cpus")),
        ("AllowedMemoryNodes", unified("cpuset.mems")),
    ] {
        if let Some(bits) = list.and_then(bits) {
            properties.push((name, Value::Bytes(bits)));
        }
    }
    properties
}

/// All that a new scope is made with. `oom_policy`: whether systemd knows one for scopes.
pub fn scope(scope: &Scope, first: u32, oom_policy: bool, resources: &Resources) -> Vec<Property> {
    let mut properties = vec![
        ("Description", Value::Text("inro container".to_owned())),
        ("Slice", Value::Text(scope.slice.clone())),
        ("PIDs", Value::Pids(vec![first])),
        // Below it we and the container write.
        ("Delegate", Value::Flag(true)),
        // No order among the units of a shutdown: as the peers have it.
        ("DefaultDependencies", Value::Flag(false)),
        // One that failed is forgotten too.
        ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
        ("MemoryAccounting", Value::Flag(true)),
        ("CPUAccounting", Value::Flag(true)),
        ("IOAccounting", Value::Flag(true)),
        ("TasksAccounting", Value::Flag(true)),
    ];
    // Else systemd stops the whole container when one of its processes is killed for want of memory.
    if oom_policy {
        let whole = resources
            .unified
            .get("memory.oom.group")
            .is_some_and(|v| v.trim() == "1");
        let policy = if whole { "kill" } else { "continue" };
        properties.push(("OOMPolicy", Value::Text(policy.to_owned())));
    }
    properties.extend(limits(resources));
    properties
}

/// `CPUQuotaPerSecUSec` is kept as whole percents, cut: rounded up here, so that no reload takes time away. The file
/// has the exact value.
fn quota(quota: Option<i64>, period: Option<u64>, set: &mut impl FnMut(&'static str, u64)) {
    const SECOND: u64 = 1_000_000;
    const PERCENT: u64 = SECOND / 100;
    let period = period.filter(|period| *period > 0);
    if let Some(period) = period {
        set("CPUQuotaPeriodUSec", period);
    }
    match quota.filter(|quota| *quota != 0) {
        None => {}
        Some(quota) if quota < 0 => set("CPUQuotaPerSecUSec", u64::MAX),
        Some(quota) => {
            let share = quota.unsigned_abs().saturating_mul(SECOND) / period.unwrap_or(100_000);
            set("CPUQuotaPerSecUSec", share.div_ceil(PERCENT).max(1) * PERCENT);
        }
    }
}

fn unified(file: &str, value: &str, set: &mut impl FnMut(&'static str, u64)) {
    let number = match value {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    };
    let name = match file {
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "cpu.max" => {
            let mut words = value.split_whitespace();
            let share = match words.next() {
                Some("max") => Some(-1),
                word => word.and_then(|word| word.parse().ok()),
            };
            let period = words.next().and_then(|word| word.parse().ok());
            return quota(share, period.or(Some(100_000)), set);
        }
        _ => return,
    };
    if let Some(number) = number {
        set(name, number);
    }
}

fn limit(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// A list such as `0-3,5` as a mask, least significant byte first; `None` when it is none or beyond any machine.
fn bits(list: &str) -> Option<Vec<u8>> {
    const MOST: usize = 8192;
    let mut mask = vec![0u8; MOST / 8];
    let mut most = 0;
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || to >= MOST {
            return None;
        }
        (from..=to).for_each(|bit| mask[bit / 8] |= 1 << (bit % 8));
        most = most.max(to / 8 + 1);
    }
    mask.truncate(most);
    (!mask.is_empty()).then_some(mask)
}

#[cfg(test)]
mod test {
    use super::*;

    fn told(resources: &Resources) -> Vec<String> {
        let text = |(name, value): Property| match value {
            Value::Number(u64::MAX) => format!("{name}=max"),
            Value::Number(number) => format!("{name}={number}"),
            Value::Bytes(bytes) => format!("{name}={bytes:?}"),
            other => format!("{name}={other:?}"),
        };
        limits(resources).into_iter().map(text).collect()
    }

    #[test]
    fn every_limit_that_systemd_knows_is_a_property() {
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            cpuset_cpus: Some("0-2,9".into()),
            cpuset_mems: Some("0".into()),
            memory_limit_bytes: Some(100),
            memory_swap_limit_bytes: Some(150),
            pids_limit: Some(9),
            hugepage_limits: [("2MB".to_owned(), 4096)].into(),
            unified: [("memory.high", "5"), ("memory.low", "max"), ("misc.max", "x 1")]
                .map(|(file, value)| (file.to_owned(), value.to_owned()))
                .into(),
            ..Resources::default()
        };
        let all = [
            "CPUWeight=39",
            "CPUQuotaPeriodUSec=100000",
            "CPUQuotaPerSecUSec=500000",
            "MemoryMax=100",
            "MemorySwapMax=50",
            "TasksMax=9",
            "MemoryHigh=5",
            "MemoryLow=max",
            "AllowedCPUs=[7, 2]",
            "AllowedMemoryNodes=[1]",
        ];
        assert_eq!(told(&resources), all);
        assert!(told(&Resources::default()).is_empty(), "nothing asked for, nothing set");
    }

    #[test]
    fn unlimited_is_told_as_such() {
        let resources = Resources {
            cpu_quota_us: Some(-1),
            memory_limit_bytes: Some(-1),
            memory_swap_limit_bytes: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        let all = [
            "CPUQuotaPerSecUSec=max",
            "MemoryMax=max",
            "MemorySwapMax=max",
            "TasksMax=max",
        ];
        assert_eq!(told(&resources), all);
    }

    #[test]
    fn a_share_of_a_cpu_is_whole_percents_rounded_up() {
        for (quota, period, told_as) in [
            (12_345, Some(100_000), 130_000),
            (1_000, Some(100_000), 10_000),
            (1, Some(1_000_000), 10_000),
            (250_000, None, 2_500_000),
            (400_000, Some(100_000), 4_000_000),
        ] {
            let resources = Resources {
                cpu_quota_us: Some(quota),
                cpu_period_us: period,
                ..Resources::default()
            };
            let expected = format!("CPUQuotaPerSecUSec={told_as}");
            assert_eq!(told(&resources).last(), Some(&expected), "{quota} of {period:?}");
        }
        let raw = Resources {
            unified: [("cpu.max".to_owned(), "7000".to_owned())].into(),
            ..Resources::default()
        };
        assert_eq!(told(&raw), ["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=70000"]);
    }

    #[test]
    fn what_is_no_list_is_left_to_the_kernel_to_refuse() {
        for (list, mask) in [
            ("0", Some(vec![1])),
            ("7-8", Some(vec![0x80, 1])),
            (" 1 , 3 ", Some(vec![0b1010])),
            ("", None),
            ("3-1", None),
            ("0;1", None),
            ("9999", None),
        ] {
            assert_eq!(bits(list), mask, "{list:?}");
        }
    }
}
