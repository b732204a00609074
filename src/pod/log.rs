//! A container's log: opened by the daemon, written by the shim.

use std::{fs, os::fd::OwnedFd, os::unix::fs::OpenOptionsExt, path::Path};

use super::{PodError, Pods, blocking, pins::io_error};
use crate::{model::ContainerState, shim::ShimError};

impl Pods {
    /// Makes the shim go on in a new file at the log's path, between two lines. Source: CRI ReopenContainerLog.
    ///
    /// # Errors
    /// [`PodError::NoContainer`]; [`PodError::WrongState`] when it does not run; [`PodError::Invalid`] when it has no log.
    pub async fn reopen_log(&self, id: &str) -> Result<(), PodError> {
        let container = self.inner.index.container(id)?;
        let wrong = || PodError::WrongState {
            id: container.plan.id.clone(),
            state: "not running",
            needed: "running",
        };
        let shim = container.shim().ok_or_else(wrong)?;
        let Some(path) = container.plan.log.clone() else {
            return Err(PodError::Invalid {
                field: "container_id",
                why: "the container has no log".into(),
            });
        };
        let log = blocking(move || open(&path)).await?;
        match shim.reopen_log(log).await {
            // The container has ended. The watcher is about to say so; our answer must not come before it.
            Err(ShimError::Gone { .. }) => {
                let mut state = container.state.subscribe();
                let exited = state.wait_for(|state| matches!(state, ContainerState::Exited { .. }));
                // It fails when the container was removed meanwhile.
                let _ = exited.await;
                Err(wrong())
            }
            done => Ok(done?),
        }
    }
}

/// Opens a log for appending, making it (0640) and its folders when missing. Never follows a link at its end.
pub(super) fn open(path: &Path) -> Result<OwnedFd, PodError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|source| io_error("make", parent, source))?;
    }
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true).mode(0o640);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    Ok(options
        .open(path)
        .map_err(|source| io_error("open the log", path, source))?
        .into())
}
