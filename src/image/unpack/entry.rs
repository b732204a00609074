//! What the entries of a layer say, held against the bounds that a layer has whatever it is unpacked into.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FileType, makedev},
    io::Errno,
};
use tar::{Archive, Entry, EntryType};

use super::{UnpackError, headers::Headers};

/// Bounds of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub entries: u64,
    pub bytes: u64,
    pub path_bytes: usize,
    /// Folders in folders: whoever walks a layer, and be it to remove it, has a stack and descriptors for these.
    pub depth: usize,
    /// Of the paths of all folders together, which are kept until the end.
    pub folder_bytes: usize,
    /// Of the paths of all opaque folders together, which the daemon is told.
    pub opaque_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 256 << 30,
            path_bytes: 4096,
            depth: 512,
            folder_bytes: 64 << 20,
            opaque_bytes: 1 << 20,
        }
    }
}

/// How much a layer has.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counted {
    pub entries: u64,
    pub bytes: u64,
}

/// What a layer is unpacked into.
pub trait Sink {
    /// Takes one entry; of its data as much as it wants.
    ///
    /// # Errors
    /// [`UnpackError`] naming the entry, which ends all.
    fn add<R: Read>(&mut self, place: &Place, entry: &mut Entry<'_, R>) -> Result<(), UnpackError>;
}

/// Gives every entry of `tar` to `sink`, in their order.
///
/// # Errors
/// [`UnpackError::Refused`] for an entry that no honest layer has, and what `sink` says.
pub fn each(tar: &mut impl Read, limits: &Limits, sink: &mut impl Sink) -> Result<Counted, UnpackError> {
    let mut counted = Counted::default();
    let headers = Headers::default();
    let mut archive = Archive::new(headers.bound(tar));
    archive.set_ignore_zeros(false);
    for entry in archive.entries()? {
        headers.over();
        let mut entry = entry?;
        let place = Place::of(&mut entry, &mut counted, limits)?;
        sink.add(&place, &mut entry)?;
        // What nobody wanted, so that what is read next is headers.
        io::copy(&mut entry, &mut io::sink())?;
        headers.next();
    }
    Ok(counted)
}

/// Where an entry belongs.
#[derive(Debug)]
pub struct Place {
    /// Inside the layer: without its root, `.` and `..`; empty for the root.
    pub path: PathBuf,
    /// As errors show it.
    pub shown: String,
}

impl Place {
    fn of(entry: &mut Entry<'_, impl Read>, counted: &mut Counted, limits: &Limits) -> Result<Self, UnpackError> {
        let raw = entry.path_bytes().into_owned();
        let mut place = Self {
            path: PathBuf::new(),
            shown: String::from_utf8_lossy(&raw[..raw.len().min(MOST_SHOWN)]).into_owned(),
        };
        counted.entries += 1;
        counted.bytes = counted.bytes.saturating_add(entry.size());
        if counted.entries > limits.entries {
            return Err(place.refuse("more entries than allowed at"));
        }
        if counted.bytes > limits.bytes {
            return Err(place.refuse("more bytes than allowed at"));
        }
        if raw.len() > limits.path_bytes || raw.contains(&0) {
            return Err(place.refuse("not a path"));
        }
        if is_pax_sparse(entry)? {
            return Err(place.refuse("sparse in the PAX way, which is not supported"));
        }
        place.path = clean(Path::new(OsStr::from_bytes(&raw))).ok_or_else(|| place.refuse("path leaves the layer"))?;
        Ok(place)
    }

    /// The folder that it is in.
    pub fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// What it does to lower layers, if it is no file.
    ///
    /// # Errors
    /// [`UnpackError::Refused`].
    pub fn whiteout(&self) -> Result<Option<Whiteout<'_>>, UnpackError> {
        let name = self.path.file_name().unwrap_or_default().as_bytes();
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(None);
        };
        Ok(Some(match hidden {
            OPAQUE => Whiteout::Folder,
            aufs if aufs.starts_with(WHITEOUT) => Whiteout::Nothing,
            b"" | b"." | b".." => return Err(self.refuse("whiteout of nothing")),
            name => Whiteout::Name(OsStr::from_bytes(name)),
        }))
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// [`UnpackError::Refused`] for a link to nothing.
    pub fn link(&self, entry: &Entry<'_, impl Read>) -> Result<PathBuf, UnpackError> {
        let name = entry
            .link_name_bytes()
            .filter(|name| !name.is_empty() && !name.contains(&0));
        let name = name.ok_or_else(|| self.refuse("link to nothing"))?;
        Ok(PathBuf::from(OsStr::from_bytes(&name)))
    }

    /// The path inside the layer of what a hard link is another name of; `None`: its own.
    ///
    /// # Errors
    /// [`UnpackError::Refused`].
    pub fn linked(&self, entry: &Entry<'_, impl Read>) -> Result<Option<PathBuf>, UnpackError> {
        let to = clean(&self.link(entry)?)
            .filter(|to| to.file_name().is_some())
            .ok_or_else(|| self.refuse("hard link out of the layer"))?;
        Ok((to != self.path).then_some(to))
    }

