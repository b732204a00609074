//! A layer as one file: an EROFS image, written while the layer's tar streams by.
//!
//! ```text
//! block 0      the superblock, written last
//!       1...   files of more than some hundred bytes, each from a block of its own on, in the tar's order
//!       ...    folders that are larger than a block
//!       ...    inodes, root first, each followed by its attributes and by what is small enough to be beside it
//! ```
//! Names and inodes stay in memory until the tar has ended, with a bound for all of them. Only the daemon mounts such an
//! image, and only one that was made here: what a registry serves is never one.
//!
//! Source: kernel "EROFS - Enhanced Read-Only File System", "On-disk details", and fs/erofs/erofs_fs.h of Linux 6.12.

mod attribute;
mod blocks;
mod layout;
mod tree;
pub mod verity;

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::{fs::FileType, io::Errno};
use tar::{Entry, EntryType};

use super::{
    UnpackError,
    entry::{Counted, Limits, Opaque, Place, Sink, Whiteout, attributes, device, each, mode, mtime},
};
use attribute::Attribute;
use blocks::Blocks;
use tree::{Content, FULL, HOLE, Id, Kind, Owned, PATH_MAX, ROOT, Tree, UNLISTED};
use verity::BLOCK;

/// What was written.
pub struct Written {
    pub counted: Counted,
    /// Of the image.
    pub bytes: u64,
    /// The image's, as fs-verity has it.
    pub digest: String,
}

/// Writes every entry of `tar` into an image, which is the whole of `file`.
///
/// # Errors
/// As for [`super::extract`], whose rules are the same; [`UnpackError::Refused`] besides for a layer with more names than
/// are kept.
pub fn write(tar: &mut impl Read, file: &File, limits: &Limits) -> Result<Written, UnpackError> {
    let mut image = Image {
        limits,
        tree: Tree::new(MOST_KEPT),
        blocks: Blocks::after_first(file)?,
        opaque: Opaque::default(),
        small_left: MOST_SMALL,
    };
    let counted = each(tar, limits, &mut image)?;
    image.mark_opaque()?;
    let digest = layout::write(&image.tree, image.blocks)?;
    Ok(Written {
        counted,
        bytes: file.metadata()?.len(),
        digest,
    })
}

struct Image<'a> {
    limits: &'a Limits,
    tree: Tree,
    blocks: Blocks<'a>,
    opaque: Opaque,
    /// Bytes of files that may still be kept to be beside their inodes.
    small_left: usize,
}

impl Sink for Image<'_> {
    fn add<R: Read>(&mut self, place: &Place, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let Some(name) = place.path.file_name() else {
            // The layer's root: its mode and owner count, anything but a folder is an attack.
            return match entry.header().entry_type() {
                EntryType::Directory => self.describe(ROOT, place, entry),
                EntryType::XGlobalHeader => Ok(()),
                _ => Err(place.refuse("the root is not a folder")),
            };
        };
        let folder = self.parent(place)?;
        match place.whiteout()? {
            None => self.make(folder, place, name, entry),
            Some(Whiteout::Nothing) => Ok(()),
            Some(Whiteout::Folder) => self.opaque.add(place, self.limits),
            Some(Whiteout::Name(hidden)) => {
                self.tree.unlink(folder, hidden);
                let owned = Owned { mode: 0, ..UNLISTED };
                let kind = Kind::Special {
                    kind: FileType::CharacterDevice,
                    device: 0,
                };
                let made = self.tree.make(folder, hidden, kind, owned);
                made.map(drop).map_err(told(place, "make the whiteout"))
            }
        }
    }
}

