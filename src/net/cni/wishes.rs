//! What a pod asks of its network, as plugins are told: arguments, and the capabilities of those that have them.
//!
//! Source: CNI conventions ("CONVENTIONS.md", "Dynamic Plugin specific fields"), and the peers for Kubernetes' arguments.

use serde_json::{Map, Value, json};

use crate::{
    model::{Protocol, SandboxConfig, SandboxId},
    net::bandwidth::{BadRate, Limits},
};

/// `CNI_ARGS`.
pub fn arguments(id: &SandboxId, config: &SandboxConfig) -> String {
    let pod = &config.metadata;
    // A plugin that does not know one of them must not fail over it.
    let pairs = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", id.as_str()),
        ("K8S_POD_UID", &pod.uid),
    ];
    pairs.map(|(key, value)| format!("{key}={value}")).join(";")
}

/// The values of all capabilities; a plugin gets those that it names.
///
/// # Errors
/// [`BadRate`].
pub fn capabilities(config: &SandboxConfig, cgroup: &str, subnets: &[String]) -> Result<Map<String, Value>, BadRate> {
    let mut wishes = Map::new();
    let ports: Vec<Value> = config
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port > 0)
        .map(|mapping| {
            let protocol = match mapping.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            json!({
                "hostPort": mapping.host_port, "containerPort": mapping.container_port,
                "protocol": protocol, "hostIP": mapping.host_ip.map_or_else(String::new, |ip| ip.to_string()),
            })
        })
        .collect();
    if !ports.is_empty() {
        wishes.insert("portMappings".into(), ports.into());
    }
    if let Some(bandwidth) = bandwidth(Limits::of(&config.annotations)?) {
        wishes.insert("bandwidth".into(), bandwidth);
    }
    let dns = &config.dns;
    if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) {
        let dns = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        wishes.insert("dns".into(), dns);
    }
    wishes.insert("cgroupPath".into(), cgroup.into());
    wishes.insert("io.kubernetes.cri.pod-annotations".into(), json!(config.annotations));
    if !subnets.is_empty() {
        let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
        wishes.insert("ipRanges".into(), ranges.into());
    }
    Ok(wishes)
}

/// Bits a second, and bits at once: as many as the plugin takes.
fn bandwidth(limits: Limits) -> Option<Value> {
    let mut bandwidth = Map::new();
    for (rate, direction) in [(limits.ingress, "ingress"), (limits.egress, "egress")] {
        if let Some(rate) = rate {
            bandwidth.insert(format!("{direction}Rate"), rate.bits_a_second.into());
            bandwidth.insert(format!("{direction}Burst"), MOST_AT_ONCE.into());
        }
    }
    (!bandwidth.is_empty()).then(|| bandwidth.into())
}

/// The most that the bandwidth plugin takes, as with the peers.
const MOST_AT_ONCE: u64 = u32::MAX as u64;
