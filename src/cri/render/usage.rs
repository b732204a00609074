//! Stats.

use inro_proto as wire;

use super::{container_metadata, sandbox_metadata, strings};
use crate::model::{
    ContainerUsage, CpuUsage, InterfaceUsage, LayerUsage, MemoryUsage, Pressure, SandboxUsage, Stall, SwapUsage,
    Timestamp, Usage,
};

/// `layers_at` names the file system of the writable layers.
pub fn container_stats(container: &ContainerUsage, layers_at: &str) -> wire::ContainerStats {
    let view = &container.view;
    let usage = container.usage.as_ref();
    wire::ContainerStats {
        attributes: Some(wire::ContainerAttributes {
            id: view.id.to_string(),
            metadata: Some(container_metadata(view)),
            labels: strings(&view.config.labels),
            annotations: strings(&view.config.annotations),
        }),
        cpu: usage.and_then(|usage| Some(cpu(usage.at, &usage.cpu?))),
        memory: usage.and_then(|usage| Some(memory(usage.at, &usage.memory?))),
        writable_layer: container.layer.map(|usage| layer(&usage, layers_at)),
        swap: usage.and_then(|usage| Some(swap(usage.at, &usage.swap?))),
        io: usage.and_then(io),
    }
}

/// As [`container_stats`].
pub fn sandbox_stats(pod: &SandboxUsage, layers_at: &str) -> wire::PodSandboxStats {
    let (view, usage) = (&pod.view, &pod.usage);
    let containers = pod.containers.iter().filter(|container| container.usage.is_some());
    wire::PodSandboxStats {
        attributes: Some(wire::PodSandboxAttributes {
            id: view.id.to_string(),
            metadata: Some(sandbox_metadata(view)),
            labels: strings(&view.config.labels),
            annotations: strings(&view.config.annotations),
        }),
        linux: Some(wire::LinuxPodSandboxStats {
            cpu: usage.cpu.map(|value| cpu(usage.at, &value)),
            memory: usage.memory.map(|value| memory(usage.at, &value)),
            network: network(usage.at, &pod.interfaces),
            process: Some(wire::ProcessUsage {
                timestamp: usage.at.0,
                process_count: number(usage.processes),
            }),
            containers: containers
                .map(|container| container_stats(container, layers_at))
                .collect(),
            io: io(usage),
        }),
        windows: None,
    }
}

fn cpu(at: Timestamp, usage: &CpuUsage) -> wire::CpuUsage {
    wire::CpuUsage {
        timestamp: at.0,
        usage_core_nano_seconds: number(usage.total_ns),
        usage_nano_cores: usage.nano_cores.and_then(number),
        psi: usage.pressure.as_ref().map(pressure),
    }
}

fn memory(at: Timestamp, usage: &MemoryUsage) -> wire::MemoryUsage {
    wire::MemoryUsage {
        timestamp: at.0,
        working_set_bytes: number(usage.working_set_bytes()),
        available_bytes: usage.available_bytes().and_then(number),
        usage_bytes: number(usage.used_bytes),
        rss_bytes: number(usage.rss_bytes),
        page_faults: number(usage.page_faults),
        major_page_faults: number(usage.major_page_faults),
        psi: usage.pressure.as_ref().map(pressure),
    }
}

fn swap(at: Timestamp, usage: &SwapUsage) -> wire::SwapUsage {
    let left = usage.limit_bytes.map(|limit| limit.saturating_sub(usage.used_bytes));
    wire::SwapUsage {
        timestamp: at.0,
        swap_available_bytes: left.and_then(number),
        swap_usage_bytes: number(usage.used_bytes),
    }
}

fn io(usage: &Usage) -> Option<wire::IoUsage> {
    let psi = Some(pressure(usage.io.as_ref()?));
    Some(wire::IoUsage {
        timestamp: usage.at.0,
        psi,
    })
}

/// The CRI counts in nanoseconds what the kernel counts in microseconds.
fn pressure(pressure: &Pressure) -> wire::PsiStats {
    let data = |stall: &Stall| wire::PsiData {
        total: stall.total_us.saturating_mul(1000),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    wire::PsiStats {
        full: Some(data(&pressure.full)),
        some: Some(data(&pressure.some)),
    }
}

fn network(at: Timestamp, interfaces: &[InterfaceUsage]) -> Option<wire::NetworkUsage> {
    let interfaces: Vec<_> = interfaces.iter().map(interface).collect();
    Some(wire::NetworkUsage {
        timestamp: at.0,
        default_interface: Some(interfaces.first()?.clone()),
        interfaces,
    })
}

fn interface(usage: &InterfaceUsage) -> wire::NetworkInterfaceUsage {
    wire::NetworkInterfaceUsage {
        name: usage.name.clone(),
        rx_bytes: number(usage.received.bytes),
        rx_errors: number(usage.received.errors),
        tx_bytes: number(usage.sent.bytes),
        tx_errors: number(usage.sent.errors),
    }
}

fn layer(usage: &LayerUsage, at: &str) -> wire::FilesystemUsage {
    wire::FilesystemUsage {
        timestamp: usage.at.0,
        fs_id: Some(wire::FilesystemIdentifier { mountpoint: at.into() }),
        used_bytes: number(usage.used_bytes),
        inodes_used: number(usage.inodes),
    }
}

fn number(value: u64) -> Option<wire::UInt64Value> {
    Some(wire::UInt64Value { value })
}
