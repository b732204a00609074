//! A client's connection as streams: a reader, a writer and the session's work, in one task that ends as a whole.
//!
//! ```text
//! socket ─▶ reader ─▶ one bounded queue per stream ─▶ Inbound ─▶ work
//! socket ◀─ writer ◀─ one bounded queue ◀──────────  Outbound ◀─ work
//! ```
//! Neither SPDY as its clients use it nor WebSocket has flow control of streams, so the connection's is used: when a
//! stream's queue is full the socket is not read, and when the client does not read, what produces for it waits. Memory
//! per stream is bounded, and a client that stands still holds up itself alone.

use std::{
    collections::HashMap,
    future::Future,
    io,
    os::fd::OwnedFd,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    spdy::{connection::status, headers::Headers},
    wire::{Decoder, Encoder, Incoming, Outgoing, Wire, WireError},
};

/// A connection that speaks one of the protocols from here on.
pub struct Client<S> {
    pub io: S,
    /// The socket itself once more: asked whether its peer is still there while it is not read.
    pub socket: OwnedFd,
    pub wire: Wire,
}

/// How a connection ended before its work did.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("the client left")]
    Left,
    #[error("nothing came or went for {0:?}")]
    Idle(Duration),
    #[error("the connection broke")]
    Broke(#[from] io::Error),
    #[error("the client does not speak the protocol")]
    Protocol(#[from] WireError),
}

/// Does `work` with the streams of a client, then says goodbye. Whatever ends the connection ends the work.
///
/// # Errors
/// [`Ended`], when the work was cut short or the client did not hear its end.
pub async fn carry<S, F>(client: Client<S>, idle: Duration, work: impl FnOnce(Link) -> F) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = ()>,
{
    let (from, to) = tokio::io::split(client.io);
    let (outgoing, queue) = mpsc::channel(OUTGOING);
    let (opened, streams) = mpsc::channel(OPENED);
    let traffic = Traffic::new();
    let mut reader = Reader {
        from,
        peer: Peer {
            socket: client.socket,
            outgoing: outgoing.clone(),
        },
        bytes: BytesMut::new(),
        decoder: Decoder::new(client.wire),
        routes: HashMap::new(),
        opened,
        traffic: &traffic,
    };
    if let Wire::Channels(_) = client.wire {
        reader.open_channels();
    }
    let writer = Writer {
        to,
        encoder: Encoder::new(client.wire),
        queue,
        traffic: &traffic,
    };
    let (mut reading, mut writing) = (pin!(reader.run()), pin!(writer.run()));
    let idle = traffic.silence(idle);
    let mut idle = pin!(idle);

    let link = Link {
        streams,
        outgoing: outgoing.clone(),
    };
    let mut work = pin!(work(link));
    tokio::select! {
        () = &mut work => {}
        ended = &mut reading => return ended,
        ended = &mut writing => return Ok(ended?),
        ended = &mut idle => return Err(ended),
    }
    // The client hears all of it, however slow it is, as long as it takes something now and then.
    let goodbye = async {
        // The writer is gone only when it has failed, which is told by itself.
        let _ = outgoing.send(Outgoing::Goodbye).await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        ended = &mut writing => ended?,
        ended = &mut reading => return ended,
        ended = &mut idle => return Err(ended),
        () = goodbye => {}
    }
    // Closing a socket with unread bytes resets it, and the reset overtakes what the client has not read yet.
    let _ = timeout(LINGER, reading).await;
    Ok(())
}

/// The streams of a client, as a session sees them.
pub struct Link {
    streams: mpsc::Receiver<Opened>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Link {
    /// The next stream that the client opens; `None` when it left.
    pub async fn opened(&mut self) -> Option<Opened> {
        self.streams.recv().await
    }

    /// Refuses further streams.
    pub fn close(&mut self) {
        self.streams.close();
    }

    /// Our direction of a stream.
    pub fn outbound(&self, stream: u32) -> Outbound {
        Outbound {
            stream,
            to: self.outgoing.clone(),
        }
    }
}

/// A stream that the client opened.
pub struct Opened {
    pub stream: u32,
    pub headers: Headers,
    pub inbound: Inbound,
}

/// The client's direction of a stream.
pub struct Inbound {
    pieces: mpsc::Receiver<Came>,
}

/// What came on a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    Bytes(Bytes),
    /// The client has said all it had to say.
    End,
    /// The client gave the stream up, or left.
    Lost,
}

impl Inbound {
    pub async fn next(&mut self) -> Came {
        self.pieces.recv().await.unwrap_or(Came::Lost)
    }

    /// What comes from here on is dropped.
    pub fn close(&mut self) {
        self.pieces.close();
        while self.pieces.try_recv().is_ok() {}
    }
}

/// Our direction of a stream. Sending waits for the client; to one that left it does nothing.
pub struct Outbound {
    stream: u32,
    to: mpsc::Sender<Outgoing>,
}

impl Outbound {
    pub async fn send(&self, bytes: Bytes) {
        self.data(bytes, false).await;
    }

    /// The last bytes.
    pub async fn finish(self, bytes: Bytes) {
        self.data(bytes, true).await;
    }

    /// Gives the stream up, in both directions.
    pub async fn reset(self) {
        let (stream, status) = (self.stream, status::CANCEL);
        let _ = self.to.send(Outgoing::Reset { stream, status }).await;
    }

    async fn data(&self, bytes: Bytes, fin: bool) {
        let stream = self.stream;
        // Its writer ends only with the whole task, which then drops the caller too.
        let _ = self.to.send(Outgoing::Data { stream, bytes, fin }).await;
    }
}

/// Socket to streams.
struct Reader<'a, R> {
    from: R,
    peer: Peer,
    bytes: BytesMut,
    decoder: Decoder,
    /// Where the bytes of a stream go; gone when it ended or nobody wants them.
    routes: HashMap<u32, mpsc::Sender<Came>>,
    opened: mpsc::Sender<Opened>,
    traffic: &'a Traffic,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    /// Until the client leaves.
    async fn run(mut self) -> Result<(), Ended> {
        loop {
            while let Some(incoming) = self.decoder.next(&mut self.bytes)? {
                match incoming {
                    Incoming::Opened { stream, headers, fin } => self.open(stream, headers, fin).await?,
                    Incoming::Data { stream, bytes, fin } => self.deliver(stream, bytes, fin).await?,
                    Incoming::Reset { stream } => drop(self.routes.remove(&stream)),
                    Incoming::Answer(answer) => self.peer.say(answer).await?,
                    Incoming::GoAway => return Err(Ended::Left),
                }
            }
            if self.bytes.capacity() - self.bytes.len() < READ / 4 {
                self.bytes.reserve(READ);
            }
            if self.from.read_buf(&mut self.bytes).await? == 0 {
                return Err(Ended::Left);
            }
        }
    }

    /// The channels of a remote command, which a WebSocket does not open one by one.
    fn open_channels(&mut self) {
        for (number, kind) in ["stdin", "stdout", "stderr", "error", "resize"].into_iter().enumerate() {
            let stream = u32::try_from(number).expect("five");
            let opened = Opened {
                stream,
                headers: Headers(vec![("streamtype".into(), kind.into())]),
                inbound: self.route(stream, false),
            };
            // The queue is new and longer than five.
            let _ = self.opened.try_send(opened);
        }
    }

    async fn open(&mut self, stream: u32, headers: Headers, fin: bool) -> Result<(), Ended> {
        self.traffic.note();
        let inbound = self.route(stream, fin);
        let opened = Opened {
            stream,
            headers,
            inbound,
        };
        // The client waits for the reply to one before it opens the next.
        self.peer.say(Outgoing::Reply { stream }).await?;
        if self.peer.while_there(self.opened.send(opened)).await?.is_err() {
            self.routes.remove(&stream);
            let status = status::REFUSED_STREAM;
            self.peer.say(Outgoing::Reset { stream, status }).await?;
        }
        Ok(())
    }

    fn route(&mut self, stream: u32, ended: bool) -> Inbound {
        let (to, pieces) = mpsc::channel(INBOUND);
        if ended {
            // The queue is new.
            let _ = to.try_send(Came::End);
        } else {
            self.routes.insert(stream, to);
        }
        Inbound { pieces }
    }

    async fn deliver(&mut self, stream: u32, bytes: Bytes, fin: bool) -> Result<(), Ended> {
        self.traffic.note();
        let Some(route) = self.routes.get(&stream) else {
            return Ok(());
        };
        let mut wanted = true;
        let came = (!bytes.is_empty()).then_some(Came::Bytes(bytes));
        for came in came.into_iter().chain(fin.then_some(Came::End)) {
            wanted = self.peer.while_there(route.send(came)).await?.is_ok();
        }
        if fin || !wanted {
            self.routes.remove(&stream);
        }
        Ok(())
    }
}

