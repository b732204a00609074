//! Entries of a transparency log (Rekor): that it took in a signature, and when. Offline: by the log's own signature, the
//! "signed entry timestamp", not by its tree.
//!
//! Sources: sigstore/rekor, `types/hashedrekord/v0.0.1`, `types/dsse/v0.0.1`, "Signed Entry Timestamp";
//! sigstore/protobuf-specs, `sigstore_rekor.proto`.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Deserialize;
use serde_json::Value;

use super::signers::NamedKey;
use crate::{image::content::sha256, model::hex};

/// What a log says of a signature.
pub struct Entry<'a> {
    said: EntryJson,
    /// The log's signature.
    promise: Vec<u8>,
    /// What it has to be an entry of.
    of: Logged<'a>,
}

/// What was signed, as a log knows it.
#[derive(Clone, Copy)]
pub enum Logged<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// The payload of a DSSE envelope.
    Envelope(&'a [u8]),
}

impl<'a> Entry<'a> {
    /// Reads the annotation of a cosign signature.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_annotation(text: &str, of: Logged<'a>) -> Result<Self, String> {
        let entry: AnnotationJson =
            serde_json::from_str(text).map_err(|error| format!("a log's entry is malformed: {error}"))?;
        Ok(Self {
            said: entry.payload,
            promise: decoded(&entry.promise)?,
            of,
        })
    }

    /// Reads that of a bundle.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_bundle(entry: &Value, of: Logged<'a>) -> Result<Self, String> {
        let entry =
            TlogEntryJson::deserialize(entry).map_err(|error| format!("a log's entry is malformed: {error}"))?;
        let promise = entry.inclusion_promise.as_ref();
        let promise = promise.ok_or("a log's entry has no signed timestamp")?;
        let number = |text: &str| {
            text.parse()
                .map_err(|_| format!("a log's entry has {text:?} for a number"))
        };
        Ok(Self {
            said: EntryJson {
                body: entry.canonicalized_body.clone(),
                integrated_time: number(&entry.integrated_time)?,
                log_index: number(&entry.log_index)?,
                log_id: hex(&decoded(&entry.log_id.key_id)?),
            },
            promise: decoded(&promise.signed_entry_timestamp)?,
            of,
        })
    }

    /// When it was taken in, in seconds since 1970, if one of the logs says so.
    ///
    /// # Errors
    /// That none does.
    pub fn verified_time(&self, logs: &[NamedKey]) -> Result<u64, String> {
        let said = &self.said;
        // As in RFC 8785: what is in the strings needs no escapes.
        if !said.log_id.bytes().all(|byte| byte.is_ascii_hexdigit()) || STANDARD.decode(&said.body).is_err() {
            return Err("a log's entry is malformed".into());
        }
        let text = format!(
            r#"{{"body":"{}","integratedTime":{},"logID":"{}","logIndex":{}}}"#,
            said.body, said.integrated_time, said.log_id, said.log_index
        );
        let is_by = |log: &NamedKey| log.key.made(&self.promise, text.as_bytes());
        match logs.iter().any(is_by) {
            true => Ok(said.integrated_time),
            false => Err("a log's entry was made by none of the logs".into()),
        }
    }

    /// Whether it is the entry of this signature by this key or certificate, in DER.
    ///
    /// # Errors
    /// What it is an entry of.
    pub fn check_body(&self, signature: &[u8], signer: &[u8]) -> Result<(), String> {
        let body: BodyJson = serde_json::from_slice(&decoded(&self.said.body)?)
            .map_err(|error| format!("a log's entry is of no known kind: {error}"))?;
        let (hash, logged, verifier) = match (&body, self.of) {
            (BodyJson::Hashedrekord { spec, .. }, Logged::Bytes(bytes)) => {
                let of = &spec.signature;
                (spec.data.hash.is_of(bytes), &of.content, &of.public_key.content)
            }
            (BodyJson::Dsse { spec, .. }, Logged::Envelope(payload)) => {
                let [of] = &spec.signatures[..] else {
                    return Err("a log's entry has not one signature".into());
                };
                (spec.payload_hash.is_of(payload), &of.signature, &of.verifier)
            }
            _ => return Err("a log's entry is of another kind than the signature".into()),
        };
        let verifier = decoded(verifier)?;
        let der = CertificateDer::from_pem_slice(&verifier)
            .map(|der| der.to_vec())
            .or_else(|_| SubjectPublicKeyInfoDer::from_pem_slice(&verifier).map(|der| der.to_vec()));
        let is_same = hash && decoded(logged)? == signature && der.is_ok_and(|der| der == signer);
        match is_same && body.is_version_1() {
            true => Ok(()),
            false => Err("a log's entry is of another signature".into()),
        }
    }
}

