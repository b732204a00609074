//! What an attached client has not taken yet: first in, first out, on the disk and bounded.
//!
//! A spool is a row of segments, each a file without a name: the last one is written, the first one is read, and one
//! that was read to its end is closed, which gives its blocks back. So the disk holds what the client is behind and a
//! segment at most on every file system that makes such files, a client that has caught up has none, and nothing is left
//! when the daemon is killed. Everything here may wait for the disk.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{Mode, OFlags, open};

/// How far clients may be behind, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// One stream of a client.
    pub stream: u64,
    /// What all spools together may hold on the disk.
    pub total: u64,
    /// A file that has this much is written no more.
    pub segment: u64,
}

/// The daemon's. A kubelet keeps 50 MiB of a container's log (five files of `containerLogMaxSize`, 10 MiB): who is
/// further behind than that is better served by the log. All together stay small beside the images on the same disk.
const LIMITS: Limits = Limits {
    stream: 64 << 20,
    total: 1 << 30,
    segment: 8 << 20,
};

/// Why a client cannot be waited for any longer.
#[derive(Debug, thiserror::Error)]
pub enum Behind {
    #[error("it was {} MiB behind", .0 >> 20)]
    Stream(u64),
    #[error("it was behind while all clients together were {} MiB behind", .0 >> 20)]
    Total(u64),
    #[error("it was behind and the disk does not keep what it missed")]
    Disk(#[from] io::Error),
    #[error("it was behind and the disk took too long to keep what it missed")]
    SlowDisk,
    /// The shim's word: see `patience` in its library.
    #[error("the daemon did not read for it")]
    Daemon,
}

/// Where spools are made. Cheap to clone; the clones share the total.
#[derive(Clone)]
pub struct Spools {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    limits: Limits,
    /// Bytes in all segments. Only ever compared with the total: nothing else is ordered by it.
    held: AtomicU64,
}

/// Bytes in their order. Dropping it frees the disk.
pub struct Spool {
    shared: Arc<Shared>,
    /// Oldest first; each has something to read.
    segments: VecDeque<Segment>,
    /// What was pushed and not popped.
    behind: u64,
}

struct Segment {
    file: File,
    written: u64,
    read: u64,
    shared: Arc<Shared>,
}

impl Spools {
    /// Their files are made in `folder`, on its disk.
    pub fn below(folder: &Path) -> Self {
        Self::limited(folder, LIMITS)
    }

    pub fn limited(folder: &Path, limits: Limits) -> Self {
        let shared = Shared {
            folder: folder.to_owned(),
            limits,
            held: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// An empty one; it has no file until something is pushed.
    pub fn spool(&self) -> Spool {
        Spool {
            shared: self.shared.clone(),
            segments: VecDeque::new(),
            behind: 0,
        }
    }
}

impl Spool {
    pub fn is_empty(&self) -> bool {
        self.behind == 0
    }

    /// Keeps `bytes`, all or none of them.
    ///
    /// # Errors
    /// [`Behind::Stream`] and [`Behind::Total`] when there would be too much; [`Behind::Disk`], a full one included.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Behind> {
        let (count, limits) = (bytes.len() as u64, self.shared.limits);
        if self.behind + count > limits.stream {
            return Err(Behind::Stream(limits.stream));
        }
        if self.segments.back().is_none_or(|last| last.written >= limits.segment) {
            self.segments.push_back(Segment::make(&self.shared)?);
        }
        let last = self.segments.back_mut().expect("one was just made");
        last.append(bytes)?;
        self.behind += count;
        Ok(())
    }

    /// The oldest bytes, `most` at most; none when it is empty.
    ///
    /// # Errors
    /// [`Behind::Disk`].
    pub fn pop(&mut self, most: usize) -> Result<Vec<u8>, Behind> {
        let Some(first) = self.segments.front_mut() else {
            return Ok(Vec::new());
        };
        let bytes = first.take(most)?;
        self.behind -= bytes.len() as u64;
        if first.read == first.written {
            self.segments.pop_front();
        }
        Ok(bytes)
    }
}

impl Segment {
    fn make(shared: &Arc<Shared>) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        let file = open(&shared.folder, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Self {
            file: file.into(),
            written: 0,
            read: 0,
            shared: shared.clone(),
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Behind> {
        let count = bytes.len() as u64;
        self.shared.hold(count)?;
        if let Err(error) = self.file.write_all_at(bytes, self.written) {
            self.shared.release(count);
            return Err(error.into());
        }
        self.written += count;
        Ok(())
    }

    fn take(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.written - self.read).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(most)];
        self.file.read_exact_at(&mut bytes, self.read)?;
        self.read += bytes.len() as u64;
        Ok(bytes)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.shared.release(self.written);
    }
}

impl Shared {
    fn hold(&self, count: u64) -> Result<(), Behind> {
        let more = |held: u64| held.checked_add(count).filter(|&held| held <= self.limits.total);
        match self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(Behind::Total(self.limits.total)),
        }
    }

