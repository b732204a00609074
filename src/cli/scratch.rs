//! A folder that goes when it is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes `name-<pid>` where temporary files belong.
    ///
    /// # Errors
    /// When it is there already or cannot be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
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