    /// User and group.
    ///
    /// # Errors
    /// [`UnpackError::Refused`].
    pub fn owner(&self, entry: &Entry<'_, impl Read>) -> Result<(u32, u32), UnpackError> {
        // The number above all others means "unchanged" to chown(2), which is root here.
        let id = |id: io::Result<u64>| {
            let id = u32::try_from(id.unwrap_or(0)).ok().filter(|id| *id != u32::MAX);
            id.ok_or_else(|| self.refuse("an owner that no file can have"))
        };
        Ok((id(entry.header().uid())?, id(entry.header().gid())?))
    }

    pub fn refuse(&self, what: &'static str) -> UnpackError {
        UnpackError::Refused {
            what,
            path: self.shown.clone(),
        }
    }

    /// What the file system of whoever unpacks says to its content, or the layer's stream.
    pub fn unwritten(&self, source: io::Error) -> UnpackError {
        UnpackError::Entry {
            action: "write",
            path: self.shown.clone(),
            source,
        }
    }

    /// For [`Result::map_err`].
    pub fn fail(&self, action: &'static str) -> impl Fn(Errno) -> UnpackError + '_ {
        move |errno| UnpackError::Entry {
            action,
            path: self.shown.clone(),
            source: errno.into(),
        }
    }
}

/// Source: OCI image-spec, "Image Layer Filesystem Changeset", "Whiteouts".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// Hides this name of lower layers.
    Name(&'a OsStr),
    /// Hides all that lower layers have in its folder.
    Folder,
    /// `.wh..wh.` names are aufs' own and mean nothing here.
    Nothing,
}

/// Folders that hide what lower layers have in them, to be marked when the layer is whole.
#[derive(Debug, Default)]
pub struct Opaque {
    folders: Vec<String>,
    bytes: usize,
}

impl Opaque {
    /// Takes the folder of a [`Whiteout::Folder`].
    ///
    /// # Errors
    /// [`UnpackError::Refused`].
    pub fn add(&mut self, place: &Place, limits: &Limits) -> Result<(), UnpackError> {
        let folder = place.parent().to_str();
        let folder = folder.ok_or_else(|| place.refuse("opaque folder whose name is no text"))?;
        // Its quotes and comma in the worker's answer.
        self.bytes += folder.len() + 3;
        if self.bytes > limits.opaque_bytes {
            return Err(place.refuse("more opaque folders than allowed at"));
        }
        self.folders.push(folder.to_owned());
        Ok(())
    }

    /// By their paths, which may lead through links of the layer.
    pub fn folders(&self) -> &[String] {
        &self.folders
    }

    pub fn into_folders(self) -> Vec<String> {
        self.folders
    }
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..opq";
/// Bytes of a path that an error shows.
const MOST_SHOWN: usize = 256;

/// Permissions with set-id and sticky bits.
pub fn mode(entry: &Entry<'_, impl Read>) -> u32 {
    entry.header().mode().unwrap_or(0o644) & 0o7777
}

/// Seconds since 1970.
pub fn mtime(entry: &Entry<'_, impl Read>) -> i64 {
    i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0)
}

/// What mknod(2) is to make.
pub fn device(entry: &Entry<'_, impl Read>) -> (FileType, u64) {
    let number = |part: io::Result<Option<u32>>| part.ok().flatten().unwrap_or(0);
    let header = entry.header();
    let device = makedev(number(header.device_major()), number(header.device_minor()));
    match header.entry_type() {
        EntryType::Char => (FileType::CharacterDevice, device),
        EntryType::Block => (FileType::BlockDevice, device),
        _ => (FileType::Fifo, 0),
    }
}

/// `SCHILY.xattr.*` records of files and folders. `trusted.*` ones are overlayfs' and never an image's; of `security.*` only
/// capabilities are, for the others are what the kernel of the machine that built it said of the file, such as a label of
/// SELinux.
///
/// # Errors
/// [`UnpackError::Read`] for a record without sense.
pub fn attributes(entry: &mut Entry<'_, impl Read>) -> Result<Vec<(String, Vec<u8>)>, UnpackError> {
    let kind = entry.header().entry_type();
    let Some(records) = entry.pax_extensions()? else {
        return Ok(Vec::new());
    };
    let mut wanted = Vec::new();
    for record in records {
        let record = record?;
        if let Some(attribute) = record.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
            && !attribute.starts_with("trusted.")
            && (!attribute.starts_with("security.") || attribute == "security.capability")
        {
            wanted.push((attribute.to_owned(), record.value_bytes().to_vec()));
        }
    }
    if !matches!(kind, EntryType::Regular | EntryType::Directory | EntryType::Continuous) {
        wanted.clear();
    }
    Ok(wanted)
}

/// Whether an entry is a map and pieces of a sparse file: its own name and content are not what they say.
///
/// Source: GNU tar manual, "Storing Sparse Files", PAX formats 0.0 to 1.0.
fn is_pax_sparse(entry: &mut Entry<'_, impl Read>) -> Result<bool, UnpackError> {
    // Some write it before entries of every type; a record without sense is found where its value is wanted.
    let records = match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => entry.pax_extensions()?,
        _ => None,
    };
    let mut keys = records.into_iter().flatten().flatten();
    Ok(keys.any(|record| record.key_bytes().starts_with(b"GNU.sparse.")))
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
