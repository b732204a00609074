//! The CRI socket: the one that the service manager passed, or a new one, which it is given to keep.
//!
//! Either way it outlives this process when the manager can keep it: who connects while no daemon runs waits for the
//! next one.

use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use anyhow::Context;
use rustix::net::sockopt::socket_acceptconn;

use super::supervisor;
use crate::durable;

/// The socket at `path`: of those `passed`, or bound here.
///
/// # Errors
/// When it cannot be bound.
pub fn listen(path: &Path, passed: Vec<(String, OwnedFd)>) -> anyhow::Result<UnixListener> {
    for (name, socket) in passed {
        match fitting(socket, path) {
            Some(listener) => {
                tracing::debug!(name, "the service manager passed the socket");
                return Ok(listener);
            }
            None => tracing::warn!(name, "a socket was passed that is not the one at {}", path.display()),
        }
    }
    let listener = bind(path)?;
    supervisor::keep(NAME, listener.as_fd());
    Ok(listener)
}

/// A passed socket if it listens at `path`, and who connects there reaches it.
fn fitting(socket: OwnedFd, path: &Path) -> Option<UnixListener> {
    if !socket_acceptconn(&socket).ok()? {
        return None;
    }
    let listener = UnixListener::from(socket);
    let here = listener.local_addr().ok()?.as_pathname() == Some(path);
    // Its file may have been removed: the run folder is a tmpfs that somebody may have emptied.
    let reachable = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    (here && reachable && listener.set_nonblocking(true).is_ok()).then_some(listener)
}

/// Binds the socket, 0600 in a folder that only root enters. A stale one is ours: we hold the lock.
fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let folder: PathBuf = path.parent().unwrap_or(Path::new("/")).to_owned();
    durable::create_private_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove the stale socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(|| format!("protect {}", path.display()))?;
    listener.set_nonblocking(true).context("make the socket non-blocking")?;
    Ok(listener)
}

/// What the service manager calls it while it keeps it.
const NAME: &str = "cri";

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_the_socket_that_clients_reach_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cri.sock");
        let passed = || OwnedFd::from(UnixListener::bind(&path).unwrap());
        assert!(fitting(passed(), &path).is_some());
        assert!(fitting(fs::File::open("/dev/null").unwrap().into(), &path).is_none());

        fs::remove_file(&path).unwrap();
        assert!(fitting(passed(), &dir.path().join("other.sock")).is_none());

        fs::remove_file(&path).unwrap();
        let unreachable = passed();
        fs::remove_file(&path).unwrap();
        assert!(fitting(unreachable, &path).is_none());
    }
}
