//! Exec and attach: the client's streams on one side, a session of the pod's on the other.
//!
//! First all streams that the call needs have to be there, each with its kind in the header `streamType`; then the
//! command runs; at its end the client is told how it ended on the error stream, and every stream is closed.

use std::{future::pending, time::Duration};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    carrier::{Came, Inbound, Link, Outbound},
    status::{self, Outcome},
};
use crate::{
    model::chain,
    pod::{Control, Input, Output, PodError, Session, Streams},
};

/// What the client of a remote command is to get.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub streams: Streams,
    /// Whether a terminal's size comes on a stream of its own.
    pub resizes: bool,
    pub status: status::Form,
    /// Whether the client is told the exit code. One that attached is not: the command was not its own.
    pub tells_code: bool,
    /// How long the client may take to open its streams.
    pub patience: Duration,
}

/// Serves one call to its end. Dropped with the client, it ends the session.
pub async fn serve(mut link: Link, terms: Terms, start: impl Future<Output = Result<Session, PodError>>) {
    let mut client = match timeout(terms.patience, Client::gather(&mut link, terms)).await {
        Ok(Some(client)) => client,
        Ok(None) => return,
        Err(_) => return tracing::warn!(?terms, "a client did not open the streams of its call in time"),
    };
    link.close();
    client.hello().await;
    let outcome = match start.await {
        Ok(session) => client.converse(session).await,
        Err(error) => Err(error),
    };
    let outcome = match outcome {
        Ok(code) => Outcome::Exited(if terms.tells_code { code } else { 0 }),
        Err(error) => Outcome::Failed(chain(&error)),
    };
    tracing::debug!(?outcome, "a remote command ended");
    client.end(status::render(&outcome, terms.status)).await;
}

/// The client's streams. What it has not got, or has no longer, is none.
struct Client {
    error: Outbound,
    stdin: Option<(Inbound, Outbound)>,
    stdout: Option<Outbound>,
    stderr: Option<Outbound>,
    resize: Option<(Inbound, Outbound)>,
}

impl Client {
    /// Waits for all the streams of the call; `None` when the client left. Those of no use are reset.
    async fn gather(link: &mut Link, terms: Terms) -> Option<Self> {
        let Streams {
            stdin,
            stdout,
            stderr,
            tty,
        } = terms.streams;
        let (mut error, mut in_, mut out, mut err, mut resize) = (None, None, None, None, None);
        while error.is_none()
            || (stdin && in_.is_none())
            || (stdout && out.is_none())
            || (stderr && err.is_none())
            || (tty && terms.resizes && resize.is_none())
        {
            let opened = link.opened().await?;
            let (inbound, outbound) = (opened.inbound, link.outbound(opened.stream));
            match opened.headers.get("streamtype") {
                Some("error") if error.is_none() => error = Some(outbound),
                Some("stdin") if stdin && in_.is_none() => in_ = Some((inbound, outbound)),
                Some("stdout") if stdout && out.is_none() => out = Some(outbound),
                Some("stderr") if stderr && err.is_none() => err = Some(outbound),
                Some("resize") if tty && resize.is_none() => resize = Some((inbound, outbound)),
                _ => outbound.reset().await,
            }
        }
        Some(Self {
            error: error?,
            stdin: in_,
            stdout: out,
            stderr: err,
            resize,
        })
    }

    /// An empty message on the first channel that we write on: old WebSocket clients wait for it. SPDY writes nothing.
    async fn hello(&self) {
        let first = self.stdout.as_ref().or(self.stderr.as_ref()).unwrap_or(&self.error);
        first.send(Bytes::new()).await;
    }

