//! Port forwarding: pairs of streams, each pair a connection to a port in the pod.
//!
//! A pair is a `data` and an `error` stream with the same `requestID`; how many there are is the client's affair. The
//! error stream says why there is no connection, and nothing when there was one.

use std::{collections::HashMap, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::carrier::{Came, Inbound, Link, Opened, Outbound};
use crate::{
    model::{SandboxId, chain},
    pod::Pods,
};

/// Serves a client until it leaves; all its connections end with this.
pub async fn serve(mut link: Link, pods: Pods, sandbox: SandboxId, patience: Duration) {
    let mut waiting = Waiting::default();
    let mut pairs = JoinSet::new();
    loop {
        tokio::select! {
            opened = link.opened() => {
                let Some(opened) = opened else { return };
                let outbound = link.outbound(opened.stream);
                if pairs.len() + waiting.halves.len() >= MOST_PAIRS {
                    outbound.reset().await;
                    continue;
                }
                match waiting.half(opened, outbound, Instant::now() + patience) {
                    Ok(Some(pair)) => drop(pairs.spawn(pair.forward(pods.clone(), sandbox.clone()))),
                    Ok(None) => {}
                    Err(refused) => refused.reset().await,
                }
            }
            late = waiting.late() => late.give_up().await,
            Some(_) = pairs.join_next() => {}
        }
    }
}

/// Streams whose other half has not come yet, by request.
#[derive(Default)]
struct Waiting {
    halves: HashMap<String, Half>,
}

struct Half {
    port: u16,
    data: Option<(Inbound, Outbound)>,
    error: Option<Outbound>,
    until: Instant,
}

struct Pair {
    port: u16,
    data: (Inbound, Outbound),
    error: Outbound,
}

impl Waiting {
    /// Takes a stream in: the pair that it completes, or the stream back when it belongs to none.
    fn half(&mut self, opened: Opened, outbound: Outbound, until: Instant) -> Result<Option<Pair>, Outbound> {
        let kind = opened.headers.get("streamtype");
        let port = opened.headers.get("port").and_then(|port| port.parse().ok());
        let Some(port) = port.filter(|&port: &u16| port != 0) else {
            return Err(outbound);
        };
        let request = match (opened.headers.get("requestid"), kind) {
            (Some(id), _) => id.to_owned(),
            // Clients from before requests had ids open the error stream, then the data stream right after it.
            (None, Some("error")) => format!("stream {}", opened.stream),
            (None, _) => format!("stream {}", opened.stream.saturating_sub(2)),
        };
        let half = self.halves.entry(request.clone()).or_insert(Half {
            port,
            data: None,
            error: None,
            until,
        });
        match kind {
            Some("data") if half.data.is_none() && half.port == port => half.data = Some((opened.inbound, outbound)),
            Some("error") if half.error.is_none() && half.port == port => half.error = Some(outbound),
            _ => {
                if half.data.is_none() && half.error.is_none() {
                    self.halves.remove(&request);
                }
                return Err(outbound);
            }
        }
        if half.data.is_none() || half.error.is_none() {
            return Ok(None);
        }
        let whole = self.halves.remove(&request);
        Ok(whole.and_then(|half| {
            Some(Pair {
                port: half.port,
                data: half.data?,
                error: half.error?,
            })
        }))
    }

    /// The first half that has waited for too long.
    async fn late(&mut self) -> Half {
        let oldest = self.halves.iter().min_by_key(|(_, half)| half.until);
        let Some((request, until)) = oldest.map(|(request, half)| (request.clone(), half.until)) else {
            return std::future::pending().await;
        };
        sleep_until(until).await;
        self.halves.remove(&request).expect("just found")
    }
}

impl Half {
    async fn give_up(self) {
        tracing::debug!(port = self.port, "half of a port-forward pair did not come in time");
        if let Some(error) = self.error {
            error
                .finish(Bytes::from_static(b"the data stream did not come in time"))
                .await;
        }
        if let Some((_, data)) = self.data {
            data.reset().await;
        }
    }
}

impl Pair {
    async fn forward(self, pods: Pods, sandbox: SandboxId) {
        let (from_client, to_client) = self.data;
        match pods.connect(&sandbox, self.port).await {
            Ok(socket) => {
                let (from_pod, to_pod) = socket.into_split();
                // Each direction ends by itself; a client that gives the stream up ends both.
                let _ = tokio::try_join!(upload(from_client, to_pod), download(from_pod, to_client));
                self.error.finish(Bytes::new()).await;
            }
            Err(error) => {
                tracing::debug!(port = self.port, error = chain(&error), "a port was not reached");
                self.error.finish(chain(&error).into()).await;
                to_client.reset().await;
            }
        }
    }
}

/// There is no sense in going on.
struct Over;

/// Client to pod, until the client gives the stream up. A pod that reads no more may still have something to say.
async fn upload(mut from: Inbound, mut to: OwnedWriteHalf) -> Result<(), Over> {
    loop {
        match from.next().await {
            Came::Bytes(bytes) => {
                if to.write_all(&bytes).await.is_err() {
                    from.close();
                    return Ok(());
                }
            }
            Came::End => {
                // It fails when the pod closed its end already.
                let _ = to.shutdown().await;
                return Ok(());
            }
            Came::Lost => return Err(Over),
        }
    }
}

/// Pod to client, until the connection breaks.
async fn download(mut from: OwnedReadHalf, to: Outbound) -> Result<(), Over> {
    let mut buffer = BytesMut::new();
    loop {
        if buffer.capacity() - buffer.len() < PIECE / 4 {
            buffer.reserve(PIECE);
        }
        match from.read_buf(&mut buffer).await {
            Ok(0) => {
                to.finish(Bytes::new()).await;
                return Ok(());
            }
            Ok(_) => to.send(buffer.split().freeze()).await,
            Err(error) => {
                tracing::debug!(%error, "a forwarded connection broke");
                to.reset().await;
                return Err(Over);
            }
        }
    }
}

/// Connections and halves of some that a client may have at once.
const MOST_PAIRS: usize = 1000;
/// Bytes read from the pod at once.
const PIECE: usize = 64 << 10;

#[cfg(test)]
mod test {
    use super::{super::carrier::test::stream, *};

    fn open(waiting: &mut Waiting, id: u32, headers: &[(&str, &str)]) -> Result<Option<u16>, ()> {
        let (opened, outbound) = stream(id, headers);
        let pair = waiting.half(opened, outbound, Instant::now());
        pair.map(|pair| pair.map(|pair| pair.port)).map_err(drop)
    }

    #[test]
    fn halves_meet_by_their_request() {
        let mut waiting = Waiting::default();
        let mut half = |id, kind, request| {
            let headers = [("streamtype", kind), ("port", "80"), ("requestid", request)];
            open(&mut waiting, id, &headers)
        };
        assert_eq!(half(1, "error", "0"), Ok(None));
        assert_eq!(half(3, "error", "1"), Ok(None));
        assert_eq!(half(5, "data", "1"), Ok(Some(80)));
        assert_eq!(half(7, "data", "0"), Ok(Some(80)));
        assert_eq!(half(9, "data", "2"), Ok(None));
        assert_eq!(half(11, "data", "2"), Err(()), "the same half twice");
        assert_eq!(half(13, "error", "2"), Ok(Some(80)));
        assert!(waiting.halves.is_empty());
    }

    #[test]
    fn old_clients_have_no_request_ids() {
        let mut waiting = Waiting::default();
        assert_eq!(
            open(&mut waiting, 1, &[("streamtype", "error"), ("port", "80")]),
            Ok(None)
        );
        assert_eq!(
            open(&mut waiting, 5, &[("streamtype", "error"), ("port", "81")]),
            Ok(None)
        );
        assert_eq!(
            open(&mut waiting, 3, &[("streamtype", "data"), ("port", "80")]),
            Ok(Some(80))
        );
        assert_eq!(
            open(&mut waiting, 7, &[("streamtype", "data"), ("port", "81")]),
            Ok(Some(81))
        );
    }

    #[test]
    fn streams_that_belong_to_nothing_are_refused() {
        let mut waiting = Waiting::default();
        for headers in [
            &[("streamtype", "data")][..],
            &[("streamtype", "data"), ("port", "0")],
            &[("streamtype", "data"), ("port", "65536")],
            &[("streamtype", "stdin"), ("port", "80")],
            &[("port", "80")],
        ] {
            assert_eq!(open(&mut waiting, 1, headers), Err(()), "{headers:?}");
        }
        assert!(waiting.halves.is_empty());
    }
}