/// Source: sigstore/cosign, `pkg/cosign/bundle`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnnotationJson {
    #[serde(rename = "SignedEntryTimestamp")]
    promise: String,
    #[serde(rename = "Payload")]
    payload: EntryJson,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EntryJson {
    body: String,
    integrated_time: u64,
    log_index: u64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// Numbers are strings there and zero is nothing, as in all of protobuf's JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TlogEntryJson {
    #[serde(default = "zero")]
    log_index: String,
    log_id: LogIdJson,
    #[serde(default = "zero")]
    integrated_time: String,
    inclusion_promise: Option<PromiseJson>,
    canonicalized_body: String,
}

fn zero() -> String {
    "0".into()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogIdJson {
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromiseJson {
    signed_entry_timestamp: String,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum BodyJson {
    #[serde(rename_all = "camelCase")]
    Hashedrekord { api_version: String, spec: HashedSpecJson },
    #[serde(rename_all = "camelCase")]
    Dsse { api_version: String, spec: DsseSpecJson },
}

impl BodyJson {
    fn is_version_1(&self) -> bool {
        let (Self::Hashedrekord { api_version, .. } | Self::Dsse { api_version, .. }) = self;
        api_version == "0.0.1"
    }
}

#[derive(Deserialize)]
struct HashedSpecJson {
    data: DataJson,
    signature: LoggedSignatureJson,
}

#[derive(Deserialize)]
struct DataJson {
    hash: HashJson,
}

#[derive(Deserialize)]
struct HashJson {
    algorithm: String,
    value: String,
}

impl HashJson {
    fn is_of(&self, bytes: &[u8]) -> bool {
        self.algorithm == "sha256" && sha256(bytes) == format!("sha256:{}", self.value)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoggedSignatureJson {
    content: String,
    public_key: ContentJson,
}

#[derive(Deserialize)]
struct ContentJson {
    content: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DsseSpecJson {
    payload_hash: HashJson,
    signatures: Vec<DsseSignatureJson>,
}

#[derive(Deserialize)]
struct DsseSignatureJson {
    signature: String,
    verifier: String,
}

fn decoded(base64: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(base64)
        .map_err(|error| format!("a log's entry has base64 that is none: {error}"))
}

#[cfg(test)]
mod test {
    use rcgen::KeyPair;
    use ring::{rand::SystemRandom, signature};
    use serde_json::json;

    use super::*;
    use crate::image::trust::key::Key;

    /// A log that says `said`.
    fn said_by(log: &KeyPair, said: &Value) -> String {
        let (random, pkcs8) = (SystemRandom::new(), log.serialize_der());
        let kind = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
        let key = signature::EcdsaKeyPair::from_pkcs8(kind, &pkcs8, &random).unwrap();
        let promise = key.sign(&random, said.to_string().as_bytes()).unwrap();
        json!({"SignedEntryTimestamp": STANDARD.encode(promise), "Payload": said}).to_string()
    }

    fn said(body: &Value) -> Value {
        json!({"body": STANDARD.encode(body.to_string()), "integratedTime": 12, "logID": "ab", "logIndex": 3})
    }

    fn hash(bytes: &[u8]) -> Value {
        json!({"algorithm": "sha256", "value": sha256(bytes)["sha256:".len()..]})
    }

    /// The pointers into an entry and what stands there in one of another signature.
    fn check(body: &Value, of: Logged<'_>, others: &[(&str, Value)]) {
        let log = KeyPair::generate().unwrap();
        let checked = |body: &Value| {
            let entry = Entry::of_annotation(&said_by(&log, &said(body)), of).unwrap();
            entry.check_body(b"signature", &der())
        };
        checked(body).unwrap();
        for (key, other) in others {
            let mut changed = body.clone();
            *changed.pointer_mut(key).unwrap() = other.clone();
            assert!(checked(&changed).is_err(), "{key}: {other}");
        }
    }

    /// Whatever was signed with; a log keeps it in PEM.
    fn der() -> Vec<u8> {
        SubjectPublicKeyInfoDer::from_pem_slice(KEY.as_bytes())
            .unwrap()
            .to_vec()
    }

    #[test]
    fn an_entry_is_of_one_signature_one_signer_and_one_content() {
        let of_bytes = json!({
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": {"hash": hash(b"content")},
                "signature": {"content": STANDARD.encode("signature"), "publicKey": {"content": STANDARD.encode(KEY)}},
            },
        });
        let of_envelope = json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "payloadHash": hash(b"content"),
                "signatures": [{"signature": STANDARD.encode("signature"), "verifier": STANDARD.encode(KEY)}],
            },
        });
        let version = ("/apiVersion", json!("0.0.2"));
        let others = [
            version.clone(),
            ("/kind", json!("intoto")),
            ("/spec/data/hash", hash(b"other")),
            ("/spec/data/hash/algorithm", json!("sha512")),
            ("/spec/signature/content", json!(STANDARD.encode("other"))),
            ("/spec/signature/publicKey/content", json!(STANDARD.encode(OTHER_KEY))),
        ];
        check(&of_bytes, Logged::Bytes(b"content"), &others);
        let others = [
            version,
            ("/spec/payloadHash", hash(b"other")),
            ("/spec/signatures/0/signature", json!(STANDARD.encode("other"))),
            ("/spec/signatures/0/verifier", json!(STANDARD.encode(OTHER_KEY))),
            ("/spec/signatures", json!([])),
            ("", of_bytes),
        ];
        check(&of_envelope, Logged::Envelope(b"content"), &others);
    }

    #[test]
    fn a_time_is_known_by_a_logs_signature_over_all_it_says() {
        let log = KeyPair::generate().unwrap();
        let key = Key::from_pem(log.public_key_pem().as_bytes()).unwrap();
        let logs = [NamedKey {
            name: "log".into(),
            key,
        }];
        let text = said_by(&log, &said(&json!({})));
        let time = |text: &str| Entry::of_annotation(text, Logged::Bytes(b""))?.verified_time(&logs);
        assert_eq!(time(&text), Ok(12));
        for (part, other) in [
            (r#""integratedTime":12"#, r#""integratedTime":13"#),
            (r#""logIndex":3"#, r#""logIndex":4"#),
            (r#""logID":"ab""#, r#""logID":"ac""#),
            (r#""logID":"ab""#, r#""logID":"a\u0022""#),
            (r#""body":""#, r#""body":"AAAA"#),
            (r#""logIndex":3"#, r#""logIndex":3,"more":1"#),
        ] {
            assert!(text.contains(part), "{part}: {text}");
            assert!(time(&text.replace(part, other)).is_err(), "{other}");
        }
        let stranger = said_by(&KeyPair::generate().unwrap(), &said(&json!({})));
        assert!(time(&stranger).unwrap_err().contains("none of the logs"));
    }

    const KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAC1z0AHS2QJmBEPll5PEtYvwYqN4TbC45JAuUYgI9rtQ=
-----END PUBLIC KEY-----
";
    const OTHER_KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAC1z0AHS2QJmBEPll5PEtYvwYqN4TbC45JAuUYgI9rtA=
-----END PUBLIC KEY-----
";
}
