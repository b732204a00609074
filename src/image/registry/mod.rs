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
mod traffic;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Response,
    header::{CONTENT_TYPE, LINK},
};

pub use blob::BlobStream;
pub use conf::{Candidate, DEFAULT_PATH as DEFAULT_REGISTRIES_CONF, RegistriesConf};
pub use hosts::{Capability, Endpoint, Otherwise, endpoints};
pub use registries_d::DEFAULT_DIR as DEFAULT_REGISTRIES_DIR;
pub use traffic::{Bounds, Traffic};

use super::{
    ImageError,
    content::sha256,
    manifest::{self, Descriptor, Document},
    reference::Reference,
    shares::{Asker, Place},
};
use crate::model::{Auth, ErrorKind};
use auth::Credentials;
use auth_file::{AuthFile, Entry, Held, Namespaced};
use blob::{Source, in_turn};
use client::Client;

/// Most bytes of a manifest or index.
const MOST_MANIFEST: usize = 4 << 20;
/// Most pages of a list of referrers.
const MOST_PAGES: usize = 16;
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

/// A manifest as it was served.
#[derive(Debug)]
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub media_type: String,
    pub digest: String,
}

/// One image at the places that may have it.
pub struct Session {
    clients: Vec<Arc<Client>>,
    /// Places that are not asked.
    blocked: Vec<RegistryError>,
    registries_dir: PathBuf,
    reference: Reference,
    traffic: Arc<Traffic>,
    asker: Asker,
}

/// A place of a session, as it is told to people.
#[derive(Debug)]
pub struct Told {
    /// What would be asked first: the manifest.
    pub url: String,
    /// The files and tables that name it.
    pub rules: Vec<String>,
    pub transport: &'static str,
    /// Where the credentials are from; `None`: there are none.
    pub credentials: Option<String>,
    /// Whether it would be asked for the manifest: `hosts.toml` may allow it content by digest only.
    pub is_asked: bool,
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
        let able = self.clients.iter().filter(|client| client.endpoint.can(capability));
        for client in in_turn(able) {
            match self.manifest_from(client, self.called(wanted, client)).await {
                Ok(fetched) if !wanted.starts_with("sha256:") || fetched.digest == wanted => return Ok(fetched),
                Ok(fetched) => {
                    let why = format!("the manifest has digest {}", fetched.digest);
                    let what = self.what(wanted);
                    last = Some(more_telling(last, RegistryError::Invalid { what, why }));
                }
                Err(error) => {
                    tracing::debug!(endpoint = %client.endpoint.url, %error, "next endpoint");
                    last = Some(more_telling(last, error));
                }
            }
        }
        Err(last.unwrap_or_else(|| self.nowhere(wanted)))
    }

    /// What a place has for the tag or digest: a rule may rename the one that the image was asked for by.
    fn called<'a>(&self, wanted: &'a str, client: &'a Client) -> &'a str {
        match wanted == self.reference.wanted() {
            true => client.reference.wanted(),
            false => wanted,
        }
    }

    /// The places that would have it but for a rule, as errors.
    pub fn blocked(&self) -> &[RegistryError] {
        &self.blocked
    }

    /// Its places in the order to ask.
    pub fn told(&self) -> Vec<Told> {
        let told = self.clients.iter().map(|client| {
            let endpoint = &client.endpoint;
            let wanted = client.reference.wanted();
            let capability = match wanted.starts_with("sha256:") {
                true => Capability::Pull,
                false => Capability::Resolve,
            };
            Told {
                url: client
                    .url(&format!("manifests/{wanted}"))
                    .map_or_else(|error| error.to_string(), |url| url.to_string()),
                rules: client.rule.iter().chain([&endpoint.rule]).cloned().collect(),
                transport: match (endpoint.url.scheme(), endpoint.skip_verify, &endpoint.or_plain) {
                    ("http", ..) => "insecure: plain HTTP",
                    (_, _, Some(_)) => "insecure: TLS with any certificate, else plain HTTP",
                    (_, true, None) => "insecure: TLS with any certificate",
                    _ => "TLS",
                },
                credentials: client.credentials.as_ref().map(|entry| entry.source.clone()),
                is_asked: endpoint.can(capability),
            }
        });
        told.collect()
    }

    /// Asks the place with this number, from zero, for the digest of the image's manifest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn digest_at(&self, place: usize) -> Result<String, RegistryError> {
        let client = &self.clients[place];
        let fetched = self.manifest_from(client, client.reference.wanted()).await?;
        Ok(fetched.digest)
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
        let media_type = media_type(&response);
        let what = self.what(wanted);
        let bytes = body(response, &what).await?;
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

    /// The manifests that refer to one and are meant by `is_wanted`, of the first place that has some.
    ///
    /// # Errors
    /// [`RegistryError`] when no place could say, as [`Self::manifest`] has it of an absent one: having none is none.
    pub async fn referrers(
        &self,
        digest: &str,
        is_wanted: impl Fn(&Descriptor) -> bool,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut last = None;
        let places = self.clients.iter();
        for client in in_turn(places.filter(|client| client.endpoint.can(Capability::Resolve))) {
            match self.referrers_at(client, digest).await {
                Ok(mut found) => {
                    found.retain(&is_wanted);
                    if !found.is_empty() {
                        return Ok(found);
                    }
                    let what = self.what(digest);
                    last = Some(more_telling(last, RegistryError::NotFound { what }));
                }
                Err(error) => {
                    tracing::debug!(endpoint = %client.endpoint.url, %error, "next endpoint");
                    last = Some(more_telling(last, error));
                }
            }
        }
        match last {
            None | Some(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            Some(error) => Err(error),
        }
    }

    /// Source: OCI distribution-spec 1.1, "Listing Referrers"; "Unavailable Referrers API" for registries without.
    async fn referrers_at(&self, client: &Client, digest: &str) -> Result<Vec<Descriptor>, RegistryError> {
        let what = self.what(digest);
        let mut path = format!("referrers/{digest}");
        let mut found = Vec::new();
        for page in 0..MOST_PAGES {
            let response = match client.get(&path, Some(manifest::OCI_INDEX), None).await {
                Ok(response) if media_type(&response) == manifest::OCI_INDEX => response,
                Err(error @ RegistryError::Unavailable { .. }) => return Err(error),
                Err(error) if page > 0 => return Err(error),
                // It may say in many ways that it does not know this API.
                Ok(_) | Err(_) => return self.referrers_by_tag(client, digest).await,
            };
            let next = next_page(&response);
            let bytes = body(response, &what).await?;
            found.extend(index(&bytes, manifest::OCI_INDEX, &what)?);
            match next {
                // The rest is this path, whatever the registry says.
                Some(query) => path = format!("referrers/{digest}?{query}"),
                None => break,
            }
        }
        Ok(found)
    }

    async fn referrers_by_tag(&self, client: &Client, digest: &str) -> Result<Vec<Descriptor>, RegistryError> {
        let tag = digest.replacen(':', "-", 1);
        match self.manifest_from(client, &tag).await {
            Ok(fetched) => index(&fetched.bytes, &fetched.media_type, &self.what(&tag)),
            Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// A blob's bytes, as they come. The caller verifies its digest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn blob(&self, digest: &str, size: u64) -> Result<BlobStream, RegistryError> {
        let place = self.place().await;
        self.blob_from(digest, size, 0, place).await
    }

    /// The same of a short one, whole.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn short_blob(&self, digest: &str, size: u64) -> Result<Vec<u8>, RegistryError> {
        let mut stream = self.blob(digest, size).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Waits for a place among all that is fetched.
    pub async fn place(&self) -> Place {
        self.traffic.connections.take(self.asker).await
    }

    /// The same from `at` on, by who has a place already.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn blob_from(&self, digest: &str, size: u64, at: u64, place: Place) -> Result<BlobStream, RegistryError> {
        let able = self
            .clients
            .iter()
            .filter(|client| client.endpoint.can(Capability::Pull));
        let source = Source {
            clients: able.cloned().collect(),
            path: format!("blobs/{digest}"),
            what: self.what(digest),
            size,
            traffic: self.traffic.clone(),
            asker: self.asker,
        };
        BlobStream::open(source, at, place).await
    }

    fn what(&self, wanted: &str) -> String {
        let separator = if wanted.starts_with("sha256:") { '@' } else { ':' };
        format!("{}{separator}{wanted}", self.reference.name())
    }

    fn nowhere(&self, wanted: &str) -> RegistryError {
        RegistryError::Unavailable {
            what: self.what(wanted),
            why: "no endpoint is configured for this".into(),
        }
    }
}

