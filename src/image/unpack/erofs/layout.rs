//! Where inodes are, and everything of the image that is no file's content.

use std::io::{self, Write};

use rustix::fs::FileType;

use super::{
    attribute,
    blocks::Blocks,
    tree::{Content, Folder, Id, Inode, Kind, ROOT, Tree},
    verity::BLOCK,
};

/// Writes folders, inodes and superblock, and answers the image's digest.
///
/// # Errors
/// Those of write(2).
pub fn write(tree: &Tree, mut blocks: Blocks<'_>) -> io::Result<String> {
    let plan = Plan::of(tree);
    let mut apart = Vec::with_capacity(plan.order.len());
    for &id in &plan.order {
        let inode = tree.inode(id);
        apart.push(match plan.has_blocks(inode) {
            true => {
                let first = blocks.next()?;
                blocks.write_all(&plan.tail(tree, id))?;
                blocks.pad()?;
                first
            }
            false => 0,
        });
    }
    let meta = blocks.next()?;
    let mut at = 0;
    for (&id, first) in plan.order.iter().zip(apart) {
        let inode = tree.inode(id);
        let place = plan.places[id.index()];
        blocks.write_all(&vec![0; (place - at) as usize])?;
        let mut bytes = plan.inode(tree, id, first);
        bytes.extend(attribute::bytes(&inode.attributes));
        if !plan.has_blocks(inode) {
            bytes.extend(plan.tail(tree, id));
        }
        blocks.write_all(&bytes)?;
        at = place + bytes.len() as u64;
    }
    blocks.pad()?;
    let total = blocks.next()?;
    blocks.finish(&superblock(meta, total, plan.order.len() as u64, plan.pieces))
}

/// Every inode that has a name, in the order of the image, and where it is there.
struct Plan {
    order: Vec<Id>,
    /// Bytes from the first of all inodes' blocks on, by inode.
    places: Vec<u64>,
    /// Whether there are files in pieces.
    pieces: bool,
}

impl Plan {
    fn of(tree: &Tree) -> Self {
        let mut plan = Self {
            order: Vec::new(),
            places: vec![NOWHERE; tree.len()],
            pieces: false,
        };
        // Not the very first place: a root whose number is 0 looks like none.
        let mut at = SLOT;
        let mut ahead = Vec::new();
        plan.place(tree, ROOT, &mut at);
        ahead.push(ROOT);
        while let Some(id) = ahead.pop() {
            let Kind::Folder(folder) = &tree.inode(id).kind else {
                continue;
            };
            for &child in folder.names.values() {
                if plan.places[child.index()] == NOWHERE {
                    plan.place(tree, child, &mut at);
                    ahead.push(child);
                }
            }
        }
        plan
    }

    fn place(&mut self, tree: &Tree, id: Id, at: &mut u64) {
        let inode = tree.inode(id);
        let mut bytes = head(inode);
        *at = at.next_multiple_of(SLOT);
        match inode.kind {
            Kind::File(Content::Pieces { ref first, .. }) => {
                self.pieces = true;
                bytes += (first.len() * 4) as u64;
            }
            // What is beside its inode is in the same block.
            _ if !self.has_blocks(inode) && tail_bytes(inode) > 0 => {
                bytes += tail_bytes(inode);
                if *at % BLOCK as u64 + bytes > BLOCK as u64 {
                    *at = at.next_multiple_of(BLOCK as u64);
                }
            }
            _ => {}
        }
        self.places[id.index()] = *at;
        self.order.push(id);
        *at += bytes;
    }

    /// Whether what belongs to the inode does not fit beside it and has blocks of its own.
    fn has_blocks(&self, inode: &Inode) -> bool {
        let in_pieces = matches!(inode.kind, Kind::File(Content::Pieces { .. }));
        !in_pieces && head(inode) + tail_bytes(inode) > BLOCK as u64
    }

    /// What follows the inode and its attributes, if it fits.
    fn tail(&self, tree: &Tree, id: Id) -> Vec<u8> {
        match &tree.inode(id).kind {
            Kind::Folder(folder) => self.entries(tree, id, folder),
            Kind::Symlink(to) => to.to_vec(),
            Kind::File(Content::Small(bytes)) => bytes.to_vec(),
            Kind::File(Content::Pieces { first, .. }) => first.iter().flat_map(|at| at.to_le_bytes()).collect(),
            Kind::File(Content::Blocks { .. }) | Kind::Special { .. } | Kind::Gone => Vec::new(),
        }
    }

    /// The number by which an inode is known.
    fn number(&self, id: Id) -> u64 {
        self.places[id.index()] / SLOT
    }

