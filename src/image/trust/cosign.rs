//! Signatures as cosign attached them before bundles: a manifest whose layers are what was signed, each with its
//! signature as an annotation. The manifest has the tag `sha256-<hex>.sig`, or refers to the image's.
//!
//! Source: sigstore/cosign, "Signature Specification".

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    log::{Entry, Logged},
    signature::{Claim, text},
    signers::{Made, Signers},
    simple,
};
use crate::image::{
    manifest::Descriptor,
    registry::{RegistryError, Session},
};

/// Of a layer that was signed.
pub const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Of a manifest that refers to the image's.
pub const ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

/// What was signed, the signature, and what came with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    payload: String,
    /// Base64.
    signature: String,
    /// The signer's, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    /// From there to the authority, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chain: Option<String>,
    /// Of a log, in JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
}

impl Signature {
    /// What it says if one of the signers made it, and which.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn claim(&self, signers: &Signers) -> Result<(Claim, String), String> {
        let signature = STANDARD
            .decode(&self.signature)
            .map_err(|error| format!("a signature is not base64: {error}"))?;
        let message = self.payload.as_bytes();
        let entry = self.entry.as_deref();
        let by = signers.maker(&Made {
            message,
            signature: &signature,
            certificates: self.certificates(),
            entry: entry
                .map(|text| Entry::of_annotation(text, Logged::Bytes(message)))
                .transpose(),
        })?;
        Ok((simple::claim::<IgnoredAny>(message, KIND)?, by))
    }

    fn certificates(&self) -> Result<Vec<Vec<u8>>, String> {
        let texts = self.certificate.iter().chain(&self.chain);
        let all = texts.flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()));
        all.map(|der| der.map(|der| der.to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("a certificate is not PEM: {error}"))
    }
}

/// One signature, or why it is none.
pub async fn fetch(session: &Session, layer: &Descriptor) -> Result<Result<Signature, String>, RegistryError> {
    let Some(signature) = layer.annotation(ANNOTATION) else {
        return Ok(Err(format!("a signed payload has no annotation {ANNOTATION}")));
    };
    let others = [CERTIFICATE, CHAIN, ENTRY].map(|key| layer.annotation(key).map(str::to_owned));
    if others.iter().flatten().map(String::len).sum::<usize>() > MOST_ANNOTATED {
        return Ok(Err(format!(
            "a signed payload has more than {MOST_ANNOTATED} bytes of annotations"
        )));
    }
    let [certificate, chain, entry] = others;
    let payload = text(session, layer, "a signed payload", MOST_PAYLOAD).await?;
    let signature = signature.to_owned();
    Ok(payload.map(|payload| Signature {
        payload,
        signature,
        certificate,
        chain,
        entry,
    }))
}

const KIND: &str = "cosign container image signature";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const ENTRY: &str = "dev.sigstore.cosign/bundle";
/// Most bytes of what comes with a signature.
const MOST_ANNOTATED: usize = 48 << 10;
/// Most bytes of what was signed: an honest one has some hundred.
const MOST_PAYLOAD: u64 = 16 << 10;
