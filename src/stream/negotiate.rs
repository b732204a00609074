//! What an HTTP request asks for, and whether it may have it; nothing is redeemed here.
//!
//! `GET|POST /{exec,attach,portforward}/TOKEN`, upgraded to SPDY/3.1 or to a WebSocket. `Origin` says nothing here: the API
//! server and the kubelet hand on that of their client, a dashboard's too. A page that reaches a loopback address
//! through its visitor's browser has no token.

use hyper::{
    HeaderMap, Method, StatusCode,
    header::{CONNECTION, HeaderName, HeaderValue, UPGRADE},
};

use super::{status, websocket, websocket::channels, wire::Wire};
use crate::pod::StreamKind;

/// A request that can be fulfilled, if its token is good.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    pub kind: StreamKind,
    pub token: String,
    pub wire: Wire,
    /// How the error stream of a remote command is written.
    pub status: status::Form,
    /// Whether a terminal's size comes on a stream of its own.
    pub resizes: bool,
    /// Headers of the answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: StatusCode,
    pub why: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub fn new(code: StatusCode, why: impl Into<String>) -> Self {
        Self {
            code,
            why: why.into(),
            headers: Vec::new(),
        }
    }
}

/// What a request asks for.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn negotiate(method: &Method, path: &str, headers: &HeaderMap) -> Result<Accepted, Refusal> {
    let (kind, token) = place(path).ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is nothing here"))?;
    if !matches!(*method, Method::GET | Method::POST) {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "GET or POST"));
    }
    if !lists(headers, &CONNECTION, "upgrade") {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "Connection: Upgrade is missing"));
    }
    let (offer, common, mut answer) = if lists(headers, &UPGRADE, "spdy/3.1") {
        let (offer, common) = spdy(kind, headers)?;
        let upgrade = (UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        (offer, common, vec![upgrade])
    } else if lists(headers, &UPGRADE, "websocket") {
        over_websocket(kind, headers)?
    } else {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "Upgrade is neither SPDY/3.1 nor websocket",
        ));
    };
    answer.push((CONNECTION, HeaderValue::from_static("Upgrade")));
    answer.extend(common);
    Ok(Accepted {
        kind,
        token: token.to_owned(),
        wire: offer.wire,
        status: offer.status,
        resizes: offer.resizes,
        headers: answer,
    })
}

/// A protocol that we speak.
#[derive(Debug, Clone, Copy)]
struct Offer {
    name: &'static str,
    wire: Wire,
    status: status::Form,
    resizes: bool,
}

/// The headers of the answer that name the protocol.
type Named = Option<(HeaderName, HeaderValue)>;

fn spdy(kind: StreamKind, headers: &HeaderMap) -> Result<(Offer, Named), Refusal> {
    let ours = match kind {
        StreamKind::Exec | StreamKind::Attach => SPDY_COMMAND,
        StreamKind::PortForward => SPDY_FORWARD,
    };
    let mut asked = words(headers, &PROTOCOL_VERSION).peekable();
    if asked.peek().is_none() {
        let why = format!("{} is missing", PROTOCOL_VERSION.as_str());
        return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
    }
    let offer = first_common(asked, ours).ok_or_else(|| none_common(&ACCEPTED_VERSIONS, ours))?;
    Ok((offer, named(&PROTOCOL_VERSION, offer)))
}

type Upgraded = (Offer, Named, Vec<(HeaderName, HeaderValue)>);

fn over_websocket(kind: StreamKind, headers: &HeaderMap) -> Result<Upgraded, Refusal> {
    let bad = |why: &str| Refusal::new(StatusCode::BAD_REQUEST, why);
    if !lists(headers, &WS_VERSION, "13") {
        let mut refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13");
        refusal
            .headers
            .push((WS_VERSION.clone(), HeaderValue::from_static("13")));
        return Err(refusal);
    }
    let key = headers.get(&WS_KEY).and_then(|key| key.to_str().ok());
    let key = key
        .filter(|key| websocket::is_key(key))
        .ok_or_else(|| bad("Sec-WebSocket-Key is missing or is none"))?;
    let mut asked = words(headers, &WS_PROTOCOL).peekable();
    let (offer, name) = match kind {
        // From before subprotocols; what has no name is not named in the answer.
        StreamKind::Exec | StreamKind::Attach if asked.peek().is_none() => (WS_UNNAMED, None),
        StreamKind::Exec | StreamKind::Attach => choose_websocket(asked, WS_COMMAND)?,
        StreamKind::PortForward => choose_websocket(asked, WS_FORWARD)?,
    };
    let accept = HeaderValue::from_str(&websocket::accept_key(key)).map_err(|_| bad("Sec-WebSocket-Key is none"))?;
    let upgrade = (UPGRADE, HeaderValue::from_static("websocket"));
    Ok((offer, name, vec![upgrade, (WS_ACCEPT.clone(), accept)]))
}

