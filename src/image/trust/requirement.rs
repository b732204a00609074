//! What a policy demands of an image: one of its requirements.
//!
//! Source: containers-policy.json(5), "Policy Requirements".

use std::{
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde::Deserialize;

use super::{
    authority::{Authority, Subject},
    identity::Identity,
    key::Key,
    openpgp::{self, Keyring},
    signature::Place,
    signers::{NamedKey, Signers, Who},
};
use crate::model::Timestamp;

/// One thing that is demanded.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RequirementJson")]
pub enum Requirement {
    AcceptAnything,
    Reject,
    Signed(Signed),
    /// What this build cannot verify. Read, so that images of other scopes can be had; nothing fulfils it.
    Unsupported(String),
}

/// A signature as cosign attaches them or as GPG makes them, for an image of this identity.
#[derive(Debug)]
pub struct Signed {
    by: By,
    /// Keys of the logs one of which has to have it; `None`: none has to.
    logs: Option<Vec<Source>>,
    pub identity: Identity,
}

/// Who has to have made it.
#[derive(Debug)]
enum By {
    Keys(Vec<Source>),
    Fulcio { ca: Source, issuer: String, email: String },
    Pki(Box<Pki>),
    Gpg(Vec<Source>),
}

/// An authority of one's own, and whom its certificates have to be of.
#[derive(Debug)]
struct Pki {
    roots: Source,
    between: Option<Source>,
    email: Option<String>,
    host: Option<ServerName<'static>>,
}

impl Signed {
    /// Where such signatures are looked for.
    pub fn places(&self) -> &'static [Place] {
        match self.by {
            By::Keys(_) | By::Fulcio { .. } | By::Pki(_) => Place::SIGSTORE,
            By::Gpg(_) => Place::GPG,
        }
    }

    /// Reads the keys and certificates.
    ///
    /// # Errors
    /// The source at fault, and why.
    pub fn signers(&self) -> Result<Signers, String> {
        let who = match &self.by {
            By::Keys(sources) => Who::Keys(keys(sources)?),
            By::Fulcio { ca, issuer, email } => Who::Certified(Authority {
                name: ca.to_string(),
                roots: certificates(ca)?,
                between: Vec::new(),
                subject: Subject::LoggedIn {
                    issuer: issuer.clone(),
                    email: email.clone(),
                },
            }),
            By::Pki(pki) => Who::Certified(Authority {
                name: pki.roots.to_string(),
                roots: certificates(&pki.roots)?,
                between: pki.between.as_ref().map_or(Ok(Vec::new()), certificates)?,
                subject: Subject::Named {
                    email: pki.email.clone(),
                    host: pki.host.clone(),
                },
            }),
            By::Gpg(sources) => Who::Keyring(keyring(sources)?),
        };
        let logs = self.logs.as_deref().map(keys).transpose()?;
        Ok(Signers { who, logs })
    }
}

fn keys(sources: &[Source]) -> Result<Vec<NamedKey>, String> {
    let read = |source: &Source| {
        let name = source.to_string();
        let key = Key::from_pem(&source.read()?).map_err(|why| format!("{name}: {why}"))?;
        Ok(NamedKey { name, key })
    };
    sources.iter().map(read).collect()
}

fn keyring(sources: &[Source]) -> Result<Keyring, String> {
    let read = |source: &Source| Ok((source.to_string(), source.read()?));
    let files: Vec<_> = sources.iter().map(read).collect::<Result<_, String>>()?;
    Keyring::new(&files, Timestamp::now().seconds())
}

fn certificates(source: &Source) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = source.read()?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(format!("{source}: there is no CERTIFICATE in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("{source}: it is not PEM: {error}")),
    }
}

