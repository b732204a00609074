//! Extraction of a tar stream into one folder that it never leaves.
//!
//! The tar crate parses; every file is made here, through a descriptor of its parent that was opened inside the folder
//! (openat2, RESOLVE_IN_ROOT), with O_EXCL and O_NOFOLLOW. Source for whiteouts: OCI image-spec, "Image Layer
//! Filesystem Changeset"; kernel "Overlay Filesystem", "whiteouts and opaque directories".

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
        fsetxattr, linkat, makedev, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use tar::{Archive, Entry, EntryType};

use super::UnpackError;

/// Bounds of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub entries: u64,
    pub bytes: u64,
    pub path_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 256 << 30,
            path_bytes: 4096,
        }
    }
}

/// What was extracted.
#[derive(Debug, Default)]
pub struct Extracted {
    pub entries: u64,
    pub bytes: u64,
    pub opaque: Vec<String>,
}

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Extracts every entry of `tar` into `target`.
///
/// # Errors
/// [`UnpackError::Refused`] for an entry that no honest layer has, [`UnpackError::Entry`] for one that cannot be made.
pub fn extract(tar: &mut impl Read, target: &File, limits: &Limits) -> Result<Extracted, UnpackError> {
    let mut extractor = Extractor {
        target,
        parent: None,
        folders: HashMap::new(),
        done: Extracted::default(),
    };
    let mut archive = Archive::new(tar);
    archive.set_ignore_zeros(false);
    for entry in archive.entries()? {
        extractor.entry(entry?, limits)?;
    }
    extractor.finish()
}

struct Extractor<'a> {
    target: &'a File,
    /// The last parent folder: entries of one folder follow each other.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Times of folders, set when nothing changes them any more.
    folders: HashMap<PathBuf, Timestamps>,
    done: Extracted,
}

