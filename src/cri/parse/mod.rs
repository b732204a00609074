//! Wire messages to model values, with every default applied. A fault names its field as the client wrote it.

mod container;
mod filter;
mod sandbox;
mod security;
mod stream;
#[cfg(test)]
mod test;
mod update;

pub use container::{container, resources};
pub use filter::{container_filter, container_stats_filter, sandbox_filter, sandbox_stats_filter};
pub use sandbox::sandbox;
pub use stream::{attach, exec, port_forward};
pub use update::{checkpoint, pod_cidr, update_container, update_sandbox};

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::error::Fault;
use crate::model::{Auth, Secret};

type Parsed<T> = Result<T, Fault>;

/// A message that must be there.
fn required<T>(value: Option<T>, field: &str) -> Parsed<T> {
    value.ok_or_else(|| Fault::new(field, "is required"))
}

/// A string that must not be empty.
pub fn non_empty(value: String, field: &str) -> Parsed<String> {
    if value.is_empty() {
        Err(Fault::new(field, "is required"))
    } else {
        Ok(value)
    }
}

/// What an exec runs: at least a program, and nothing that execve(2) cannot take.
pub fn command(words: Vec<String>) -> Parsed<Vec<String>> {
    if words.first().is_none_or(String::is_empty) {
        return Err(Fault::new("cmd", "is required"));
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err(Fault::new("cmd", "has a NUL byte in it"));
    }
    Ok(words)
}

/// Whole seconds, not negative.
pub fn seconds(value: i64, field: &str) -> Parsed<Duration> {
    let seconds = u64::try_from(value).map_err(|_| Fault::new(field, format!("{value} is negative")))?;
    Ok(Duration::from_secs(seconds))
}

/// An absolute path without `..`.
fn absolute(value: &str, field: &str) -> Parsed<PathBuf> {
    let path = Path::new(value);
    if !path.is_absolute() || value.contains('\0') {
        return Err(Fault::new(field, format!("{value:?} is not an absolute path")));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Fault::new(field, format!("{value:?} has `..` in it")));
    }
    Ok(path.to_owned())
}

/// Credentials as they come.
pub fn auth(wire: Option<inro_proto::AuthConfig>) -> Option<Auth> {
    wire.map(|wire| Auth {
        username: wire.username,
        password: Secret(wire.password),
        auth: Secret(wire.auth),
        server_address: wire.server_address,
        identity_token: Secret(wire.identity_token),
        registry_token: Secret(wire.registry_token),
    })
}
