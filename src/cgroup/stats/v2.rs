//! cgroup v2: one folder.

use super::{
    folder::Folder,
    named,
    parse::{field, io_stat, pressure},
};
use crate::model::{CpuUsage, Details, HugePages, MemoryUsage, Pressure, SwapUsage, Throttling, Usage};

pub fn cpu_ns(folder: &Folder) -> Option<u64> {
    let usec = folder.read("cpu.stat", |stat| field(stat, "usage_usec"))?;
    Some(usec.saturating_mul(1000))
}

pub fn usage(folder: &Folder) -> Usage {
    Usage {
        cpu: cpu_ns(folder).map(|total_ns| CpuUsage {
            total_ns,
            nano_cores: None,
            pressure: pressure_of(folder, "cpu.pressure"),
        }),
        memory: memory_usage(folder),
        swap: folder.number("memory.swap.current").map(|used_bytes| SwapUsage {
            used_bytes,
            limit_bytes: folder.number("memory.swap.max"),
        }),
        io: pressure_of(folder, "io.pressure"),
        ..Usage::default()
    }
}

fn memory_usage(folder: &Folder) -> Option<MemoryUsage> {
    let usage = MemoryUsage {
        used_bytes: folder.number("memory.current")?,
        limit_bytes: folder.number("memory.max"),
        pressure: pressure_of(folder, "memory.pressure"),
        ..MemoryUsage::default()
    };
    folder.read("memory.stat", |stat| Some(memory_stat(usage, stat)))
}

fn memory_stat(usage: MemoryUsage, stat: &str) -> MemoryUsage {
    let value = |key: &str| field(stat, key).unwrap_or(0);
    MemoryUsage {
        inactive_file_bytes: value("inactive_file"),
        rss_bytes: value("anon"),
        page_faults: value("pgfault"),
        major_page_faults: value("pgmajfault"),
        ..usage
    }
}

pub fn details(folder: &Folder) -> Details {
    let value = |file: &str| folder.number(file).unwrap_or(0);
    let cpu = folder.text("cpu.stat").unwrap_or_default();
    let cpu = |key: &str| field(&cpu, key).unwrap_or(0);
    let memory = folder.text("memory.stat").unwrap_or_default();
    let events = folder.text("memory.events").unwrap_or_default();
    let (cpu_quota_us, cpu_period_us) = cpu_max(&folder.text("cpu.max").unwrap_or_default());
    Details {
        cpu_user_ns: cpu("user_usec").saturating_mul(1000),
        cpu_system_ns: cpu("system_usec").saturating_mul(1000),
        throttling: Throttling {
            periods: cpu("nr_periods"),
            throttled_periods: cpu("nr_throttled"),
            throttled_ns: cpu("throttled_usec").saturating_mul(1000),
        },
        cpu_shares: shares(value("cpu.weight")),
        cpu_period_us,
        cpu_quota_us,
        cache_bytes: field(&memory, "file").unwrap_or(0),
        mapped_bytes: field(&memory, "file_mapped").unwrap_or(0),
        kernel_bytes: kernel_bytes(&memory),
        // Linux 5.19.
        most_used_bytes: value("memory.peak"),
        limit_hits: field(&events, "max").unwrap_or(0),
        high_hits: field(&events, "high").unwrap_or(0),
        memory_limit_bytes: value("memory.max"),
        reservation_bytes: value("memory.min"),
        swap_limit_bytes: value("memory.swap.max"),
        oom_kills: field(&events, "oom_kill").unwrap_or(0),
        devices: named(io_stat(&folder.text("io.stat").unwrap_or_default())),
        huge_pages: huge_pages(folder),
        threads: value("pids.current"),
        threads_limit: value("pids.max"),
        ..Details::default()
    }
}

/// `quota period`, the quota being a number or `max`.
fn cpu_max(text: &str) -> (Option<u64>, u64) {
    let mut fields = text.split_whitespace();
    let quota = fields.next().and_then(|quota| quota.parse().ok());
    let period = fields.next().and_then(|period| period.parse().ok());
    (quota, period.unwrap_or(0))
}

/// The way back from a weight of 1 to 10000 to shares of 2 to 262144, as the runtimes convert them.
fn shares(weight: u64) -> u64 {
    match weight {
        0 => 0,
        weight => (weight - 1) * 262_142 / 9999 + 2,
    }
}

/// Before Linux 5.18 the sum is not told, but its parts are.
fn kernel_bytes(stat: &str) -> u64 {
    let parts = ["kernel_stack", "pagetables", "percpu", "sock", "slab"];
    let sum = || parts.iter().filter_map(|key| field(stat, key)).sum();
    field(stat, "kernel").unwrap_or_else(sum)
}

/// v2 does not tell the most that was used.
fn huge_pages(folder: &Folder) -> Vec<HugePages> {
    let sizes = folder.huge_page_sizes(".current").into_iter();
    let pages = sizes.map(|size| HugePages {
        used_bytes: folder.number(&format!("hugetlb.{size}.current")).unwrap_or(0),
        most_used_bytes: None,
        size,
    });
    pages.collect()
}

/// A kernel booted without pressure information has no file, or one that cannot be read (EOPNOTSUPP).
fn pressure_of(folder: &Folder, file: &str) -> Option<Pressure> {
    folder.read(file, pressure)
}
