//! Reading and writing the files of cgroups.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    path::Path,
};

use super::CgroupError;

pub fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

pub fn write(path: &Path, value: impl AsRef<str>) -> Result<(), CgroupError> {
    write_each(path, std::iter::once(value))
}

/// Writes values one by one into a file that takes one at a time.
pub fn write_each(path: &Path, values: impl IntoIterator<Item = impl AsRef<str>>) -> Result<(), CgroupError> {
    // Without O_CREAT: a misspelt file must not become a confusing EACCES.
    let written = OpenOptions::new().write(true).open(path).and_then(|mut file| {
        let mut values = values.into_iter();
        values.try_for_each(|value| io::Write::write_all(&mut file, value.as_ref().as_bytes()))
    });
    written.map_err(|source| CgroupError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

pub fn open_to_write(path: &Path) -> Result<OwnedFd, CgroupError> {
    let file = OpenOptions::new().write(true).open(path);
    file.map(OwnedFd::from).map_err(|source| CgroupError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    })
}

pub fn open_folder(path: &Path) -> Result<OwnedFd, CgroupError> {
    let file = File::open(path);
    file.map(OwnedFd::from).map_err(|source| CgroupError::Io {
        action: "open",
        path: path.to_owned(),
        source,
    })
}

/// Adds the pids in `folder` and below it. A folder that is gone has none.
pub fn processes(folder: &Path, pids: &mut Vec<u32>) -> Result<(), CgroupError> {
    let gone = |error: &io::Error| error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV);
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        Err(error) if gone(&error) => return Ok(()),
        Err(source) => {
            return Err(CgroupError::Io {
                action: "list the processes of",
                path: folder.to_owned(),
                source,
            });
        }
    }
    for child in children(folder).unwrap_or_default() {
        processes(&child, pids)?;
    }
    Ok(())
}

/// Whether there is a live process in a v2 cgroup or below it. One that is gone has none.
pub fn is_populated(folder: &Path) -> bool {
    count(&folder.join("cgroup.events"), "populated").is_ok_and(|populated| populated > 0)
}

/// The number behind `key` in a file of `key number` lines; none is 0.
pub fn count(file: &Path, key: &str) -> Result<u64, CgroupError> {
    let text = read(file)?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(name, _)| *name == key);
    Ok(found.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0))
}

/// The sum of [`count`] over a folder and those below it.
pub fn count_below(folder: &Path, file: &str, key: &str) -> Result<u64, CgroupError> {
    let own = count(&folder.join(file), key)?;
    let below = children(folder).unwrap_or_default();
    // One that goes meanwhile is none.
    let counts = below.iter().map(|child| count_below(child, file, key).unwrap_or(0));
    Ok(own + counts.sum::<u64>())
}

/// Removes `folder` and all below it, deepest first. One that is gone is no error.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let children = children(folder)?;
            if children.is_empty() {
                return Err(error);
            }
            for child in children {
                remove(&child)?;
            }
            fs::remove_dir(folder)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn children(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}
