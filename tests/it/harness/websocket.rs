//! A client of exec and attach over WebSocket: the protocol of `crictl --transport websocket` by another hand than the
//! daemon's, and without a process per call.

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{SinkExt, StreamExt, stream::SplitStream};
use hyper::header::SEC_WEBSOCKET_PROTOCOL;
use tokio::net::TcpStream;
use tokio_websockets::{ClientBuilder, CloseCode, Message, WebSocketStream};

use super::cri::runtime;

/// What a remote command left.
#[derive(Debug, Default)]
pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// What the error stream said.
    pub status: Vec<u8>,
}

impl Ended {
    /// The exit code that a `metav1.Status` tells.
    pub fn exit_code(&self) -> i32 {
        let status: serde_json::Value = serde_json::from_slice(&self.status).expect("a status in JSON");
        match status["status"].as_str() {
            Some("Success") => 0,
            _ => status["details"]["causes"][0]["message"]
                .as_str()
                .and_then(|code| code.parse().ok())
                .unwrap_or_else(|| panic!("no exit code: {status}")),
        }
    }
}

/// Redeems `url` in one of the protocols, says `stdin`, closes it where the protocol can, and waits for the end.
pub fn run(url: &str, protocol: &str, stdin: &[u8]) -> Ended {
    runtime().block_on(async {
        let base64 = protocol.contains("base64");
        let (mut to, from) = connect(url, protocol).await.split();
        let say = async {
            for piece in stdin.chunks(32 << 10) {
                let message = if base64 {
                    Message::text(format!("0{}", BASE64_STANDARD.encode(piece)))
                } else {
                    Message::binary([&[0], piece].concat())
                };
                // A command may end before it has read everything.
                if to.send(message).await.is_err() {
                    return;
                }
            }
            if protocol.starts_with("v5") {
                let _ = to.send(Message::binary(&b"\xff\0"[..])).await;
            }
        };
        let ((), ended) = tokio::join!(say, collect(from, base64));
        ended
    })
}

async fn collect(mut from: SplitStream<WebSocketStream<TcpStream>>, base64: bool) -> Ended {
    let mut ended = Ended::default();
    while let Some(message) = from.next().await {
        let message = message.expect("a message");
        if let Some((code, _)) = message.as_close() {
            assert_eq!(code, CloseCode::NORMAL_CLOSURE);
            return ended;
        }
        if message.is_ping() || message.is_pong() {
            continue;
        }
        assert_eq!(message.is_text(), base64);
        let (channel, payload) = message.as_payload().split_first().expect("a channel");
        let (channel, payload) = match base64 {
            true => (channel - b'0', BASE64_STANDARD.decode(payload).expect("base64")),
            false => (*channel, payload.to_vec()),
        };
        match channel {
            1 => &mut ended.stdout,
            2 => &mut ended.stderr,
            3 => &mut ended.status,
            other => panic!("channel {other}"),
        }
        .extend(payload);
    }
    panic!("no close frame: {ended:?}")
}

async fn connect(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let address = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let stream = TcpStream::connect(address.expect("a plain URL"))
        .await
        .expect("a connection");
    let builder = ClientBuilder::new()
        .uri(&url.replacen("http", "ws", 1))
        .expect("a URL")
        .add_header(SEC_WEBSOCKET_PROTOCOL, protocol.parse().expect("a header's value"))
        .expect("a header of the client's own");
    let (socket, response) = builder.connect_on(stream).await.expect("an upgrade");
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    assert_eq!(chosen.and_then(|chosen| chosen.to_str().ok()), Some(protocol));
    socket
}
