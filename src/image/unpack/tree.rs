//! One digest of what an unpacked layer is: names, kinds, modes, owners, times, links and content.
//!
//! The worker takes it when the layer is whole, with checksums of the files that it has counted while it wrote them, so
//! that nothing is read twice; whoever verifies the layer takes it again from the disk. It tells what is damaged from
//! what is whole, and not what an attacker changed: content is in it as a CRC, and who may write a layer may write its
//! record. Extended attributes are not in it but for the mark of opaque folders.

use std::{
    collections::{HashMap, HashSet},
    ffi::{CStr, OsStr},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, fstat, openat, readlinkat, statat},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{extract::open_inside, pulse::Pulse};
use crate::model::hex;

/// What overlayfs hides lower folders by.
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// Checksums of files by their inode number, as they were written: of so many of them as there is room for.
#[derive(Debug, Default)]
pub struct Written(HashMap<u64, u32>);

impl Written {
    /// Remembers a file's, in the place of that of an earlier file whose inode it has.
    pub fn add(&mut self, inode: u64, checksum: u32) {
        if self.0.len() < MOST_WRITTEN || self.0.contains_key(&inode) {
            self.0.insert(inode, checksum);
        }
    }
}

/// Files beyond these are read again.
const MOST_WRITTEN: usize = 900_000;
/// Bytes of names, and of paths of folders that are still to be walked, with what each of them takes besides.
const MOST_NAMES: usize = 64 << 20;
const NAME_OVERHEAD: usize = 48;

/// The digest of the layer at `root` as the worker leaves it; `opaque` are the folders that the daemon will mark.
///
/// # Errors
/// Those of the file system.
pub fn digest_of_written(root: &File, written: &Written, opaque: &[String], pulse: &Pulse) -> io::Result<String> {
    let mut inodes = HashSet::new();
    for path in opaque {
        if let Some(folder) = opaque_folder(root, path)? {
            inodes.insert(fstat(&folder)?.st_ino);
        }
    }
    digest(
        root,
        |folder| Ok(inodes.contains(&fstat(folder)?.st_ino)),
        |folder, name, stat| {
            pulse.beat();
            match written.0.get(&stat.st_ino) {
                Some(checksum) => Ok(*checksum),
                None => checksum(folder, name),
            }
        },
    )
}

/// The folder to be marked for this path, which may lead through links inside of the layer; `None` when a later entry of
/// the layer took its place.
///
/// # Errors
/// Those of openat2(2).
pub fn opaque_folder(root: &File, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    match open_inside(root, Path::new(path), ResolveFlags::NO_MAGICLINKS) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        opened => opened.map(Some),
    }
}

/// The digest of the layer at `root`, from its files. `go_on` is asked before each of them.
///
/// # Errors
/// Those of the file system, an unreadable sector among them; [`io::ErrorKind::Interrupted`] when it is not to go on.
pub fn digest_of_stored(root: &File, go_on: impl Fn() -> bool) -> io::Result<String> {
    digest(
        root,
        |folder| Ok(fgetxattr(folder, OPAQUE, &mut [0; 1]).is_ok()),
        |folder, name, _| match go_on() {
            true => checksum(folder, name),
            false => Err(io::ErrorKind::Interrupted.into()),
        },
    )
}

/// Walks folder by folder, each one's names in their order.
fn digest(
    root: &File,
    is_opaque: impl Fn(BorrowedFd<'_>) -> io::Result<bool>,
    content: impl Fn(BorrowedFd<'_>, &CStr, &Stat) -> io::Result<u32>,
) -> io::Result<String> {
    let mut hash = Sha256::new();
    // One file with many names is read once, be it as large as the disk.
    let mut linked = HashMap::new();
    let mut ahead = vec![PathBuf::new()];
    let mut ahead_bytes = takes(0);
    while let Some(path) = ahead.pop() {
        ahead_bytes -= takes(path.as_os_str().len());
        // By its whole path, however deep it is: one descriptor is held at a time, and no link is followed.
        let folder = open_inside(root, &path, ResolveFlags::NO_SYMLINKS)?;
        let opaque = is_opaque(folder.as_fd())?;
        add(&mut hash, &path, &fstat(&folder)?, &[u8::from(opaque)]);
        let (mut names, mut names_bytes) = (Vec::new(), 0);
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            names_bytes += takes(entry.file_name().count_bytes());
            check_names(ahead_bytes + names_bytes)?;
            names.push(entry.file_name().to_owned());
        }
        names.retain(|name| name.as_c_str() != c"." && name.as_c_str() != c"..");
        names.sort();
        for name in &names {
            let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    ahead_bytes += takes(path.as_os_str().len());
                    check_names(ahead_bytes + names_bytes)?;
                    ahead.push(path);
                }
                FileType::RegularFile => {
                    let checksum = match linked.get(&stat.st_ino) {
                        Some(known) => *known,
                        None => content(folder.as_fd(), name, &stat)?,
                    };
                    if stat.st_nlink > 1 {
                        linked.insert(stat.st_ino, checksum);
                    }
                    add(&mut hash, &path, &stat, &checksum.to_le_bytes());
                }
                FileType::Symlink => {
                    let target = readlinkat(&folder, name, Vec::new())?;
                    add(&mut hash, &path, &stat, target.as_bytes());
                }
                _ => add(&mut hash, &path, &stat, &stat.st_rdev.to_le_bytes()),
            }
        }
    }
    Ok(format!("sha256:{}", hex(&hash.finalize())))
}

/// What a name of so many bytes takes in memory.
fn takes(bytes: usize) -> usize {
    bytes + NAME_OVERHEAD
}

fn check_names(bytes: usize) -> io::Result<()> {
    match bytes <= MOST_NAMES {
        true => Ok(()),
        false => Err(io::Error::other("more names than allowed in folders side by side")),
    }
}

/// One file. Each part has its length before it or always the same, so no two trees look alike.
fn add(hash: &mut Sha256, path: &Path, stat: &Stat, content: &[u8]) {
    for text in [path.as_os_str().as_bytes(), content] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    // A folder's size is its file system's affair.
    let size = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 0,
        _ => stat.st_size,
    };
    for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
        hash.update(number.to_le_bytes());
    }
    hash.update(size.to_le_bytes());
    hash.update(stat.st_mtime.to_le_bytes());
}

fn checksum(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<u32> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, Mode::empty())?);
    let (mut hash, mut buffer) = (crc32fast::Hasher::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize()),
            count => hash.update(&buffer[..count]),
        }
    }
}

const CHUNK: usize = 64 << 10;
