//! File systems of a test's own, on files of another one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A file system that is mounted until it is dropped.
pub struct Disk {
    place: PathBuf,
    _dir: TempDir,
}

impl Disk {
    /// One of `mib` mebibytes, made with `mkfs` and mounted with `options`; or why this machine cannot.
    pub fn mount(mkfs: &[&str], mib: u64, options: &str) -> Result<Disk, String> {
        let dir = tempfile::Builder::new()
            .prefix("inro-disk-")
            .tempdir()
            .expect("a scratch folder");
        let place = dir.path().join("mounted");
        mount_loop(&dir.path().join("image"), mkfs, mib, options, &place)?;
        Ok(Disk { place, _dir: dir })
    }

    pub fn place(&self) -> &Path {
        &self.place
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: after a failed test something may be running there.
        let _ = run("umount", &["--lazy", path(&self.place)]);
    }
}

/// Makes a file system of `mib` mebibytes in the file `image`, and mounts it on the folder `mounted`, which need not be there.
pub fn mount_loop(image: &Path, mkfs: &[&str], mib: u64, options: &str, mounted: &Path) -> Result<(), String> {
    let file = fs::File::create(image).expect("an image");
    file.set_len(mib << 20).expect("its size");
    fs::create_dir_all(mounted).expect("a folder");
    run(mkfs[0], &[&mkfs[1..], &[path(image)]].concat())?;
    loop_on(image, options, mounted)
}

/// Mounts the file system that is in the file `image`.
pub fn loop_on(image: &Path, options: &str, mounted: &Path) -> Result<(), String> {
    let options = ["loop", options].join(",");
    run(
        "mount",
        &["-o", options.trim_end_matches(','), path(image), path(mounted)],
    )
}

/// A program that has to succeed; the first line of what it says when it does not.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", told.trim().lines().next().unwrap_or_default()))
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
