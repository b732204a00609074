//! One layer: from the socket, or from what an earlier try had kept, through its digest into a jailed worker.

use std::{future::Future, io, time::Duration};

use bytes::Bytes;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{
    early::Early,
    found::{Making, Wanted},
    partial::Partial,
    progress::Layer,
};
use crate::image::{
    ImageError, Images,
    artifact::NewFile,
    content::Scratch,
    manifest::Descriptor,
    registry::Session,
    shares::Place,
    unpack::{Snapshotter, Unpacked},
    worker::{self, Tells},
};
use crate::model::{ErrorKind, hex};

/// Bytes read at once of what was kept.
const READ: usize = 1 << 20;

/// A layer that is whole and has no name yet.
pub struct Fetched {
    chain_id: String,
    scratch: Scratch,
    unpacked: Unpacked,
    partial: Option<Partial>,
}

impl Fetched {
    /// Forgets what came of it, before anything is synced: then the disk never sees that. With its chain id. Blocks.
    pub fn settle(self) -> (String, Scratch, Unpacked) {
        if let Some(partial) = self.partial {
            partial.remove();
        }
        (self.chain_id, self.scratch, self.unpacked)
    }
}

/// Fetches and unpacks a layer, as long as it goes on.
///
/// # Errors
/// [`ImageError`]; what came of a large layer stays for the next try, unless it is at fault.
pub async fn fetch(
    images: &Images,
    session: &Session,
    wanted: &Wanted,
    progress: &Layer,
) -> Result<Fetched, ImageError> {
    let layer = &wanted.blob;
    let partial = images.pulls.partials.claim(&layer.digest, layer.size);
    let mut fetch = Fetch {
        images,
        session,
        layer,
        making: &wanted.making,
        progress,
        partial,
    };
    let had = fetch.partial.as_ref().map_or(0, |partial| partial.had);
    let mut outcome = fetch.attempt().await;
    if had > 0 && outcome.as_ref().is_err_and(may_be_of_content) {
        // What was kept may not be what was sent: a machine that lost its power has files with holes.
        tracing::warn!(
            layer = layer.digest,
            had,
            "what was kept of a layer is of no use; it is fetched anew"
        );
        fetch.forget();
        fetch.partial = images.pulls.partials.claim(&layer.digest, layer.size);
        outcome = fetch.attempt().await;
    }
    match outcome {
        Ok((scratch, unpacked)) => {
            progress.is_unpacked();
            let partial = fetch.partial;
            Ok(Fetched {
                chain_id: wanted.chain_id.clone(),
                scratch,
                unpacked,
                partial,
            })
        }
        Err(error) => {
            match &mut fetch.partial {
                // Nothing of it is of use: it is wrong, or takes the room that the layer needs.
                Some(_) if may_be_of_content(&error) || is_for_want_of_room(&error) => fetch.forget(),
                Some(partial) => partial.finish().await,
                None => {}
            }
            Err(error)
        }
    }
}

fn may_be_of_content(error: &ImageError) -> bool {
    matches!(error, ImageError::Digest { .. } | ImageError::Layer { .. })
}

fn is_for_want_of_room(error: &ImageError) -> bool {
    error.kind() == ErrorKind::ResourceExhausted
}

struct Fetch<'a> {
    images: &'a Images,
    session: &'a Session,
    layer: &'a Descriptor,
    making: &'a Making,
    progress: &'a Layer,
    partial: Option<Partial>,
}

