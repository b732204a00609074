//! Checkpoints: a running container's memory and files in one archive, by the criu program where it is installed.
//!
//! criu is the one program that is executed for a container, since there is no library that does its work. The archive is
//! laid out as CRI-O and podman do it, so that `checkpointctl` and their restore can read it.

mod archive;
mod criu;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use crate::{
    durable,
    model::{ContainerId, ErrorKind},
};
use criu::Dump;

/// How long a checkpoint may take when the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("checkpoints need criu, which is not installed at {}", path.display())]
    Missing { path: PathBuf },
    #[error("checkpoints need criu, and {} does not work on this kernel: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
    #[error("criu cannot dump the container: {why}")]
    Dump { why: String },
    #[error("the checkpoint took longer than {0:?}")]
    Timeout(Duration),
    #[error("location: the folder of {} does not exist", path.display())]
    Location { path: PathBuf },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl CheckpointError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } | Self::Unfit { .. } => ErrorKind::FailedPrecondition,
            Self::Location { .. } => ErrorKind::InvalidArgument,
            Self::Timeout(_) => ErrorKind::DeadlineExceeded,
            Self::Dump { .. } | Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// What `config.dump` says of the container. Source: checkpointctl `lib/metadata.go`, `ContainerConfig`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    pub id: ContainerId,
    pub name: String,
    pub rootfs_image: String,
    pub rootfs_image_ref: String,
    pub rootfs_image_name: String,
    pub runtime: &'static str,
    /// RFC 3339.
    pub created_time: String,
    pub checkpointed_time: String,
}

/// A container to be dumped.
#[derive(Debug)]
pub struct Subject {
    pub description: Description,
    /// Host pid of its first process.
    pub init: u32,
    /// Its OCI spec.
    pub spec: PathBuf,
    /// The folder of what differs from its image.
    pub upper: PathBuf,
    /// Where in it something of the host is mounted.
    pub volumes: Vec<PathBuf>,
}

/// Writes a checkpoint of a running container, which goes on, to `location`. No `timeout`: ten minutes.
///
/// # Errors
/// [`CheckpointError`]: what is missing, by name. Nothing is left at `location` then.
pub async fn write(
    criu: &Path,
    subject: Subject,
    location: &Path,
    timeout: Option<Duration>,
) -> Result<(), CheckpointError> {
    let limit = timeout.unwrap_or(DEFAULT_TIMEOUT);
    match tokio::time::timeout(limit, dump_and_pack(criu, subject, location)).await {
        Ok(result) => result,
        // Dropping the work has killed criu, whose code in the container's processes then gives them back.
        Err(_) => {
            remove(&work_folder(location));
            Err(CheckpointError::Timeout(limit))
        }
    }
}

async fn dump_and_pack(criu: &Path, subject: Subject, location: &Path) -> Result<(), CheckpointError> {
    criu::check(criu).await?;
    let work = work_folder(location);
    let made = async {
        // What an earlier life left half-made for the same place.
        remove(&work);
        let images = work.join(archive::IMAGES);
        match location.parent() {
            Some(folder) if folder.is_dir() => {}
            _ => {
                return Err(CheckpointError::Location {
                    path: location.to_owned(),
                });
            }
        }
        durable::create_private_dir(&images).map_err(io_error("make", &images))?;
        let dump = Dump {
            init: subject.init,
            volumes: &subject.volumes,
            images: &images,
        };
        criu::dump(criu, &dump).await?;
        let (work, location) = (work.clone(), location.to_owned());
        let packing = tokio::task::spawn_blocking(move || archive::pack(&work, &subject, &location));
        packing.await.unwrap_or_else(|error| {
            Err(CheckpointError::Dump {
                why: format!("the archive: {error}"),
            })
        })
    };
    let result = made.await;
    remove(&work);
    result
}

/// Beside the archive: on a disk that has room for it.
fn work_folder(location: &Path) -> PathBuf {
    let mut name = location.as_os_str().to_owned();
    name.push(".making");
    name.into()
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, folder = %folder.display(), "cannot remove what a checkpoint was made of");
        }
        _ => {}
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CheckpointError + use<'a> {
    move |source| CheckpointError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
