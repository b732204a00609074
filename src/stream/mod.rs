//! HTTP face: exec, attach and port-forward, as kubelet and crictl stream them.
//!
//! ```text
//! connection ─▶ (TLS) ─▶ HTTP request ─▶ negotiate ─▶ token redeemed ─▶ 101 ─▶ carrier ─▶ session
//! ```
//! gRPC promises a call and names a URL with a token (`pod::Pods::promise`); whoever comes with the token gets the call,
//! once. `spdy` and `websocket` are the protocols without sockets, `wire` what they have in common, `carrier` moves
//! bytes, `remote_command` and `port_forward` serve calls. One task per connection from its first byte to its last:
//! nothing outlives it.

mod carrier;
mod negotiate;
mod port_forward;
mod remote_command;
pub mod spdy;
mod status;
mod tls;
pub mod websocket;
pub mod wire;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tracing::Instrument;

use crate::{
    model::chain,
    pod::{Pods, StreamCall},
    sys::accept::Connections,
};
use carrier::Client;
use negotiate::{Accepted, Refusal, negotiate};
use remote_command::Terms;
pub use tls::TlsError;

/// The streaming server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port; port 0: any. Whoever reaches it needs a token for everything, but the kubelet of the same node
    /// is the only one that has to.
    pub listen: SocketAddr,
    /// Seconds without a byte either way after which a session ends.
    pub idle_timeout_s: u64,
    /// Seconds that a client may take to open the streams of its call.
    pub creation_timeout_s: u64,
    /// Certificate and key; none: plain HTTP.
    pub tls: Option<tls::Config>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            idle_timeout_s: 4 * 60 * 60,
            creation_timeout_s: 30,
            tls: None,
        }
    }
}

/// Why the server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("stream.listen: {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("stream.tls")]
    Tls(#[from] TlsError),
}

/// A listening server.
pub struct Server {
    listener: TcpListener,
    tls: Option<tls::Tls>,
    base_url: String,
    times: Times,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Times {
    idle: Duration,
    creation: Duration,
}

impl Server {
    /// Listens; nobody is answered before [`Server::serve`].
    ///
    /// # Errors
    /// [`StreamError`] naming the address or the file.
    pub async fn bind(config: &Config) -> Result<Self, StreamError> {
        let tls = config.tls.clone().map(tls::Tls::open).transpose()?;
        let failed = |source| StreamError::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = reachable(listener.local_addr().map_err(failed)?);
        let scheme = if tls.is_some() { "https" } else { "http" };
        Ok(Self {
            listener,
            tls,
            base_url: format!("{scheme}://{address}"),
            times: Times {
                idle: Duration::from_secs(config.idle_timeout_s),
                creation: Duration::from_secs(config.creation_timeout_s),
            },
        })
    }