impl Extractor<'_> {
    fn entry(&mut self, mut entry: Entry<'_, impl Read>, limits: &Limits) -> Result<(), UnpackError> {
        let raw = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&raw).into_owned();
        let refuse = |what| UnpackError::Refused {
            what,
            path: shown.clone(),
        };
        self.done.entries += 1;
        self.done.bytes = self.done.bytes.saturating_add(entry.size());
        if self.done.entries > limits.entries {
            return Err(refuse("more entries than allowed at"));
        }
        if self.done.bytes > limits.bytes {
            return Err(refuse("more bytes than allowed at"));
        }
        if raw.len() > limits.path_bytes || raw.contains(&0) {
            return Err(refuse("not a path"));
        }
        let kind = entry.header().entry_type();
        let path = clean(Path::new(OsStr::from_bytes(&raw))).ok_or_else(|| refuse("path leaves the layer"))?;
        let Some(name) = path.file_name() else {
            // The layer's root: its mode and owner count, anything but a folder is an attack.
            return match kind {
                EntryType::Directory => self.root(&mut entry, &shown),
                EntryType::XGlobalHeader => Ok(()),
                _ => Err(refuse("the root is not a folder")),
            };
        };
        let name = name.to_owned();
        let parent = self.parent(path.parent().unwrap_or(Path::new("")), &shown)?;
        if let Some(hidden) = name.to_str().and_then(|name| name.strip_prefix(WHITEOUT)) {
            return self.whiteout(&parent, &path, hidden, name == OPAQUE, &shown);
        }
        self.make(&parent, &path, &name, &mut entry, &shown)
    }

    fn root(&mut self, entry: &mut Entry<'_, impl Read>, shown: &str) -> Result<(), UnpackError> {
        let target = self.target.as_fd().try_clone_to_owned()?;
        self.attributes(&target, Path::new(""), OsStr::new("."), entry, shown)?;
        self.folders.insert(PathBuf::new(), times(entry));
        Ok(())
    }

    /// The parent's descriptor, made with its own parents when a layer does not list them.
    fn parent(&mut self, path: &Path, shown: &str) -> Result<OwnedFd, UnpackError> {
        if let Some((known, fd)) = &self.parent
            && known == path
        {
            return Ok(fd.try_clone()?);
        }
        let fail = |errno: Errno| UnpackError::Entry {
            action: "open the folder of",
            path: shown.to_owned(),
            source: errno.into(),
        };
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
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(
            self.target,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    fn whiteout(
        &mut self,
        parent: &OwnedFd,
        path: &Path,
        hidden: &str,
        opaque: bool,
        shown: &str,
    ) -> Result<(), UnpackError> {
        if opaque {
            let folder = path.parent().unwrap_or(Path::new(""));
            self.done.opaque.push(folder.to_string_lossy().into_owned());
            return Ok(());
        }
        // `.wh..wh.` names are aufs' own and mean nothing here.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(UnpackError::Refused {
                what: "whiteout of nothing",
                path: shown.to_owned(),
            });
        }
        self.clear(parent, OsStr::new(hidden), &path.with_file_name(hidden), shown)?;
        mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0).map_err(|errno| UnpackError::Entry {
            action: "make the whiteout",
            path: shown.to_owned(),
            source: errno.into(),
        })
    }

    /// Makes one file of any type; an earlier one of the same name in this layer gives way.
    fn make(
        &mut self,
        parent: &OwnedFd,
        path: &Path,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
        shown: &str,
    ) -> Result<(), UnpackError> {
        let fail = |action| {
            move |errno: Errno| UnpackError::Entry {
                action,
                path: shown.to_owned(),
                source: errno.into(),
            }
        };
        let mode = Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o7777);
        match entry.header().entry_type() {
            EntryType::Directory => {
                let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| FileType::from_raw_mode(s.st_mode));
                if there != Ok(FileType::Directory) {
                    self.clear(parent, name, path, shown)?;
                    mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(fail("make"))?;
                }
                self.folders.insert(path.to_owned(), times(entry));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.clear(parent, name, path, shown)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(fail("make"))?;
                let written = io::copy(entry, &mut File::from(file));
                written.map_err(|source| UnpackError::Entry {
                    action: "write",
                    path: shown.to_owned(),
                    source,
                })?;
            }
            EntryType::Symlink => {
                let to = link_name(entry, shown)?;
                self.clear(parent, name, path, shown)?;
                symlinkat(to.as_os_str(), parent, name).map_err(fail("make"))?;
            }
            EntryType::Link => return self.hard_link(parent, path, name, entry, shown),
            kind @ (EntryType::Char | EntryType::Block | EntryType::Fifo) => {
                self.clear(parent, name, path, shown)?;
                let (kind, device) = device(kind, entry);
                match mknodat(parent, name, kind, mode, device) {
                    // Where the kernel does not let us (a user namespace), the container's own /dev has what it needs.
                    Err(Errno::PERM) => return Ok(()),
                    result => result.map_err(fail("make"))?,
                }
            }
            EntryType::XGlobalHeader => return Ok(()),
            _ => {
                return Err(UnpackError::Refused {
                    what: "entry of an unknown type",
                    path: shown.to_owned(),
                });
            }
        }
        self.attributes(parent, path, name, entry, shown)
    }

    /// A hard link within the layer. The entry's own mode and owner are not applied: they belong to the shared inode,
    /// which has its own entry (GNU tar and umoci do the same).
    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        path: &Path,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
        shown: &str,
    ) -> Result<(), UnpackError> {
        let fail = |errno: Errno| UnpackError::Entry {
            action: "link",
            path: shown.to_owned(),
            source: errno.into(),
        };
        let to = clean(&link_name(entry, shown)?)
            .filter(|to| to.file_name().is_some())
            .ok_or_else(|| UnpackError::Refused {
                what: "hard link out of the layer",
                path: shown.to_owned(),
            })?;
        if to == path {
            return Ok(());
        }
        let folder = self.open_folder(to.parent().unwrap_or(Path::new(""))).map_err(fail)?;
        let to_name = to.file_name().unwrap_or_default();
        statat(&folder, to_name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        self.clear(parent, name, path, shown)?;
        linkat(&folder, to_name, parent, name, AtFlags::empty()).map_err(fail)
    }

    /// Removes an earlier entry of the same name.
    fn clear(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path, shown: &str) -> Result<(), UnpackError> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                self.parent = None;
                self.folders.retain(|folder, _| !folder.starts_with(path));
                remove_tree(parent, name).map_err(|errno| UnpackError::Entry {
                    action: "replace",
                    path: shown.to_owned(),
                    source: errno.into(),
                })
            }
            Err(errno) => Err(UnpackError::Entry {
                action: "replace",
                path: shown.to_owned(),
                source: errno.into(),
            }),
        }
    }

    /// Owner first, as that clears setuid bits and file capabilities; then mode, extended attributes, times.
    fn attributes(
        &self,
        parent: &OwnedFd,
        path: &Path,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
        shown: &str,
    ) -> Result<(), UnpackError> {
        let fail = |action| {
            move |errno: Errno| UnpackError::Entry {
                action,
                path: shown.to_owned(),
                source: errno.into(),
            }
        };
        let header = entry.header();
        let id = |id: io::Result<u64>| u32::try_from(id.unwrap_or(0)).unwrap_or(u32::MAX - 1);
        let (uid, gid) = (Uid::from_raw(id(header.uid())), Gid::from_raw(id(header.gid())));
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(fail("own"))?;
        let kind = header.entry_type();
        let mode = Mode::from_raw_mode(header.mode().unwrap_or(0o644) & 0o7777);
        let times = times(entry);
        if !kind.is_symlink() {
            chmodat(parent, name, mode, AtFlags::empty()).map_err(fail("set the mode of"))?;
            self.extended(parent, name, entry, shown)?;
        }
        if kind != EntryType::Directory {
            utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(fail("set the time of"))?;
        }
        let _ = path;
        Ok(())
    }

    /// `SCHILY.xattr.*` records. `trusted.*` ones are overlayfs' and never an image's.
    fn extended(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
        shown: &str,
    ) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        let Some(records) = entry.pax_extensions()? else {
            return Ok(());
        };
        let mut wanted = Vec::new();
        for record in records {
            let record = record?;
            if let Some(attribute) = record.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
                && !attribute.starts_with("trusted.")
            {
                wanted.push((attribute.to_owned(), record.value_bytes().to_vec()));
            }
        }
        if wanted.is_empty() || !matches!(kind, EntryType::Regular | EntryType::Directory | EntryType::Continuous) {
            return Ok(());
        }
        let fail = |errno: Errno| UnpackError::Entry {
            action: "set an attribute of",
            path: shown.to_owned(),
            source: errno.into(),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::empty()).map_err(fail)?;
        for (attribute, value) in wanted {
            match fsetxattr(&file, attribute.as_str(), &value, XattrFlags::empty()) {
                // A file system without this kind of attribute: the file is whole without it.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(fail(errno)),
            }
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
        Ok(self.done)
    }
}

/// The path inside the layer: no root, no `.`; `None` when it climbs.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

fn link_name(entry: &Entry<'_, impl Read>, shown: &str) -> Result<PathBuf, UnpackError> {
    let name = entry
        .link_name_bytes()
        .filter(|name| !name.is_empty() && !name.contains(&0));
    let name = name.ok_or_else(|| UnpackError::Refused {
        what: "link to nothing",
        path: shown.to_owned(),
    })?;
    Ok(PathBuf::from(OsStr::from_bytes(&name)))
}

fn device(kind: EntryType, entry: &Entry<'_, impl Read>) -> (FileType, u64) {
    let number = |part: io::Result<Option<u32>>| part.ok().flatten().unwrap_or(0);
    let device = makedev(
        number(entry.header().device_major()),
        number(entry.header().device_minor()),
    );
    match kind {
        EntryType::Char => (FileType::CharacterDevice, device),
        EntryType::Block => (FileType::BlockDevice, device),
        _ => (FileType::Fifo, 0),
    }
}

fn times(entry: &Entry<'_, impl Read>) -> Timestamps {
    let seconds = i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0);
    let time = Timespec {
        tv_sec: seconds,
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
