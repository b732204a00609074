//! What confines a container: users, capabilities, seccomp, AppArmor, the root file system's shape.
//!
//! Whatever is asked for and cannot be applied is an error that names its field, never a warning.

pub mod apparmor;
pub mod capabilities;
pub mod rootfs;
pub mod seccomp;
pub mod user;

use std::{io, path::PathBuf};

use crate::model::ErrorKind;

/// Why a container cannot be confined as asked.
#[derive(Debug, thiserror::Error)]
pub enum LockdownError {
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    /// Right, but not on this node as it is.
    #[error("{field}: {why}")]
    NotHere { field: &'static str, why: String },
    #[error("seccomp profile {}: {why}", path.display())]
    Profile { path: PathBuf, why: String },
    #[error("image: {what} {}", path.display())]
    Image { what: &'static str, path: PathBuf },
    #[error("{action} {} in the image", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl LockdownError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::Profile { .. } => ErrorKind::InvalidArgument,
            Self::Image { .. } | Self::NotHere { .. } => ErrorKind::FailedPrecondition,
            Self::Io { .. } => ErrorKind::Internal,
        }
    }
}
