//! From a layer's compressed stream to a folder, or to an EROFS image: decompressed and untarred in a jailed child.
//!
//! What was downloaded is parsed by a process that can do no harm: no network, no file but those of its target folder
//! (its root, and Landlock), a short list of system calls, only the capabilities that ownership needs, bounded memory.
//! The daemon only moves bytes into its stdin and reads its progress and one line of JSON from its stdout.

mod entry;
pub mod erofs;
mod extract;
mod headers;
pub mod jail;
mod pulse;
mod stream;
mod tree;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
    process::ExitCode,
};

use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

pub use entry::Limits;
pub use extract::extract;
pub use headers::Headers;
pub use pulse::Pulse;
pub use stream::{Compression, Hashed};
pub use tree::{OPAQUE, Written, digest_of_stored, digest_of_written, opaque_folder};

use crate::model::chain;

/// What came out of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// `sha256:` of the uncompressed tar.
    pub diff_id: String,
    pub size_bytes: u64,
    pub entries: u64,
    pub made: Made,
}

/// What a layer has become, and the digest by which it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Made {
    Folder {
        /// Folders that hide what lower layers have in them; the daemon marks them, as that takes CAP_SYS_ADMIN.
        opaque: Vec<String>,
        /// Of what is in the folder, with the marks that it will have.
        tree: String,
    },
    Erofs {
        /// Of the image, as fs-verity has it.
        digest: String,
    },
}

/// What layers are unpacked into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Snapshotter {
    /// A folder, as overlayfs takes it.
    #[default]
    Overlay,
    /// One file, an EROFS image that is mounted once for all containers and is a layer of their overlays then.
    Erofs,
}

impl Snapshotter {
    /// As it is configured, and told to the worker.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Erofs => "erofs",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Overlay, Self::Erofs].into_iter().find(|one| one.name() == name)
    }

    /// The folder of a layer that the worker unpacks into, and has as its root.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Overlay => "fs",
            Self::Erofs => "erofs",
        }
    }
}

/// The image in [`Snapshotter::folder`].
pub const IMAGE: &str = "layer";

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

/// The worker process `inro unpack-worker DIR COMPRESSION SNAPSHOTTER progress|outcome [FILE]...`: stdin to the folder, one
/// JSON line to stdout; before it, if asked for, lines with the number of bytes that are unpacked. The files are those of
/// cgroups that the worker moves itself into.
pub fn worker_main(arguments: &[OsString]) -> ExitCode {
    let [folder, compression, snapshotter, tells, joins @ ..] = arguments else {
        return ExitCode::FAILURE;
    };
    let pulse = Pulse::new(tells == "progress");
    let [compression, snapshotter] = [compression, snapshotter].map(|name| name.to_string_lossy());
    let worked = join(joins).and_then(|()| work(Path::new(folder), &compression, &snapshotter, &pulse));
    let outcome = worked.map_err(|error| Refusal {
        why: chain(&error),
        errno: error.errno(),
    });
    pulse.end();
    let line = serde_json::to_string(&outcome).unwrap_or_default();
    let told = io::stdout().write_all(line.as_bytes());
    if told.is_ok() && outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The process moves itself: whoever moves another one waits for an RCU grace period.
fn join(files: &[OsString]) -> Result<(), UnpackError> {
    for path in files {
        let file = File::options().write(true).open(path);
        let joined = file.and_then(|mut file| file.write_all(b"0"));
        joined.map_err(|source| UnpackError::Entry {
            action: "join the cgroup of",
            path: path.to_string_lossy().into_owned(),
            source,
        })?;
    }
    Ok(())
}

fn work(folder: &Path, compression: &str, snapshotter: &str, pulse: &Pulse) -> Result<Unpacked, UnpackError> {
    let input = io::stdin().lock();
    let target = jail::enter(folder)?;
    let unknown = |what, name: &str| UnpackError::Refused {
        what,
        path: name.to_owned(),
    };
    let compression = Compression::named(compression).ok_or_else(|| unknown("unknown compression", compression))?;
    let snapshotter = Snapshotter::named(snapshotter).ok_or_else(|| unknown("unknown snapshotter", snapshotter))?;
    unpack(input, compression, &target, snapshotter, &Limits::default(), pulse)
}

/// Decompresses, hashes and unpacks a whole stream into the folder `target`.
///
/// # Errors
/// [`UnpackError`] naming the entry at fault.
pub fn unpack(
    input: impl Read,
    compression: Compression,
    target: &File,
    snapshotter: Snapshotter,
    limits: &Limits,
    pulse: &Pulse,
) -> Result<Unpacked, UnpackError> {
    // Headers are small, and what is decompressed in small pieces takes longer.
    let tar = Hashed::new(pulse.counted(compression.reader(input)?));
    let mut tar = BufReader::with_capacity(PIECE, tar);
    let (counted, size_bytes, made) = match snapshotter {
        Snapshotter::Overlay => {
            let extracted = extract(&mut tar, target, limits)?;
            let tree = tree::digest_of_written(target, &extracted.written, &extracted.opaque, pulse)?;
            let made = Made::Folder {
                opaque: extracted.opaque,
                tree,
            };
            (extracted.counted, extracted.counted.bytes, made)
        }
        Snapshotter::Erofs => {
            let written = erofs::write(&mut tar, &image_in(target)?, limits)?;
            let made = Made::Erofs { digest: written.digest };
            (written.counted, written.bytes, made)
        }
    };
    // Padding after the archive's end belongs to the diff id.
    let padding = io::copy(&mut (&mut tar).take(limits.bytes), &mut io::sink())?;
    if padding == limits.bytes {
        return Err(UnpackError::Refused {
            what: "more bytes than allowed after",
            path: "the archive's end".to_owned(),
        });
    }
    Ok(Unpacked {
        diff_id: tar.into_inner().digest(),
        size_bytes,
        entries: counted.entries,
        made,
    })
}

fn image_in(folder: &File) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder, IMAGE, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Bytes that are decompressed at once.
const PIECE: usize = 128 << 10;

#[cfg(test)]
mod test;
