//! RunPodSandbox's configuration.

use std::collections::BTreeMap;

use inro_proto as wire;

use super::{Parsed, absolute, non_empty, required, resources, security};
use crate::{
    cri::error::Fault,
    model::{Dns, NamespaceMode, Namespaces, PortMapping, Protocol, SandboxConfig, SandboxMetadata},
};

/// Source: CRI `PodSandboxConfig`.
pub fn sandbox(config: Option<wire::PodSandboxConfig>, runtime_handler: String) -> Parsed<SandboxConfig> {
    let config = required(config, "config")?;
    let metadata = metadata(config.metadata)?;
    let linux = config.linux.unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    const CONTEXT: &str = "config.linux.security_context";
    security::ids(&context)?;
    let namespaces = security::namespaces(context.namespace_options, CONTEXT)?;
    if matches!(namespaces.pid, NamespaceMode::Target(_)) {
        return Err(Fault::new(
            format!("{CONTEXT}.namespace_options.pid"),
            "TARGET is for containers",
        ));
    }
    security::no_selinux(context.selinux_options.as_ref(), CONTEXT)?;
    if context.run_as_group.is_some() && context.run_as_user.is_none() {
        return Err(Fault::new(format!("{CONTEXT}.run_as_group"), "needs run_as_user"));
    }
    let sysctls = sysctls(linux.sysctls, &namespaces)?;
    if config.hostname.len() > 64 || config.hostname.contains(['/', '\0', '\n', ' ']) {
        return Err(Fault::new(
            "config.hostname",
            format!("{:?} is not a hostname", config.hostname),
        ));
    }
    Ok(SandboxConfig {
        metadata,
        runtime_handler,
        hostname: config.hostname,
        log_directory: (!config.log_directory.is_empty())
            .then(|| absolute(&config.log_directory, "config.log_directory"))
            .transpose()?,
        dns: dns(config.dns_config.unwrap_or_default())?,
        port_mappings: config
            .port_mappings
            .into_iter()
            .enumerate()
            .map(port_mapping)
            .collect::<Parsed<_>>()?,
        labels: config.labels.into_iter().collect(),
        annotations: config.annotations.into_iter().collect(),
        cgroup_parent: cgroup_parent(linux.cgroup_parent)?,
        sysctls,
        namespaces,
        privileged: context.privileged,
        overhead: linux
            .overhead
            .map(|r| resources(Some(r), "config.linux.overhead"))
            .transpose()?,
        resources: linux
            .resources
            .map(|r| resources(Some(r), "config.linux.resources"))
            .transpose()?,
    })
}

fn metadata(metadata: Option<wire::PodSandboxMetadata>) -> Parsed<SandboxMetadata> {
    let metadata = required(metadata, "config.metadata")?;
    Ok(SandboxMetadata {
        name: non_empty(metadata.name, "config.metadata.name")?,
        uid: metadata.uid,
        namespace: metadata.namespace,
        attempt: metadata.attempt,
    })
}

fn dns(dns: wire::DnsConfig) -> Parsed<Dns> {
    let all = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
    if let Some(bad) = all.into_iter().find(|text| text.contains(['\n', '\0'])) {
        return Err(Fault::new(
            "config.dns_config",
            format!("{bad:?} has more than one line"),
        ));
    }
    Ok(Dns {
        servers: dns.servers,
        searches: dns.searches,
        options: dns.options,
    })
}

fn port_mapping((at, mapping): (usize, wire::PortMapping)) -> Parsed<PortMapping> {
    let field = |name: &str| format!("config.port_mappings[{at}].{name}");
    let port = |port: i32, name: &str| {
        u16::try_from(port).map_err(|_| Fault::new(field(name), format!("{port} is not a port")))
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| Fault::new(field("host_ip"), format!("{text:?} is not an address")))?,
        ),
    };
    let protocol = match wire::Protocol::try_from(mapping.protocol) {
        Ok(wire::Protocol::Tcp) => Protocol::Tcp,
        Ok(wire::Protocol::Udp) => Protocol::Udp,
        Ok(wire::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => {
            return Err(Fault::new(
                field("protocol"),
                format!("{} is unknown", mapping.protocol),
            ));
        }
    };
    Ok(PortMapping {
        protocol,
        container_port: port(mapping.container_port, "container_port")?,
        host_port: port(mapping.host_port, "host_port")?,
        host_ip,
    })
}

/// A path or the name of a slice: which of them it may be, the driver decides.
fn cgroup_parent(parent: String) -> Parsed<String> {
    if parent.trim_matches('/').is_empty() {
        return Ok(String::new());
    }
    absolute(
        &format!("/{}", parent.trim_start_matches('/')),
        "config.linux.cgroup_parent",
    )?;
    Ok(parent)
}

/// Only sysctls of namespaces that the pod has for itself: everything else would change the host.
///
/// Source: sysctl(8) names of namespaces(7); Kubernetes, "Using sysctls in a Kubernetes Cluster".
fn sysctls(
    sysctls: std::collections::HashMap<String, String>,
    namespaces: &Namespaces,
) -> Parsed<BTreeMap<String, String>> {
    const IPC: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
    ];
    let mut checked = BTreeMap::new();
    for (name, value) in sysctls {
        let field = format!("config.linux.sysctls[{name:?}]");
        let dotted = name.replace('/', ".");
        let plain = dotted
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !plain || dotted.split('.').any(str::is_empty) {
            return Err(Fault::new(field, "is not the name of a sysctl"));
        }
        let (of, mode) = if dotted.starts_with("net.") {
            ("network", &namespaces.network)
        } else if dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str()) {
            ("ipc", &namespaces.ipc)
        } else {
            return Err(Fault::new(field, "belongs to no namespace: it would change the host"));
        };
        if *mode == NamespaceMode::Node {
            return Err(Fault::new(
                field,
                format!("would change the host, whose {of} namespace the pod shares"),
            ));
        }
        checked.insert(dotted, value);
    }
    Ok(checked)
}