/// Who is at the other end, while we wait for something else than what it sends.
struct Peer {
    socket: OwnedFd,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Peer {
    async fn say(&self, what: Outgoing) -> Result<(), Ended> {
        // A writer that is gone is told of elsewhere.
        let _ = self.while_there(self.outgoing.send(what)).await?;
        Ok(())
    }

    /// Waits for something that may take long, during which the socket is not read: its end would go unnoticed.
    async fn while_there<T>(&self, what: impl Future<Output = T>) -> Result<T, Ended> {
        let mut what = pin!(what);
        for looks in 1u32.. {
            tokio::select! {
                biased;
                done = &mut what => return Ok(done),
                () = sleep(LOOK) => {}
            }
            if has_left(&self.socket) {
                break;
            }
            if looks.is_multiple_of(SIGN_OF_LIFE) {
                // When the queue is full the client hears of us anyway.
                let _ = self.outgoing.try_send(Outgoing::StillHere);
            }
        }
        Err(Ended::Left)
    }
}

/// Whether the peer closed its end, behind whatever it sent before.
fn has_left(socket: &OwnedFd) -> bool {
    let mut looked = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut looked, Some(&now)).is_ok_and(|found| found > 0)
}

/// Streams to socket.
struct Writer<'a, W> {
    to: W,
    encoder: Encoder,
    queue: mpsc::Receiver<Outgoing>,
    traffic: &'a Traffic,
}

