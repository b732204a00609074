//! Extraction of a tar stream into one folder that it never leaves.
//!
//! The tar crate parses; every file is made here, through a descriptor of its parent that was opened inside the folder
//! (openat2, RESOLVE_IN_ROOT), with O_EXCL and O_NOFOLLOW. Source for whiteouts: OCI image-spec, "Image Layer
//! Filesystem Changeset"; kernel "Overlay Filesystem", "whiteouts and opaque directories".

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
        chownat, fsetxattr, fstat, linkat, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use tar::{Entry, EntryType};

use super::{
    UnpackError,
    entry::{Counted, Limits, Opaque, Place, Sink, Whiteout, attributes, device, each, mode, mtime},
    tree::Written,
};
use crate::sys::within;

/// What was extracted.
#[derive(Debug, Default)]
pub struct Extracted {
    pub counted: Counted,
    pub opaque: Vec<String>,
    pub written: Written,
}

/// Bytes of a file that are written at once.
const PIECE: usize = 128 << 10;
/// How the way to a folder that lies too deep is told; no path here is a device's.
const TOO_DEEP: Errno = Errno::XFULL;

/// Extracts every entry of `tar` into `target`.
///
/// # Errors
/// [`UnpackError::Refused`] for an entry that no honest layer has, [`UnpackError::Entry`] for one that cannot be made.
pub fn extract(tar: &mut impl Read, target: &File, limits: &Limits) -> Result<Extracted, UnpackError> {
    let mut extractor = Extractor {
        target,
        limits,
        parent: None,
        folders: BTreeMap::new(),
        folder_bytes: 0,
        opaque: Opaque::default(),
        piece: vec![0; PIECE],
        done: Extracted::default(),
    };
    extractor.done.counted = each(tar, limits, &mut extractor)?;
    extractor.finish()
}

/// A folder of the layer at `root`, with the links that `resolve` allows. They lead nowhere else.
pub fn open_inside(root: &File, path: &Path, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | resolve;
    within::open(root, path, flags, resolve)
}

struct Extractor<'a> {
    target: &'a File,
    limits: &'a Limits,
    /// The last parent folder: entries of one folder follow each other.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Times of folders, set when nothing changes them any more.
    folders: BTreeMap<PathBuf, Timestamps>,
    folder_bytes: usize,
    opaque: Opaque,
    /// Of the file that is being written.
    piece: Vec<u8>,
    done: Extracted,
}

impl Sink for Extractor<'_> {
    fn add<R: Read>(&mut self, place: &Place, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let Some(name) = place.path.file_name() else {
            // The layer's root: its mode and owner count, anything but a folder is an attack.
            return match entry.header().entry_type() {
                EntryType::Directory => self.root(entry, place),
                EntryType::XGlobalHeader => Ok(()),
                _ => Err(place.refuse("the root is not a folder")),
            };
        };
        let parent = self.parent(place)?;
        match place.whiteout()? {
            None => self.make(&parent, place, name, entry),
            Some(whiteout) => self.whiteout(&parent, place, whiteout),
        }
    }
}

