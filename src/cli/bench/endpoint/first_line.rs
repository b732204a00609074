//! The moment at which a container's first line is in its log.

use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::bail;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{CreateFlags, WatchFlags, add_watch, init},
};
use tokio::sync::oneshot;

/// A log that is watched by a thread of its own, so that nothing else of this program delays the clock.
pub struct FirstLine {
    seen: oneshot::Receiver<Instant>,
    path: PathBuf,
}

impl FirstLine {
    /// Watches for a line in `folder/name` from now on.
    ///
    /// # Errors
    /// When the folder is not there, or the user has no watches left.
    pub fn watch(folder: &Path, name: &str) -> io::Result<Self> {
        let events = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // The folder's: the file comes only later.
        add_watch(
            &events,
            folder,
            WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO,
        )?;
        let path = folder.join(name);
        let (tell, seen) = oneshot::channel();
        let log = path.clone();
        std::thread::Builder::new()
            .name("first-line".into())
            .spawn(move || wait(&events, &log, tell))?;
        Ok(Self { seen, path })
    }

    /// When it was.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn seen(self) -> anyhow::Result<Instant> {
        match tokio::time::timeout(PATIENCE, self.seen).await {
            Ok(Ok(seen)) => Ok(seen),
            _ => bail!("no line in {} within {} s", self.path.display(), PATIENCE.as_secs()),
        }
    }
}

/// Until there is a line, or nobody waits for it any more.
fn wait(events: &OwnedFd, log: &Path, tell: oneshot::Sender<Instant>) {
    while !tell.is_closed() {
        if fs::read(log).is_ok_and(|text| text.contains(&b'\n')) {
            // Nobody may be there any more, which is not our business.
            let _ = tell.send(Instant::now());
            return;
        }
        let _ = poll(&mut [PollFd::new(events, PollFlags::IN)], Some(&LOOK));
        let _ = rustix::io::read(events, &mut [MaybeUninit::<u8>::uninit(); 4096]);
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
/// How long an event is waited for before the file is looked at all the same.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

#[cfg(test)]
mod test {
    use super::*;

    #[tokio::test]
    async fn half_a_line_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let line = FirstLine::watch(dir.path(), "log").unwrap();
        fs::write(dir.path().join("log"), "half ").unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let before = Instant::now();
        fs::write(dir.path().join("log"), "half a line\n").unwrap();
        let seen = line.seen().await.unwrap();
        assert!(seen >= before && seen.elapsed() < Duration::from_secs(10));
    }
}
