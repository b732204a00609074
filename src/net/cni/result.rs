//! What plugins answer.
//!
//! Source: CNI specification 1.1.0, section 5, and those before it.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

/// Addresses of a pod, in the order of a result: those of its own interfaces, without their prefixes.
///
/// # Errors
/// What is wrong with the result.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>, String> {
    let result: Wire = Wire::deserialize(result).map_err(|error| error.to_string())?;
    let inside = |at: usize| {
        let interface = result.interfaces.get(at);
        // A result that names no interface means the pod's.
        interface.is_none_or(|interface| !interface.sandbox.is_empty())
    };
    let listed = result
        .ips
        .iter()
        .filter(|ip| ip.interface.is_none_or(inside))
        .map(|ip| &ip.address);
    // Before version 0.3.0.
    let old = [&result.ip4, &result.ip6].into_iter().flatten().map(|ip| &ip.ip);
    listed.chain(old).map(|text| address_of(text)).collect()
}

fn address_of(text: &str) -> Result<IpAddr, String> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address.parse().map_err(|_| format!("ips: {text:?} is no address"))
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    interface: Option<usize>,
}

#[derive(Deserialize)]
struct OldIp {
    ip: String,
}

/// What a plugin says when it fails. Source: section 5, "Error".
#[derive(Debug, Deserialize)]
pub struct Refusal {
    #[serde(default)]
    pub code: u32,
    #[serde(default)]
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

impl Refusal {
    /// Try again later.
    pub const TRY_LATER: u32 = 11;
}
