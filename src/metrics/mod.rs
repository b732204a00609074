//! HTTP face for Prometheus: `GET /metrics`, in the OpenMetrics text format.
//!
//! Off unless the configuration has an address: then nothing listens, nothing is observed and nothing is counted.
//! [`Durations`] are told of as they happen; everything else is looked at when somebody asks. One request a connection.

mod census;
mod durations;
mod own;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode, header, header::HeaderValue, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use prometheus_client::{encoding::text, metrics::info::Info, registry::Registry};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{image::Images, pod::Pods, sys::accept::Connections};
use census::{Census, Gauges};
pub use durations::Durations;
use own::OwnProcess;

/// The Prometheus endpoint.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port; none: no endpoint. Whoever reaches it may read: it tells how many and how long, and names neither
    /// pods nor images.
    pub listen: Option<SocketAddr>,
}

/// Why the endpoint does not listen.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("metrics.listen: {address}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// A listening endpoint.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    durations: Durations,
}

impl Server {
    /// Listens, if the configuration has an address; nobody is answered before [`Server::serve`].
    ///
    /// # Errors
    /// [`MetricsError`] naming the key and the address.
    pub async fn bind(config: &Config) -> Result<Option<Self>, MetricsError> {
        let Some(address) = config.listen else { return Ok(None) };
        let failed = |source| MetricsError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Ok(Some(Self {
            address: listener.local_addr().map_err(failed)?,
            listener,
            durations: Durations::default(),
        }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is to be told of calls and their stages.
    pub fn durations(&self) -> Durations {
        self.durations.clone()
    }

    /// Serves until it is dropped, which ends every connection.
    pub async fn serve(self, pods: Pods, images: Images) {
        let registry = registry(&self.durations, move || Census::take(&pods, &images));
        let registry = Arc::new(registry);
        let mut connections = Connections::new(self.listener, MOST);
        loop {
            let (socket, _) = connections.accept().await;
            let registry = registry.clone();
            connections.serve(async move |_place| connection(socket, registry).await);
        }
    }
}

/// Everything that is told; `census` counts what there is.
fn registry(durations: &Durations, census: impl Fn() -> Census + Send + Sync + 'static) -> Registry {
    let mut registry = Registry::default();
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("inro_build", "The program that answers", version);
    durations.register(&mut registry);
    registry.register_collector(Box::new(Gauges::new(census)));
    registry.register_collector(Box::new(OwnProcess));
    registry
}

/// One request. A client that breaks off or takes too long has lost its answer and nothing else.
async fn connection(socket: TcpStream, registry: Arc<Registry>) {
    let service = service_fn(|request| std::future::ready(Ok::<_, hyper::Error>(answer(&request, &registry))));
    let http = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service);
    match timeout(REQUEST, http).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "metrics were not fetched"),
        Err(_) => tracing::debug!("who connected for metrics took too long"),
    }
}

fn answer<B>(request: &Request<B>, registry: &Registry) -> Response<String> {
    let plain = |status, text: &str| {
        let mut response = Response::new(text.to_owned());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "only /metrics is here\n");
    }
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let mut page = String::new();
    // Only the writer can fail, and a string does not.
    let _ = text::encode(&mut page, registry);
    let mut response = Response::new(page);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    response
}

const PATH: &str = "/metrics";
/// Source: OpenMetrics 1.0, "Protocol Negotiation".
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections at once. When there are more, the oldest goes: one who only connects keeps nobody out.
const MOST: usize = 16;
/// How long a connection may take, from the first byte to the last.
const REQUEST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod test;