fn choose_websocket<'a>(
    asked: impl Iterator<Item = &'a str>,
    ours: &'static [Offer],
) -> Result<(Offer, Named), Refusal> {
    let offer = first_common(asked, ours).ok_or_else(|| none_common(&WS_PROTOCOL, ours))?;
    Ok((offer, named(&WS_PROTOCOL, offer)))
}

/// What is asked for by whom: `/exec/TOKEN`.
fn place(path: &str) -> Option<(StreamKind, &str)> {
    let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
    let kinds = [StreamKind::Exec, StreamKind::Attach, StreamKind::PortForward];
    let kind = kinds.into_iter().find(|known| known.as_str() == kind)?;
    (!token.is_empty() && !token.contains('/')).then_some((kind, token))
}

/// The client's order decides.
fn first_common<'a>(mut asked: impl Iterator<Item = &'a str>, ours: &[Offer]) -> Option<Offer> {
    asked.find_map(|name| ours.iter().find(|offer| offer.name == name).copied())
}

fn none_common(header: &HeaderName, ours: &[Offer]) -> Refusal {
    let mut refusal = Refusal::new(StatusCode::FORBIDDEN, "no protocol in common");
    let names = ours
        .iter()
        .map(|offer| (header.clone(), HeaderValue::from_static(offer.name)));
    refusal.headers.extend(names);
    refusal
}

fn named(header: &HeaderName, offer: Offer) -> Named {
    Some((header.clone(), HeaderValue::from_static(offer.name)))
}

/// The words of a header, which may come several times and hold several each.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().flat_map(|value| value.to_str());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name).any(|known| known.eq_ignore_ascii_case(word))
}

static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
static ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
static WS_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
static WS_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
static WS_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
static WS_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");

const fn offer(name: &'static str, wire: Wire, status: status::Form, resizes: bool) -> Offer {
    Offer {
        name,
        wire,
        status,
        resizes,
    }
}

/// Version 2 told stdout from stderr, 3 brought resizing, 4 the status in JSON.
/// Source: `k8s.io/apimachinery/pkg/util/remotecommand/constants.go`.
const SPDY_COMMAND: &[Offer] = &[
    offer("v4.channel.k8s.io", Wire::Spdy, status::Form::Json, true),
    offer("v3.channel.k8s.io", Wire::Spdy, status::Form::Text, true),
    offer("v2.channel.k8s.io", Wire::Spdy, status::Form::Text, false),
    offer("channel.k8s.io", Wire::Spdy, status::Form::Text, false),
];
const SPDY_FORWARD: &[Offer] = &[offer("portforward.k8s.io", Wire::Spdy, status::Form::Text, false)];

const V5: Wire = Wire::Channels(channels::Form::Binary { closes: true });
const BINARY: Wire = Wire::Channels(channels::Form::Binary { closes: false });
const BASE64: Wire = Wire::Channels(channels::Form::Base64);
const WS_UNNAMED: Offer = offer("channel.k8s.io", BINARY, status::Form::Text, true);
/// Version 5 brought the closing of a channel; it is for WebSocket only.
const WS_COMMAND: &[Offer] = &[
    offer("v5.channel.k8s.io", V5, status::Form::Json, true),
    offer("v4.channel.k8s.io", BINARY, status::Form::Json, true),
    offer("v4.base64.channel.k8s.io", BASE64, status::Form::Json, true),
    WS_UNNAMED,
    offer("base64.channel.k8s.io", BASE64, status::Form::Text, true),
];
const WS_FORWARD: &[Offer] = &[offer(
    "SPDY/3.1+portforward.k8s.io",
    Wire::Tunnel,
    status::Form::Text,
    false,
)];

#[cfg(test)]
mod test {
    use super::*;