    /// Everything there and back, until the outputs have ended and the exit code is known.
    async fn converse(&mut self, session: Session) -> Result<i32, PodError> {
        let Session {
            stdin,
            stdout,
            stderr,
            control,
        } = session;
        let input = async {
            if let (Some((from, _)), Some(to)) = (&mut self.stdin, stdin) {
                feed(from, to).await;
            }
            pending::<()>().await;
        };
        let sizes = async {
            if let Some((from, _)) = &mut self.resize {
                resize(from, &control).await;
            }
            pending::<()>().await;
        };
        let output = async {
            tokio::join!(show(stdout, self.stdout.take()), show(stderr, self.stderr.take()));
            control.wait().await
        };
        tokio::select! {
            code = output => code,
            () = input => unreachable!("pending"),
            () = sizes => unreachable!("pending"),
        }
    }

    /// Closes every stream, the outputs first: the status is the last word.
    async fn end(self, status: Bytes) {
        let (stdin, resize) = (self.stdin.map(|(_, out)| out), self.resize.map(|(_, out)| out));
        for stream in [self.stdout, self.stderr].into_iter().flatten() {
            stream.finish(Bytes::new()).await;
        }
        self.error.finish(status).await;
        for stream in [stdin, resize].into_iter().flatten() {
            stream.finish(Bytes::new()).await;
        }
    }
}

/// Client to command. A command that reads no more is no error; what comes after is dropped.
async fn feed(from: &mut Inbound, mut to: Input) {
    while let Came::Bytes(bytes) = from.next().await {
        if let Err(error) = to.write_all(&bytes).await {
            tracing::debug!(%error, "a command takes no more input");
            return from.close();
        }
    }
    // It fails when the command has closed its end already.
    let _ = to.shutdown().await;
}

/// Command to client, and the end of it at once.
async fn show(from: Option<Output>, to: Option<Outbound>) {
    let Some(to) = to else { return };
    if let Some(mut from) = from {
        let mut buffer = BytesMut::new();
        loop {
            if buffer.capacity() - buffer.len() < PIECE / 4 {
                buffer.reserve(PIECE);
            }
            match from.read_buf(&mut buffer).await {
                Ok(0) => break,
                Ok(_) => to.send(buffer.split().freeze()).await,
                Err(error) => {
                    tracing::debug!(%error, "a command's output broke off");
                    break;
                }
            }
        }
    }
    to.finish(Bytes::new()).await;
}

/// Applies the sizes that the client tells, one JSON object after the other.
async fn resize(from: &mut Inbound, control: &Control) {
    let mut text = Vec::new();
    while let Came::Bytes(bytes) = from.next().await {
        text.extend_from_slice(&bytes);
        let (sizes, used) = sizes(&text);
        text.drain(..used);
        // Only where it ends up matters.
        if let Some(size) = sizes.last()
            && let Err(error) = control.resize(size.width, size.height).await
        {
            tracing::debug!(error = chain(&error), "a terminal was not resized");
        }
        if text.len() > MOST_SIZE {
            break;
        }
    }
    from.close();
}

/// A terminal's size. Source: `k8s.io/client-go/tools/remotecommand`, `TerminalSize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Whole sizes in `text`, and the bytes they take.
fn sizes(text: &[u8]) -> (Vec<Size>, usize) {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter();
    let sizes = values.by_ref().map_while(Result::ok).collect();
    (sizes, values.byte_offset())
}

/// Bytes read of an output at once: what a pipe holds.
const PIECE: usize = 64 << 10;
/// Most bytes of a size. What is longer is none.
const MOST_SIZE: usize = 1 << 10;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let size = |width, height| Size { width, height };
        let two = br#"{"Width":80,"Height":24} {"Width":132,"Height":43}"#;
        assert_eq!(sizes(two), (vec![size(80, 24), size(132, 43)], two.len()));
        assert_eq!(sizes(br#"{"Width":80,"Height":24}{"Wid"#), (vec![size(80, 24)], 24));
        for none in [&b""[..], b"{", b"no", br#"{"Width":-1,"Height":2}"#] {
            assert!(sizes(none).0.is_empty(), "{none:?}");
        }
    }
}