    /// What the URLs of calls begin with: `http://127.0.0.1:PORT`.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Serves until it is dropped, which ends every session.
    pub async fn serve(mut self, pods: Pods) {
        let mut connections = Connections::new(self.listener, MOST_WAITING);
        loop {
            let (socket, peer) = connections.accept().await;
            let connection = Connection {
                tls: self.tls.as_mut().map(tls::Tls::acceptor),
                pods: pods.clone(),
                times: self.times,
            };
            let span = tracing::info_span!("stream", %peer);
            let work = async move |place| match connection.session(socket).await {
                Ok(Some(session)) => {
                    drop(place);
                    session.run().await;
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(error = chain(&error), "no session"),
            };
            connections.serve(|place| work(place).instrument(span));
        }
    }
}

/// An address that a client on this node can connect to.
fn reachable(mut bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => bound.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => bound.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    bound
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("socket")]
    Socket(#[from] io::Error),
    #[error("HTTP")]
    Http(#[from] hyper::Error),
    #[error("the request took too long")]
    TooLong(#[from] tokio::time::error::Elapsed),
}

/// A connection on its way to a session.
struct Connection {
    tls: Option<TlsAcceptor>,
    pods: Pods,
    times: Times,
}

impl Connection {
    /// HTTP until a request is granted; `None` when none was.
    async fn session(self, socket: TcpStream) -> Result<Option<Session>, ConnectionError> {
        socket.set_nodelay(true)?;
        let twin = socket.as_fd().try_clone_to_owned()?;
        let (grant, mut granted) = mpsc::channel(1);
        let http = async {
            match &self.tls {
                None => self.http(socket, &grant).await,
                Some(acceptor) => self.http(acceptor.accept(socket).await?, &grant).await,
            }
        };
        timeout(REQUEST, http).await??;
        let Ok((accepted, call, upgrade)) = granted.try_recv() else {
            return Ok(None);
        };
        let client = Client {
            io: TokioIo::new(upgrade.await?),
            socket: twin,
            wire: accepted.wire,
        };
        Ok(Some(Session {
            accepted,
            call,
            client,
            pods: self.pods,
            times: self.times,
        }))
    }

    async fn http<S>(&self, socket: S, grant: &mpsc::Sender<Granted>) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request| std::future::ready(Ok::<_, hyper::Error>(self.answer(request, grant))));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        Ok(connection.with_upgrades().await?)
    }

    fn answer(&self, mut request: Request<Incoming>, grant: &mpsc::Sender<Granted>) -> Response<String> {
        let accepted = match negotiate(request.method(), request.uri().path(), request.headers()) {
            Ok(accepted) => accepted,
            Err(refusal) => return refuse(refusal),
        };
        let Some(call) = self.pods.redeem(accepted.kind, &accepted.token) else {
            let why = "there is no such call, or no longer";
            return refuse(Refusal::new(StatusCode::NOT_FOUND, why));
        };
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().extend(accepted.headers.iter().cloned());
        let upgrade = hyper::upgrade::on(&mut request);
        // A connection is upgraded once: nothing is asked after this.
        let _ = grant.try_send((accepted, call, upgrade));
        response
    }
}

/// What a request was granted.
type Granted = (Accepted, StreamCall, OnUpgrade);

fn refuse(refusal: Refusal) -> Response<String> {
    tracing::debug!(code = refusal.code.as_u16(), refusal.why, "refused");
    let mut response = Response::new(refusal.why + "\n");
    *response.status_mut() = refusal.code;
    for (name, value) in refusal.headers {
        response.headers_mut().append(name, value);
    }
    response
}

/// A call with its client.
struct Session {
    accepted: Accepted,
    call: StreamCall,
    client: Client<TokioIo<Upgraded>>,
    pods: Pods,
    times: Times,
}

impl Session {
    async fn run(self) {
        let (pods, times) = (self.pods, self.times);
        let kind = self.call.kind().as_str();
        let terms = |streams, tells_code| Terms {
            streams,
            resizes: self.accepted.resizes,
            status: self.accepted.status,
            tells_code,
            patience: times.creation,
        };
        let ended = match self.call {
            StreamCall::Exec {
                container,
                command,
                streams,
            } => {
                let serve =
                    |link| remote_command::serve(link, terms(streams, true), pods.exec(&container, command, streams));
                carrier::carry(self.client, times.idle, serve).await
            }
            StreamCall::Attach { container, streams } => {
                let serve = |link| remote_command::serve(link, terms(streams, false), pods.attach(&container, streams));
                carrier::carry(self.client, times.idle, serve).await
            }
            // The ports of the request are the kubelet's of old; every client names them stream by stream.
            StreamCall::PortForward { sandbox, .. } => {
                let serve = |link| port_forward::serve(link, pods, sandbox, times.creation);
                carrier::carry(self.client, times.idle, serve).await
            }
        };
        match ended {
            Ok(()) => tracing::debug!(kind, "session ended"),
            Err(error) => tracing::debug!(kind, error = chain(&error), "session cut short"),
        }
    }
}

/// Connections that have not made their request yet.
const MOST_WAITING: usize = 128;
/// How long a connection may take to make its request, TLS included.
const REQUEST: Duration = Duration::from_secs(30);
