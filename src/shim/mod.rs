//! The daemon's side of the shim: its embedded binary, its control connection, its records.

mod client;
mod input;
mod records;

use std::{io, path::PathBuf};

pub use client::{Attached, Shim};
pub use input::Input;
pub use inro_shim::protocol::Wanted;
pub use records::{end, read_exit, read_record};

use rustix::io::Errno;

use crate::model::ErrorKind;

/// The supervisor's program: built by the build script, run from a sealed memfd.
pub static EMBEDDED: &[u8] = include_bytes!(env!("INRO_SHIM"));

/// Why a shim could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("record {} is damaged", path.display())]
    Damaged { path: PathBuf },
    #[error("the shim at {} is gone", path.display())]
    Gone { path: PathBuf },
    #[error("the shim could not {what}")]
    Refused { what: &'static str, source: io::Error },
    #[error("the shim at {} does not end", path.display())]
    Stuck { path: PathBuf },
}

impl ShimError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Gone { .. } => ErrorKind::FailedPrecondition,
            Self::Refused { source, .. } if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                ErrorKind::ResourceExhausted
            }
            _ => ErrorKind::Internal,
        }
    }
}