impl<W: AsyncWrite + Unpin> Writer<'_, W> {
    /// Until [`Outgoing::Goodbye`] is written.
    async fn run(mut self) -> io::Result<()> {
        let mut out = BytesMut::new();
        while let Some(first) = self.queue.recv().await {
            let (mut next, mut end) = (Some(first), false);
            while let Some(what) = next {
                self.encoder.put(&what, &mut out);
                if let Outgoing::Data { .. } = what {
                    self.traffic.note();
                }
                end |= what == Outgoing::Goodbye;
                next = if out.len() < WRITE {
                    self.queue.try_recv().ok()
                } else {
                    None
                };
            }
            self.to.write_all(&out).await?;
            self.to.flush().await?;
            out.clear();
            if end {
                break;
            }
        }
        self.to.shutdown().await
    }
}

/// When something last came or went.
struct Traffic {
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
}

impl Traffic {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn note(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Until nothing came or went for so long.
    async fn silence(&self, most: Duration) -> Ended {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let left = (last + most).saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return Ended::Idle(most);
            }
            sleep(left).await;
        }
    }
}

/// Bytes read at once, about, and so the longest piece.
const READ: usize = 64 << 10;
/// Pieces that wait for a stream's reader: about 256 KiB.
const INBOUND: usize = 4;
/// Pieces that wait for the writer, whichever stream they are of.
const OUTGOING: usize = 8;
/// Bytes after which the writer writes before it looks for more.
const WRITE: usize = 128 << 10;
/// Streams that wait for the session.
const OPENED: usize = 16;
/// How often a connection that is not read is asked whether it still has a peer.
const LOOK: Duration = Duration::from_millis(500);
/// Looks between two signs of life: 2 s. A WebSocket client gives up after 61 s without one; and the end of a client
/// that was killed stays behind the bytes it still had to send, for which we have no room: only its system's answer to
/// something of ours tells (a socket nobody owns resets on data, tcp(7)).
const SIGN_OF_LIFE: u32 = 4;
/// How long the client may take to close its end after we said goodbye.
const LINGER: Duration = Duration::from_secs(10);

#[cfg(test)]
pub(super) mod test;
