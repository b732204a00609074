//! Paths that lead nowhere else than below a folder.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::{Errno, Result},
    path::Arg,
};

/// Opens what is at `path` below `folder`, with the links that `resolve` allows.
///
/// # Errors
/// Those of openat2(2). [`Errno::AGAIN`] is one of them only where it does not end: anything that is mounted or renamed on the
/// node meanwhile makes `..` uncertain, and then the call is made again.
pub fn open(folder: impl AsFd, path: impl Arg, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd> {
    let path = path.into_c_str()?;
    (0..MOST_TRIES)
        .map(|_| openat2(folder.as_fd(), &*path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
        .find(|opened| !matches!(opened, Err(Errno::AGAIN)))
        .unwrap_or(Err(Errno::AGAIN))
}

/// A node that mounts without a pause gives up its lock between two of them.
const MOST_TRIES: usize = 1000;

#[cfg(test)]
mod test {
    use std::{
        fs::{self, File},
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn a_node_that_renames_and_mounts_makes_no_path_uncertain() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let (root, over) = (File::open(folder.path()).unwrap(), AtomicBool::new(false));
        let mut failed = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                let names = ["x", "y"].map(|name| folder.path().join(name));
                fs::create_dir(&names[0]).unwrap();
                while !over.load(Ordering::Relaxed) {
                    fs::rename(&names[0], &names[1]).unwrap();
                    fs::rename(&names[1], &names[0]).unwrap();
                }
            });
            let opened = (0..20_000).map(|_| open(&root, "a/b/../b/../../a/b", OFlags::PATH, ResolveFlags::IN_ROOT));
            failed.extend(opened.filter_map(Result::err));
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(failed, []);
    }
}
