//! Registries: a reference and credentials to a session that serves manifests and blobs.
//!
//! Transport is reqwest, not oci-client: that one keeps the first credential per host, turns a failed login into an
//! anonymous request, reads manifests without a bound and never retries (`docs/decisions/0001-registry-transport.md`).
//! Credentials belong to one session and go to one host only.

mod auth;
mod client;
mod hosts;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;

pub use hosts::{Capability, Endpoint, HostsError};

use super::{content::sha256, manifest, reference::Reference};
use crate::model::{Auth, ErrorKind};
use client::Client;

/// Most bytes of a manifest or index.
const MOST_MANIFEST: usize = 4 << 20;
/// How long a body may stand still.
const STALL: Duration = Duration::from_secs(30);
/// How often a broken body is taken up again.
const RESUMES: u32 = 5;

/// Why a registry did not serve.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Hosts(#[from] HostsError),
    #[error("{what}: not found")]
    NotFound { what: String },
    #[error("{what}: the registry wants other credentials ({status})")]
    Denied { what: String, status: u16 },
    #[error("auth.auth: is not base64 of user:password")]
    BadAuth,
    #[error("{what}: login failed: {why}")]
    Login { what: String, why: String },
    /// The first word is the kubelet's (cri-api `ErrRegistryUnavailable`): it becomes the event's reason.
    #[error("RegistryUnavailable: {what}: {why}")]
    Unavailable { what: String, why: String },
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
}

impl RegistryError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Hosts(_) => ErrorKind::FailedPrecondition,
            Self::BadAuth => ErrorKind::InvalidArgument,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Denied { status: 403, .. } => ErrorKind::PermissionDenied,
            Self::Denied { .. } | Self::Login { .. } => ErrorKind::Unauthenticated,
            Self::Unavailable { .. } => ErrorKind::Named,
            Self::Invalid { .. } => ErrorKind::Internal,
        }
    }
}

/// Where to look for images; made for each pull.
pub struct Registry {
    hosts_dir: PathBuf,
}

impl Registry {
    /// With containerd's `hosts.toml` tree in `hosts_dir`, read when a reference is resolved.
    pub fn new(hosts_dir: &std::path::Path) -> Self {
        Self {
            hosts_dir: hosts_dir.to_owned(),
        }
    }

    /// A session for one repository: its endpoints in order, each with a client of its own.
    ///
    /// # Errors
    /// [`RegistryError::Hosts`] naming the file and key at fault.
    pub async fn resolve(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Session, RegistryError> {
        let endpoints = hosts::endpoints(&self.hosts_dir, &reference.registry)?;
        let credentials = auth::Credentials::of(auth, &reference.registry)?;
        let clients = endpoints
            .into_iter()
            // What a client of the CRI sends is for the registry it named, not for a mirror of it.
            .map(|endpoint| {
                let own = endpoint.is_server.then(|| credentials.clone()).flatten();
                Client::new(endpoint, &reference.repository, own).map(Arc::new)
            })
            .collect::<Result<_, _>>()?;
        Ok(Session {
            clients,
            repository: reference.repository.clone(),
            registry: reference.registry.clone(),
        })
    }
}

/// A manifest as it was served.
#[derive(Debug)]
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub media_type: String,
    pub digest: String,
}

/// One repository at its endpoints.
pub struct Session {
    clients: Vec<Arc<Client>>,
    repository: String,
    registry: String,
}

