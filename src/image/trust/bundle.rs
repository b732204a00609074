//! Sigstore bundles, version 0.3: what cosign 3 attaches to an image, as a manifest that refers to the image's.
//!
//! ```text
//! dsseEnvelope      signs an in-toto statement, which names manifests by digest and says what is stated of them
//! messageSignature  signs the manifest itself
//! ```
//! Neither names a repository. Sources: sigstore/protobuf-specs, `sigstore_bundle.proto`, `sigstore_common.proto`; DSSE
//! protocol 1.0.0; in-toto attestation framework, "Statement"; sigstore/cosign, `SIGNATURE_SPEC.md` and `cmd/cosign/cli/sign`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    log::{Entry, Logged},
    signature::{Claim, text},
    signers::{Made, Signers},
};
use crate::image::{
    content::sha256,
    manifest::Descriptor,
    reference::check_digest,
    registry::{RegistryError, Session},
};
use crate::model::hex;

/// Of a bundle, of the layer that it is, and of the manifest that this is in.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// A bundle as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    bundle: String,
    /// The manifest that a `messageSignature` is to be of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
}

impl Bundle {
    /// What it says if one of the signers made it, and which.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn claim(&self, signers: &Signers) -> Result<(Claim, String), String> {
        let bundle = BundleJson::read(&self.bundle)?;
        let material = &bundle.verification_material;
        let (documents, by) = match (&bundle.dsse_envelope, &bundle.message_signature, &self.manifest) {
            (Some(envelope), None, _) => {
                let payload = decoded(&envelope.payload)?;
                let by = signers.maker(&Made {
                    message: &envelope.message(&payload),
                    signature: &envelope.signature()?,
                    certificates: material.certificates(),
                    entry: material.entry(Logged::Envelope(&payload)),
                })?;
                (envelope.documents(&payload)?, by)
            }
            (None, Some(message), Some(manifest)) => {
                let document = message.document(manifest)?;
                let by = signers.maker(&Made {
                    message: manifest.as_bytes(),
                    signature: &decoded(&message.signature)?,
                    certificates: material.certificates(),
                    entry: material.entry(Logged::Bytes(manifest.as_bytes())),
                })?;
                (vec![document], by)
            }
            _ => return Err("a bundle has not one of dsseEnvelope and messageSignature".into()),
        };
        let reference = None;
        Ok((Claim { documents, reference }, by))
    }
}

/// Whether it may be a signature, by what it is said to state: attestations of other things are bundles as well.
pub fn may_be_signature(manifest: &Descriptor) -> bool {
    let stated = manifest.annotation("dev.sigstore.bundle.predicateType");
    stated.is_none_or(|stated| stated == SIGNED)
}

/// One bundle, or why it is none. `document` is the digest of the manifest that it is attached to.
pub async fn fetch(
    session: &Session,
    layer: &Descriptor,
    document: &str,
) -> Result<Result<Bundle, String>, RegistryError> {
    let bundle = match text(session, layer, "a bundle", MOST_BUNDLE).await? {
        Ok(bundle) => bundle,
        Err(why) => return Ok(Err(why)),
    };
    let is_of_manifest = match BundleJson::read(&bundle) {
        Ok(json) => json.message_signature.is_some(),
        Err(why) => return Ok(Err(why)),
    };
    let manifest = match is_of_manifest {
        true => String::from_utf8(session.manifest(document).await?.bytes).ok(),
        false => None,
    };
    Ok(Ok(Bundle { bundle, manifest }))
}

/// Keys that are not known are passed over, as in all of protobuf's JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BundleJson {
    media_type: String,
    verification_material: MaterialJson,
    dsse_envelope: Option<EnvelopeJson>,
    message_signature: Option<MessageJson>,
}

