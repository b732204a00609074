//! One image at the places that may have it: manifests, what refers to them, and blobs.

use std::{path::PathBuf, sync::Arc};

use reqwest::{
    Response,
    header::{CONTENT_TYPE, LINK},
};

use super::{
    RegistryError, STALL,
    blob::{BlobStream, Source, in_turn},
    client::{self, Client},
    hosts::Capability,
    traffic::Traffic,
};
use crate::image::{
    content::sha256,
    manifest::{self, Descriptor, Document},
    reference::Reference,
    shares::{Asker, Place},
};

/// Most bytes of a manifest or index.
pub(super) const MOST_MANIFEST: usize = 4 << 20;
/// Most pages of a list of referrers.
const MOST_PAGES: usize = 16;

/// A manifest as it was served.
#[derive(Debug)]
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub media_type: String,
    pub digest: String,
}

/// One image at the places that may have it.
pub struct Session {
    pub(super) clients: Vec<Arc<Client>>,
    /// Places that are not asked.
    pub(super) blocked: Vec<RegistryError>,
    pub(super) registries_dir: PathBuf,
    pub(super) reference: Reference,
    pub(super) traffic: Arc<Traffic>,
    pub(super) asker: Asker,
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
        is_wanted: impl Fn(&Descriptor) -> bool + Sync,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let is_wanted = &is_wanted;
        let able = |client: &&Arc<Client>| client.endpoint.can(Capability::Resolve);
        self.first_with_some(digest, able, |client| async move {
            let mut found = self.referrers_at(client, digest).await?;
            found.retain(is_wanted);
            Ok(found)
        })
        .await
    }

    /// What the first of the places has of `digest` that has any; nothing when those that could say have none.
    pub(super) async fn first_with_some<'a, T, F>(
        &'a self,
        digest: &str,
        able: impl Fn(&&Arc<Client>) -> bool,
        ask: impl Fn(&'a Client) -> F,
    ) -> Result<Vec<T>, RegistryError>
    where
        F: Future<Output = Result<Vec<T>, RegistryError>>,
    {
        let mut last = None;
        for client in in_turn(self.clients.iter().filter(able)) {
            let error = match ask(client).await {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => RegistryError::NotFound {
                    what: self.what(digest),
                },
                Err(error) => {
                    tracing::debug!(endpoint = %client.endpoint.url, %error, "next endpoint");
                    error
                }
            };
            last = Some(more_telling(last, error));
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

    pub(super) fn what(&self, wanted: &str) -> String {
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
pub(super) async fn body(mut response: Response, what: &str) -> Result<Vec<u8>, RegistryError> {
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
pub(super) fn more_telling(before: Option<RegistryError>, now: RegistryError) -> RegistryError {
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
