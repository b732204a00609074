//! Between a container's outputs and one attached client: reads at once what the container prints, whatever the client does.
//!
//! ```text
//! the shim's socket ─▶ came ─────────────▶ next ─▶ the client
//!                       └─▶ spool (files) ─┘
//! ```
//! A client that keeps up is passed everything in memory. What is more than [`SPILL`] behind one that does not goes to a
//! spool, and when that takes no more, the client is dismissed. Bytes keep their order: what came later waits until the
//! spool is empty.

use std::{future::pending, io, sync::Arc};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::UnixStream,
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, JoinSet, spawn_blocking},
};

use super::{
    Output,
    spool::{Behind, Spool, Spools},
};
use crate::model::{ContainerId, chain};

/// The relays of one attach. Dropping it ends them.
pub struct Relay {
    outcome: watch::Receiver<Outcome>,
    _task: JoinSet<()>,
}

/// `None` while there is something to pass on.
type Outcome = Option<Result<(), Arc<Behind>>>;

impl Relay {
    /// Takes outputs over from the shim; what the client is to read comes back in their order. All of it ends when one of
    /// them is too far behind: a client that missed something is not to believe the rest.
    pub fn start(
        container: ContainerId,
        from: [Option<UnixStream>; 2],
        spools: &Spools,
    ) -> (Self, [Option<Output>; 2]) {
        let [stdout, stderr] = from.map(|from| {
            let (to, output) = duplex(PIECE);
            let passed = from.map(|from| (from, to, spools.spool()));
            (passed.is_some().then(|| Box::new(output) as Output), passed)
        });
        let (tell, outcome) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let outcome = tokio::try_join!(pass(stdout.1), pass(stderr.1));
            if let Err(why) = &outcome {
                // The client is told too, when it listens again.
                tracing::warn!(%container, error = chain(why), "an attached client is dismissed");
            }
            tell.send_replace(Some(outcome.map(drop).map_err(Arc::new)));
        });
        (Self { outcome, _task: task }, [stdout.0, stderr.0])
    }

    /// Waits until everything was passed on, to a client that may have read it later.
    ///
    /// # Errors
    /// [`Behind`] when the client was dismissed.
    pub async fn ended(&self) -> Result<(), Arc<Behind>> {
        match self.outcome.clone().wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("waited for"),
            // The task tells before it ends.
            Err(_) => Ok(()),
        }
    }
}

async fn pass(stream: Option<(UnixStream, DuplexStream, Spool)>) -> Result<(), Behind> {
    let Some((from, to, spool)) = stream else { return Ok(()) };
    let passing = Passing {
        came: BytesMut::new(),
        next: BytesMut::new(),
        spool: Some(spool),
        job: None,
    };
    passing.run(from, to).await
}

/// The bytes of one stream that are under way.
struct Passing {
    /// From the container, later than everything else.
    came: BytesMut,
    /// What the client gets next.
    next: BytesMut,
    /// Between the two; away while the job has it.
    spool: Option<Spool>,
    job: Option<Job>,
}

/// One thing done with a spool, on a thread that may wait for the disk; with what it took out.
type Job = JoinHandle<Result<(Spool, Vec<u8>), Behind>>;

impl Passing {
    async fn run(mut self, mut from: UnixStream, mut to: DuplexStream) -> Result<(), Behind> {
        let mut ended = false;
        loop {
            self.move_on();
            if ended && self.is_empty() {
                return Ok(());
            }
            if self.came.len() >= ROOM {
                // It is the disk that leaves no room, and the container does not wait for it.
                return Err(Behind::SlowDisk);
            }
            if self.came.capacity() - self.came.len() < PIECE / 4 {
                self.came.reserve(PIECE);
            }
            tokio::select! {
                read = from.read_buf(&mut self.came), if !ended => {
                    ended = read.unwrap_or_else(|error| {
                        tracing::debug!(%error, "an attached container's output broke off");
                        0
                    }) == 0;
                }
                written = to.write_buf(&mut self.next), if !self.next.is_empty() => {
                    if written.is_err() {
                        // The client wants no more of this stream.
                        return Ok(());
                    }
                }
                done = done(&mut self.job) => {
                    let (spool, bytes) = done?;
                    (self.job, self.spool) = (None, Some(spool));
                    self.next.extend_from_slice(&bytes);
                }
            }
        }
    }