impl Image<'_> {
    /// The folder of an entry, made with its own parents when a layer does not list them.
    fn parent(&mut self, place: &Place) -> Result<Id, UnpackError> {
        let path = place.parent();
        let fail = told(place, "open the folder of");
        if path.components().count() > self.limits.depth {
            return Err(fail(TOO_DEEP));
        }
        match self.folder(path) {
            Err(Errno::NOENT) => {}
            found => return found.map_err(fail),
        }
        let mut walked = PathBuf::new();
        for component in path.components() {
            let above = self.folder(&walked).map_err(&fail)?;
            let name = component.as_os_str();
            walked.push(name);
            if self.tree.named(above, name).is_none() {
                self.tree.make_folder(above, name, UNLISTED).map_err(&fail)?;
            }
        }
        self.folder(path).map_err(fail)
    }

    fn folder(&self, path: &Path) -> rustix::io::Result<Id> {
        let folder = self.tree.folder(path)?;
        match self.tree.depth(folder) > self.limits.depth {
            true => Err(TOO_DEEP),
            false => Ok(folder),
        }
    }

    /// Makes one inode of any type; an earlier one of the same name in this layer gives way.
    fn make(
        &mut self,
        folder: Id,
        place: &Place,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), UnpackError> {
        let kind = match entry.header().entry_type() {
            EntryType::Directory => {
                let there = self.tree.named(folder, name);
                let there = there.filter(|id| self.tree.inode(*id).kind.file_type() == FileType::Directory);
                let id = match there {
                    Some(id) => id,
                    None => {
                        self.tree.unlink(folder, name);
                        let made = self.tree.make_folder(folder, name, UNLISTED);
                        made.map_err(told(place, "make"))?
                    }
                };
                return self.describe(id, place, entry);
            }
            EntryType::Link => return self.hard_link(folder, place, name, entry),
            EntryType::XGlobalHeader => return Ok(()),
            EntryType::Regular | EntryType::Continuous => {
                Kind::File(self.content(entry).map_err(|source| place.unwritten(source))?)
            }
            EntryType::GNUSparse => Kind::File(self.pieces(entry).map_err(|source| place.unwritten(source))?),
            EntryType::Symlink => {
                let to = place.link(entry)?;
                if to.as_os_str().len() >= PATH_MAX {
                    return Err(told(place, "make")(Errno::NAMETOOLONG));
                }
                Kind::Symlink(to.as_os_str().as_bytes().into())
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (kind, device) = device(entry);
                // The kernel's own encoding, of which mknod(2) takes no more bits either.
                let device = (device & u64::from(u32::MAX)) as u32;
                Kind::Special { kind, device }
            }
            _ => return Err(place.refuse("entry of an unknown type")),
        };
        self.tree.unlink(folder, name);
        let made = self.tree.make(folder, name, kind, UNLISTED);
        self.describe(made.map_err(told(place, "make"))?, place, entry)
    }

    /// A hard link within the layer, see there for the folder's kind.
    fn hard_link(
        &mut self,
        folder: Id,
        place: &Place,
        name: &OsStr,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), UnpackError> {
        let Some(to) = place.linked(entry)? else {
            return Ok(());
        };
        let fail = told(place, "link");
        let of = self.folder(to.parent().unwrap_or(Path::new(""))).map_err(&fail)?;
        let id = self.tree.named(of, to.file_name().unwrap_or_default());
        let id = id.ok_or(Errno::NOENT).map_err(&fail)?;
        self.tree.unlink(folder, name);
        self.tree.link(folder, name, id).map_err(fail)
    }

    /// Owner, mode, time and extended attributes.
    fn describe(&mut self, id: Id, place: &Place, entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let (uid, gid) = place.owner(entry)?;
        let kind = self.tree.inode(id).kind.file_type();
        let permissions = match kind {
            FileType::Symlink => 0o777,
            _ => mode(entry),
        };
        self.tree.inode_mut(id).owned = Owned {
            mode: u16::try_from(permissions).unwrap_or(0),
            uid,
            gid,
            mtime: mtime(entry),
        };
        if kind == FileType::Symlink {
            return Ok(());
        }
        let fail = told(place, "set an attribute of");
        for (name, value) in attributes(entry)? {
            let made = Attribute::new(&name, &value, kind == FileType::Directory).map_err(&fail)?;
            let Some(attribute) = made else {
                continue;
            };
            self.tree
                .take(name.len() + value.len() + ATTRIBUTE_OVERHEAD)
                .map_err(&fail)?;
            let known = &mut self.tree.inode_mut(id).attributes;
            known.retain(|other| !other.is_named_as(&attribute));
            known.push(attribute);
            // The mark of an opaque folder has room beside them.
            if attribute::size(known) > attribute::MOST - BLOCK {
                return Err(fail(Errno::TOOBIG));
            }
        }
        Ok(())
    }

    /// A file's bytes: into the image, or to be kept where there are few.
    fn content(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<Content> {
        let small = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        if small <= SMALL && small <= self.small_left {
            self.small_left -= small;
            let mut bytes = Vec::with_capacity(small);
            entry.read_to_end(&mut bytes)?;
            return Ok(Content::Small(bytes.into()));
        }
        let first = self.blocks.next()?;
        let size = io::copy(entry, &mut self.blocks)?;
        self.blocks.pad()?;
        Ok(Content::Blocks { first, size })
    }

    /// A sparse file: pieces in which there is nothing are not in the image, however large the file says that it is.
    fn pieces(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<Content> {
        let mut bits = 0;
        while entry.size() >> bits > (MOST_PIECES * BLOCK) as u64 {
            bits += 1;
        }
        let (mut piece, mut first, mut size) = (Vec::new(), Vec::new(), 0);
        loop {
            piece.clear();
            entry.take((BLOCK as u64) << bits).read_to_end(&mut piece)?;
            if piece.is_empty() {
                return Ok(Content::Pieces { bits, first, size });
            }
            size += piece.len() as u64;
            if piece.iter().all(|byte| *byte == 0) {
                first.push(HOLE);
                continue;
            }
            first.push(self.blocks.next()?);
            self.blocks.write_all(&piece)?;
            self.blocks.pad()?;
        }
    }

    /// Marks the folders that hide what lower layers have in them, but for those that are none any more.
    fn mark_opaque(&mut self) -> Result<(), UnpackError> {
        for path in self.opaque.folders() {
            match self.folder(Path::new(path)) {
                Ok(folder) => {
                    let known = &mut self.tree.inode_mut(folder).attributes;
                    known.retain(|other| !other.is_named_as(&Attribute::opaque()));
                    known.push(Attribute::opaque());
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => {
                    return Err(UnpackError::Entry {
                        action: "mark as opaque",
                        path: path.clone(),
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// As [`Place::fail`], with what the kernel has no number for.
fn told<'a>(place: &'a Place, action: &'static str) -> impl Fn(Errno) -> UnpackError + 'a {
    move |errno| match errno {
        TOO_DEEP => place.refuse("deeper than allowed"),
        FULL => place.refuse("more files than allowed in one image, at"),
        errno => place.fail(action)(errno),
    }
}

/// How the way to a folder that lies too deep is told; no path here is a device's.
const TOO_DEEP: Errno = Errno::XFULL;
/// Bytes that names and inodes take until the tar has ended: some 700,000 files.
const MOST_KEPT: usize = 128 << 20;
/// A file of so many bytes is beside its inode, where it costs no block of its own.
const SMALL: usize = 2048;
/// Of all small files together.
const MOST_SMALL: usize = 32 << 20;
/// Of a sparse file.
const MOST_PIECES: usize = 1 << 16;
const ATTRIBUTE_OVERHEAD: usize = 96;
