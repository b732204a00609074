//! Records of the run folder: one folder per sandbox and per container, named by id; small files in it.
//!
//! ```text
//! <state>/sandboxes/<id>/    plan  spec  status  changes   (+ ns/, shm/, resolv.conf, hostname)
//! <state>/containers/<id>/   plan  spec  status  changes  vendor   (+ what zygote and shim keep there: shim, exit, sockets, config.json)
//! ```
//! `plan` is written before the first side effect and names everything that will be made; `spec` is written once, when
//! all of it is known; `status` is written when the client is answered and replaced at each change of state; `changes` exists once
//! something was updated in place, and wins over the plan; `vendor` exists where devices want more than nodes and mounts. So a
//! folder without `status` is an operation that nobody was told about: it is undone at the next start.
//!
//! A record is one header line (`inro-record <version> <crc32 of the body> <bytes>`) and a JSON body, replaced by
//! temp + rename and never synced: the run folder is a tmpfs and dies with the boot that it describes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::durable;

mod record;

pub use record::{BadRecord, decode, encode};

/// Why a record or folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("record {} is damaged: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
}

/// The names of records, all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Plan,
    Spec,
    Status,
    /// What was changed while it ran.
    Changes,
    /// What the vendors of its devices want done from its creation to its removal.
    Vendor,
}

impl Name {
    fn file(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Spec => "spec",
            Self::Status => "status",
            Self::Changes => "changes",
            Self::Vendor => "vendor",
        }
    }
}

/// One of the two kinds of folders: `sandboxes` or `containers`.
#[derive(Debug, Clone)]
pub struct Shelf {
    root: PathBuf,
}

impl Shelf {
    /// Opens (and makes, 0700) the shelf `name` below `state`.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(state: &Path, name: &str) -> Result<Self, StoreError> {
        let root = state.join(name);
        durable::create_private_dir(&root).map_err(|source| io_error("make", &root, source))?;
        Ok(Self { root })
    }

    /// The folder of `id`; it need not exist.
    pub fn folder(&self, id: &str) -> Folder {
        Folder {
            path: self.root.join(id),
        }
    }

    /// Names of all folders.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn ids(&self) -> Result<Vec<String>, StoreError> {
        let entries = fs::read_dir(&self.root).map_err(|source| io_error("list", &self.root, source))?;
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| io_error("list", &self.root, source))?;
            ids.extend(entry.file_name().into_string());
        }
        Ok(ids)
    }

    /// Moves the folder of `id` to `<state>/quarantine`, so that one bad record costs nobody else anything.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn quarantine(&self, id: &str) -> Result<PathBuf, StoreError> {
        let shelf = self.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let quarantine = self.root.with_file_name("quarantine");
        durable::create_private_dir(&quarantine).map_err(|source| io_error("make", &quarantine, source))?;
        let target = quarantine.join(format!("{shelf}-{id}"));
        let source = self.root.join(id);
        fs::rename(&source, &target).map_err(|error| io_error("quarantine", &source, error))?;
        Ok(target)
    }
}

/// The records of one sandbox or container.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder, 0700.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(&self) -> Result<(), StoreError> {
        durable::create_private_dir(&self.path).map_err(|source| io_error("make", &self.path, source))
    }

    /// Replaces a record.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn write<T: Serialize>(&self, name: Name, value: &T) -> Result<(), StoreError> {
        let path = self.path.join(name.file());
        let body = encode(value).map_err(|why| StoreError::Damaged {
            path: path.clone(),
            why: why.to_string(),
        })?;
        durable::write(&path, &body).map_err(|source| io_error("write", &path, source))
    }

    /// Reads a record; `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn read<T: DeserializeOwned>(&self, name: Name) -> Result<Option<T>, StoreError> {
        let path = self.path.join(name.file());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("read", &path, source)),
        };
        decode(&bytes).map(Some).map_err(|why| StoreError::Damaged {
            path,
            why: why.to_string(),
        })
    }

    /// Removes the folder and all in it; nothing to do when it is gone.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self) -> Result<(), StoreError> {
        match fs::remove_dir_all(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &self.path, source)),
            _ => Ok(()),
        }
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path(), "things").unwrap();
        let folder = shelf.folder("a");
        folder.create().unwrap();
        folder.write(Name::Plan, &vec![1, 2, 3]).unwrap();
        assert_eq!(folder.read::<Vec<i32>>(Name::Plan).unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(folder.read::<Vec<i32>>(Name::Spec).unwrap(), None);
        assert_eq!(shelf.ids().unwrap(), ["a"]);
    }

    #[test]
    fn a_damaged_record_names_its_file_and_can_be_put_away() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path(), "things").unwrap();
        let folder = shelf.folder("a");
        folder.create().unwrap();
        folder.write(Name::Spec, &"hello").unwrap();
        let path = folder.path().join("spec");
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = folder.read::<String>(Name::Spec).unwrap_err();
            assert!(error.to_string().contains("things/a/spec"), "{error}");
        }
        let put = shelf.quarantine("a").unwrap();
        assert!(put.join("spec").exists());
        assert!(shelf.ids().unwrap().is_empty());
    }

    #[test]
    fn every_flipped_byte_of_a_record_is_noticed() {
        let whole = encode(&"some text").unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x11;
            assert!(decode::<String>(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn removing_a_folder_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Shelf::open(dir.path(), "things").unwrap().folder("a");
        folder.create().unwrap();
        folder.remove().unwrap();
        folder.remove().unwrap();
    }
}
