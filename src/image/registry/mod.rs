//! Registries: a reference and credentials to a session that serves manifests and blobs.
//!
//! Transport is reqwest, not oci-client: that one keeps the first credential per host, turns a failed login into an
//! anonymous request, reads manifests without a bound and never retries (`docs/decisions/0001-registry-transport.md`).
//! Credentials belong to one session and go to one host only.
//!
//! Two kinds of files say where to ask (`docs/decisions/0018-mirrors.md`): `registries.conf` which repositories stand for a
//! name, and `hosts.toml` how each of their hosts is reached. A third, `registries.d`, says where GPG's signatures are.

mod auth;
mod auth_file;
mod blob;
mod client;
mod conf;
mod hosts;
mod lookaside;
mod registries_d;
mod session;
mod traffic;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use blob::BlobStream;
pub use conf::{Candidate, DEFAULT_PATH as DEFAULT_REGISTRIES_CONF, RegistriesConf};
pub use hosts::{Capability, Endpoint, Otherwise, endpoints};
pub use registries_d::DEFAULT_DIR as DEFAULT_REGISTRIES_DIR;
pub use session::{Fetched, Session, Told};
pub use traffic::{Bounds, Traffic};

use super::{ImageError, content::sha256, reference::Reference, shares::Asker};
use crate::model::{Auth, ErrorKind};
use auth::Credentials;
use auth_file::{AuthFile, Entry, Held, Namespaced};
use client::Client;

/// How long a body may stand still.
const STALL: Duration = Duration::from_secs(30);

/// What is wrong with a file that says where to ask, or as whom.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {why}", path.display())]
    Invalid { path: PathBuf, why: String },
}

/// Why a registry did not serve.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{what}: blocked by {rule}")]
    Blocked { what: String, rule: String },
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
            Self::File(_) => ErrorKind::FailedPrecondition,
            Self::Blocked { .. } => ErrorKind::PermissionDenied,
            Self::BadAuth => ErrorKind::InvalidArgument,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Denied { status: 403, .. } => ErrorKind::PermissionDenied,
            Self::Denied { .. } | Self::Login { .. } => ErrorKind::Unauthenticated,
            Self::Unavailable { .. } => ErrorKind::Named,
            Self::Invalid { .. } => ErrorKind::Internal,
        }
    }
}

/// Where the files are.
#[derive(Debug, Clone)]
pub struct Files {
    /// containerd's `hosts.toml` tree.
    pub hosts_dir: PathBuf,
    /// `registries.conf`; empty: none.
    pub registries_conf: PathBuf,
    /// Files that say where signatures are.
    pub registries_dir: PathBuf,
    /// Credentials of this node.
    pub auth_file: Option<PathBuf>,
    /// Credentials of namespaces, each for one pull.
    pub namespaced_auth_dir: Option<PathBuf>,
}

/// Where to look for images; made for each pull, from what the files say then.
pub struct Registry {
    hosts_dir: PathBuf,
    registries_dir: PathBuf,
    conf: RegistriesConf,
    auth_file: Option<AuthFile>,
}

/// What a name may mean, in the order to try.
///
/// # Errors
/// [`FileError`]; [`ImageError::Reference`] when it is none, or nothing says where to look for it.
pub fn candidates(registries_conf: &Path, text: &str) -> Result<Vec<Candidate>, ImageError> {
    RegistriesConf::load(registries_conf)
        .map_err(RegistryError::from)?
        .candidates(text)
}

/// For whom an image is pulled.
#[derive(Debug, Clone, Copy, Default)]
pub struct Puller<'a> {
    /// The CRI's credentials.
    pub auth: Option<&'a Auth>,
    /// Of the pod that the image is for.
    pub namespace: Option<&'a str>,
}

/// What becomes of a namespace's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// It is for one pull: this.
    Once,
    /// Nothing: it is only looked at.
    Never,
}

impl Registry {
    /// Reads what the files say about names, and the credentials that there are.
    ///
    /// # Errors
    /// [`FileError`] naming the file and key at fault.
    pub fn open(files: &Files, text: &str, puller: &Puller<'_>, taking: Taking) -> Result<Self, ImageError> {
        let whole: Reference = text.parse()?;
        // Before credentials are taken that a fault here would cost.
        let conf = RegistriesConf::load(&files.registries_conf).map_err(RegistryError::from)?;
        let of_namespace = files.namespaced_auth_dir.as_ref().zip(puller.namespace);
        let own = of_namespace.and_then(|(dir, namespace)| Namespaced::new(dir, namespace, &whole.name()));
        let mut auth_file = own
            .as_ref()
            .map_or(Ok(None), Namespaced::read)
            .map_err(RegistryError::from)?;
        if let Some(own) = own.filter(|_| taking == Taking::Once && auth_file.is_some()) {
            own.remove();
        }
        if let (None, Some(path)) = (&auth_file, &files.auth_file) {
            auth_file = AuthFile::read(path).map_err(RegistryError::from)?;
        }
        Ok(Self {
            hosts_dir: files.hosts_dir.clone(),
            registries_dir: files.registries_dir.clone(),
            conf,
            auth_file,
        })
    }

