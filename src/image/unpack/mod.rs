//! From a layer's compressed stream to a folder: decompressed and untarred in a jailed child.
//!
//! What was downloaded is parsed by a process that can do no harm: no network, no file but those of its target folder
//! (Landlock), only the capabilities that ownership needs, bounded memory. The daemon only moves bytes into its stdin
//! and reads one line of JSON from its stdout.

mod extract;
mod jail;
mod stream;

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
};

use serde::{Deserialize, Serialize};

pub use extract::{Limits, extract};
pub use stream::{Compression, Hashed};

use crate::model::chain;

/// What came out of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// `sha256:` of the uncompressed tar.
    pub diff_id: String,
    pub size_bytes: u64,
    pub entries: u64,
    /// Folders that hide what lower layers have in them; the daemon marks them, as that takes CAP_SYS_ADMIN.
    pub opaque: Vec<String>,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("{what}: {path:?}")]
    Refused { what: &'static str, path: String },
    #[error("{action} {path:?}")]
    Entry {
        action: &'static str,
        path: String,
        source: io::Error,
    },
    #[error("read the layer")]
    Read(#[from] io::Error),
}

impl UnpackError {
    /// What the kernel said, if it was the kernel that refused.
    fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { .. } => None,
            Self::Entry { source, .. } | Self::Read(source) => source.raw_os_error(),
        }
    }
}

/// How the worker tells the daemon of an [`UnpackError`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub why: String,
    pub errno: Option<i32>,
}

/// The worker process `inro unpack-worker DIR COMPRESSION`: stdin to the folder, one JSON line to stdout.
pub fn worker_main(folder: &Path, compression: &str) -> ExitCode {
    let outcome = work(folder, compression).map_err(|error| Refusal {
        why: chain(&error),
        errno: error.errno(),
    });
    let line = serde_json::to_string(&outcome).unwrap_or_default();
    let told = io::stdout().write_all(line.as_bytes());
    if told.is_ok() && outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn work(folder: &Path, compression: &str) -> Result<Unpacked, UnpackError> {
    let target = File::open(folder)?;
    let input = io::stdin().lock();
    jail::enter(folder)?;
    let compression = Compression::named(compression).ok_or_else(|| UnpackError::Refused {
        what: "unknown compression",
        path: compression.to_owned(),
    })?;
    unpack(input, compression, &target, &Limits::default())
}

/// Decompresses, hashes and extracts a whole stream into `target`.
///
/// # Errors
/// [`UnpackError`] naming the entry at fault.
pub fn unpack(
    input: impl Read,
    compression: Compression,
    target: &File,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let mut tar = Hashed::new(compression.reader(input)?);
    let extracted = extract(&mut tar, target, limits)?;
    // Padding after the archive's end belongs to the diff id.
    io::copy(&mut tar, &mut io::sink())?;
    Ok(Unpacked {
        diff_id: tar.digest(),
        size_bytes: extracted.bytes,
        entries: extracted.entries,
        opaque: extracted.opaque,
    })
}

#[cfg(test)]
mod test;
