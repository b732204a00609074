//! The tree of a layer in memory, with the rules by which paths lead through it.
//!
//! It knows names and inodes; content is in the image already, but for what is as small as an inode. Paths are looked up
//! as openat2(2) does with RESOLVE_IN_ROOT: links are followed, and lead nowhere else.

use std::{collections::BTreeMap, ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use rustix::{fs::FileType, io::Errno};

use super::attribute::Attribute;

/// An inode of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(u32);

/// The root folder.
pub const ROOT: Id = Id(0);

impl Id {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One inode.
#[derive(Debug)]
pub struct Inode {
    pub kind: Kind,
    pub owned: Owned,
    pub attributes: Vec<Attribute>,
    /// How many names it has.
    pub names: u32,
}

/// Whose it is and what they may do.
#[derive(Debug, Clone, Copy)]
pub struct Owned {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
}

/// A folder that no entry is about.
pub const UNLISTED: Owned = Owned {
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: 0,
};

#[derive(Debug)]
pub enum Kind {
    Folder(Folder),
    File(Content),
    Symlink(Box<[u8]>),
    Special {
        kind: FileType,
        device: u32,
    },
    /// Its last name is gone.
    Gone,
}

impl Kind {
    pub fn file_type(&self) -> FileType {
        match self {
            Self::Folder(_) => FileType::Directory,
            Self::File(_) => FileType::RegularFile,
            Self::Symlink(_) => FileType::Symlink,
            Self::Special { kind, .. } => *kind,
            Self::Gone => FileType::Unknown,
        }
    }
}

#[derive(Debug)]
pub struct Folder {
    pub above: Id,
    pub names: BTreeMap<Box<[u8]>, Id>,
    /// Folders between it and nothing: the root's is 0.
    depth: usize,
}

/// A file's bytes.
#[derive(Debug)]
pub enum Content {
    Small(Box<[u8]>),
    /// One after the other.
    Blocks {
        first: u32,
        size: u64,
    },
    /// Pieces of `1 << bits` blocks, [`HOLE`] or the address of the first.
    Pieces {
        bits: u8,
        first: Vec<u32>,
        size: u64,
    },
}

/// In the place of an address.
pub const HOLE: u32 = u32::MAX;

pub struct Tree {
    inodes: Vec<Inode>,
    /// Bytes that inodes and names may still take.
    left: usize,
}

impl Tree {
    /// An empty root. `most` are the bytes that all that is ever in it may take.
    pub fn new(most: usize) -> Self {
        let root = Inode {
            kind: Kind::Folder(Folder {
                above: ROOT,
                names: BTreeMap::new(),
                depth: 0,
            }),
            owned: UNLISTED,
            attributes: Vec::new(),
            names: 1,
        };
        Self {
            inodes: vec![root],
            left: most,
        }
    }

    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    pub fn inode(&self, id: Id) -> &Inode {
        &self.inodes[id.index()]
    }

    pub fn inode_mut(&mut self, id: Id) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    /// Accounts for what is kept.
    ///
    /// # Errors
    /// [`FULL`].
    pub fn take(&mut self, bytes: usize) -> rustix::io::Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or(FULL)?;
        Ok(())
    }

    /// The folder at `path`, over links.
    ///
    /// # Errors
    /// What openat2(2) would say.
    pub fn folder(&self, path: &Path) -> rustix::io::Result<Id> {
        if path.as_os_str().len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let mut ahead: Vec<&[u8]> = path.as_os_str().as_bytes().split(|b| *b == b'/').rev().collect();
        let (mut at, mut links) = (ROOT, 0);
        while let Some(name) = ahead.pop() {
            let Kind::Folder(here) = &self.inode(at).kind else {
                return Err(Errno::NOTDIR);
            };
            match name {
                b"" | b"." => continue,
                b".." => {
                    at = here.above;
                    continue;
                }
                long if long.len() > NAME_MAX => return Err(Errno::NAMETOOLONG),
                _ => {}
            }
            let next = *here.names.get(name).ok_or(Errno::NOENT)?;
            match &self.inode(next).kind {
                Kind::Folder(_) => at = next,
                Kind::Symlink(to) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if to.starts_with(b"/") {
                        at = ROOT;
                    }
                    ahead.extend(to.split(|b| *b == b'/').rev());
                }
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(at)
    }

    /// How many folders a folder is in.
    pub fn depth(&self, folder: Id) -> usize {
        match &self.inode(folder).kind {
            Kind::Folder(folder) => folder.depth,
            _ => 0,
        }
    }

    /// What a name in a folder is.
    pub fn named(&self, folder: Id, name: &OsStr) -> Option<Id> {
        match &self.inode(folder).kind {
            Kind::Folder(folder) => folder.names.get(name.as_bytes()).copied(),
            _ => None,
        }
    }

    /// Makes an inode with its first name, which is free.
    ///
    /// # Errors
    /// [`FULL`]; ENAMETOOLONG.
    pub fn make(&mut self, folder: Id, name: &OsStr, kind: Kind, owned: Owned) -> rustix::io::Result<Id> {
        self.take(size_of::<Inode>() + kept(&kind))?;
        let id = Id(u32::try_from(self.inodes.len()).map_err(|_| FULL)?);
        self.name(folder, name, id)?;
        self.inodes.push(Inode {
            kind,
            owned,
            attributes: Vec::new(),
            names: 1,
        });
        Ok(id)
    }

    /// An empty folder, see [`Tree::make`].
    ///
    /// # Errors
    /// As there.
    pub fn make_folder(&mut self, above: Id, name: &OsStr, owned: Owned) -> rustix::io::Result<Id> {
        let kind = Kind::Folder(Folder {
            above,
            names: BTreeMap::new(),
            depth: self.depth(above) + 1,
        });
        self.make(above, name, kind, owned)
    }

    /// Gives an inode one more name, which is free.
    ///
    /// # Errors
    /// As linkat(2) would say; [`FULL`].
    pub fn link(&mut self, folder: Id, name: &OsStr, id: Id) -> rustix::io::Result<()> {
        match self.inode(id).kind {
            Kind::Gone => return Err(Errno::NOENT),
            Kind::Folder(_) => return Err(Errno::PERM),
            _ => {}
        }
        self.name(folder, name, id)?;
        self.inode_mut(id).names += 1;
        Ok(())
    }

    fn name(&mut self, folder: Id, name: &OsStr, id: Id) -> rustix::io::Result<()> {
        let name = name.as_bytes();
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.take(name.len() + NAME_OVERHEAD)?;
        match &mut self.inode_mut(folder).kind {
            Kind::Folder(folder) => folder.names.insert(name.into(), id),
            _ => return Err(Errno::NOTDIR),
        };
        Ok(())
    }

    /// Takes a name away, and all that is below it.
    pub fn unlink(&mut self, folder: Id, name: &OsStr) {
        let Kind::Folder(folder) = &mut self.inode_mut(folder).kind else {
            return;
        };
        let mut ahead: Vec<Id> = folder.names.remove(name.as_bytes()).into_iter().collect();
        while let Some(id) = ahead.pop() {
            let inode = self.inode_mut(id);
            inode.names -= 1;
            if inode.names == 0 {
                if let Kind::Folder(folder) = &inode.kind {
                    ahead.extend(folder.names.values());
                }
                inode.kind = Kind::Gone;
                inode.attributes = Vec::new();
            }
        }
    }
}

/// What an inode takes beside its own size.
fn kept(kind: &Kind) -> usize {
    match kind {
        Kind::Symlink(to) => to.len() + ALLOCATION,
        Kind::File(Content::Small(bytes)) => bytes.len() + ALLOCATION,
        Kind::File(Content::Pieces { first, .. }) => first.len() * size_of::<u32>() + ALLOCATION,
        _ => 0,
    }
}

/// How more than may be kept is told; no file here says so.
pub const FULL: Errno = Errno::NOMEM;
const ALLOCATION: usize = 16;
/// A name in a folder, and its share of the folder's nodes.
const NAME_OVERHEAD: usize = 64;
/// Source: path_resolution(7).
const MOST_LINKS: usize = 40;
const NAME_MAX: usize = 255;
pub const PATH_MAX: usize = 4096;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_is_kept_has_a_bound_that_removal_does_not_move() {
        let mut tree = Tree::new(10_000);
        let mut made = 0;
        while tree.make_folder(ROOT, OsStr::new("same"), UNLISTED).is_ok() {
            tree.unlink(ROOT, OsStr::new("same"));
            made += 1;
        }
        assert!((10..100).contains(&made), "{made}");
        assert_eq!(tree.link(ROOT, OsStr::new("x"), ROOT), Err(Errno::PERM));
        assert_eq!(tree.take(10_000), Err(FULL));
    }
}
