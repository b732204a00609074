//! Where an import reads from, as named files: a tar archive, compressed or not, or a folder.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek},
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat},
    io::Errno,
};
use tar::EntryType;

use super::{ImageError, ImportError, failed};
use crate::{
    image::{
        content::Content,
        unpack::{Compression, Headers, Limits},
    },
    sys::within,
};

/// Most bytes of a document.
const MOST_DOCUMENT: u64 = 8 << 20;
/// Most bytes of all documents together, which are kept until the end.
const MOST_DOCUMENTS: u64 = 64 << 20;
/// Most bytes of an archive's names, with what each of them takes besides.
const MOST_NAMES: usize = 16 << 20;
const NAME_OVERHEAD: usize = 128;
/// How many links lead to a file at most.
const MOST_LINKS: usize = 8;

pub struct Source {
    files: Files,
    /// Bytes of the documents that were read.
    documents: AtomicU64,
}

enum Files {
    Archive { file: File, names: HashMap<PathBuf, Held> },
    Folder(File),
}

/// What an archive has under a name.
enum Held {
    File {
        at: u64,
        size: u64,
    },
    /// To another name of the archive: layers that are the same are in older ones once.
    Link(PathBuf),
}

/// One file, read from its beginning; nothing that others read is moved by that.
pub struct Part {
    file: File,
    at: u64,
    end: u64,
}

impl Part {
    pub fn size(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Source {
    /// Opens what is at `path`. A compressed archive is decompressed into a file of `tmp` that has no name any more.
    ///
    /// # Errors
    /// [`ImportError`], [`ImageError::Io`] when the disk is full.
    pub fn open(path: &Path, content: &Content) -> Result<Self, ImageError> {
        if !path.is_absolute() {
            return Err(ImportError::Relative(path.display().to_string()).into());
        }
        // Nobody is waited for who might write to a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(CWD, path, flags, Mode::empty());
        let file = File::from(opened.map_err(|errno| ImportError::Read(errno.into()))?);
        let kind = file.metadata().map_err(ImportError::Read)?;
        let files = match (kind.is_dir(), kind.is_file()) {
            (true, _) => Files::Folder(file),
            (_, true) => archive(file, content)?,
            _ => return Err(ImportError::Kind.into()),
        };
        Ok(Self {
            files,
            documents: AtomicU64::new(0),
        })
    }

    /// A file; `None` when there is none of this name.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn file(&self, name: &str) -> Result<Option<Part>, ImportError> {
        match &self.files {
            Files::Folder(folder) => in_folder(folder, name),
            Files::Archive { file, names } => {
                let mut path = clean(Path::new(name), Path::new(""));
                for _ in 0..MOST_LINKS {
                    match names.get(&path) {
                        None => return Ok(None),
                        Some(Held::Link(to)) => path.clone_from(to),
                        Some(Held::File { at, size }) => {
                            return Ok(Some(Part {
                                file: file.try_clone().map_err(ImportError::Read)?,
                                at: *at,
                                end: at + size,
                            }));
                        }
                    }
                }
                Ok(None)
            }
        }
    }

    /// A file that has to be there.
    pub fn require(&self, name: &str) -> Result<Part, ImportError> {
        self.file(name)?.ok_or_else(|| ImportError::Missing(name.to_owned()))
    }

    /// A small file's content; `None` when there is none of this name.
    pub fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(mut part) = self.file(name)? else {
            return Ok(None);
        };
        if part.size() > MOST_DOCUMENT {
            return Err(ImportError::Document {
                file: name.to_owned(),
                why: format!("{} bytes are more than any has", part.size()),
            });
        }
        let before = self.documents.fetch_add(part.size(), Ordering::Relaxed);
        if before + part.size() > MOST_DOCUMENTS {
            return Err(ImportError::Document {
                file: name.to_owned(),
                why: format!("all documents together have more than {MOST_DOCUMENTS} bytes"),
            });
        }
        let mut bytes = Vec::new();
        part.read_to_end(&mut bytes).map_err(ImportError::Read)?;
        Ok(Some(bytes))
    }
}

fn archive(file: File, content: &Content) -> Result<Files, ImageError> {
    let mut first = [0; 4];
    let count = file.read_at(&mut first, 0).map_err(ImportError::Read)?;
    let file = match Compression::of(&first[..count]) {
        Compression::None => file,
        compression => decompressed(file, compression, content)?,
    };
    let names = index(&file)?;
    Ok(Files::Archive { file, names })
}

