//! What a shim leaves in its container's folder, and how it is brought to its end.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use inro_shim::{
    exit::{self, ExitRecord},
    record::{self, ShimRecord},
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::ShimError;
use crate::sys::reactor::watch;

/// How init ended; `None` when it has not, or when its shim was killed.
///
/// # Errors
/// [`ShimError::Io`], [`ShimError::Damaged`].
pub fn read_exit(folder: &Path) -> Result<Option<ExitRecord>, ShimError> {
    read(&folder.join(exit::NAME), ExitRecord::parse)
}

/// Which process supervises.
///
/// # Errors
/// [`ShimError::Io`], [`ShimError::Damaged`].
pub fn read_record(folder: &Path) -> Result<Option<ShimRecord>, ShimError> {
    read(&folder.join(record::NAME), ShimRecord::parse)
}

/// Waits for the shim in `folder` to end by itself, and kills it after `patience`. Its container's processes must be
/// dead. Nothing to do when there is none.
///
/// # Errors
/// [`ShimError::Stuck`], those of [`read_record`].
pub async fn end(folder: &Path, patience: Duration) -> Result<(), ShimError> {
    let Some(record) = read_record(folder)? else {
        return Ok(());
    };
    let Some(pidfd) = Pid::from_raw(record.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok()) else {
        return Ok(());
    };
    // The pid may be another process's by now: the start time tells, and the pidfd pins whichever it is.
    let stat = fs::read(format!("/proc/{}/stat", record.pid)).unwrap_or_default();
    if record::start_ticks(&stat) != Some(record.start_ticks) {
        return Ok(());
    }
    let process = watch(pidfd, tokio::io::Interest::READABLE).map_err(|source| ShimError::Io {
        action: "watch the shim of",
        path: folder.to_owned(),
        source,
    })?;
    let deadline = Instant::now() + patience;
    if tokio::time::timeout_at(deadline.into(), process.readable())
        .await
        .is_ok()
    {
        return Ok(());
    }
    // It may have ended in this instant.
    let _ = pidfd_send_signal(process.get_ref(), Signal::KILL);
    match tokio::time::timeout(patience, process.readable()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(ShimError::Stuck {
            path: folder.to_owned(),
        }),
    }
}

fn read<T>(path: &Path, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, ShimError> {
    match fs::read(path) {
        Ok(bytes) => parse(&bytes)
            .map(Some)
            .ok_or_else(|| ShimError::Damaged { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ShimError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}
