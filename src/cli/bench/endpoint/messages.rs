//! The messages that describe the pods which are measured: plain ones, with what a kubelet sends for every pod.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use inro_proto as wire;

use super::super::arguments::Network;

/// The label of every sandbox made here; its value is that of this run.
pub const LABEL: &str = "inro-bench";

/// The value of [`LABEL`]: of this process and no other.
pub static RUN: LazyLock<String> = LazyLock::new(|| {
    let now = crate::model::Timestamp::now().0;
    format!("{}-{now}", std::process::id())
});

/// What the workload sleeps, in seconds: a number by which its processes are told from all others.
pub static WORKLOAD_SECONDS: LazyLock<String> = LazyLock::new(|| (100_000_000 + std::process::id()).to_string());

/// The name of a container's log in the pod's folder.
pub const LOG: &str = "0.log";

pub fn sandbox(network: Network, cgroup_parent: &str, logs: &Path) -> wire::PodSandboxConfig {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    wire::PodSandboxConfig {
        hostname: match network {
            Network::Host => String::new(),
            Network::Pod => name.clone(),
        },
        log_directory: logs.join(&name).display().to_string(),
        metadata: Some(wire::PodSandboxMetadata {
            name: name.clone(),
            uid: name,
            namespace: "bench".into(),
            attempt: 0,
        }),
        labels: ours(),
        linux: Some(wire::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(wire::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(network)),
                seccomp: Some(wire::SecurityProfile::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The label of everything of this run.
pub fn ours() -> HashMap<String, String> {
    HashMap::from([(LABEL.to_owned(), RUN.clone())])
}

pub fn container(network: Network, image: &str) -> wire::ContainerConfig {
    let script = format!("echo up; exec sleep {}", *WORKLOAD_SECONDS);
    wire::ContainerConfig {
        metadata: Some(wire::ContainerMetadata {
            name: "bench".into(),
            attempt: 0,
        }),
        image: Some(self::image(image)),
        command: ["sh", "-c", &script].map(String::from).into(),
        log_path: LOG.into(),
        labels: ours(),
        linux: Some(wire::LinuxContainerConfig {
            resources: Some(wire::LinuxContainerResources {
                cpu_shares: 1024,
                ..Default::default()
            }),
            security_context: Some(wire::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(network)),
                // RuntimeDefault.
                seccomp: Some(wire::SecurityProfile::default()),
                masked_paths: MASKED.map(String::from).into(),
                readonly_paths: READ_ONLY.map(String::from).into(),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

pub fn image(image: &str) -> wire::ImageSpec {
    wire::ImageSpec {
        image: image.into(),
        // CRI-O wants it.
        user_specified_image: image.into(),
        ..Default::default()
    }
}

fn namespaces(network: Network) -> wire::NamespaceOption {
    wire::NamespaceOption {
        network: match network {
            Network::Host => wire::NamespaceMode::Node,
            Network::Pod => wire::NamespaceMode::Pod,
        }
        .into(),
        pid: wire::NamespaceMode::Container.into(),
        ..Default::default()
    }
}

/// What the kubelet asks for: `pkg/securitycontext/util.go`.
const MASKED: [&str; 8] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