    /// `struct erofs_inode_extended`.
    fn inode(&self, tree: &Tree, id: Id, apart: u32) -> Vec<u8> {
        let inode = tree.inode(id);
        let owned = &inode.owned;
        let (layout, size, place) = match &inode.kind {
            Kind::File(Content::Blocks { first, size }) => (FLAT_PLAIN, *size, *first),
            Kind::File(Content::Pieces { bits, size, .. }) => (CHUNK_BASED, *size, u32::from(*bits)),
            Kind::Special { device, .. } => (FLAT_PLAIN, 0, *device),
            _ if self.has_blocks(inode) => (FLAT_PLAIN, tail_bytes(inode), apart),
            _ => match tail_bytes(inode) {
                0 => (FLAT_PLAIN, 0, 0),
                size => (FLAT_INLINE, size, 0),
            },
        };
        let links = match &inode.kind {
            Kind::Folder(folder) => {
                let is_folder = |id: &&Id| tree.inode(**id).kind.file_type() == FileType::Directory;
                2 + folder.names.values().filter(is_folder).count() as u32
            }
            _ => inode.names,
        };
        let kind = inode.kind.file_type().as_raw_mode() as u16;
        let mut bytes = Vec::with_capacity(INODE as usize);
        bytes.extend((EXTENDED | layout << 1).to_le_bytes());
        bytes.extend(attribute::count(&inode.attributes).to_le_bytes());
        bytes.extend((kind | owned.mode).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(size.to_le_bytes());
        bytes.extend(place.to_le_bytes());
        bytes.extend((self.number(id) as u32).to_le_bytes());
        bytes.extend(owned.uid.to_le_bytes());
        bytes.extend(owned.gid.to_le_bytes());
        bytes.extend(owned.mtime.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(links.to_le_bytes());
        bytes.resize(INODE as usize, 0);
        bytes
    }

    /// The blocks of a folder: in each a `struct erofs_dirent` for every name, and behind them the names.
    fn entries(&self, tree: &Tree, id: Id, folder: &Folder) -> Vec<u8> {
        let mut bytes = Vec::new();
        let names = names(id, folder);
        let mut rest = &names[..];
        while !rest.is_empty() {
            let (here, later) = rest.split_at(fitting(rest));
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            let mut name_at = here.len() * ENTRY;
            for (name, id) in here {
                bytes.extend(self.number(*id).to_le_bytes());
                bytes.extend((name_at as u16).to_le_bytes());
                bytes.extend([file_type(tree.inode(*id).kind.file_type()), 0]);
                name_at += name.len();
            }
            here.iter().for_each(|(name, _)| bytes.extend(*name));
            rest = later;
        }
        bytes
    }
}

/// Bytes of an inode and its attributes.
fn head(inode: &Inode) -> u64 {
    INODE + attribute::size(&inode.attributes) as u64
}

/// Bytes of what is beside the inode, or in blocks.
fn tail_bytes(inode: &Inode) -> u64 {
    match &inode.kind {
        Kind::Folder(folder) => folder_bytes(folder),
        Kind::Symlink(to) => to.len() as u64,
        Kind::File(Content::Small(bytes)) => bytes.len() as u64,
        _ => 0,
    }
}

fn folder_bytes(folder: &Folder) -> u64 {
    let names = names(ROOT, folder);
    let (mut rest, mut bytes) = (&names[..], 0_u64);
    while !rest.is_empty() {
        let (here, later) = rest.split_at(fitting(rest));
        let sizes = here.iter().map(|(name, _)| (ENTRY + name.len()) as u64);
        bytes = bytes.next_multiple_of(BLOCK as u64) + sizes.sum::<u64>();
        rest = later;
    }
    bytes
}

/// In the order in which the kernel looks for them: that of their bytes.
fn names(id: Id, folder: &Folder) -> Vec<(&[u8], Id)> {
    let own: [(&[u8], Id); 2] = [(b".", id), (b"..", folder.above)];
    let others = folder.names.iter().map(|(name, id)| (&**name, *id));
    let mut names: Vec<_> = own.into_iter().chain(others).collect();
    names.sort_by_key(|(name, _)| *name);
    names
}

/// How many names fit into the next block.
fn fitting(names: &[(&[u8], Id)]) -> usize {
    let mut bytes = 0;
    let fits = |(name, _): &&(&[u8], Id)| {
        bytes += ENTRY + name.len();
        bytes <= BLOCK
    };
    names.iter().take_while(fits).count()
}

/// `struct erofs_super_block`, where it is in its block.
fn superblock(meta: u32, blocks: u32, inodes: u64, pieces: bool) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[SUPERBLOCK + at..][..bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(8, &HAS_MTIME.to_le_bytes());
    put(12, &[BLOCK.trailing_zeros() as u8]);
    put(14, &1_u16.to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(40, &meta.to_le_bytes());
    put(80, &if pieces { HAS_CHUNKS } else { 0 }.to_le_bytes());
    block
}

/// Source: linux/fs_types.h, `FT_*`.
fn file_type(kind: FileType) -> u8 {
    match kind {
        FileType::RegularFile => 1,
        FileType::Directory => 2,
        FileType::CharacterDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
        FileType::Unknown => 0,
    }
}

const MAGIC: u32 = 0xe0f5_e1e2;
/// Bytes before the superblock.
const SUPERBLOCK: usize = 1024;
/// `EROFS_FEATURE_COMPAT_MTIME`, `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`.
const HAS_MTIME: u32 = 2;
const HAS_CHUNKS: u32 = 4;
/// `EROFS_INODE_*`, and the bit of an extended inode.
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;
const CHUNK_BASED: u16 = 4;
const EXTENDED: u16 = 1;
/// Bytes of an extended inode, and the unit of inodes' places.
const INODE: u64 = 64;
const SLOT: u64 = 32;
/// Bytes of a `struct erofs_dirent`.
const ENTRY: usize = 12;
const NOWHERE: u64 = u64::MAX;
