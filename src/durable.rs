//! Safe replacement of files: a reader sees the old bytes or the new ones, never a part.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Replaces a file by temp + rename. Safe against the death of this process, not against a power cut.
///
/// # Errors
/// Those of the file system; the old file is untouched then.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Unnamed::write(path, bytes)?.name()
}

/// As [`write()`], and safe against a power cut too: the bytes are on the disk before the name is, and the name before
/// this returns.
///
/// # Errors
/// Those of the file system.
pub fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unnamed = Unnamed::write(path, bytes)?;
    unnamed.file.sync_data()?;
    unnamed.name()?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// A file that has its bytes, though not on the disk, and not its name. It goes unless it gets that.
#[derive(Debug)]
pub struct Unnamed {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Unnamed {
    /// Writes what is to be called `path`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        let temporary = temporary(path);
        let mut unnamed = Self {
            file: File::create(&temporary)?,
            temporary,
            path: path.to_owned(),
        };
        unnamed.file.write_all(bytes)?;
        Ok(unnamed)
    }

    /// Gives it its name, in the place of what had it.
    ///
    /// # Errors
    /// Those of rename(2).
    pub fn name(mut self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.path)?;
        self.temporary.clear();
        Ok(())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            // One that stays is removed at the next start.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes a folder, and those above it, that only we can enter (0700). An existing one is kept as it is.
///
/// # Errors
/// Those of mkdir(2).
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes what writes that were cut off left in a folder, which nobody writes in meanwhile.
///
/// # Errors
/// Those of the file system.
pub fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == TEMPORARY) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// A name of this write's own: two may replace the same file at once.
fn temporary(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{TEMPORARY}", COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

/// How the names of files end that are not whole yet.
const TEMPORARY: &str = "tmp";

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_bytes_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        write(&path, b"old").unwrap();
        write_synced(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_gets_no_name_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        drop(Unnamed::write(&path, b"half").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_nothing_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        fs::write(temporary(&path), b"half").unwrap();
        write(&path, b"whole").unwrap();
        remove_unfinished(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(left, [path]);
    }
}