impl Fetch<'_> {
    fn forget(&mut self) {
        if let Some(partial) = self.partial.take() {
            partial.remove();
        }
    }

    async fn attempt(&mut self) -> Result<(Scratch, Unpacked), ImageError> {
        // Who waits for a place among others does not stand still.
        let place = self.session.place().await;
        let progress = self.progress;
        progress.begin();
        let limit = self.images.pulls.progress_timeout;
        while_it_moves(progress, limit, self.run(place)).await
    }

    async fn run(&mut self, place: Place) -> Result<(Scratch, Unpacked), ImageError> {
        let content = &self.images.store.content;
        match self.making {
            Making::Unpacked(diff_id) => {
                let scratch = content.scratch()?;
                let unpacked = self.unpack(&scratch, diff_id.as_deref(), place).await?;
                Ok((scratch, unpacked))
            }
            Making::File(name) => {
                let scratch = content.scratch_for(Snapshotter::Overlay)?;
                let mut file = NewFile::create(&scratch, name)?;
                self.feed(&mut Sink::File(&mut file), place).await?;
                let unpacked = file.finish(self.layer).await?;
                Ok((scratch, unpacked))
            }
        }
    }

    async fn unpack(&mut self, scratch: &Scratch, diff_id: Option<&str>, place: Place) -> Result<Unpacked, ImageError> {
        let command = self.images.pulls.workshop().worker(scratch, Tells::Progress);
        let worker = Command::from(command).spawn();
        let mut worker = Worker(worker.map_err(|error| self.fault(format!("start the unpack worker: {error}")))?);
        let pipes = worker.0.stdin.take().zip(worker.0.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| self.fault("the unpack worker has no pipes".into()))?;
        let (progress, digest) = (self.progress, &self.layer.digest);
        let told = async {
            listen(stdout, progress, &self.images.pulls.early)
                .await
                .map_err(|error| ImageError::Layer {
                    digest: digest.clone(),
                    why: error.to_string(),
                })
        };
        let feed = async {
            // The worker's end of its input comes with the drop.
            let mut sink = Sink::Worker(Some(stdin));
            self.feed(&mut sink, place).await
        };
        let ((), told) = tokio::try_join!(feed, told)?;
        let status = worker.0.wait().await.map_err(|error| self.fault(error.to_string()))?;
        worker::outcome(&told, status, scratch, &self.layer.digest, diff_id)
    }

    /// All of the layer's bytes to where they go, those first that were kept; then it is known whether they are the layer's.
    async fn feed(&mut self, sink: &mut Sink<'_>, place: Place) -> Result<(), ImageError> {
        let mut into = Into {
            hash: Sha256::new(),
            size: 0,
            sink,
        };
        if let Some(partial) = self.partial.as_ref().filter(|partial| partial.had > 0) {
            let mut file = partial.reader()?;
            let mut kept = vec![0; READ];
            loop {
                let read = file.read(&mut kept).await;
                let read = read.map_err(|error| self.fault(format!("read what was kept of it: {error}")))?;
                if read == 0 {
                    break;
                }
                into.add(&kept[..read]).await?;
                self.progress.had(read as u64);
            }
        }
        if into.size < self.layer.size || self.layer.size == 0 {
            let (digest, size) = (&self.layer.digest, self.layer.size);
            let mut stream = self.session.blob_from(digest, size, into.size, place).await?;
            self.progress.comes_from(stream.endpoint());
            while let Some(chunk) = stream.chunk().await? {
                self.progress.fetched(chunk.len() as u64);
                into.add(&chunk).await?;
                self.keep(&chunk).await;
            }
            self.progress.comes_from(stream.endpoint());
        }
        into.check(self.layer)
    }

    async fn keep(&mut self, chunk: &Bytes) {
        if let Some(partial) = &mut self.partial {
            partial.add(chunk).await;
        }
    }

    fn fault(&self, why: String) -> ImageError {
        ImageError::Layer {
            digest: self.layer.digest.clone(),
            why,
        }
    }
}

/// A worker that does not outlive its layer: what it would still write would stay when the layer's folder is removed.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // Without a number it has been waited for.
        let pid = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            let _ = self.0.start_kill();
            // Seen to be dead, and left for whoever reaps it.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        }
    }
}

/// Where a layer's bytes go.
enum Sink<'a> {
    /// One that has given up closes its end; it says why itself.
    Worker(Option<ChildStdin>),
    File(&'a mut NewFile),
}

impl Sink<'_> {
    async fn add(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        match self {
            Self::File(file) => file.add(chunk).await?,
            Self::Worker(stdin) => {
                if let Some(pipe) = stdin
                    && pipe.write_all(chunk).await.is_err()
                {
                    *stdin = None;
                }
            }
        }
        Ok(())
    }
}

/// What went there so far.
struct Into<'a, 'b> {
    hash: Sha256,
    size: u64,
    sink: &'a mut Sink<'b>,
}

impl Into<'_, '_> {
    async fn add(&mut self, chunk: &[u8]) -> Result<(), ImageError> {
        self.hash.update(chunk);
        self.size += chunk.len() as u64;
        self.sink.add(chunk).await
    }

    fn check(self, layer: &Descriptor) -> Result<(), ImageError> {
        if self.size != layer.size {
            return Err(ImageError::Layer {
                digest: layer.digest.clone(),
                why: format!("{} bytes came, not {}", self.size, layer.size),
            });
        }
        let got = format!("sha256:{}", hex(&self.hash.finalize()));
        match got == layer.digest {
            true => Ok(()),
            false => Err(ImageError::Digest {
                what: "a layer",
                expected: layer.digest.clone(),
                got,
            }),
        }
    }
}

/// What a worker says: lines of a number, the bytes that it has unpacked by then, and its answer, which is returned.
async fn listen(stdout: ChildStdout, progress: &Layer, early: &Early) -> io::Result<String> {
    let mut told = BufReader::new(stdout.take(worker::MOST_ANSWER));
    let mut line = String::new();
    loop {
        line.clear();
        told.read_line(&mut line).await?;
        let Some(number) = line.strip_suffix('\n') else {
            return Ok(line);
        };
        if let Ok(bytes) = number.parse() {
            progress.unpacked(bytes);
            early.look();
            // Only the answer has a bound: who works for days tells of it for days.
            told.get_mut().set_limit(worker::MOST_ANSWER);
        }
    }
}

/// Gives up when neither bytes come nor the worker goes on for `limit`.
async fn while_it_moves<T>(
    progress: &Layer,
    limit: Duration,
    work: impl Future<Output = Result<T, ImageError>>,
) -> Result<T, ImageError> {
    tokio::select! {
        outcome = work => outcome,
        () = progress.stands_still(limit) => {
            let view = progress.view();
            Err(ImageError::Stalled {
                digest: view.digest,
                fetched: view.fetched_bytes,
                size: view.size_bytes,
                unpacked: view.unpacked_bytes,
                limit,
            })
        }
    }
}
