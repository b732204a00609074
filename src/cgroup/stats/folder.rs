//! A cgroup's folder, opened once for all the files that are read from it: to find a file from the root costs more than
//! to read it, for cgroupfs checks every step of the way.

use std::{io::Read, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{CWD, Dir, Mode, OFlags, fstat, openat},
    io::{Errno, read},
};

/// An opened folder.
pub struct Folder(OwnedFd);

impl Folder {
    /// `None` when it is not there.
    pub fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).ok().map(Self)
    }

    /// What `parse` makes of a file; `None` when there is no such file or it cannot be read.
    pub fn read<T>(&self, file: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let fd = self.file(file)?;
        // Nearly every file fits, and then nothing is allocated.
        let mut buffer = [0; 4096];
        let mut filled = 0;
        while filled < buffer.len() {
            match read(&fd, &mut buffer[filled..]) {
                Ok(0) => return parse(str::from_utf8(&buffer[..filled]).ok()?),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        let mut whole = buffer.to_vec();
        std::fs::File::from(fd).read_to_end(&mut whole).ok()?;
        parse(str::from_utf8(&whole).ok()?)
    }

    /// A file's text.
    pub fn text(&self, file: &str) -> Option<String> {
        self.read(file, |text| Some(text.to_owned()))
    }

    /// A file that is one number; `None` when it is `max`, negative or not there.
    pub fn number(&self, file: &str) -> Option<u64> {
        self.read(file, |text| text.trim().parse().ok())
    }

    /// Whether there are cgroups below it. A folder of cgroupfs has a link from each of them, beside its own two.
    pub fn has_children(&self) -> bool {
        fstat(&self.0).is_ok_and(|stat| stat.st_nlink > 2)
    }

    /// The sizes of huge pages that there are files `hugetlb.SIZE<suffix>` for.
    pub fn huge_page_sizes(&self, suffix: &str) -> Vec<String> {
        let size = |name: &str| Some(name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.to_owned());
        let entries = Dir::read_from(&self.0).into_iter().flatten().flatten();
        let sizes = entries.filter_map(|entry| size(entry.file_name().to_str().ok()?));
        let mut sizes: Vec<_> = sizes.filter(|size| !size.contains('.')).collect();
        sizes.sort();
        sizes
    }

    fn file(&self, name: &str) -> Option<OwnedFd> {
        openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
    }
}

#[cfg(test)]
mod test {
    use std::fs;

    use super::*;

    #[test]
    fn files_of_any_size_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        for size in [0, 1, 4095, 4096, 4097, 20_000] {
            let text = "7".repeat(size);
            fs::write(dir.path().join("file"), &text).unwrap();
            assert_eq!(folder.text("file"), Some(text));
        }
        fs::write(dir.path().join("file"), "max\n").unwrap();
        assert_eq!((folder.number("file"), folder.text("none")), (None, None));
        assert!(Folder::open(&dir.path().join("none")).is_none());
    }
}
