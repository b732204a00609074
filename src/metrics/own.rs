//! What the daemon itself takes, by the names that every Prometheus client has for it.
//!
//! Source: Prometheus, "Writing client libraries", "Process metrics". The zygote and the shims are not in it.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::census::gauge;
use crate::sys::own::Own;

#[derive(Debug)]
pub struct OwnProcess;

impl Collector for OwnProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(own) = Own::read() else { return Ok(()) };
        encoder
            .encode_descriptor(
                "process_cpu_seconds",
                "Total user and system CPU time spent in seconds.",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, u64>(&own.cpu.as_secs_f64(), None)?;
        let mut tell = |name, help, value: f64| gauge(&mut encoder, name, help, value);
        let open = own.open_files as f64;
        tell("process_open_fds", "Number of open file descriptors.", open)?;
        if let Some(most) = own.most_files {
            let help = "Maximum number of open file descriptors.";
            tell("process_max_fds", help, most as f64)?;
        }
        let (resident, whole) = (own.resident_bytes as f64, own.virtual_bytes as f64);
        tell(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            resident,
        )?;
        tell("process_virtual_memory_bytes", "Virtual memory size in bytes.", whole)?;
        let help = "Start time of the process since unix epoch in seconds.";
        tell("process_start_time_seconds", help, own.started.as_secs_f64())
    }
}
