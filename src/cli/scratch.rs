//! A folder that goes when it is dropped.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;

pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes `name-<pid>` where temporary files belong, with a number behind it where somebody who was killed left one: in
    /// a container a pid comes again.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let name = format!("{name}-{}", std::process::id());
        let names = std::iter::once(name.clone()).chain((1..TRIES).map(|number| format!("{name}-{number}")));
        let mut tried = names
            .map(|name| std::env::temp_dir().join(name))
            .map(|path| (fs::create_dir(&path), path));
        let is_taken = |made: &io::Result<()>| {
            made.as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
        };
        let (made, path) = tried
            .find(|(made, _)| !is_taken(made))
            .context("too many folders were left")?;
        made.with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("inro: {} stays: {error}", self.path.display());
        }
    }
}

const TRIES: usize = 1000;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn one_that_was_left_is_in_nobodys_way() {
        let (one, other) = (
            Scratch::new("inro-scratch").unwrap(),
            Scratch::new("inro-scratch").unwrap(),
        );
        let paths = [one.path().to_owned(), other.path().to_owned()];
        assert!(paths.iter().all(|path| path.is_dir()) && paths[0] != paths[1]);
        drop((one, other));
        assert!(!paths.iter().any(|path| path.exists()));
    }
}
