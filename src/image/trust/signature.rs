//! Signatures of an image, in each form that they come in: where they are found, and what they say.

use serde::{Deserialize, Serialize};

use super::{bundle, cosign, gpg, signers::Signers};
use crate::image::{
    content::sha256,
    manifest::Descriptor,
    reference::check_digest,
    registry::{RegistryError, Session},
};

/// A signature with what was signed: both unverified. Each form has keys of its own in the image's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Signature {
    Cosign(cosign::Signature),
    Bundle(bundle::Bundle),
    Gpg(gpg::Signature),
}

/// What a signature says.
#[derive(Debug)]
pub struct Claim {
    /// Digests of the manifests or indexes that are meant.
    pub documents: Vec<String>,
    /// Its name; `None`: this form of signature has none.
    pub reference: Option<String>,
}

impl Signature {
    /// What it says if one of the signers made it, and which. Nothing of what was signed is looked at before that.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn claim(&self, signers: &Signers) -> Result<(Claim, String), String> {
        match self {
            Self::Cosign(signature) => signature.claim(signers),
            Self::Bundle(bundle) => bundle.claim(signers),
            Self::Gpg(signature) => signature.claim(signers),
        }
    }

    /// Whether it is of a kind that the signers could have made.
    pub fn is_for(&self, signers: &Signers) -> bool {
        matches!(self, Self::Gpg(_)) == signers.use_gpg()
    }
}

/// Where signatures are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// cosign's tag `sha256-<hex>.sig`.
    Tag,
    /// Manifests that refer to the signed one: what cosign 3 writes.
    Referrers,
    /// A storage beside the registry, of which `registries.d` knows: GPG's.
    Lookaside,
    /// An API that some registries have for GPG's.
    Extension,
}

impl Place {
    pub const ALL: [Self; 4] = [Self::Tag, Self::Referrers, Self::Lookaside, Self::Extension];
    pub const SIGSTORE: &[Self] = &[Self::Tag, Self::Referrers];
    pub const GPG: &[Self] = &[Self::Lookaside, Self::Extension];
}

/// Signatures of an image, and why others that are there are none.
#[derive(Debug, Default)]
pub struct Signatures {
    pub usable: Vec<Signature>,
    pub unusable: Vec<String>,
}

impl Signatures {
    /// Adds those that a repository has for a manifest or index.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot be told: having none is none.
    pub async fn fetch(&mut self, session: &Session, digest: &str, place: Place) -> Result<(), RegistryError> {
        match place {
            Place::Tag => {
                let tag = format!("{}.sig", digest.replacen(':', "-", 1));
                self.fetch_manifest(session, digest, &tag).await
            }
            Place::Referrers => {
                let found = session.referrers(digest, is_signature).await?;
                for manifest in found.iter().rev().take(MOST_SIGNATURES) {
                    self.fetch_manifest(session, digest, &manifest.digest).await?;
                }
                Ok(())
            }
            Place::Lookaside => {
                self.take_gpg(&session.lookaside(digest, MOST_SIGNATURES).await?);
                Ok(())
            }
            Place::Extension => {
                self.take_gpg(&session.extension_signatures(digest).await?);
                Ok(())
            }
        }
    }

    fn take_gpg(&mut self, found: &[Vec<u8>]) {
        for bytes in found.iter().take(MOST_SIGNATURES) {
            match gpg::Signature::of(bytes) {
                Ok(signature) => self.usable.push(Signature::Gpg(signature)),
                Err(why) => self.unusable.push(why),
            }
        }
    }

    /// Those in one manifest; `digest` is the document that they are to be for.
    async fn fetch_manifest(&mut self, session: &Session, digest: &str, wanted: &str) -> Result<(), RegistryError> {
        let manifest = match session.manifest(wanted).await {
            Ok(manifest) => manifest,
            Err(RegistryError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let manifest: ManifestJson = match serde_json::from_slice(&manifest.bytes) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.unusable.push(format!("{wanted}: {error}"));
                return Ok(());
            }
        };
        // The newest are last, where cosign puts them.
        for layer in manifest.layers.iter().rev().take(MOST_SIGNATURES) {
            let signature = match layer.media_type.as_str() {
                cosign::MEDIA_TYPE => cosign::fetch(session, layer).await?.map(Signature::Cosign),
                bundle::MEDIA_TYPE => bundle::fetch(session, layer, digest).await?.map(Signature::Bundle),
                // Attestations are attached in the same way, and are none.
                _ => continue,
            };
            match signature {
                Ok(signature) => self.usable.push(signature),
                Err(why) => self.unusable.push(why),
            }
        }
        Ok(())
    }
}

/// By what its registry says of it: whether it is one is seen when it was read.
fn is_signature(manifest: &Descriptor) -> bool {
    match manifest.artifact_type.as_str() {
        cosign::ARTIFACT_TYPE => true,
        bundle::MEDIA_TYPE => bundle::may_be_signature(manifest),
        _ => false,
    }
}

/// The text of a layer in which a signature is, or why it is none. `what` it is, and how many bytes it may have.
pub async fn text(
    session: &Session,
    layer: &Descriptor,
    what: &str,
    most: u64,
) -> Result<Result<String, String>, RegistryError> {
    if let Err(why) = check_digest(&layer.digest) {
        return Ok(Err(why));
    }
    if layer.size > most {
        return Ok(Err(format!("{what} has {} bytes", layer.size)));
    }
    let bytes = match session.short_blob(&layer.digest, layer.size).await {
        Ok(bytes) => bytes,
        // What it serves is not what it says: the signature is at fault and not the way to it.
        Err(error @ (RegistryError::NotFound { .. } | RegistryError::Invalid { .. })) => {
            return Ok(Err(error.to_string()));
        }
        Err(error) => return Err(error),
    };
    let got = sha256(&bytes);
    if got != layer.digest {
        return Ok(Err(format!("{what} has digest {got}, not {}", layer.digest)));
    }
    Ok(String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8")))
}

#[derive(Deserialize)]
struct ManifestJson {
    layers: Vec<Descriptor>,
}

/// Signatures of one image that are looked at.
const MOST_SIGNATURES: usize = 64;