impl Extractor<'_> {
    fn root(&mut self, entry: &mut Entry<'_, impl Read>, place: &Place) -> Result<(), UnpackError> {
        let target = self.target.as_fd().try_clone_to_owned()?;
        self.attributes(&target, OsStr::new("."), entry, place, None)?;
        self.folder(place, entry)
    }

    /// Remembers a folder's times.
    fn folder(&mut self, place: &Place, entry: &Entry<'_, impl Read>) -> Result<(), UnpackError> {
        if self.folders.insert(place.path.clone(), times(entry)).is_none() {
            self.folder_bytes += place.path.as_os_str().len() + size_of::<(PathBuf, Timestamps)>();
        }
        match self.folder_bytes > self.limits.folder_bytes {
            true => Err(place.refuse("more folders than allowed at")),
            false => Ok(()),
        }
    }

    /// The parent's descriptor, made with its own parents when a layer does not list them.
    fn parent(&mut self, place: &Place) -> Result<OwnedFd, UnpackError> {
        let path = place.parent();
        if let Some((known, fd)) = &self.parent
            && known == path
        {
            return Ok(fd.try_clone()?);
        }
        let fail = |errno: Errno| match errno {
            TOO_DEEP => place.refuse("deeper than allowed"),
            errno => place.fail("open the folder of")(errno),
        };
        if path.components().count() > self.limits.depth {
            return Err(fail(TOO_DEEP));
        }
        let fd = match self.open_folder(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                let mut walked = PathBuf::new();
                for component in path.components() {
                    let above = self.open_folder(&walked).map_err(fail)?;
                    walked.push(component);
                    match mkdirat(&above, component.as_os_str(), Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(fail(errno)),
                    }
                }
                self.open_folder(path).map_err(fail)?
            }
            Err(errno) => return Err(fail(errno)),
        };
        let copy = fd.try_clone()?;
        self.parent = Some((path.to_owned(), fd));
        Ok(copy)
    }

    fn open_folder(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        match open_inside(self.target, path, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => {
                let folder = open_inside(self.target, path, ResolveFlags::NO_MAGICLINKS)?;
                self.check_depth(&folder)?;
                Ok(folder)
            }
            opened => opened,
        }
    }

    /// A path over links tells nothing of how deep it leads; the way up does.
    fn check_depth(&self, folder: &OwnedFd) -> rustix::io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fstat(self.target)?;
        let mut above = folder.try_clone().map_err(|_| Errno::MFILE)?;
        for _ in 0..=self.limits.depth {
            let here = fstat(&above)?;
            if (here.st_dev, here.st_ino) == (root.st_dev, root.st_ino) {
                return Ok(());
            }
            above = openat(&above, "..", flags, Mode::empty())?;
        }
        Err(TOO_DEEP)
    }

    fn whiteout(&mut self, parent: &OwnedFd, place: &Place, whiteout: Whiteout<'_>) -> Result<(), UnpackError> {
        match whiteout {
            Whiteout::Nothing => Ok(()),
            Whiteout::Folder => self.opaque.add(place, self.limits),
            Whiteout::Name(hidden) => {
                self.clear(parent, hidden, &place.path.with_file_name(hidden), place)?;
                mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(place.fail("make the whiteout"))
            }
        }
    }

    /// Makes one file of any type; an earlier one of the same name in this layer gives way.
    fn make(
        &mut self,
        parent: &OwnedFd,
        place: &Place,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), UnpackError> {
        let path = &place.path;
        match entry.header().entry_type() {
            EntryType::Directory => {
                let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| FileType::from_raw_mode(s.st_mode));
                if there != Ok(FileType::Directory) {
                    self.clear(parent, name, path, place)?;
                    mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(place.fail("make"))?;
                }
                self.folder(place, entry)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let create = || openat(parent, name, flags, Mode::from_raw_mode(mode(entry) & 0o777));
                let file = match create() {
                    Err(Errno::EXIST) => {
                        self.clear(parent, name, path, place)?;
                        create()
                    }
                    made => made,
                };
                let mut file = Summed::new(File::from(file.map_err(place.fail("make"))?));
                let copied = match entry.header().entry_type() {
                    EntryType::GNUSparse => copy_sparse(entry, &mut file, &mut self.piece),
                    _ => copy(entry, &mut file, &mut self.piece),
                };
                let written = copied.and_then(|()| file.finish());
                let (made, checksum) = written.map_err(|source| place.unwritten(source))?;
                self.done.written.add(made.st_ino, checksum);
                return self.attributes(parent, name, entry, place, Some(made));
            }
            EntryType::Symlink => {
                let to = place.link(entry)?;
                self.clear(parent, name, path, place)?;
                symlinkat(to.as_os_str(), parent, name).map_err(place.fail("make"))?;
            }
            EntryType::Link => return self.hard_link(parent, place, name, entry),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.clear(parent, name, path, place)?;
                let (kind, device) = device(entry);
                match mknodat(parent, name, kind, Mode::from_raw_mode(mode(entry)), device) {
                    // Where the kernel does not let us (a user namespace), the container's own /dev has what it needs.
                    Err(Errno::PERM) => return Ok(()),
                    result => result.map_err(place.fail("make"))?,
                }
            }
            EntryType::XGlobalHeader => return Ok(()),
            _ => return Err(place.refuse("entry of an unknown type")),
        }
        self.attributes(parent, name, entry, place, None)
    }

    /// A hard link within the layer. The entry's own mode and owner are not applied: they belong to the shared inode,
    /// which has its own entry (GNU tar and umoci do the same).
    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        place: &Place,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), UnpackError> {
        let Some(to) = place.linked(entry)? else {
            return Ok(());
        };
        let folder = self
            .open_folder(to.parent().unwrap_or(Path::new("")))
            .map_err(place.fail("link"))?;
        let to_name = to.file_name().unwrap_or_default();
        statat(&folder, to_name, AtFlags::SYMLINK_NOFOLLOW).map_err(place.fail("link"))?;
        self.clear(parent, name, &place.path, place)?;
        linkat(&folder, to_name, parent, name, AtFlags::empty()).map_err(place.fail("link"))
    }

    /// Removes an earlier entry of the same name.
    fn clear(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path, place: &Place) -> Result<(), UnpackError> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                self.parent = None;
                self.forget_folders(path);
                remove_tree(parent, name).map_err(place.fail("replace"))
            }
            Err(errno) => Err(place.fail("replace")(errno)),
        }
    }

    /// Of a tree that is gone.
    fn forget_folders(&mut self, path: &Path) {
        // Paths are ordered by their components, so those below one follow it.
        let below = self.folders.range(path.to_owned()..);
        let gone: Vec<_> = below
            .map(|(folder, _)| folder.clone())
            .take_while(|folder| folder.starts_with(path))
            .collect();
        for folder in gone {
            self.folder_bytes -= folder.as_os_str().len() + size_of::<(PathBuf, Timestamps)>();
            self.folders.remove(&folder);
        }
    }

    /// Owner first, as that clears setuid bits and file capabilities; then mode, extended attributes, times. What a new file
    /// has already as it was `made` is not set: each change is one more of the file system's journal.
    fn attributes(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
        place: &Place,
        made: Option<Stat>,
    ) -> Result<(), UnpackError> {
        let (uid, gid) = place.owner(entry)?;
        let made = made.filter(|made| (made.st_uid, made.st_gid) == (uid, gid));
        if made.is_none() {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(place.fail("own"))?;
        }
        let kind = entry.header().entry_type();
        let times = times(entry);
        if !kind.is_symlink() {
            let mode = Mode::from_raw_mode(mode(entry));
            if made.is_none_or(|made| Mode::from_raw_mode(made.st_mode) != mode) {
                chmodat(parent, name, mode, AtFlags::empty()).map_err(place.fail("set the mode of"))?;
            }
            extend(parent, name, &attributes(entry)?).map_err(place.fail("set an attribute of"))?;
        }
        if kind != EntryType::Directory {
            utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(place.fail("set the time of"))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Extracted, UnpackError> {
        for (path, times) in &self.folders {
            let fail = |errno: Errno| UnpackError::Entry {
                action: "set the time of",
                path: path.to_string_lossy().into_owned(),
                source: errno.into(),
            };
            match self.open_folder(path) {
                Ok(folder) => rustix::fs::futimens(&folder, times).map_err(fail)?,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        Ok(Extracted {
            opaque: self.opaque.into_folders(),
            ..self.done
        })
    }
}

/// A file and the checksum of what was written to it.
struct Summed {
    file: File,
    checksum: crc32fast::Hasher,
}

impl Summed {
    fn new(file: File) -> Self {
        Self {
            file,
            checksum: crc32fast::Hasher::new(),
        }
    }

    /// Leaves a hole of the size of `zeros`.
    fn skip(&mut self, zeros: &[u8]) -> io::Result<()> {
        self.checksum.update(zeros);
        self.file.seek_relative(zeros.len() as i64)
    }

    /// What it is now, and its checksum.
    fn finish(self) -> io::Result<(Stat, u32)> {
        Ok((fstat(&self.file)?, self.checksum.finalize()))
    }
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.checksum.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Gives a file or a folder its extended attributes.
fn extend(parent: &OwnedFd, name: &OsStr, attributes: &[(String, Vec<u8>)]) -> rustix::io::Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty())?;
    for (attribute, value) in attributes {
        match fsetxattr(&file, attribute.as_str(), value, XattrFlags::empty()) {
            // A file system without this kind of attribute: the file is whole without it.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// In pieces of which the page cache makes large folios: `io::copy` writes 8 KiB at once.
fn copy(entry: &mut impl Read, file: &mut Summed, piece: &mut [u8]) -> io::Result<()> {
    loop {
        match entry.read(piece)? {
            0 => return Ok(()),
            read => file.write_all(&piece[..read])?,
        }
    }
}

/// Holes stay holes: a file of a thousand bytes may say that it is as large as the disk.
fn copy_sparse(entry: &mut impl Read, file: &mut Summed, block: &mut [u8]) -> io::Result<()> {
    let zeros = vec![0; block.len()];
    let mut size = 0;
    loop {
        let read = entry.read(block)?;
        if read == 0 {
            return file.file.set_len(size);
        }
        size += read as u64;
        if block[..read] == zeros[..read] {
            file.skip(&block[..read])?;
        } else {
            file.write_all(&block[..read])?;
        }
    }
}

fn times(entry: &Entry<'_, impl Read>) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime(entry),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn remove_tree(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(parent, name, flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&folder)? {
        let entry = entry?;
        let child = OsStr::from_bytes(entry.file_name().to_bytes());
        if child == "." || child == ".." {
            continue;
        }
        match unlinkat(&folder, child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_tree(&folder, child)?,
            result => result?,
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}