    /// What tells two who ask apart: all that their answers could depend on. No secret is to be read from it.
    pub fn fingerprint(&self, puller: &Puller<'_>) -> String {
        let auth = puller.auth.map(|auth| {
            [
                &auth.username,
                &auth.password.0,
                &auth.auth.0,
                &auth.server_address,
                &auth.identity_token.0,
                &auth.registry_token.0,
            ]
        });
        let file = self.auth_file.as_ref().map(AuthFile::digest);
        // Quoted, so that no two are written alike.
        sha256(format!("{:?} {auth:?} {file:?}", puller.namespace).as_bytes())
    }

    /// What a name may mean, in the order to try.
    ///
    /// # Errors
    /// [`ImageError::Reference`] when it is none, or nothing says where to look for it.
    pub fn candidates(&self, text: &str) -> Result<Vec<Candidate>, ImageError> {
        self.conf.candidates(text)
    }

    /// A session for one image: the places that may have it in their order, each with a client of its own. `asker` is
    /// the pull that it is for.
    ///
    /// # Errors
    /// [`RegistryError::File`] naming the file and key at fault, [`RegistryError::Blocked`].
    pub fn resolve(
        &self,
        reference: &Reference,
        auth: Option<&Auth>,
        traffic: &Arc<Traffic>,
        asker: Asker,
    ) -> Result<Session, RegistryError> {
        let mut blocked = Vec::new();
        let places = self.places(reference, &mut blocked)?;
        // The last is the image's own, behind its mirrors.
        if places.is_empty()
            && let Some(error) = blocked.pop()
        {
            return Err(error);
        }
        let clients = places.into_iter().map(|place| {
            let credentials = self.credentials(&place, reference, auth)?;
            Client::new(place, credentials, traffic.clone()).map(Arc::new)
        });
        Ok(Session {
            clients: clients.collect::<Result<_, _>>()?,
            blocked,
            registries_dir: self.registries_dir.clone(),
            reference: reference.clone(),
            traffic: traffic.clone(),
            asker,
        })
    }

    /// What is blocked goes to `blocked`: a table's own location, but not its mirrors, unless a table blocks their names.
    fn places(
        &self,
        reference: &Reference,
        blocked: &mut Vec<RegistryError>,
    ) -> Result<Vec<client::Place>, RegistryError> {
        let Some(rule) = self.conf.rule(reference) else {
            let endpoints = hosts::endpoints(&self.hosts_dir, &reference.registry, Otherwise::TlsUnlessLoopback)?;
            let places = endpoints.into_iter().map(|endpoint| client::Place {
                reference: reference.clone(),
                endpoint,
                rule: None,
            });
            return Ok(places.collect());
        };
        let mut places = Vec::new();
        for source in rule.sources(reference)? {
            let own = Some(rule).filter(|_| source.is_own);
            let by_name = self.conf.rule(&source.reference);
            if let Some(rule) = own.into_iter().chain(by_name).find(|rule| rule.is_blocked) {
                blocked.push(RegistryError::Blocked {
                    what: source.reference.to_string(),
                    rule: rule.to_string(),
                });
                continue;
            }
            let otherwise = match source.insecure {
                true => Otherwise::Insecure,
                false => Otherwise::Tls,
            };
            let endpoints = hosts::endpoints(&self.hosts_dir, &source.reference.registry, otherwise)?;
            places.extend(endpoints.into_iter().map(|endpoint| client::Place {
                reference: source.reference.clone(),
                endpoint,
                rule: Some(source.rule.clone()),
            }));
        }
        Ok(places)
    }

    /// Those of the host that is asked. What a client of the CRI sends without an address is for the registry that the
    /// image names, not for a mirror of it nor for what stands in its place.
    fn credentials(
        &self,
        place: &client::Place,
        reference: &Reference,
        auth: Option<&Auth>,
    ) -> Result<Option<Entry>, RegistryError> {
        let url = &place.endpoint.url;
        let host = match (place.endpoint.is_server, url.port()) {
            (true, _) => place.reference.registry.clone(),
            (false, Some(port)) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            (false, None) => url.host_str().unwrap_or_default().to_owned(),
        };
        let is_own = place.endpoint.is_server && place.reference.registry == reference.registry;
        let meant = auth.filter(|auth| is_own || !auth.server_address.is_empty());
        if let Some(credentials) = Credentials::of(meant, &host)? {
            return Ok(Some(Entry {
                credentials: Held::Ready(credentials),
                source: "the CRI's AuthConfig".into(),
            }));
        }
        match &self.auth_file {
            Some(file) => Ok(file.entry(&host, &place.reference.repository)?),
            None => Ok(None),
        }
    }
}
