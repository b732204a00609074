//! Signatures that are neither manifests nor blobs: GPG's, in a storage beside the registry, or from an API that some
//! registries have besides their own.
//!
//! A storage is a folder, or one of an HTTP server, with `REPOSITORY@sha256=HEX/signature-N` in it, N from 1 on. It gets no
//! credentials. Sources: containers/image, `docs/signature-protocols.md`, `docker/docker_image_src.go`.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{
    Capability, Client, FileError, RegistryError, Session, client,
    hosts::Endpoint,
    registries_d::{Lookaside, RegistriesD},
    session::{MOST_MANIFEST, body, more_telling},
};
use crate::image::reference::Reference;

impl Session {
    /// The signatures of a manifest or index, at most `most`, in the first storage beside its places that has some.
    ///
    /// # Errors
    /// [`RegistryError`] naming the file or URL at fault, when no storage could say; having none is none.
    pub async fn lookaside(&self, digest: &str, most: usize) -> Result<Vec<Vec<u8>>, RegistryError> {
        let files = RegistriesD::load(&self.registries_dir)?;
        let mut last = None;
        for name in self.names() {
            match self.in_storage(files.lookaside(name)?, name, digest, most).await {
                Ok(signatures) if !signatures.is_empty() => return Ok(signatures),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%name, %error, "next storage");
                    last = Some(more_telling(last, error));
                }
            }
        }
        last.map_or(Ok(Vec::new()), Err)
    }

    async fn in_storage(
        &self,
        storage: Lookaside,
        name: &Reference,
        digest: &str,
        most: usize,
    ) -> Result<Vec<Vec<u8>>, RegistryError> {
        let folder = format!("{}@{}", name.repository, digest.replacen(':', "=", 1));
        match storage {
            Lookaside::Folder(base) => Ok(in_folder(&base.join(folder), most)?),
            Lookaside::Web(url, rule) => {
                let place = client::Place {
                    reference: name.clone(),
                    endpoint: Endpoint::of_files(url, rule),
                    rule: None,
                };
                let client = Client::new(place, None, self.traffic.clone())?;
                on_server(&client, &folder, most).await
            }
        }
    }

    /// What it is called where it may come from, by which containers/image asks; then its own name.
    fn names(&self) -> Vec<&Reference> {
        let mut names: Vec<&Reference> = Vec::new();
        for name in self
            .clients
            .iter()
            .map(|client| &client.reference)
            .chain([&self.reference])
        {
            if names.iter().all(|known| known.name() != name.name()) {
                names.push(name);
            }
        }
        names
    }

    /// The signatures of a manifest or index, of the first place that has OpenShift's API for them and some.
    ///
    /// # Errors
    /// [`RegistryError`] when no place could say, as with [`Self::referrers`]: having neither the API nor signatures is none.
    pub async fn extension_signatures(&self, digest: &str) -> Result<Vec<Vec<u8>>, RegistryError> {
        let able = |client: &&Arc<Client>| is_registry(client);
        self.first_with_some(digest, able, |client| signatures_at(client, digest))
            .await
    }
}

/// A place whose path `hosts.toml` gives in full has none for anything else.
fn is_registry(client: &Arc<Client>) -> bool {
    client.endpoint.can(Capability::Resolve) && !client.endpoint.override_path
}

/// They are numbered: the first that is not there is the end.
fn in_folder(folder: &Path, most: usize) -> Result<Vec<Vec<u8>>, FileError> {
    let mut signatures = Vec::new();
    for number in 1..=most {
        match read(folder.join(format!("signature-{number}"))) {
            Ok(bytes) => signatures.push(bytes),
            Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(signatures)
}

fn read(path: PathBuf) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MOST_MANIFEST as u64).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(source) => Err(FileError::Read { path, source }),
    }
}

async fn on_server(client: &Client, folder: &str, most: usize) -> Result<Vec<Vec<u8>>, RegistryError> {
    let mut signatures = Vec::new();
    for number in 1..=most {
        let path = format!("/{folder}/signature-{number}");
        match client.get(&path, None, None).await {
            Ok(response) => signatures.push(body(response, client.url(&path)?.as_str()).await?),
            Err(RegistryError::NotFound { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(signatures)
}

/// Source: containers/image, `docker/docker_client.go`, `getExtensionsSignatures`.
async fn signatures_at(client: &Client, digest: &str) -> Result<Vec<Vec<u8>>, RegistryError> {
    let has_api = match client.get("/v2/", None, None).await {
        Ok(response) => response.headers().get(SUPPORTED).is_some_and(|value| value == "1"),
        Err(error @ RegistryError::Unavailable { .. }) => return Err(error),
        // What does not even say that it is a registry has no API besides.
        Err(_) => false,
    };
    if !has_api {
        return Ok(Vec::new());
    }
    let path = format!("/extensions/v2/{}/signatures/{digest}", client.reference.repository);
    let what = client.url(&path)?.to_string();
    let response = match client.get(&path, None, None).await {
        Ok(response) => response,
        Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let list = body(response, &what).await?;
    let invalid = |why: String| RegistryError::Invalid {
        what: what.clone(),
        why,
    };
    let list: ListJson = serde_json::from_slice(&list).map_err(|error| invalid(error.to_string()))?;
    let gpg = list.signatures.iter().filter(|signature| signature.is_gpg());
    gpg.map(|signature| STANDARD.decode(&signature.content))
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("a signature is not base64: {error}")))
}

#[derive(Deserialize)]
struct ListJson {
    signatures: Vec<SignatureJson>,
}

#[derive(Deserialize)]
struct SignatureJson {
    #[serde(rename = "schemaVersion", default)]
    version: i64,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    content: String,
}

impl SignatureJson {
    fn is_gpg(&self) -> bool {
        self.version == 2 && self.kind == "atomic"
    }
}

const SUPPORTED: &str = "x-registry-supports-signatures";
