//! A blob's bytes in their order: taken up where a body broke off, from another endpoint if need be, and fetched in several
//! pieces at once where one connection is slower than who reads.
//!
//! ```text
//!            whole body, or its rest
//!   One ──────────────────────────────▶ end
//!    │ the reader only waits                ▲
//!    ▼                                      │ a piece fails: its rest as one body
//!   Ahead: the body goes on to the first piece that another connection has begun, then piece after piece
//! ```
//! Nothing is believed of a server but what the caller's digest confirms: a range is only taken from an answer that says
//! it is that range, and what a server sends from the beginning instead is passed over up to where we were.

mod content_range;
mod watch;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT_RANGES, ETAG, HeaderValue},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
};

use content_range::{Range, range_of};
use watch::Watch;

use super::{
    RegistryError, STALL,
    client::{Client, Part, why},
    session::more_telling,
    traffic::{PIECE, Traffic},
};
use crate::image::shares::{Asker, Place};

/// How often in turn a body may break off without having brought anything.
const RESUMES: u32 = 5;
/// How many pieces may fail before it is left at one body.
const FAILURES: u32 = 3;
/// Less than this is as good as nothing: who drips would never end.
const SOMETHING: u64 = 64 << 10;

/// Where a blob is to be had.
pub struct Source {
    /// In the order to ask.
    pub clients: Vec<Arc<Client>>,
    pub path: String,
    /// The blob, as errors call it.
    pub what: String,
    pub size: u64,
    pub traffic: Arc<Traffic>,
    pub asker: Asker,
}

/// A blob's bytes, as they come.
pub struct BlobStream {
    source: Arc<Source>,
    body: Option<Body>,
    /// Of the last body: a strong validator, and whose. Source: RFC 9110, 13.1.5.
    etag: Option<(Arc<Client>, HeaderValue)>,
    /// How many bytes were handed out, with those that somebody else had.
    at: u64,
    /// What `at` was when the last of [`SOMETHING`] had come, and the breaks since.
    secured: u64,
    breaks: u32,
    watch: Watch,
    ahead: Ahead,
    _place: Place,
}

/// What is read just now.
struct Body {
    response: Response,
    client: Arc<Client>,
    /// Bytes that come before those that are wanted.
    skip: usize,
    /// What came beyond the place where a piece begins.
    rest: Option<Bytes>,
    /// What the server says that the whole blob has.
    whole: Option<u64>,
    takes_ranges: bool,
}

/// Pieces that are fetched before they are needed.
#[derive(Default)]
struct Ahead {
    pieces: VecDeque<Piece>,
    /// Where the next one begins, and from where.
    next: u64,
    client: Option<Arc<Client>>,
    /// Pieces that did not come, or not whole.
    failed: u32,
    /// Not to be had, or not wanted.
    is_off: bool,
    /// Those under way end with it.
    tasks: JoinSet<()>,
}

struct Piece {
    at: u64,
    end: u64,
    chunks: mpsc::UnboundedReceiver<Bytes>,
    _room: OwnedSemaphorePermit,
}

impl BlobStream {
    /// Asks for the bytes from `at` on.
    ///
    /// # Errors
    /// [`RegistryError`]: of the endpoint that got furthest.
    pub async fn open(source: Source, at: u64, place: Place) -> Result<Self, RegistryError> {
        let mut stream = Self {
            ahead: Ahead {
                is_off: source.traffic.bounds.ranges < 2,
                ..Ahead::default()
            },
            source: Arc::new(source),
            body: None,
            etag: None,
            at,
            secured: at,
            breaks: 0,
            watch: Watch::new(),
            _place: place,
        };
        stream.open_body().await?;
        Ok(stream)
    }

    /// The endpoint that it comes from.
    pub fn endpoint(&self) -> Option<String> {
        let client = self
            .body
            .as_ref()
            .map(|body| &body.client)
            .or(self.ahead.client.as_ref())?;
        Some(client.endpoint.url.origin().ascii_serialization())
    }

