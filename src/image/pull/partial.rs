//! What came of a large layer, kept until it is unpacked: a daemon that is killed, or a pull that fails, does not have it
//! sent again.
//!
//! A layer's compressed bytes go through digest and worker and are stored nowhere, so there is nothing to go on from but
//! this copy. It is written to the page cache beside the pipeline and removed before the layers are synced, so that of a
//! pull of some seconds nothing of it reaches the disk. What it has is believed no more than what a registry sends: the
//! digest is taken of all of it again, and where it turns out to be wrong the layer is fetched anew.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rustix::fs::fstatvfs;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::image::{
    ImageError,
    content::{hex_of, io as failed},
};

/// How long what came of a layer is of use, if nobody goes on with it.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Chunks on their way to a file.
const QUEUE: usize = 8;
/// A file system has to have this many times what the layer has.
const ROOM: u64 = 4;

/// Which layers' bytes are kept.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    /// Layers that have fewer bytes are not worth it; 0: none is.
    pub from_bytes: u64,
    /// Of all of them together.
    pub most_bytes: u64,
}

/// The folder of what came of layers, a file for each digest.
pub struct Partials {
    folder: PathBuf,
    keeping: Keeping,
    /// Layers that somebody fetches just now. Guards who has which file, and what is removed.
    claimed: Mutex<HashSet<String>>,
}

/// What came of one layer, and whoever adds to it.
pub struct Partial {
    claim: Arc<Claim>,
    /// Bytes that were there at the beginning.
    pub had: u64,
    file: File,
    writer: Option<Writer>,
}

/// A layer's file is somebody's until the last byte is written that was on its way.
struct Claim {
    partials: Arc<Partials>,
    digest: String,
}

/// A thread that may wait for the disk.
struct Writer {
    chunks: mpsc::Sender<Bytes>,
    done: JoinHandle<()>,
}

impl Partials {
    /// Removes what nobody has gone on with for long.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn open(root: &Path, keeping: Keeping) -> Result<Arc<Self>, ImageError> {
        let folder = root.join("partial");
        crate::durable::create_private_dir(&folder).map_err(failed("make", &folder))?;
        let partials = Self {
            folder,
            keeping,
            claimed: Mutex::default(),
        };
        partials.make_room(&HashSet::new(), 0);
        Ok(Arc::new(partials))
    }

    /// The file of a layer that is about to be fetched; `None` when it is not to be kept, or somebody else fetches it.
    pub fn claim(self: &Arc<Self>, digest: &str, size: u64) -> Option<Partial> {
        if self.keeping.from_bytes == 0 || size < self.keeping.from_bytes || size > self.keeping.most_bytes {
            return None;
        }
        let mut claimed = self.claimed.lock().expect("no panic while the table is held");
        if !claimed.insert(digest.to_owned()) {
            return None;
        }
        let path = self.path(digest);
        let opened = self.make_file(&path, &claimed, size).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "what comes of this layer is not kept");
            None
        });
        let Some((file, had)) = opened else {
            claimed.remove(digest);
            return None;
        };
        Some(Partial {
            claim: Arc::new(Claim {
                partials: self.clone(),
                digest: digest.to_owned(),
            }),
            had,
            file,
            writer: None,
        })
    }

    fn make_file(&self, path: &Path, claimed: &HashSet<String>, size: u64) -> io::Result<Option<(File, u64)>> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let had = file.metadata()?.len();
        // Nothing that this layer ever had.
        let had = match had <= size {
            true => had,
            false => {
                file.set_len(0)?;
                0
            }
        };
        io::Seek::seek(&mut file, io::SeekFrom::Start(0))?;
        self.make_room(claimed, size);
        let disk = fstatvfs(&file)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < (size - had).saturating_mul(ROOM) {
            // It would be in the way of the layer itself.
            let _ = fs::remove_file(path);
            return Ok(None);
        }
        Ok(Some((file, had)))
    }

    /// Removes what is stale, and the oldest until there is room for so many bytes, but nothing that is `claimed`.
    fn make_room(&self, claimed: &HashSet<String>, size: u64) {
        let is_claimed = |path: &Path| claimed.iter().any(|digest| self.path(digest) == *path);
        let mut files: Vec<_> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut left: u64 = files.iter().map(|(_, len, _)| len).sum();
        let most = self.keeping.most_bytes.saturating_sub(size);
        let stale = SystemTime::now().checked_sub(STALE);
        for (modified, len, path) in files {
            let has_to_go = left > most || stale.is_some_and(|stale| modified < stale);
            if has_to_go && !is_claimed(&path) && fs::remove_file(&path).is_ok() {
                tracing::debug!(path = %path.display(), "what came of a layer is not kept any longer");
                left -= len;
            }
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(hex_of(digest))
    }
}

