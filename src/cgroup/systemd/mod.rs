//! The driver systemd: a container's cgroup is a transient scope in its pod's slice.
//!
//! ```text
//! names       slices and scopes, their paths        pure
//! properties  limits as a unit's properties         pure
//! wire        D-Bus messages as bytes               pure
//! bus         what is asked of systemd, with deadlines and over lost connections
//! link        one connection: calls, answers, ends of jobs
//! ```
//! A limit is told twice, to the kernel by its file and to systemd as a property: what only the file had would be gone
//! with the next `daemon-reload`. Why a scope, how it gets its first process, and which socket:
//! `docs/decisions/0010-systemd-driver.md`.

mod bus;
mod link;
pub mod names;
mod properties;
mod wire;

use std::{io, path::Path, sync::OnceLock};

use super::CgroupError;
use crate::model::Resources;
use bus::Bus;
pub use bus::Starting;
use names::Scope;

/// systemd's own socket, for root.
const SOCKET: &str = "/run/systemd/private";
/// The first version that knows every property we set.
const OLDEST: u32 = 244;
/// The first version whose scopes have an OOM policy, and stop when nobody sets it.
const OOM_POLICY: u32 = 253;

/// Why systemd did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("connect to systemd at {SOCKET}")]
    Connect(#[source] io::Error),
    #[error("systemd closed the connection")]
    Lost,
    #[error("systemd does not answer in time")]
    Slow,
    #[error("{message} ({name})")]
    Refused { name: String, message: String },
    #[error("its job ended as {0:?}")]
    Job(String),
    #[error("systemd's answer is none")]
    Answer,
}

/// The host's systemd.
#[derive(Default)]
pub struct Systemd {
    bus: Bus,
    version: OnceLock<u32>,
}

impl Systemd {
    /// Whether it is the host's first process. Source: sd_booted(3).
    pub fn runs() -> bool {
        Path::new("/run/systemd/system").is_dir()
    }

    /// Connects, so that a host where that cannot be done is known at once.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`]; [`CgroupError::OldSystemd`].
    pub fn check(&self) -> Result<(), CgroupError> {
        match self.version()? {
            version if version < OLDEST => Err(CgroupError::OldSystemd {
                version,
                oldest: OLDEST,
            }),
            _ => Ok(()),
        }
    }

    /// Asks for a scope with its limits and its `first` process, without which there is none.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`].
    pub fn begin(&self, scope: &Scope, resources: &Resources, first: u32) -> Result<Starting, CgroupError> {
        let oom_policy = self.version()? >= OOM_POLICY;
        let properties = properties::scope(scope, first, oom_policy, resources);
        let begun = self.bus.begin_start(&scope.unit, &properties);
        begun.map_err(failed("start", &scope.unit))
    }

    /// Waits until the scope is there and has its first process.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`].
    pub fn finish(&self, starting: Starting) -> Result<(), CgroupError> {
        let unit = starting.unit.clone();
        self.bus.finish_start(starting).map_err(failed("start", &unit))
    }

    /// Makes systemd know limits that the files have.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`].
    pub fn agree(&self, scope: &Scope, resources: &Resources) -> Result<(), CgroupError> {
        let properties = properties::limits(resources);
        if properties.is_empty() {
            return Ok(());
        }
        let set = self.bus.set_properties(&scope.unit, &properties);
        set.map_err(failed("change", &scope.unit))
    }

    /// Ends a scope whose processes are dead. One that is gone is no error.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`].
    pub fn stop(&self, scope: &Scope) -> Result<(), CgroupError> {
        self.bus.stop(&scope.unit).map_err(failed("stop", &scope.unit))
    }

    fn version(&self) -> Result<u32, CgroupError> {
        if let Some(version) = self.version.get() {
            return Ok(*version);
        }
        let text = self.bus.version().map_err(failed("ask the version of", "systemd"))?;
        Ok(*self.version.get_or_init(|| number(&text)))
    }
}

/// The number that a version begins with.
fn number(version: &str) -> u32 {
    let digits = version
        .trim_start_matches('v')
        .split(|c: char| !c.is_ascii_digit())
        .next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn failed(action: &'static str, unit: &str) -> impl FnOnce(BusError) -> CgroupError {
    let unit = unit.to_owned();
    move |source| CgroupError::Systemd { action, unit, source }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, version) in [
            ("257.13-1~deb13u1", 257),
            ("v245.4-1.fc32", 245),
            ("252", 252),
            ("?", 0),
        ] {
            assert_eq!(number(text), version, "{text}");
        }
    }
}
