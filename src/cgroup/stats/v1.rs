//! cgroup v1: a folder for each controller.

use super::{
    folder::Folder,
    named,
    parse::{blkio, field},
};
use crate::model::{CpuUsage, Details, HugePages, MemoryUsage, SwapUsage, Throttling, Usage};

/// Limits above this are none: the kernel rounds its largest number down to whole pages.
const UNLIMITED: u64 = 1 << 62;

pub fn cpu_ns(folder_of: &dyn Fn(&str) -> Option<Folder>) -> Option<u64> {
    folder_of("cpuacct")?.number("cpuacct.usage")
}

pub fn usage(folder_of: &dyn Fn(&str) -> Option<Folder>) -> Usage {
    let total_ns = cpu_ns(folder_of);
    let memory = folder_of("memory");
    let (memory, swap) = memory.as_ref().and_then(memory_usage).unzip();
    Usage {
        cpu: total_ns.map(|total_ns| CpuUsage {
            total_ns,
            ..CpuUsage::default()
        }),
        memory,
        swap: swap.flatten(),
        ..Usage::default()
    }
}

/// Two files only: to open one costs more than to read it. The limits in `memory.stat` are those that hold here, also
/// when they are set further up. v1 counts memory and swap together; a host that does not account for swap says nothing
/// of it.
fn memory_usage(folder: &Folder) -> Option<(MemoryUsage, Option<SwapUsage>)> {
    let used_bytes = folder.number("memory.usage_in_bytes")?;
    folder.read("memory.stat", |stat| Some(memory_stat(used_bytes, stat)))
}

fn memory_stat(used_bytes: u64, stat: &str) -> (MemoryUsage, Option<SwapUsage>) {
    let total = |key: &str| field(stat, key).unwrap_or(0);
    let limit = |key: &str| field(stat, key).filter(|limit| *limit < UNLIMITED);
    let limit_bytes = limit("hierarchical_memory_limit");
    let memory = MemoryUsage {
        used_bytes,
        inactive_file_bytes: total("total_inactive_file"),
        rss_bytes: total("total_rss"),
        limit_bytes,
        page_faults: total("total_pgfault"),
        major_page_faults: total("total_pgmajfault"),
        pressure: None,
    };
    let swap = field(stat, "total_swap").map(|used_bytes| SwapUsage {
        used_bytes,
        limit_bytes: limit("hierarchical_memsw_limit").map(|both| both.saturating_sub(limit_bytes.unwrap_or(0))),
    });
    (memory, swap)
}

pub fn details(folder_of: &dyn Fn(&str) -> Option<Folder>) -> Details {
    let mut details = Details::default();
    if let Some(folder) = folder_of("cpuacct") {
        details.cpu_user_ns = folder.number("cpuacct.usage_user").unwrap_or(0);
        details.cpu_system_ns = folder.number("cpuacct.usage_sys").unwrap_or(0);
    }
    if let Some(folder) = folder_of("cpu") {
        cpu(&folder, &mut details);
    }
    if let Some(folder) = folder_of("memory") {
        memory(&folder, &mut details);
    }
    if let Some(folder) = folder_of("blkio") {
        let file = |name: &str| {
            folder
                .text(&format!("blkio.throttle.{name}_recursive"))
                .unwrap_or_default()
        };
        details.devices = named(blkio(&file("io_service_bytes"), &file("io_serviced")));
    }
    if let Some(folder) = folder_of("hugetlb") {
        details.huge_pages = huge_pages(&folder);
    }
    if let Some(folder) = folder_of("pids") {
        details.threads = folder.number("pids.current").unwrap_or(0);
        details.threads_limit = folder.number("pids.max").unwrap_or(0);
    }
    details
}

fn cpu(folder: &Folder, details: &mut Details) {
    let stat = folder.text("cpu.stat").unwrap_or_default();
    details.throttling = Throttling {
        periods: field(&stat, "nr_periods").unwrap_or(0),
        throttled_periods: field(&stat, "nr_throttled").unwrap_or(0),
        throttled_ns: field(&stat, "throttled_time").unwrap_or(0),
    };
    details.cpu_shares = folder.number("cpu.shares").unwrap_or(0);
    details.cpu_period_us = folder.number("cpu.cfs_period_us").unwrap_or(0);
    // -1, which is no `u64`, is no limit.
    details.cpu_quota_us = folder.number("cpu.cfs_quota_us");
}

fn memory(folder: &Folder, details: &mut Details) {
    let stat = folder.text("memory.stat").unwrap_or_default();
    let value = |file: &str| folder.number(file).unwrap_or(0);
    details.cache_bytes = field(&stat, "total_cache").unwrap_or(0);
    details.mapped_bytes = field(&stat, "total_mapped_file").unwrap_or(0);
    details.kernel_bytes = value("memory.kmem.usage_in_bytes");
    details.most_used_bytes = value("memory.max_usage_in_bytes");
    details.limit_hits = value("memory.failcnt");
    details.reservation_bytes = limit(folder, "memory.soft_limit_in_bytes").unwrap_or(0);
    details.memory_limit_bytes = limit(folder, "memory.limit_in_bytes").unwrap_or(0);
    details.swap_limit_bytes = limit(folder, "memory.memsw.limit_in_bytes").unwrap_or(0);
    let oom = folder.text("memory.oom_control").unwrap_or_default();
    details.oom_kills = field(&oom, "oom_kill").unwrap_or(0);
}

fn huge_pages(folder: &Folder) -> Vec<HugePages> {
    let sizes = folder.huge_page_sizes(".usage_in_bytes").into_iter();
    let pages = sizes.map(|size| HugePages {
        used_bytes: folder.number(&format!("hugetlb.{size}.usage_in_bytes")).unwrap_or(0),
        most_used_bytes: folder.number(&format!("hugetlb.{size}.max_usage_in_bytes")),
        size,
    });
    pages.collect()
}

fn limit(folder: &Folder, file: &str) -> Option<u64> {
    folder.number(file).filter(|limit| *limit < UNLIMITED)
}