/// Where the policy has PEM or a keyring from.
#[derive(Debug)]
enum Source {
    Path { key: &'static str, path: PathBuf },
    Data { key: &'static str, bytes: Vec<u8> },
}

impl Source {
    fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Path { path, .. } => std::fs::read(path).map_err(|error| format!("{self}: {error}")),
            Self::Data { bytes, .. } => Ok(bytes.clone()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { key, path } => write!(f, "{key} {}", path.display()),
            Self::Data { key, .. } => f.write_str(key),
        }
    }
}

/// A requirement as it is written. Empty braces: without them serde lets unknown keys pass.
#[derive(Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
enum RequirementJson {
    InsecureAcceptAnything {},
    Reject {},
    SigstoreSigned {
        key_path: Option<PathBuf>,
        key_paths: Option<Vec<PathBuf>>,
        key_data: Option<String>,
        key_datas: Option<Vec<String>>,
        fulcio: Option<FulcioJson>,
        pki: Option<Box<PkiJson>>,
        rekor_public_key_path: Option<PathBuf>,
        rekor_public_key_paths: Option<Vec<PathBuf>>,
        rekor_public_key_data: Option<String>,
        rekor_public_key_datas: Option<Vec<String>>,
        #[serde(default)]
        signed_identity: Identity,
    },
    SignedBy {
        key_type: KeyType,
        key_path: Option<PathBuf>,
        key_paths: Option<Vec<PathBuf>>,
        key_data: Option<String>,
        #[serde(default)]
        signed_identity: Identity,
    },
    #[expect(dead_code, reason = "read for its form only")]
    SignedBaseLayer {
        base_layer_identity: Identity,
    },
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
enum KeyType {
    GpgKeys,
    /// What a policy may say, and no tool verifies.
    Other(String),
}

impl TryFrom<String> for KeyType {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "GPGKeys" => Ok(Self::GpgKeys),
            "signedByGPGKeys" | "X509Certificates" | "signedByX509CAs" => Ok(Self::Other(name)),
            _ => Err(format!("keyType: {name:?} is unknown")),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FulcioJson {
    ca_path: Option<PathBuf>,
    ca_data: Option<String>,
    oidc_issuer: String,
    subject_email: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PkiJson {
    ca_roots_path: Option<PathBuf>,
    ca_roots_data: Option<String>,
    ca_intermediates_path: Option<PathBuf>,
    ca_intermediates_data: Option<String>,
    #[serde(default)]
    subject_email: String,
    #[serde(default)]
    subject_hostname: String,
}

impl TryFrom<RequirementJson> for Requirement {
    type Error = String;

    fn try_from(json: RequirementJson) -> Result<Self, String> {
        match json {
            RequirementJson::InsecureAcceptAnything {} => Ok(Self::AcceptAnything),
            RequirementJson::Reject {} => Ok(Self::Reject),
            RequirementJson::SignedBy {
                key_type,
                key_path,
                key_paths,
                key_data,
                signed_identity,
            } => {
                let by = only([
                    key_path.map(|path| paths("keyPath", vec![path])),
                    key_paths.map(|all| paths("keyPaths", all)),
                    key_data.map(|data| datas("keyData", vec![data])),
                ]);
                let by = by.map_err(|_| "one of keyPath, keyPaths and keyData must be there, and one only")??;
                match key_type {
                    KeyType::GpgKeys if openpgp::IS_BUILT_IN => Ok(Self::Signed(Signed {
                        by: By::Gpg(by),
                        logs: None,
                        identity: signed_identity,
                    })),
                    KeyType::GpgKeys => Ok(Self::Unsupported("signedBy, in a build without GPG,".into())),
                    KeyType::Other(name) => Ok(Self::Unsupported(format!("signedBy with keys of type {name}"))),
                }
            }
            RequirementJson::SignedBaseLayer { .. } => Ok(Self::Unsupported("signedBaseLayer".into())),
            RequirementJson::SigstoreSigned {
                key_path,
                key_paths,
                key_data,
                key_datas,
                fulcio,
                pki,
                rekor_public_key_path,
                rekor_public_key_paths,
                rekor_public_key_data,
                rekor_public_key_datas,
                signed_identity,
            } => {
                let by = [
                    key_path.map(|path| paths("keyPath", vec![path]).map(By::Keys)),
                    key_paths.map(|all| paths("keyPaths", all).map(By::Keys)),
                    key_data.map(|data| datas("keyData", vec![data]).map(By::Keys)),
                    key_datas.map(|all| datas("keyDatas", all).map(By::Keys)),
                    fulcio.map(By::fulcio),
                    pki.map(|pki| Pki::of(*pki).map(|pki| By::Pki(Box::new(pki)))),
                ];
                let by = only(by).map_err(
                    |_| "one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki must be there, and one only",
                )?;
                let by = by?;
                let logs = [
                    rekor_public_key_path.map(|path| paths("rekorPublicKeyPath", vec![path])),
                    rekor_public_key_paths.map(|all| paths("rekorPublicKeyPaths", all)),
                    rekor_public_key_data.map(|data| datas("rekorPublicKeyData", vec![data])),
                    rekor_public_key_datas.map(|all| datas("rekorPublicKeyDatas", all)),
                ];
                let logs = match only(logs) {
                    Ok(logs) => Some(logs?),
                    Err(0) => None,
                    Err(_) => {
                        return Err(
                            "more than one of rekorPublicKeyPath, rekorPublicKeyPaths, rekorPublicKeyData and \
                             rekorPublicKeyDatas is there"
                                .into(),
                        );
                    }
                };
                match (&by, &logs) {
                    (By::Pki(_), Some(_)) => Err("pki: a log is not asked, so no rekorPublicKey… may be there".into()),
                    // Its certificates are good for minutes, and only a log knows whether they were.
                    (By::Fulcio { .. }, None) => {
                        Err("fulcio: a log's key has to be there too, as rekorPublicKey…".into())
                    }
                    _ => Ok(Self::Signed(Signed {
                        by,
                        logs,
                        identity: signed_identity,
                    })),
                }
            }
        }
    }
}

impl By {
    fn fulcio(json: FulcioJson) -> Result<Self, String> {
        let ca = file_or_data(("fulcio.caPath", json.ca_path), ("fulcio.caData", json.ca_data));
        let ca = ca.map_err(|_| "fulcio: one of caPath and caData must be there, and one only")?;
        if json.oidc_issuer.is_empty() || json.subject_email.is_empty() {
            return Err("fulcio: oidcIssuer and subjectEmail must not be empty".into());
        }
        Ok(Self::Fulcio {
            ca: ca?,
            issuer: json.oidc_issuer,
            email: json.subject_email,
        })
    }
}

impl Pki {
    fn of(json: PkiJson) -> Result<Self, String> {
        let roots = file_or_data(
            ("pki.caRootsPath", json.ca_roots_path),
            ("pki.caRootsData", json.ca_roots_data),
        );
        let roots = roots.map_err(|_| "pki: one of caRootsPath and caRootsData must be there, and one only")?;
        let between = file_or_data(
            ("pki.caIntermediatesPath", json.ca_intermediates_path),
            ("pki.caIntermediatesData", json.ca_intermediates_data),
        );
        let between = match between {
            Ok(between) => Some(between?),
            Err(0) => None,
            Err(_) => return Err("pki: both caIntermediatesPath and caIntermediatesData are there".into()),
        };
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let (email, host) = (given(json.subject_email), given(json.subject_hostname));
        if email.is_none() && host.is_none() {
            return Err("pki: subjectEmail or subjectHostname must be there".into());
        }
        let host = host
            .map(|host| {
                let name = ServerName::try_from(host.clone());
                name.map_err(|_| format!("pki.subjectHostname: {host:?} is neither a name nor an address"))
            })
            .transpose()?;
        Ok(Self {
            roots: roots?,
            between,
            email,
            host,
        })
    }
}

/// The one that is there, or how many are.
fn only<T, const N: usize>(all: [Option<T>; N]) -> Result<T, usize> {
    let mut given: Vec<T> = all.into_iter().flatten().collect();
    match given.len() {
        1 => Ok(given.remove(0)),
        count => Err(count),
    }
}

/// What is in a file or in the policy itself, with the keys of both; or how many of them are there.
fn file_or_data(
    (path_key, path): (&'static str, Option<PathBuf>),
    (data_key, data): (&'static str, Option<String>),
) -> Result<Result<Source, String>, usize> {
    let given = only([
        path.map(|path| paths(path_key, vec![path])),
        data.map(|data| datas(data_key, vec![data])),
    ]);
    given.map(|sources| sources.map(|mut sources| sources.remove(0)))
}

fn paths(key: &'static str, all: Vec<PathBuf>) -> Result<Vec<Source>, String> {
    let source = |path: PathBuf| match path == Path::new("") {
        true => Err(format!("{key}: it is empty")),
        false => Ok(Source::Path { key, path }),
    };
    not_empty(key, all.into_iter().map(source).collect::<Result<_, _>>()?)
}

fn datas(key: &'static str, all: Vec<String>) -> Result<Vec<Source>, String> {
    let source = |data: String| match STANDARD.decode(&data) {
        Ok(bytes) => Ok(Source::Data { key, bytes }),
        Err(error) => Err(format!("{key}: it is not base64: {error}")),
    };
    not_empty(key, all.into_iter().map(source).collect::<Result<_, _>>()?)
}

fn not_empty<T>(key: &str, all: Vec<T>) -> Result<Vec<T>, String> {
    match all.is_empty() {
        true => Err(format!("{key}: it is empty")),
        false => Ok(all),
    }
}