    /// The next bytes, none if only such came as were there before; `None` at the end. The caller verifies the digest of
    /// all of them.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`] when it breaks too often, [`RegistryError::Invalid`] when it does not end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.at == self.ahead.begin() {
                match self.piece_chunk().await {
                    Some(chunk) => return Ok(Some(self.hand_out(chunk))),
                    None => continue,
                }
            }
            if self.body.is_some() {
                match self.body_chunk().await? {
                    Read::Bytes(chunk) => return Ok(Some(self.hand_out(chunk))),
                    Read::End => return Ok(None),
                    Read::Broken => self.resume().await?,
                }
            } else if self.at == self.source.size {
                return Ok(None);
            } else {
                // There was no room for another piece.
                self.open_body().await?;
            }
        }
    }

    fn hand_out(&mut self, chunk: Bytes) -> Bytes {
        self.at += chunk.len() as u64;
        if self.at - self.secured >= SOMETHING {
            (self.secured, self.breaks) = (self.at, 0);
        }
        chunk
    }

    /// From the body, up to the first piece.
    async fn body_chunk(&mut self) -> Result<Read, RegistryError> {
        let (at, begin, size) = (self.at, self.ahead.begin(), self.source.size);
        let Some(body) = &mut self.body else {
            return Ok(Read::Broken);
        };
        let asked = Instant::now();
        let next = body.next().await;
        self.watch.waited += asked.elapsed();
        let mut chunk = match next {
            Ok(Some(chunk)) => chunk,
            Ok(None) if at >= size => return Ok(Read::End),
            // The end that the registry itself announced: there is nothing to resume.
            Ok(None) if body.whole == Some(at) => {
                return Err(self
                    .source
                    .invalid(format!("{at} bytes, not the {size} that its manifest says")));
            }
            Ok(None) | Err(()) => return Ok(Read::Broken),
        };
        self.source.traffic.pass(chunk.len()).await;
        self.watch.bytes += chunk.len() as u64;
        let known = body.skip.min(chunk.len());
        body.skip -= known;
        drop(chunk.split_to(known));
        if chunk.len() as u64 > size - at {
            return Err(self
                .source
                .invalid(format!("more than the {size} bytes that its manifest says")));
        }
        if chunk.len() as u64 > begin - at {
            body.rest = Some(chunk.split_off(usize::try_from(begin - at).unwrap_or(0)));
        }
        if !self.ahead.is_off && self.ahead.pieces.is_empty() && body.takes_ranges {
            let client = body.client.clone();
            self.consider_pieces(client, at + chunk.len() as u64);
        }
        Ok(Read::Bytes(chunk))
    }

    /// Begins pieces if the body is slower than who reads it, and there is enough left for them.
    fn consider_pieces(&mut self, client: Arc<Client>, at: u64) {
        let left = self.source.size - at;
        if left < self.source.traffic.bounds.ranges_from.max(2 * PIECE) || !self.watch.is_slow(left) {
            return;
        }
        // That far the body has to go: until then it is known whether there are pieces.
        self.ahead.next = at + PIECE;
        self.ahead.client = Some(client);
        self.more_pieces();
    }

    /// From the piece that begins here; `None` when there is none any more.
    async fn piece_chunk(&mut self) -> Option<Bytes> {
        let piece = self.ahead.pieces.front_mut()?;
        let Some(chunk) = piece.chunks.recv().await else {
            // As if there had been none: the body goes on, if it is still there.
            tracing::debug!(blob = self.source.what, at = self.at, "a piece did not come");
            self.ahead.failed += 1;
            self.ahead.is_off |= self.body.is_some() || self.ahead.failed >= FAILURES;
            self.ahead.end();
            return None;
        };
        // It is known to come now: whoever brought us here has done its part.
        self.body = None;
        piece.at += chunk.len() as u64;
        if piece.at == piece.end {
            self.ahead.pieces.pop_front();
        }
        self.more_pieces();
        Some(chunk)
    }

    /// Begins as many pieces as there may be.
    fn more_pieces(&mut self) {
        let (source, ahead) = (&self.source, &mut self.ahead);
        let Some(client) = &ahead.client else { return };
        while ahead.pieces.len() + 1 < source.traffic.bounds.ranges && ahead.next < source.size {
            let Some(room) = source.traffic.room() else { break };
            let Some(place) = source.traffic.connections.try_take(source.asker) else {
                break;
            };
            let (begin, end) = (ahead.next, source.size.min(ahead.next + PIECE));
            let (sender, chunks) = mpsc::unbounded_channel();
            let (source, client) = (source.clone(), client.clone());
            ahead.tasks.spawn(async move {
                if let Err(why) = fetch_piece(&source, &client, begin, end, &sender).await {
                    tracing::debug!(blob = source.what, begin, why, "a piece");
                }
                drop(place);
            });
            ahead.pieces.push_back(Piece {
                at: begin,
                end,
                chunks,
                _room: room,
            });
            ahead.next = end;
        }
        while ahead.tasks.try_join_next().is_some() {}
    }

    /// Goes on after a break, wherever it can be.
    async fn resume(&mut self) -> Result<(), RegistryError> {
        let broken = self.body.take().map(|body| body.client);
        loop {
            self.breaks += 1;
            if self.breaks > RESUMES {
                let (at, size) = (self.at, self.source.size);
                return Err(RegistryError::Unavailable {
                    what: self.source.what.clone(),
                    why: format!("the body broke off {RESUMES} times, last after {at} of {size} bytes"),
                });
            }
            // Once may be chance.
            if let Some(client) = broken.as_ref().filter(|_| self.breaks > 1) {
                client.did_not_answer();
            }
            tokio::time::sleep(Duration::from_millis(100 << self.breaks)).await;
            tracing::debug!(blob = self.source.what, at = self.at, "resuming");
            match self.open_body().await {
                // It may be starting again.
                Err(RegistryError::Unavailable { .. }) if self.breaks < RESUMES => {}
                opened => return opened,
            }
        }
    }

    async fn open_body(&mut self) -> Result<(), RegistryError> {
        let body = self.source.open(self.at, self.etag.as_ref()).await?;
        let etag = body.response.headers().get(ETAG).filter(|etag| is_strong(etag));
        self.etag = etag.map(|etag| (body.client.clone(), etag.clone()));
        (self.body, self.watch) = (Some(body), Watch::new());
        Ok(())
    }
}

