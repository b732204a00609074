//! OCI runtime spec generation: pure functions from model values.
//!
//! What comes out is the *derived* spec that libcontainer gets: no `linux.resources` (the daemon has written the limits),
//! no `linux.seccomp` (our executor loads the filter), and SYS_ADMIN and SETPCAP still in the capability sets (our
//! executor needs them, and drops them last).

mod cdi;
mod container;
mod devices;
mod mounts;
mod resolv;

use std::{io, path::PathBuf};

use crate::model::ErrorKind;

pub use cdi::{CdiEdits, CdiOwner, resolve as resolve_cdi};
pub use container::{Left, SpecInput, generate, stop_signal};
pub use devices::{Devices, resolve as resolve_devices};
pub use mounts::{StagedMount, base_mounts, covers, in_order};
pub use resolv::resolv_conf;

/// Why no spec can be made.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    #[error("devices: {}", path.display())]
    Device { path: PathBuf, source: io::Error },
    #[error("the spec does not fit its schema")]
    Schema(#[from] serde_json::Error),
}

impl SpecError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::Device { .. } => ErrorKind::InvalidArgument,
            Self::Schema(_) => ErrorKind::Internal,
        }
    }
}

/// An unprivileged container's security, for tests.
#[cfg(test)]
pub fn test_security() -> crate::model::Security {
    use crate::model::*;
    Security {
        privileged: false,
        run_as: None,
        run_as_group: None,
        supplemental_groups: Vec::new(),
        groups_policy: GroupsPolicy::Merge,
        capabilities: CapabilityChanges::default(),
        no_new_privs: false,
        readonly_rootfs: false,
        seccomp: Profile::RuntimeDefault,
        apparmor: None,
        masked_paths: vec!["/proc/kcore".into()],
        readonly_paths: vec!["/proc/sys".into()],
        namespaces: Namespaces {
            user: None,
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
        },
    }
}

#[cfg(test)]
mod test;