/// Its media type without parameters.
fn media_type(response: &Response) -> String {
    let header = response.headers().get(CONTENT_TYPE);
    let text = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

/// All of a document, which is short.
async fn body(mut response: Response, what: &str) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    loop {
        let next = tokio::time::timeout(STALL, response.chunk()).await;
        let unavailable = |why: String| RegistryError::Unavailable {
            what: what.to_owned(),
            why,
        };
        let chunk = next
            .map_err(|_| unavailable("the body stalls".into()))?
            .map_err(|e| unavailable(client::why(&e)))?;
        let Some(chunk) = chunk else { return Ok(bytes) };
        if bytes.len() + chunk.len() > MOST_MANIFEST {
            return Err(RegistryError::Invalid {
                what: what.to_owned(),
                why: "it has more than 4 MiB".into(),
            });
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// What an index names.
fn index(bytes: &[u8], media_type: &str, what: &str) -> Result<Vec<Descriptor>, RegistryError> {
    let invalid = |why: String| RegistryError::Invalid {
        what: what.to_owned(),
        why,
    };
    match manifest::parse(bytes, media_type) {
        Ok(Document::Index(found)) => Ok(found),
        Ok(Document::Image { .. } | Document::Artifact(_)) => Err(invalid("it is no index".into())),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// The query of the page after this one. Source: RFC 8288, as the distribution-spec uses it.
fn next_page(response: &Response) -> Option<String> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
    let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
    let next = parameters.split(';').any(is_next).then_some(target)?;
    let next = response.url().join(next).ok()?;
    next.query().map(str::to_owned)
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