impl Session {
    /// A manifest or index by tag or digest; verified when it was asked for by digest.
    ///
    /// # Errors
    /// [`RegistryError`]: of the endpoint that got furthest.
    pub async fn manifest(&self, wanted: &str) -> Result<Fetched, RegistryError> {
        let capability = if wanted.starts_with("sha256:") {
            Capability::Pull
        } else {
            Capability::Resolve
        };
        let mut last = None;
        for client in self.clients.iter().filter(|client| client.endpoint.can(capability)) {
            match self.manifest_from(client, wanted).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => {
                    tracing::debug!(endpoint = %client.endpoint.url, %error, "next endpoint");
                    last = Some(more_telling(last, error));
                }
            }
        }
        Err(last.unwrap_or_else(|| self.nowhere(wanted)))
    }

    async fn manifest_from(&self, client: &Client, wanted: &str) -> Result<Fetched, RegistryError> {
        const ACCEPT: [&str; 4] = [
            manifest::OCI_INDEX,
            manifest::OCI_MANIFEST,
            manifest::DOCKER_LIST,
            manifest::DOCKER_MANIFEST,
        ];
        let path = format!("manifests/{wanted}");
        let response = client.get(&path, Some(&ACCEPT.join(", ")), None).await?;
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let media_type = header("content-type")
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let what = self.what(wanted);
        let mut body = response;
        let mut bytes = Vec::new();
        loop {
            let next = tokio::time::timeout(STALL, body.chunk()).await;
            let unavailable = |why: String| RegistryError::Unavailable {
                what: what.clone(),
                why,
            };
            let chunk = next
                .map_err(|_| unavailable("the body stalls".into()))?
                .map_err(|e| unavailable(client::why(&e)))?;
            let Some(chunk) = chunk else { break };
            if bytes.len() + chunk.len() > MOST_MANIFEST {
                return Err(RegistryError::Invalid {
                    what,
                    why: "the manifest has more than 4 MiB".into(),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        let digest = sha256(&bytes);
        if wanted.starts_with("sha256:") && wanted != digest {
            return Err(RegistryError::Invalid {
                what,
                why: format!("the manifest has digest {digest}"),
            });
        }
        Ok(Fetched {
            bytes,
            media_type,
            digest,
        })
    }

    /// A blob's bytes, as they come. The caller verifies its digest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn blob(&self, digest: &str, size: u64) -> Result<BlobStream, RegistryError> {
        let mut last = None;
        for client in self
            .clients
            .iter()
            .filter(|client| client.endpoint.can(Capability::Pull))
        {
            let path = format!("blobs/{digest}");
            match client.get(&path, None, None).await {
                Ok(response) => {
                    let what = self.what(digest);
                    return Ok(BlobStream {
                        client: client.clone(),
                        path,
                        what,
                        body: Some(response),
                        got: 0,
                        size,
                        resumes: 0,
                    });
                }
                Err(error) => last = Some(more_telling(last, error)),
            }
        }
        Err(last.unwrap_or_else(|| self.nowhere(digest)))
    }

    fn what(&self, wanted: &str) -> String {
        let separator = if wanted.starts_with("sha256:") { '@' } else { ':' };
        format!("{}/{}{separator}{wanted}", self.registry, self.repository)
    }

    fn nowhere(&self, wanted: &str) -> RegistryError {
        RegistryError::Unavailable {
            what: self.what(wanted),
            why: "no endpoint is configured for this".into(),
        }
    }
}

/// A body in pieces; goes on where it broke off.
pub struct BlobStream {
    client: Arc<Client>,
    path: String,
    what: String,
    body: Option<reqwest::Response>,
    got: u64,
    size: u64,
    resumes: u32,
}

impl BlobStream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`] when it breaks too often, [`RegistryError::Invalid`] when it does not end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let Some(body) = &mut self.body else {
                self.resume().await?;
                continue;
            };
            match tokio::time::timeout(STALL, body.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.got += chunk.len() as u64;
                    if self.got > self.size {
                        let why = format!("more than the {} bytes that its manifest says", self.size);
                        return Err(RegistryError::Invalid {
                            what: self.what.clone(),
                            why,
                        });
                    }
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) if self.got >= self.size => return Ok(None),
                _ => self.body = None,
            }
        }
    }

    async fn resume(&mut self) -> Result<(), RegistryError> {
        self.resumes += 1;
        if self.resumes > RESUMES {
            let why = format!(
                "the body broke off {RESUMES} times, last after {} of {} bytes",
                self.got, self.size
            );
            return Err(RegistryError::Unavailable {
                what: self.what.clone(),
                why,
            });
        }
        tokio::time::sleep(Duration::from_millis(100 << self.resumes)).await;
        tracing::debug!(blob = self.what, at = self.got, "resuming");
        let response = self
            .client
            .get(&self.path, None, (self.got > 0).then_some(self.got))
            .await?;
        if self.got > 0 && response.status() != reqwest::StatusCode::PARTIAL_CONTENT {
            let why = "the body broke off, and the registry cannot resume".to_owned();
            return Err(RegistryError::Unavailable {
                what: self.what.clone(),
                why,
            });
        }
        self.body = Some(response);
        Ok(())
    }
}

/// Of two endpoints' errors the one that says more: a refusal over an absence over a silence.
fn more_telling(before: Option<RegistryError>, now: RegistryError) -> RegistryError {
    let rank = |error: &RegistryError| match error {
        RegistryError::Denied { .. } | RegistryError::Login { .. } | RegistryError::Invalid { .. } => 2,
        RegistryError::NotFound { .. } => 1,
        _ => 0,
    };
    match before {
        Some(before) if rank(&before) > rank(&now) => before,
        _ => now,
    }
}
