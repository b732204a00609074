//! Lets a created container's first process go, without the zygote.

use std::{
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
};

use super::error::{Failure, ZygoteError};
use crate::model::{Stages, Stopwatch};

/// Starts the container created in `dir`: returns when its program has been executed, or failed to be, with the times of
/// its steps: `release` until init was told, `exec` until its program was seen to run. Blocks, and for as long as its
/// hooks may take when it has some that run first.
///
/// # Errors
/// [`ZygoteError::NotWaiting`] when it was started before or died since; [`ZygoteError::Failed`] when the program
/// could not be executed: the process then ends with code 126 or 127.
pub fn start(dir: &Path, hooks: Duration) -> Result<Stages, ZygoteError> {
    let mut watch = Stopwatch::start();
    let step = |step: &'static str| move |source: io::Error| ZygoteError::Start { step, source };
    let outcome = open(
        dir.join(STARTED),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let outcome = outcome.map_err(|error| match error {
        rustix::io::Errno::NOENT => ZygoteError::NotWaiting,
        error => step("open the fifo of its outcome")(error.into()),
    })?;
    // By way of a descriptor: the path may be longer than a socket address.
    let folder = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| step("open its folder")(e.into()))?;
    let mut socket = match UnixStream::connect(format!("/proc/self/fd/{}/{NOTIFY}", folder.as_raw_fd())) {
        Ok(socket) => socket,
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            return Err(ZygoteError::NotWaiting);
        }
        Err(error) => return Err(step("connect to its first process")(error)),
    };
    socket
        .write_all(b"start container")
        .map_err(step("write to its first process"))?;
    drop(socket);
    watch.lap("release");

    let mut outcome = std::fs::File::from(outcome);
    let deadline = Instant::now() + PATIENCE + hooks;
    let mut told = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        match outcome.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => told.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    // The program's file system takes its time; what becomes of it is the shim's to tell.
                    break;
                }
                let wait = Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: left.subsec_nanos().into(),
                };
                let _ = poll(&mut [PollFd::new(&outcome, PollFlags::IN)], Some(&wait));
            }
            Err(error) => return Err(step("read its outcome")(error)),
        }
    }
    let _ = std::fs::remove_file(dir.join(STARTED));
    watch.lap("exec");
    if told.is_empty() {
        return Ok(watch.stages());
    }
    let failure: Failure = serde_json::from_slice(&told).map_err(|_| ZygoteError::Protocol)?;
    Err(ZygoteError::Failed(failure))
}

/// Where init waits, in the container's folder.
pub(super) const NOTIFY: &str = libcontainer::notify_socket::NOTIFY_FILE;
/// Open for writing in init until its program was executed.
pub(super) const STARTED: &str = "started.fifo";

const PATIENCE: Duration = Duration::from_secs(10);