    fn ask(method: Method, path: &str, lines: &[(&'static str, &str)]) -> Result<Accepted, Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        negotiate(&method, path, &headers)
    }

    const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    const WS: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_clients_order_decides() {
        let version = |value| {
            ask(
                Method::POST,
                "/exec/t0k3n",
                &[&SPDY[..], &[("x-stream-protocol-version", value)]].concat(),
            )
        };
        let accepted = version("v5.channel.k8s.io, v3.channel.k8s.io,v4.channel.k8s.io").unwrap();
        assert_eq!((accepted.kind, accepted.token.as_str()), (StreamKind::Exec, "t0k3n"));
        assert_eq!(
            (accepted.wire, accepted.status, accepted.resizes),
            (Wire::Spdy, status::Form::Text, true)
        );
        let named = (PROTOCOL_VERSION.clone(), HeaderValue::from_static("v3.channel.k8s.io"));
        assert!(accepted.headers.contains(&named), "{:?}", accepted.headers);
        let several = [
            &SPDY[..],
            &[
                ("x-stream-protocol-version", "v9"),
                ("x-stream-protocol-version", "v2.channel.k8s.io"),
            ],
        ]
        .concat();
        assert!(!ask(Method::GET, "/attach/t", &several).unwrap().resizes);
    }

    #[test]
    fn websockets_have_their_own_protocols() {
        let protocol = |path, value| {
            ask(
                Method::GET,
                path,
                &[&WS[..], &[("sec-websocket-protocol", value)]].concat(),
            )
        };
        for (name, wire, status) in [
            ("v5.channel.k8s.io", V5, status::Form::Json),
            ("v4.channel.k8s.io", BINARY, status::Form::Json),
            ("v4.base64.channel.k8s.io", BASE64, status::Form::Json),
            ("channel.k8s.io", BINARY, status::Form::Text),
            ("base64.channel.k8s.io", BASE64, status::Form::Text),
        ] {
            let accepted = protocol("/exec/t", name).unwrap();
            assert_eq!((accepted.wire, accepted.status), (wire, status), "{name}");
            assert!(
                accepted
                    .headers
                    .contains(&(WS_PROTOCOL.clone(), HeaderValue::from_static(name)))
            );
            let key = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            assert!(accepted.headers.contains(&(WS_ACCEPT.clone(), key)));
        }
        let tunnel = protocol("/portforward/t", "SPDY/3.1+portforward.k8s.io").unwrap();
        assert_eq!(tunnel.wire, Wire::Tunnel);
        let unnamed = ask(Method::GET, "/exec/t", &WS).unwrap();
        assert!(unnamed.wire == BINARY && !unnamed.headers.iter().any(|(name, _)| *name == WS_PROTOCOL));
    }

    #[test]
    fn what_is_refused_and_with_which_code() {
        let versioned = [&SPDY[..], &[("x-stream-protocol-version", "v4.channel.k8s.io")]].concat();
        let without = |name: &str| WS.into_iter().filter(|(known, _)| *known != name).collect::<Vec<_>>();
        let unknown = [&SPDY[..], &[("x-stream-protocol-version", "v9")]].concat();
        let alien = [&WS[..], &[("sec-websocket-protocol", "chat")]].concat();
        type Row = (
            &'static str,
            Method,
            &'static str,
            Vec<(&'static str, &'static str)>,
            u16,
        );
        let rows: &[Row] = &[
            ("another place", Method::GET, "/x/t", versioned.clone(), 404),
            ("no token", Method::GET, "/exec/", versioned.clone(), 404),
            ("more than a token", Method::GET, "/exec/a/b", versioned.clone(), 404),
            ("another method", Method::PUT, "/exec/t", versioned.clone(), 405),
            ("no upgrade", Method::GET, "/exec/t", vec![], 400),
            (
                "another upgrade",
                Method::GET,
                "/exec/t",
                vec![SPDY[0], ("upgrade", "h2c")],
                400,
            ),
            ("no version", Method::GET, "/exec/t", SPDY.to_vec(), 400),
            ("no version in common", Method::GET, "/exec/t", unknown, 403),
            (
                "forwarding with another",
                Method::GET,
                "/portforward/t",
                versioned.clone(),
                403,
            ),
            (
                "no WebSocket version",
                Method::GET,
                "/exec/t",
                without("sec-websocket-version"),
                426,
            ),
            ("no key", Method::GET, "/exec/t", without("sec-websocket-key"), 400),
            ("no protocol in common", Method::GET, "/exec/t", alien, 403),
            (
                "forwarding without a protocol",
                Method::GET,
                "/portforward/t",
                WS.to_vec(),
                403,
            ),
        ];
        for (name, method, path, headers, code) in rows {
            let refusal = ask(method.clone(), path, headers).expect_err(name);
            assert_eq!(refusal.code.as_u16(), *code, "{name}: {refusal:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_would_be_accepted() {
        let unknown = [&SPDY[..], &[("x-stream-protocol-version", "v9")]].concat();
        let refusal = ask(Method::GET, "/exec/t", &unknown).unwrap_err();
        let names: Vec<_> = refusal
            .headers
            .iter()
            .map(|(_, value)| value.to_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "v4.channel.k8s.io",
                "v3.channel.k8s.io",
                "v2.channel.k8s.io",
                "channel.k8s.io"
            ]
        );
        assert!(refusal.headers.iter().all(|(name, _)| *name == ACCEPTED_VERSIONS));
    }
}