/// What came of reading a body.
enum Read {
    Bytes(Bytes),
    End,
    Broken,
}

impl Source {
    async fn open(&self, at: u64, etag: Option<&(Arc<Client>, HeaderValue)>) -> Result<Body, RegistryError> {
        let mut last = None;
        for client in in_turn(&self.clients) {
            let etag = etag.filter(|(of, _)| Arc::ptr_eq(of, client)).map(|(_, etag)| etag);
            match self.open_at(client, at, etag).await {
                Ok(body) => return Ok(body),
                Err(error) => {
                    tracing::debug!(endpoint = %client.endpoint.url, %error, "next endpoint");
                    last = Some(more_telling(last, error));
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::Unavailable {
            what: self.what.clone(),
            why: "no endpoint is configured for this".into(),
        }))
    }

    async fn open_at(
        &self,
        client: &Arc<Client>,
        at: u64,
        if_range: Option<&HeaderValue>,
    ) -> Result<Body, RegistryError> {
        let part = (at > 0).then(|| Part {
            begin: at,
            end: None,
            if_range: if_range.cloned(),
        });
        let mut response = match client.get(&self.path, None, part).await {
            // That it has not this range: perhaps it has the whole.
            Err(RegistryError::Invalid { .. }) if at > 0 => client.get(&self.path, None, None).await?,
            asked => asked?,
        };
        let is_part = |response: &Response| response.status() == StatusCode::PARTIAL_CONTENT;
        if is_part(&response) && !range_of(&response).is_some_and(|range| range.is(at, None, self.size)) {
            response = client.get(&self.path, None, None).await?;
            if is_part(&response) {
                return Err(self.invalid("the registry answers another range than it was asked for".into()));
            }
        }
        let takes_ranges = is_part(&response)
            || response
                .headers()
                .get(ACCEPT_RANGES)
                .is_some_and(|units| units.as_bytes().eq_ignore_ascii_case(b"bytes"));
        Ok(Body {
            // A server that does not go on begins anew: what was handed out is passed over.
            skip: match is_part(&response) {
                true => 0,
                false => usize::try_from(at).unwrap_or(usize::MAX),
            },
            whole: response.content_length().filter(|_| !is_part(&response)),
            rest: None,
            client: client.clone(),
            takes_ranges,
            response,
        })
    }

    fn invalid(&self, why: String) -> RegistryError {
        let what = self.what.clone();
        RegistryError::Invalid { what, why }
    }
}

/// Those that did not answer lately come last.
pub fn in_turn<'a>(clients: impl IntoIterator<Item = &'a Arc<Client>>) -> Vec<&'a Arc<Client>> {
    let (silent, answering): (Vec<_>, Vec<_>) = clients.into_iter().partition(|client| client.is_silent());
    answering.into_iter().chain(silent).collect()
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>, ()> {
        match self.rest.take() {
            Some(rest) => Ok(Some(rest)),
            None => next_chunk(&mut self.response).await.map_err(drop),
        }
    }
}

async fn next_chunk(response: &mut Response) -> Result<Option<Bytes>, String> {
    match tokio::time::timeout(STALL, response.chunk()).await {
        Ok(next) => next.map_err(|error| why(&error)),
        Err(_) => Err("the body stalls".into()),
    }
}

/// Sends one piece to `to`, or what there is of it: then the channel ends early.
async fn fetch_piece(
    source: &Source,
    client: &Client,
    begin: u64,
    end: u64,
    to: &mpsc::UnboundedSender<Bytes>,
) -> Result<(), String> {
    let part = Part {
        begin,
        end: Some(end),
        if_range: None,
    };
    let mut response = client
        .get(&source.path, None, Some(part))
        .await
        .map_err(|error| error.to_string())?;
    let is_it = |range: Range| range.is(begin, Some(end), source.size);
    if response.status() != StatusCode::PARTIAL_CONTENT || !range_of(&response).is_some_and(is_it) {
        return Err(format!("the registry answers {}", response.status()));
    }
    let mut left = end - begin;
    while let Some(chunk) = next_chunk(&mut response).await? {
        left = left
            .checked_sub(chunk.len() as u64)
            .ok_or("the piece has more bytes than it should")?;
        source.traffic.pass(chunk.len()).await;
        if to.send(chunk).is_err() {
            return Err("nobody wants it any more".into());
        }
    }
    Ok(())
}

impl Ahead {
    /// Where the first piece begins, with what of it was not handed out yet.
    fn begin(&self) -> u64 {
        self.pieces.front().map_or(u64::MAX, |piece| piece.at)
    }

    fn end(&mut self) {
        self.pieces.clear();
        self.tasks = JoinSet::new();
    }
}

fn is_strong(etag: &HeaderValue) -> bool {
    etag.as_bytes().starts_with(b"\"")
}