    fn release(&self, count: u64) {
        self.held.fetch_sub(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod test {
    use std::{
        collections::VecDeque,
        os::fd::{AsRawFd, OwnedFd},
    };

    use proptest::prelude::*;
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    };

    use super::*;

    fn small(stream: u64, total: u64) -> (tempfile::TempDir, Spools) {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            stream,
            total,
            segment: 1000,
        };
        let spools = Spools::limited(folder.path(), limits);
        (folder, spools)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        Pop(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![(1..3000usize).prop_map(Step::Push), (1..3000usize).prop_map(Step::Pop)]
    }

    proptest! {
        /// However it is pushed and popped, bytes come back in their order, and the disk holds what is there, one
        /// segment that is being read, and no more.
        #[test]
        fn bytes_come_back_in_their_order(steps in proptest::collection::vec(step(), 1..100)) {
            let (_folder, spools) = small(10_000, 50_000);
            let (mut spool, mut model, mut next) = (spools.spool(), VecDeque::new(), 0u8);
            for step in steps {
                match step {
                    Step::Push(count) => {
                        let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(37); next }).collect();
                        match spool.push(&bytes) {
                            Ok(()) => model.extend(bytes),
                            Err(Behind::Stream(10_000)) => prop_assert!(model.len() + count > 10_000),
                            Err(other) => return Err(TestCaseError::fail(other.to_string())),
                        }
                    }
                    Step::Pop(most) => {
                        let bytes = spool.pop(most).unwrap();
                        prop_assert_eq!(bytes.is_empty(), model.is_empty());
                        let expected: Vec<u8> = model.drain(..bytes.len()).collect();
                        prop_assert_eq!(bytes, expected);
                    }
                }
                prop_assert_eq!(spool.is_empty(), model.is_empty());
                let held = spools.shared.held.load(Ordering::Relaxed);
                prop_assert!(held >= model.len() as u64 && held < model.len() as u64 + 1000 + 3000, "{held}");
            }
            drop(spool);
            prop_assert_eq!(spools.shared.held.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn one_that_was_read_to_its_end_has_no_file_and_none_has_a_name() {
        let (folder, spools) = small(10_000, 10_000);
        let mut spool = spools.spool();
        assert_eq!(spool.segments.len(), 0);
        for _ in 0..5 {
            spool.push(&[7; 600]).unwrap();
        }
        assert_eq!(spool.segments.len(), 3);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        while !spool.is_empty() {
            spool.pop(500).unwrap();
        }
        assert_eq!(spool.segments.len(), 0);
    }

    #[test]
    fn all_together_are_bounded_and_who_asks_for_more_is_refused() {
        let (_folder, spools) = small(10_000, 12_000);
        let (mut first, mut second) = (spools.spool(), spools.spool());
        first.push(&[1; 8000]).unwrap();
        assert!(matches!(second.push(&[2; 8000]), Err(Behind::Total(12_000))));
        second.push(&[2; 4000]).unwrap();
        assert!(matches!(first.push(&[1; 1]), Err(Behind::Total(_))));
        drop(first);
        second.push(&[2; 5000]).unwrap();
        assert_eq!(second.pop(4000).unwrap(), [2; 4000]);
    }

    #[test]
    fn a_full_disk_refuses_and_costs_nothing_that_was_kept() {
        // A file system of one MiB that is mounted nowhere.
        let full = || -> rustix::io::Result<OwnedFd> {
            let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(&context, "size", "1M")?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        let disk = match full() {
            Ok(disk) => disk,
            Err(errno) => return eprintln!("skipped: no file system of our own: {errno}"),
        };
        let folder = format!("/proc/self/fd/{}", disk.as_raw_fd());
        let spools = Spools::below(Path::new(&folder));
        let mut spool = spools.spool();
        let piece = [3; 100_000];
        let mut pieces = 0;
        let error = loop {
            match spool.push(&piece) {
                Ok(()) => pieces += 1,
                Err(error) => break error,
            }
        };
        let Behind::Disk(source) = error else { panic!("{error}") };
        assert_eq!((source.kind(), pieces), (io::ErrorKind::StorageFull, 10));
        for _ in 0..pieces {
            assert_eq!(spool.pop(piece.len()).unwrap(), piece);
        }
        assert!(spool.is_empty());
        drop(spool);
        assert_eq!(spools.shared.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_disk_that_takes_nothing_is_told_with_its_reason() {
        let (folder, spools) = small(10_000, 10_000);
        let mut spool = spools.spool();
        folder.close().unwrap();
        match spool.push(b"lost") {
            Err(Behind::Disk(error)) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
            other => panic!("{other:?}"),
        }
        assert!(spool.is_empty() && spool.pop(10).unwrap().is_empty());
    }
}