fn in_folder(folder: &File, name: &str) -> Result<Option<Part>, ImportError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match within::open(folder, name, OFlags::RDONLY | OFlags::NONBLOCK, resolve) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => {
            return Err(ImportError::Document {
                file: name.to_owned(),
                why: io::Error::from(errno).to_string(),
            });
        }
    };
    let meta = file.metadata().map_err(ImportError::Read)?;
    match meta.is_file() {
        true => Ok(Some(Part {
            at: 0,
            end: meta.len(),
            file,
        })),
        false => Err(ImportError::Document {
            file: name.to_owned(),
            why: "not a file".into(),
        }),
    }
}

fn decompressed(file: File, compression: Compression, content: &Content) -> Result<File, ImageError> {
    let scratch = content.scratch()?;
    let path = scratch.path.join("archive");
    let made = File::options().read(true).write(true).create_new(true).open(&path);
    let mut plain = made.map_err(failed("make", &path))?;
    let most = Limits::default().bytes;
    let mut reader = compression.reader(file).map_err(ImportError::Read)?.take(most);
    match io::copy(&mut reader, &mut plain) {
        Ok(size) if size == most => Err(ImportError::Large(most).into()),
        Ok(_) => Ok(plain),
        // A decompressor's own errors have no number: what has one is the disk's.
        Err(error) if error.raw_os_error().is_some() => Err(failed("write", &path)(error)),
        Err(error) => Err(ImportError::Tar(error).into()),
    }
}

/// The files of an archive, by their names, without reading them.
fn index(file: &File) -> Result<HashMap<PathBuf, Held>, ImportError> {
    let length = file.metadata().map_err(ImportError::Read)?.len();
    let mut start = file.try_clone().map_err(ImportError::Read)?;
    start.rewind().map_err(ImportError::Read)?;
    let headers = Headers::default();
    let mut archive = tar::Archive::new(headers.bound(start));
    let (mut names, mut names_bytes) = (HashMap::new(), 0);
    for entry in archive.entries_with_seek().map_err(ImportError::Tar)? {
        // Data is passed over, not read.
        headers.next();
        let entry = entry.map_err(ImportError::Tar)?;
        let path = entry.path().map_err(ImportError::Tar)?.into_owned();
        let name = clean(&path, Path::new(""));
        let held = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let (at, size) = (entry.raw_file_position(), entry.size());
                if at.checked_add(size).is_none_or(|end| end > length) {
                    return Err(ImportError::Cut(path.display().to_string()));
                }
                Held::File { at, size }
            }
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let target = entry.link_name().map_err(ImportError::Tar)?.unwrap_or_default();
                let from = match kind.is_symlink() {
                    true => name.parent().unwrap_or(Path::new("")),
                    false => Path::new(""),
                };
                Held::Link(clean(&target, from))
            }
            _ => continue,
        };
        names_bytes += NAME_OVERHEAD + name.as_os_str().len();
        if let Held::Link(target) = &held {
            names_bytes += target.as_os_str().len();
        }
        if names_bytes > MOST_NAMES {
            return Err(ImportError::Files);
        }
        names.insert(name, held);
    }
    Ok(names)
}

/// A path inside of an archive, seen from one of its folders: these are names only, and lead nowhere else.
fn clean(path: &Path, from: &Path) -> PathBuf {
    let mut clean = from.to_owned();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod test {
    use std::io::Write;

    use super::*;

    /// An archive that is as `write` makes it.
    fn archive(write: impl Fn(&mut tar::Builder<&File>)) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut builder = tar::Builder::new(&file);
        write(&mut builder);
        builder.into_inner().unwrap();
        file
    }

    fn append(builder: &mut tar::Builder<&File>, name: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data).unwrap();
    }

    #[test]
    fn data_of_any_size_is_passed_over_and_names_without_end_are_not() {
        let honest = archive(|builder| (0..3).for_each(|n| append(builder, &format!("f{n}"), &vec![7; 2 << 20])));
        assert_eq!(index(&honest).unwrap().len(), 3);
        let long = archive(|builder| append(builder, &"x/".repeat(1 << 20), b""));
        assert!(matches!(index(&long), Err(ImportError::Tar(_))));
        let many =
            archive(|builder| (0..300).for_each(|n| append(builder, &format!("{n}{}", "x".repeat(60_000)), b"")));
        assert!(matches!(index(&many), Err(ImportError::Files)));
    }

    #[test]
    fn documents_have_a_bound_together() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = File::create(folder.path().join("big")).unwrap();
        file.write_all(&[b' '; 8 << 20]).unwrap();
        let source = Source {
            files: Files::Folder(File::open(folder.path()).unwrap()),
            documents: AtomicU64::new(0),
        };
        for _ in 0..8 {
            assert!(source.document("big").unwrap().is_some());
        }
        let error = source.document("big").unwrap_err().to_string();
        assert!(error.contains("together"), "{error}");
        file.write_all(b" ").unwrap();
        let error = source.document("big").unwrap_err().to_string();
        assert!(error.contains("more than any has"), "{error}");
    }
}