    /// Moves bytes towards the client, as far as their order lets them.
    fn move_on(&mut self) {
        let Some(mut spool) = self.spool.take() else { return };
        match (self.next.is_empty(), spool.is_empty()) {
            (true, false) => self.job = Some(spawn_blocking(|| spool.pop(SPILL).map(|bytes| (spool, bytes)))),
            (false, _) if self.came.len() >= SPILL => {
                let bytes = self.came.split();
                self.job = Some(spawn_blocking(move || spool.push(&bytes).map(|()| (spool, Vec::new()))));
            }
            (idle, _) => {
                if idle {
                    self.next = self.came.split();
                }
                self.spool = Some(spool);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.came.is_empty() && self.next.is_empty() && self.spool.as_ref().is_some_and(Spool::is_empty)
    }
}

impl Drop for Passing {
    /// Giving much back to the disk may wait for it.
    fn drop(&mut self) {
        let spool = self.spool.take().filter(|spool| !spool.is_empty());
        if let (Some(spool), Ok(runtime)) = (spool, Handle::try_current()) {
            runtime.spawn_blocking(|| drop(spool));
        }
    }
}

async fn done(job: &mut Option<Job>) -> Result<(Spool, Vec<u8>), Behind> {
    match job {
        Some(job) => job.await.map_err(io::Error::from)?,
        None => pending().await,
    }
}

/// Bytes read at once, and those that the client's side of the daemon has by itself.
const PIECE: usize = 64 << 10;
/// What a client is behind before its spool has anything, and what is moved to and from it at once.
const SPILL: usize = 128 << 10;
/// What waits in memory while the disk is busy, and as much again may be on its way to it. A disk that others write to pauses
/// for some tenths of a second, and nobody is to be dismissed for that while the container prints 30 MiB a second.
const ROOM: usize = 16 << 20;

#[cfg(test)]
mod test {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::pod::spool::Limits;

    struct Ground {
        spools: Spools,
        _folder: tempfile::TempDir,
    }

    fn ground(stream: u64) -> Ground {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            stream,
            total: 1 << 30,
            segment: 1 << 20,
        };
        Ground {
            spools: Spools::limited(folder.path(), limits),
            _folder: folder,
        }
    }

    fn noise(count: usize) -> Vec<u8> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..count).map(|_| next()).collect()
    }

    /// The container's side of a stdout, and the client's side.
    fn attached(ground: &Ground) -> (UnixStream, Output, Relay) {
        let (container, from) = UnixStream::pair().unwrap();
        let (relay, [stdout, _]) = Relay::start(ContainerId::random(), [Some(from), None], &ground.spools);
        (container, stdout.unwrap(), relay)
    }

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn one_that_reads_later_gets_every_byte_and_nobody_waited_for_it() {
        let ground = ground(64 << 20);
        let (mut container, mut client, relay) = attached(&ground);
        let printed = noise(10 << 20);
        // All of it goes although nothing is read, to the end of the container.
        timeout(SOON, container.write_all(&printed))
            .await
            .expect("no waiting")
            .unwrap();
        drop(container);
        assert!(timeout(Duration::from_millis(50), relay.ended()).await.is_err());
        let mut shown = Vec::new();
        client.read_to_end(&mut shown).await.unwrap();
        assert!(shown == printed, "{} of {} bytes", shown.len(), printed.len());
        relay.ended().await.unwrap();
    }

    #[tokio::test]
    async fn one_that_catches_up_and_falls_behind_again_gets_every_byte_in_order() {
        let ground = ground(64 << 20);
        let (mut container, mut client, _relay) = attached(&ground);
        let printed = noise(24 << 20);
        let expected = printed.clone();
        let printing = tokio::spawn(async move {
            for piece in printed.chunks(333_333) {
                container.write_all(piece).await.unwrap();
                // Fast, but not as fast as memory: the disk may be busy with somebody else's.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let (mut shown, mut buffer) = (Vec::new(), vec![0; 100_000]);
        for turn in 0.. {
            let most = 1 + turn * 7919 % buffer.len();
            let count = client.read(&mut buffer[..most]).await.unwrap();
            if count == 0 {
                break;
            }
            shown.extend_from_slice(&buffer[..count]);
            if turn % 64 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        printing.await.unwrap();
        assert!(shown == expected, "{} of {} bytes", shown.len(), expected.len());
    }

    #[tokio::test]
    async fn one_that_is_too_far_behind_loses_all_its_streams_and_is_told_why() {
        let ground = ground(4 << 20);
        let (mut out, stdout) = UnixStream::pair().unwrap();
        let (mut err, stderr) = UnixStream::pair().unwrap();
        let (relay, [client, errors]) =
            Relay::start(ContainerId::random(), [Some(stdout), Some(stderr)], &ground.spools);
        err.write_all(b"an error").await.unwrap();
        let printed = noise(8 << 20);
        let told = timeout(SOON, async {
            // Less than what waits in memory for a slow disk: it breaks off here, or all of it is read.
            let _ = out.write_all(&printed).await;
            relay.ended().await
        });
        let why = told.await.expect("no waiting").expect_err("it was behind");
        assert!(matches!(*why, Behind::Stream(_)), "{why}");
        let (mut shown, mut error) = (Vec::new(), Vec::new());
        client.unwrap().read_to_end(&mut shown).await.unwrap();
        errors.unwrap().read_to_end(&mut error).await.unwrap();
        assert!(printed.starts_with(&shown) && b"an error".starts_with(&error[..]));
        assert!(out.write_all(b"more").await.is_err());
        assert!(err.write_all(b"another").await.is_err());
    }

    #[test]
    fn a_disk_that_takes_too_long_is_not_waited_for() {
        // The one thread that may wait for the disk waits for something else.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (release, released) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || released.recv());
        runtime.block_on(async {
            let ground = ground(64 << 20);
            let (mut container, _client, relay) = attached(&ground);
            let printed = noise(2 * ROOM);
            let written = timeout(SOON, container.write_all(&printed)).await.expect("no waiting");
            assert!(written.is_err());
            let why = relay.ended().await.expect_err("it was behind");
            assert!(matches!(*why, Behind::SlowDisk), "{why}");
        });
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn one_that_keeps_up_costs_no_file() {
        let ground = ground(0);
        let (mut container, mut client, relay) = attached(&ground);
        let mut buffer = vec![0; 1000];
        for number in 0..10_000u32 {
            let line = number.to_le_bytes().repeat(250);
            container.write_all(&line).await.unwrap();
            client.read_exact(&mut buffer).await.unwrap();
            assert_eq!(buffer, line);
        }
        drop(container);
        relay.ended().await.unwrap();
    }
}
