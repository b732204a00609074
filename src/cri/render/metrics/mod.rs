//! Metrics: what was measured, under the names that everybody knows.

mod table;

use inro_proto as wire;

use crate::model::{
    ContainerState, ContainerUsage, Details, DiskTotals, InterfaceUsage, MemoryUsage, PodMeasures, Pressure,
    SandboxView, Usage,
};
use table::{ALL, BASE_LABELS, Metric};

/// The descriptors of all metrics; always the same.
pub fn metric_descriptors() -> Vec<wire::MetricDescriptor> {
    let labels = |metric: &Metric| BASE_LABELS.iter().chain(metric.labels).map(ToString::to_string);
    let descriptor = |metric: &Metric| wire::MetricDescriptor {
        name: metric.name.into(),
        help: metric.help.into(),
        label_keys: labels(metric).collect(),
    };
    ALL.iter().map(descriptor).collect()
}

/// Everything of a pod; `disk` is the file system of its containers' writable layers.
pub fn pod_metrics(pod: &PodMeasures, disk: &DiskTotals) -> wire::PodSandboxMetrics {
    let mut own = Sheet::new(&pod.view, "", pod.view.id.as_str(), "");
    for interface in &pod.interfaces {
        network(&mut own, interface);
    }
    let containers = pod.containers.iter();
    wire::PodSandboxMetrics {
        pod_sandbox_id: pod.view.id.to_string(),
        metrics: own.metrics,
        container_metrics: containers
            .map(|(container, details)| container_metrics(&pod.view, container, details, disk))
            .collect(),
    }
}

fn container_metrics(
    pod: &SandboxView,
    container: &ContainerUsage,
    details: &Details,
    disk: &DiskTotals,
) -> wire::ContainerMetrics {
    let view = &container.view;
    let image = match view.config.user_specified_image.as_str() {
        "" => &view.config.image,
        name => name,
    };
    let mut sheet = Sheet::new(pod, &view.config.metadata.name, view.id.as_str(), image);
    if let Some(usage) = &container.usage {
        let started_at = match view.state {
            ContainerState::Created => view.created_at,
            ContainerState::Running { started_at } => started_at,
            ContainerState::Exited { started_at, .. } => started_at.unwrap_or(view.created_at),
        };
        let seconds = |at: i64| u64::try_from(at).unwrap_or(0) / SECOND;
        sheet.add(&table::LAST_SEEN, seconds(usage.at.0));
        sheet.add(&table::START_TIME, seconds(started_at.0));
        cpu(&mut sheet, usage, details);
        if let Some(memory_usage) = &usage.memory {
            memory(&mut sheet, memory_usage, details);
        }
        sheet.add(&table::MEMORY_SWAP, usage.swap.map_or(0, |swap| swap.used_bytes));
        sheet.add(&table::SPEC_MEMORY_SWAP, details.swap_limit_bytes);
        processes(&mut sheet, usage, details);
        pressure(&mut sheet, usage);
    }
    devices(&mut sheet, details);
    layer(&mut sheet, container, disk);
    wire::ContainerMetrics {
        container_id: view.id.to_string(),
        metrics: sheet.metrics,
    }
}

fn cpu(sheet: &mut Sheet, usage: &Usage, details: &Details) {
    let total = usage.cpu.map_or(0, |cpu| cpu.total_ns);
    let throttling = details.throttling;
    sheet.add_for(&table::CPU_USAGE, &["total"], total / SECOND);
    sheet.add(&table::CPU_USER, details.cpu_user_ns / SECOND);
    sheet.add(&table::CPU_SYSTEM, details.cpu_system_ns / SECOND);
    sheet.add(&table::CFS_PERIODS, throttling.periods);
    sheet.add(&table::CFS_THROTTLED_PERIODS, throttling.throttled_periods);
    sheet.add(&table::CFS_THROTTLED_SECONDS, throttling.throttled_ns / SECOND);
    sheet.add(&table::SPEC_CPU_SHARES, details.cpu_shares);
    sheet.add(&table::SPEC_CPU_PERIOD, details.cpu_period_us);
    if let Some(quota) = details.cpu_quota_us {
        sheet.add(&table::SPEC_CPU_QUOTA, quota);
    }
}

fn memory(sheet: &mut Sheet, usage: &MemoryUsage, details: &Details) {
    sheet.add(&table::MEMORY_CACHE, details.cache_bytes);
    sheet.add(&table::MEMORY_RSS, usage.rss_bytes);
    sheet.add(&table::MEMORY_KERNEL, details.kernel_bytes);
    sheet.add(&table::MEMORY_MAPPED, details.mapped_bytes);
    sheet.add(&table::MEMORY_FAILCNT, details.limit_hits);
    sheet.add(&table::MEMORY_HIGH_EVENTS, details.high_hits);
    sheet.add(&table::MEMORY_MAX_EVENTS, details.limit_hits);
    sheet.add(&table::MEMORY_USAGE, usage.used_bytes);
    sheet.add(&table::MEMORY_MAX_USAGE, details.most_used_bytes);
    sheet.add(&table::MEMORY_WORKING_SET, usage.working_set_bytes());
    // The figures are of the cgroup with all below it: both scopes are the same.
    for scope in ["container", "hierarchy"] {
        sheet.add_for(&table::MEMORY_FAILURES, &["pgfault", scope], usage.page_faults);
        sheet.add_for(&table::MEMORY_FAILURES, &["pgmajfault", scope], usage.major_page_faults);
    }
    sheet.add(&table::OOM_EVENTS, details.oom_kills);
    sheet.add(&table::SPEC_MEMORY_LIMIT, details.memory_limit_bytes);
    sheet.add(&table::SPEC_MEMORY_RESERVATION, details.reservation_bytes);
    for pages in &details.huge_pages {
        sheet.add_for(&table::HUGETLB_USAGE, &[&pages.size], pages.used_bytes);
        if let Some(most) = pages.most_used_bytes {
            sheet.add_for(&table::HUGETLB_MAX_USAGE, &[&pages.size], most);
        }
    }
}

