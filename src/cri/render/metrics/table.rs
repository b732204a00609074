//! The 58 metrics of containers, named as cAdvisor named them: dashboards and alerts know these names.
//!
//! Every one has the labels [`BASE_LABELS`]; some have more.

use inro_proto as wire;

/// One metric.
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: wire::MetricType,
    /// Labels after the base ones.
    pub labels: &'static [&'static str],
}

/// In the order of the values.
pub const BASE_LABELS: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal [$($label:literal)*] $help:literal)*) => {
        $(pub const $constant: Metric = Metric {
            name: $name,
            help: $help,
            kind: wire::MetricType::$kind,
            labels: &[$($label),*],
        };)*

        /// All of them.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    CPU_USAGE Counter "container_cpu_usage_seconds_total" ["cpu"] "CPU time used, in seconds."
    CPU_USER Counter "container_cpu_user_seconds_total" [] "CPU time used in user mode, in seconds."
    CPU_SYSTEM Counter "container_cpu_system_seconds_total" [] "CPU time used in kernel mode, in seconds."
    CFS_PERIODS Counter "container_cpu_cfs_periods_total" [] "Enforcement periods of the CPU quota that have passed."
    CFS_THROTTLED_PERIODS Counter "container_cpu_cfs_throttled_periods_total" [] "Enforcement periods in which the CPU quota was used up."
    CFS_THROTTLED_SECONDS Counter "container_cpu_cfs_throttled_seconds_total" [] "Time that tasks were held back by the CPU quota, in seconds."

    MEMORY_CACHE Gauge "container_memory_cache" [] "Page cache, in bytes."
    MEMORY_RSS Gauge "container_memory_rss" [] "Anonymous memory, in bytes."
    MEMORY_KERNEL Gauge "container_memory_kernel_usage" [] "Memory of the kernel for the container, in bytes."
    MEMORY_MAPPED Gauge "container_memory_mapped_file" [] "Memory-mapped files, in bytes."
    MEMORY_SWAP Gauge "container_memory_swap" [] "Swap used, in bytes."
    MEMORY_FAILCNT Counter "container_memory_failcnt" [] "How often the memory limit was hit."
    MEMORY_USAGE Gauge "container_memory_usage_bytes" [] "Memory used, in bytes, whenever it was used last."
    MEMORY_MAX_USAGE Gauge "container_memory_max_usage_bytes" [] "Most memory ever used, in bytes."
    MEMORY_WORKING_SET Gauge "container_memory_working_set_bytes" [] "Memory used without inactive file pages, in bytes."
    MEMORY_HIGH_EVENTS Counter "container_memory_events_high_total" [] "How often processes were held back above memory.high."
    MEMORY_MAX_EVENTS Counter "container_memory_events_max_total" [] "How often the memory limit was hit."
    MEMORY_FAILURES Counter "container_memory_failures_total" ["failure_type" "scope"] "Page faults by type (pgfault, pgmajfault)."
    OOM_EVENTS Counter "container_oom_events_total" [] "Processes that the kernel killed for want of memory."

    HUGETLB_USAGE Gauge "container_hugetlb_usage_bytes" ["pagesize"] "Huge pages used, in bytes."
    HUGETLB_MAX_USAGE Gauge "container_hugetlb_max_usage_bytes" ["pagesize"] "Most huge pages ever used, in bytes."

    FS_USAGE Gauge "container_fs_usage_bytes" ["device"] "What the writable layer takes, in bytes."
    FS_LIMIT Gauge "container_fs_limit_bytes" ["device"] "Size of the file system of the writable layer, in bytes."
    FS_INODES Gauge "container_fs_inodes_total" ["device"] "Inodes of the file system of the writable layer."
    FS_INODES_FREE Gauge "container_fs_inodes_free" ["device"] "Free inodes of the file system of the writable layer."
    FS_READ_BYTES Counter "container_fs_reads_bytes_total" ["device"] "Bytes read from a device."
    FS_READS Counter "container_fs_reads_total" ["device"] "Reads from a device."
    FS_WRITTEN_BYTES Counter "container_fs_writes_bytes_total" ["device"] "Bytes written to a device."
    FS_WRITES Counter "container_fs_writes_total" ["device"] "Writes to a device."
    BLKIO Counter "container_blkio_device_usage_total" ["device" "major" "minor" "operation"] "Bytes of a device by operation (Read, Write)."

    NET_RX_BYTES Counter "container_network_receive_bytes_total" ["interface"] "Bytes received."
    NET_RX_PACKETS Counter "container_network_receive_packets_total" ["interface"] "Packets received."
    NET_RX_DROPPED Counter "container_network_receive_packets_dropped_total" ["interface"] "Packets dropped while receiving."
    NET_RX_ERRORS Counter "container_network_receive_errors_total" ["interface"] "Errors while receiving."
    NET_TX_BYTES Counter "container_network_transmit_bytes_total" ["interface"] "Bytes sent."
    NET_TX_PACKETS Counter "container_network_transmit_packets_total" ["interface"] "Packets sent."
    NET_TX_DROPPED Counter "container_network_transmit_packets_dropped_total" ["interface"] "Packets dropped while sending."
    NET_TX_ERRORS Counter "container_network_transmit_errors_total" ["interface"] "Errors while sending."

    PROCESSES Gauge "container_processes" [] "Processes of the container."
    THREADS Gauge "container_threads" [] "Threads of the container."
    THREADS_MAX Gauge "container_threads_max" [] "Most threads allowed; 0: no limit."
    DESCRIPTORS Gauge "container_file_descriptors" [] "Open file descriptors of all processes."
    SOCKETS Gauge "container_sockets" [] "Open sockets of all processes."
    ULIMITS Gauge "container_ulimits_soft" ["ulimit"] "Soft limits of the first process."

    LAST_SEEN Gauge "container_last_seen" [] "When the container was seen last, in seconds since the epoch."
    START_TIME Gauge "container_start_time_seconds" [] "When the container was started, in seconds since the epoch."

    SPEC_CPU_PERIOD Gauge "container_spec_cpu_period" [] "Period of the CPU quota, in microseconds."
    SPEC_CPU_QUOTA Gauge "container_spec_cpu_quota" [] "CPU quota, in microseconds per period."
    SPEC_CPU_SHARES Gauge "container_spec_cpu_shares" [] "CPU shares."
    SPEC_MEMORY_LIMIT Gauge "container_spec_memory_limit_bytes" [] "Memory limit, in bytes; 0: none."
    SPEC_MEMORY_RESERVATION Gauge "container_spec_memory_reservation_limit_bytes" [] "Memory reservation, in bytes; 0: none."
    SPEC_MEMORY_SWAP Gauge "container_spec_memory_swap_limit_bytes" [] "Swap limit, in bytes; 0: none."

    PRESSURE_CPU_STALLED Counter "container_pressure_cpu_stalled_seconds_total" [] "Time in which no task could run for want of CPU, in seconds."
    PRESSURE_CPU_WAITING Counter "container_pressure_cpu_waiting_seconds_total" [] "Time in which a task waited for CPU, in seconds."
    PRESSURE_MEMORY_STALLED Counter "container_pressure_memory_stalled_seconds_total" [] "Time in which no task could run for want of memory, in seconds."
    PRESSURE_MEMORY_WAITING Counter "container_pressure_memory_waiting_seconds_total" [] "Time in which a task waited for memory, in seconds."
    PRESSURE_IO_STALLED Counter "container_pressure_io_stalled_seconds_total" [] "Time in which no task could run for want of IO, in seconds."
    PRESSURE_IO_WAITING Counter "container_pressure_io_waiting_seconds_total" [] "Time in which a task waited for IO, in seconds."
}