impl Partial {
    /// What is there, to be read from the beginning.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn reader(&self) -> Result<tokio::fs::File, ImageError> {
        let path = self.claim.path();
        File::open(&path)
            .map(tokio::fs::File::from_std)
            .map_err(failed("open", &path))
    }

    /// Adds what came next. Once a chunk cannot be written no later one is.
    pub async fn add(&mut self, chunk: &Bytes) {
        if self.writer.is_none() {
            let file = self.file.try_clone().ok();
            self.writer = file.map(|file| Writer::start(file, self.claim.clone()));
        }
        if let Some(writer) = &self.writer {
            // One that has failed takes nothing any more.
            let _ = writer.chunks.send(chunk.clone()).await;
        }
    }

    /// Forgets what came: the layer is unpacked, or is not what it should be.
    pub fn remove(self) {
        let path = self.claim.path();
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove; it goes when it is stale");
        }
    }

    /// Returns when all that was added is in the file, and can be gone on from.
    pub async fn finish(&mut self) {
        if let Some(Writer { chunks, done }) = self.writer.take() {
            drop(chunks);
            let _ = done.await;
        }
    }
}

impl Claim {
    fn path(&self) -> PathBuf {
        self.partials.path(&self.digest)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = self.partials.claimed.lock().expect("no panic while the table is held");
        claimed.remove(&self.digest);
    }
}

impl Writer {
    fn start(mut file: File, claim: Arc<Claim>) -> Self {
        let (chunks, mut coming) = mpsc::channel::<Bytes>(QUEUE);
        let done = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = coming.blocking_recv() {
                if let Err(error) = file.write_all(&chunk) {
                    // A full disk: of what there is all is of use but the end, of which less came than was sent.
                    tracing::debug!(%error, "what comes of a layer is not kept any further");
                    break;
                }
            }
            drop(claim);
        });
        Self { chunks, done }
    }
}

#[cfg(test)]
mod test {
    use tokio::io::AsyncReadExt;

    use super::*;

    const KEEPING: Keeping = Keeping {
        from_bytes: 10,
        most_bytes: 100,
    };

    fn of(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    async fn add(partial: &mut Partial, text: &'static str) {
        partial.add(&Bytes::from_static(text.as_bytes())).await;
        partial.finish().await;
    }

    #[tokio::test]
    async fn what_came_is_there_for_the_next_who_asks() {
        let root = tempfile::tempdir().unwrap();
        let partials = Partials::open(root.path(), KEEPING).unwrap();
        let mut first = partials.claim(&of("a"), 50).unwrap();
        assert_eq!(first.had, 0);
        add(&mut first, "hello ").await;
        assert!(partials.claim(&of("a"), 50).is_none(), "one at a time");
        drop(first);
        // Also another life's.
        let partials = Partials::open(root.path(), KEEPING).unwrap();
        let mut second = partials.claim(&of("a"), 50).unwrap();
        assert_eq!(second.had, 6);
        add(&mut second, "world").await;
        let mut text = String::new();
        second.reader().unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
        second.remove();
        assert_eq!(partials.claim(&of("a"), 50).unwrap().had, 0);
    }

    #[tokio::test]
    async fn small_ones_are_not_kept_and_there_is_a_bound_for_all() {
        let root = tempfile::tempdir().unwrap();
        let partials = Partials::open(root.path(), KEEPING).unwrap();
        assert!(partials.claim(&of("a"), 9).is_none());
        assert!(partials.claim(&of("a"), 101).is_none());
        for (digit, age) in [("a", 20), ("b", 10)] {
            let mut partial = partials.claim(&of(digit), 20).unwrap();
            add(&mut partial, "0123456789").await;
            let then = SystemTime::now() - Duration::from_secs(age);
            partial.file.set_modified(then).unwrap();
        }
        let in_use = partials.claim(&of("a"), 20).unwrap();
        drop(partials.claim(&of("c"), 85).unwrap());
        assert_eq!(in_use.had, 10);
        assert!(partials.path(&of("a")).exists(), "in use, however old");
        assert!(!partials.path(&of("b")).exists(), "there was no room for it");
    }

    #[tokio::test]
    async fn what_is_stale_or_too_long_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let partials = Partials::open(root.path(), KEEPING).unwrap();
        for digit in ["a", "b"] {
            add(&mut partials.claim(&of(digit), 20).unwrap(), "0123456789012345").await;
        }
        let old = File::options().append(true).open(partials.path(&of("a"))).unwrap();
        old.set_modified(SystemTime::now() - 2 * STALE).unwrap();
        let partials = Partials::open(root.path(), KEEPING).unwrap();
        assert!(!partials.path(&of("a")).exists());
        assert_eq!(partials.claim(&of("b"), 15).unwrap().had, 0, "it never had that many");
        // But not under the hands of who goes on with it.
        add(&mut partials.claim(&of("c"), 20).unwrap(), "0123456789").await;
        let old = File::options().append(true).open(partials.path(&of("c"))).unwrap();
        old.set_modified(SystemTime::now() - 2 * STALE).unwrap();
        let claimed = partials.claim(&of("c"), 20).unwrap();
        assert_eq!((claimed.had, partials.path(&of("c")).exists()), (10, true));
    }
}