fn processes(sheet: &mut Sheet, usage: &Usage, details: &Details) {
    sheet.add(&table::PROCESSES, usage.processes);
    sheet.add(&table::THREADS, details.threads);
    sheet.add(&table::THREADS_MAX, details.threads_limit);
    sheet.add(&table::DESCRIPTORS, details.descriptors);
    sheet.add(&table::SOCKETS, details.sockets);
    if let Some(limit) = details.open_files_limit {
        sheet.add_for(&table::ULIMITS, &["max_open_files"], limit);
    }
}

/// Only kernels and cgroups that have pressure information have these.
fn pressure(sheet: &mut Sheet, usage: &Usage) {
    let mut add = |pressure: Option<Pressure>, waiting: &Metric, stalled: &Metric| {
        if let Some(pressure) = pressure {
            sheet.add(waiting, pressure.some.total_us / MICROSECONDS);
            sheet.add(stalled, pressure.full.total_us / MICROSECONDS);
        }
    };
    let cpu = usage.cpu.and_then(|cpu| cpu.pressure);
    let memory = usage.memory.and_then(|memory| memory.pressure);
    add(cpu, &table::PRESSURE_CPU_WAITING, &table::PRESSURE_CPU_STALLED);
    add(memory, &table::PRESSURE_MEMORY_WAITING, &table::PRESSURE_MEMORY_STALLED);
    add(usage.io, &table::PRESSURE_IO_WAITING, &table::PRESSURE_IO_STALLED);
}

fn devices(sheet: &mut Sheet, details: &Details) {
    for device in &details.devices {
        let name = device.name.as_str();
        sheet.add_for(&table::FS_READ_BYTES, &[name], device.read_bytes);
        sheet.add_for(&table::FS_READS, &[name], device.reads);
        sheet.add_for(&table::FS_WRITTEN_BYTES, &[name], device.written_bytes);
        sheet.add_for(&table::FS_WRITES, &[name], device.writes);
        let (major, minor) = (device.major.to_string(), device.minor.to_string());
        for (operation, bytes) in [("Read", device.read_bytes), ("Write", device.written_bytes)] {
            sheet.add_for(&table::BLKIO, &[name, &major, &minor, operation], bytes);
        }
    }
}

fn layer(sheet: &mut Sheet, container: &ContainerUsage, disk: &DiskTotals) {
    let device = [disk.device.as_str()];
    if let Some(layer) = container.layer {
        sheet.add_for(&table::FS_USAGE, &device, layer.used_bytes);
    }
    sheet.add_for(&table::FS_LIMIT, &device, disk.size_bytes);
    sheet.add_for(&table::FS_INODES, &device, disk.inodes);
    sheet.add_for(&table::FS_INODES_FREE, &device, disk.free_inodes);
}

fn network(sheet: &mut Sheet, usage: &InterfaceUsage) {
    let (name, received, sent) = ([usage.name.as_str()], usage.received, usage.sent);
    sheet.add_for(&table::NET_RX_BYTES, &name, received.bytes);
    sheet.add_for(&table::NET_RX_PACKETS, &name, received.packets);
    sheet.add_for(&table::NET_RX_DROPPED, &name, received.dropped);
    sheet.add_for(&table::NET_RX_ERRORS, &name, received.errors);
    sheet.add_for(&table::NET_TX_BYTES, &name, sent.bytes);
    sheet.add_for(&table::NET_TX_PACKETS, &name, sent.packets);
    sheet.add_for(&table::NET_TX_DROPPED, &name, sent.dropped);
    sheet.add_for(&table::NET_TX_ERRORS, &name, sent.errors);
}

/// Metrics with the same base labels.
struct Sheet {
    base: [String; BASE_LABELS.len()],
    metrics: Vec<wire::Metric>,
}

impl Sheet {
    fn new(pod: &SandboxView, container: &str, id: &str, image: &str) -> Self {
        let metadata = &pod.config.metadata;
        let base = [&metadata.name, &metadata.namespace, container, id, image].map(str::to_owned);
        let metrics = Vec::new();
        Self { base, metrics }
    }

    fn add(&mut self, metric: &Metric, value: u64) {
        self.add_for(metric, &[], value);
    }

    /// With the values of the labels after the base ones.
    fn add_for(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let labels = self.base.iter().cloned().chain(labels.iter().map(ToString::to_string));
        self.metrics.push(wire::Metric {
            name: metric.name.into(),
            // Read for this call. Source: CRI `Metric.timestamp`.
            timestamp: 0,
            metric_type: metric.kind.into(),
            label_values: labels.collect(),
            value: Some(wire::UInt64Value { value }),
        });
    }
}

const SECOND: u64 = 1_000_000_000;
const MICROSECONDS: u64 = 1_000_000;

#[cfg(test)]
mod test {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_are_58_each_once_with_a_help_text() {
        let names: HashSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!((ALL.len(), names.len()), (58, 58));
        assert!(ALL.iter().all(|metric| metric.help.ends_with('.')));
    }

    #[test]
    fn counters_and_only_counters_end_in_total_but_for_one() {
        for metric in ALL.iter().filter(|metric| metric.name != "container_memory_failcnt") {
            let total = metric.name.ends_with("_total") && metric.name != "container_fs_inodes_total";
            assert_eq!(total, metric.kind == wire::MetricType::Counter, "{}", metric.name);
        }
    }
}