impl BundleJson {
    fn read(text: &str) -> Result<Self, String> {
        let bundle: Self = serde_json::from_str(text).map_err(|error| format!("a bundle is malformed: {error}"))?;
        match bundle.media_type == MEDIA_TYPE {
            true => Ok(bundle),
            false => Err(format!("a bundle is of media type {:?}", bundle.media_type)),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MaterialJson {
    certificate: Option<CertificateJson>,
    /// Read when it is asked for: newer logs have other entries.
    #[serde(default)]
    tlog_entries: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CertificateJson {
    raw_bytes: String,
}

impl MaterialJson {
    /// That of the signer alone: what is between it and the root has to be in the policy.
    fn certificates(&self) -> Result<Vec<Vec<u8>>, String> {
        self.certificate
            .iter()
            .map(|certificate| decoded(&certificate.raw_bytes))
            .collect()
    }

    fn entry<'a>(&self, of: Logged<'a>) -> Result<Option<Entry<'a>>, String> {
        match &self.tlog_entries[..] {
            [] => Ok(None),
            [entry] => Entry::of_bundle(entry, of).map(Some),
            more => Err(format!("a bundle has {} entries of logs", more.len())),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeJson {
    payload: String,
    payload_type: String,
    signatures: Vec<SignatureJson>,
}

#[derive(Deserialize)]
struct SignatureJson {
    sig: String,
}

impl EnvelopeJson {
    /// The one signature.
    fn signature(&self) -> Result<Vec<u8>, String> {
        match &self.signatures[..] {
            [signature] => decoded(&signature.sig),
            all => Err(format!("a bundle has {} signatures, not one", all.len())),
        }
    }

    /// What was signed.
    fn message(&self, payload: &[u8]) -> Vec<u8> {
        let kind = &self.payload_type;
        let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
        [head.as_bytes(), payload].concat()
    }

    /// What its statement is about: to be asked when the signature is known to be good.
    fn documents(&self, payload: &[u8]) -> Result<Vec<String>, String> {
        if self.payload_type != STATEMENT {
            return Err(format!("what a bundle signs is of type {:?}", self.payload_type));
        }
        let statement: StatementJson =
            serde_json::from_slice(payload).map_err(|error| format!("a bundle's statement is malformed: {error}"))?;
        // Who attests what is in an image does not thereby let it run.
        if statement.predicate_type != SIGNED {
            return Err(format!(
                "a bundle states {:?}, which is no signature",
                statement.predicate_type
            ));
        }
        let digests = statement
            .subject
            .into_iter()
            .filter_map(|subject| subject.digest.sha256);
        let documents: Vec<_> = digests.map(|hex| format!("sha256:{hex}")).collect();
        match documents.is_empty() {
            true => Err("a bundle's statement names no SHA-256".into()),
            false => documents
                .iter()
                .try_for_each(|digest| check_digest(digest))
                .map(|()| documents),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatementJson {
    subject: Vec<SubjectJson>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct SubjectJson {
    digest: DigestJson,
}

#[derive(Deserialize)]
struct DigestJson {
    sha256: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageJson {
    message_digest: MessageDigestJson,
    signature: String,
}

#[derive(Deserialize)]
struct MessageDigestJson {
    algorithm: String,
    digest: String,
}

impl MessageJson {
    /// The digest of the manifest, which the bundle has to say too.
    fn document(&self, manifest: &str) -> Result<String, String> {
        let hex = hex(&decoded(&self.message_digest.digest)?);
        let document = sha256(manifest.as_bytes());
        match self.message_digest.algorithm == "SHA2_256" && document == format!("sha256:{hex}") {
            true => Ok(document),
            false => Err(format!(
                "a bundle is of {} {hex}, which is not this image",
                self.message_digest.algorithm
            )),
        }
    }
}

fn decoded(base64: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(base64)
        .map_err(|error| format!("a bundle's base64 is none: {error}"))
}

const STATEMENT: &str = "application/vnd.in-toto+json";
/// The predicate of `cosign sign`.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// Most bytes of a bundle: one with certificates and a log's entry has some ten thousand.
const MOST_BUNDLE: u64 = 64 << 10;

#[cfg(test)]
mod test {
    use super::*;
    use crate::image::trust::{
        key::Key,
        signers::{NamedKey, Who},
    };

    fn keys(pem: &str) -> Signers {
        let key = Key::from_pem(pem.as_bytes()).unwrap();
        Signers {
            who: Who::Keys(vec![NamedKey { name: "k".into(), key }]),
            logs: None,
        }
    }

    fn bundle(text: &str) -> Bundle {
        Bundle {
            bundle: text.to_owned(),
            manifest: Some(MANIFEST.to_owned()),
        }
    }

    #[test]
    fn what_cosign_signed_is_for_its_digest_and_for_no_name() {
        for text in [OF_STATEMENT, OF_MANIFEST] {
            let keys = keys(KEY);
            let (claim, by) = bundle(text).claim(&keys).unwrap();
            assert_eq!(claim.documents, [sha256(MANIFEST.as_bytes())]);
            assert_eq!(claim.reference, None);
            assert!(by.starts_with("k (sha256:"), "{by}");
        }
    }

    #[test]
    fn a_bundle_that_was_changed_anywhere_says_nothing_else() {
        for text in [OF_STATEMENT, OF_MANIFEST] {
            let keys = keys(KEY);
            for at in 0..text.len() {
                let mut torn = text.as_bytes().to_vec();
                torn[at] ^= 1;
                let Ok(torn) = String::from_utf8(torn) else { continue };
                if let Ok((claim, _)) = bundle(&torn).claim(&keys) {
                    assert_eq!(claim.documents, [sha256(MANIFEST.as_bytes())], "byte {at}: {torn}");
                }
            }
        }
        let mut other = bundle(OF_MANIFEST);
        other.manifest = Some(MANIFEST.replace("173", "174"));
        let refused = other.claim(&keys(KEY)).expect_err("another manifest");
        assert!(refused.contains("not this image"), "{refused}");
    }

    #[test]
    fn a_bundle_of_another_shape_is_refused_by_name() {
        let statement = OF_STATEMENT.trim_end_matches('}');
        let envelope = statement.split_once("\"dsseEnvelope\"").expect("an envelope").1;
        let table = [
            ("{}".into(), "missing field `mediaType`"),
            (OF_STATEMENT.replace("v0.3", "v0.4"), "v0.4"),
            (OF_STATEMENT.replace("v0.3+json", "v0.3"), "is of media type"),
            (OF_STATEMENT.replace("dsseEnvelope", "envelope"), "not one of"),
            (OF_STATEMENT.replace("vnd.in-toto+json", "json"), "none of the keys"),
            (
                OF_STATEMENT.replace("{\"sig\"", "{\"sig\":\"\"}, {\"sig\""),
                "has 2 signatures",
            ),
            (
                OF_MANIFEST.replace(
                    "\"messageSignature\"",
                    &format!("\"dsseEnvelope\"{envelope}}}}}, \"messageSignature\""),
                ),
                "bundle",
            ),
            (OF_MANIFEST.replace("SHA2_256", "SHA2_512"), "SHA2_512"),
            (ATTESTATION.into(), "which is no signature"),
        ];
        for (text, why) in table {
            let refused = bundle(&text).claim(&keys(KEY)).expect_err(&text);
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    /// Of cosign 3.1.3: `generate-key-pair`; `sign --tlog-upload=false --use-signing-config=false` of the manifest in a
    /// registry; `sign-blob` of its bytes.
    const KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAECcsRfkYqhLlSyd0VxncNozPd5B0+
tMC5MjQ+oJUjWadUZzFMQPdZPe7wVEJi9gXt1xYNfqHrrkAYuyQg5Qe9Ww==
-----END PUBLIC KEY-----
";
    const MANIFEST: &str = r#"{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:6f6d28ce5fed6bca34c3582c10b03abbc2f0787533d732aad67d0cdcd96e607e", "size": 173}, "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:56dcff2f8e1f58977c533e43c3a003bc1fad367949105af3769a93448f40afe6", "size": 97}]}"#;
    const OF_STATEMENT: &str = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial":{"publicKey":{"hint":"OtggkEt4fx8cvS5ZF6jtRd7s3ff4ZagzLQgQ67wCu5k="}}, "dsseEnvelope":{"payload":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCAic3ViamVjdCI6W3siZGlnZXN0Ijp7InNoYTI1NiI6IjdhMjRkMjc2MDIzMGZkMzcyZTBjOTk0MWNmYmNmNjM1MzNkYTIzZTViYmU1OGZlZmYxZjUxZDUzOTExYWM4ZjcifSwgImFubm90YXRpb25zIjp7fX1dLCAicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vc2lnc3RvcmUuZGV2L2Nvc2lnbi9zaWduL3YxIiwgInByZWRpY2F0ZSI6e319", "payloadType":"application/vnd.in-toto+json", "signatures":[{"sig":"MEQCICr6O/FZ8fKDGGgfTRAC+7v7MgnftJwJF9ArgQ6IbOydAiAcCtq6XvKTVCm2V9YcsOtz9NbliZhMYvKJ9We30EiHog=="}]}}"#;
    const OF_MANIFEST: &str = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial":{"publicKey":{"hint":"OtggkEt4fx8cvS5ZF6jtRd7s3ff4ZagzLQgQ67wCu5k="}}, "messageSignature":{"messageDigest":{"algorithm":"SHA2_256", "digest":"eiTSdgIw/TcuDJlBz7z2NTPaI+W75Y/v8fUdU5EayPc="}, "signature":"MEUCIQDN9NyTQCGKwBpEQjT+zq7OVwp8my705+ZeF1EHp676PQIgB4DQdRudSs7sApJmtrGCJV/D75uloKgBJO+UiA3urGw="}}"#;
    /// Of cosign 3.1.3: `attest --type custom`, by the same key for the same manifest.
    const ATTESTATION: &str = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial":{"publicKey":{"hint":"OtggkEt4fx8cvS5ZF6jtRd7s3ff4ZagzLQgQ67wCu5k="}}, "dsseEnvelope":{"payload":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjAuMSIsICJzdWJqZWN0IjpbeyJuYW1lIjoiMTI3LjAuMC4xOjU5OTkvdC9idW5kbGUiLCAiZGlnZXN0Ijp7InNoYTI1NiI6IjdhMjRkMjc2MDIzMGZkMzcyZTBjOTk0MWNmYmNmNjM1MzNkYTIzZTViYmU1OGZlZmYxZjUxZDUzOTExYWM4ZjcifX1dLCAicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vY29zaWduLnNpZ3N0b3JlLmRldi9hdHRlc3RhdGlvbi92MSIsICJwcmVkaWNhdGUiOnsiRGF0YSI6IntcImFcIjoxfVxuIiwgIlRpbWVzdGFtcCI6IjIwMjYtMTEtMjlUMjM6MzU6NTJaIn19", "payloadType":"application/vnd.in-toto+json", "signatures":[{"sig":"MEQCIG6i1O8qP5zQYvvIH6Ij/0/coJyOiBVYv4qaQJ3lQRvrAiASl6xZbXxrPDpfItg8A3DYIz5YsLSUca7xd3rCukjqhw=="}]}}"#;
}
