//! What libcontainer says in its log, kept for the answer to a failed create.

use std::{
    error::Error,
    fs::File,
    io::{self, Read, Seek},
};

use rustix::fs::{MemfdFlags, memfd_create};

use super::{
    error::{Failure, Stage, errno_in},
    executor::carried,
};
use crate::sys::process;

type Result<T> = std::result::Result<T, Failure>;

/// libcontainer tells which path failed only in its log; this keeps the errors of that log for the answer.
pub(super) struct Diary(File);

impl Diary {
    pub(super) fn open() -> Result<Self> {
        let step = |e| Failure::new(Stage::Build, "open its log", e);
        let memfd = memfd_create("inro-log", MemfdFlags::CLOEXEC).map_err(|e| step(io::Error::from(e)))?;
        let file = File::from(process::lift(memfd).map_err(step)?);
        let writer = file.try_clone().map_err(step)?;
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .with_ansi(false)
            .with_target(false)
            .with_level(false)
            .without_time()
            .with_writer(writer)
            .finish();
        let _ = tracing::subscriber::set_global_default(subscriber);
        Ok(Self(file))
    }

    /// The failure behind a libcontainer error: ours if the executor sent one, else its whole chain and the first
    /// line of its log, which was written nearest to the cause.
    pub(super) fn explain(&self, error: &dyn Error) -> Failure {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = inner.source();
        }
        if let Some(failure) = carried(&message) {
            return failure;
        }
        let mut log = String::new();
        let mut file = &self.0;
        let _ = file.rewind().and_then(|()| file.read_to_string(&mut log));
        if let Some(line) = log.lines().next() {
            let line: String = line.trim().chars().take(MOST_LOG).collect();
            message = format!("{message} ({line})");
        }
        Failure {
            stage: Stage::Build,
            errno: errno_in(&message),
            message,
        }
    }
}

/// Characters of libcontainer's log in an error.
const MOST_LOG: usize = 300;
