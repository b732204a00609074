//! Trust: whether the policy lets an image be pulled and run.
//!
//! ```text
//! a namespace   its policy.json, else the node's, else none: everything is accepted
//! a reference   the most special scope of the policy that has it: a list of requirements, all of which are demanded
//! a signature   made by a key of the requirement, or by one that its authority gave to its identity when a log saw it;
//!               over the digest of the image's manifest or of the index that led to it, and over a name that the
//!               requirement takes for the one that was asked for
//! ```
//! Files are read at each question: what they say now counts. Formats: containers-policy.json(5), cosign's signatures,
//! sigstore's bundles and GPG's signed messages.
//! What a policy demands and this build cannot verify is refused by name, never passed over
//! (`docs/decisions/0019-trust.md`).

mod authority;
mod bundle;
mod cosign;
mod gpg;
mod identity;
mod key;
mod log;
#[cfg_attr(not(feature = "gpg"), path = "no_openpgp.rs")]
pub mod openpgp;
pub mod policy;
mod requirement;
mod signature;
mod signers;
mod simple;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use signature::{Signature, Signatures};

use super::{ImageError, reference::Reference, registry::Session};
use crate::model::{ErrorKind, Timestamp};
use policy::{Demand, Policy};
use requirement::{Requirement, Signed};
use signature::{Claim, Place};

/// The node's policy unless the configuration names another; it may be absent.
const DEFAULT_POLICY: &str = "/etc/containers/policy.json";

/// Why an image is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("read the policy {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("policy {}: {why}", path.display())]
    Invalid { path: PathBuf, why: String },
    #[error("image.policy_dir: namespace {0:?} is no name of a file")]
    Namespace(String),
    /// The first word is the kubelet's (cri-api `ErrSignatureValidationFailed`).
    #[error("SignatureValidationFailed: {reference}: policy {}, {scope:?}: {why}", path.display())]
    Refused {
        reference: String,
        path: PathBuf,
        scope: String,
        why: String,
    },
    /// The same, before any policy's scope was found.
    #[error("SignatureValidationFailed: {reference}: image {image} is not known by this name")]
    OtherName { reference: String, image: String },
}

impl TrustError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } | Self::Invalid { .. } => ErrorKind::FailedPrecondition,
            Self::Namespace(_) => ErrorKind::InvalidArgument,
            Self::Refused { .. } | Self::OtherName { .. } => ErrorKind::Named,
        }
    }
}

/// That a policy let an image pass: on record with it, for whoever asks why it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The name that it was asked for by.
    pub reference: String,
    pub policy: PathBuf,
    /// The part of the policy that counted.
    pub scope: String,
    /// Who signed it: keys, each with where the policy has it or its authority from, and the SHA-256 of its
    /// SubjectPublicKeyInfo, or a GPG key's fingerprint. None: the policy demands no signature.
    pub keys: Vec<String>,
    pub at: Timestamp,
}

/// The policies of this node.
pub struct Trust {
    policy: Option<PathBuf>,
    policy_dir: PathBuf,
}

impl Trust {
    pub fn new(policy: Option<PathBuf>, policy_dir: PathBuf) -> Self {
        Self { policy, policy_dir }
    }

    /// The policy in force for the images of a namespace, empty when it is not known; `None` without any.
    ///
    /// # Errors
    /// [`TrustError::Read`], [`TrustError::Invalid`]: a policy that cannot be read is not one that accepts.
    pub fn in_force(&self, namespace: &str) -> Result<Option<InForce>, TrustError> {
        if namespace.contains(['/', '\0']) {
            return Err(TrustError::Namespace(namespace.to_owned()));
        }
        let of_namespace = self.policy_dir.join(format!("{namespace}.json"));
        if !namespace.is_empty()
            && let Some(policy) = read(&of_namespace)?
        {
            return Ok(Some(policy));
        }
        match &self.policy {
            None => read(Path::new(DEFAULT_POLICY)),
            // One that was asked for has to be there.
            Some(path) => match read(path)? {
                Some(policy) => Ok(Some(policy)),
                None => Err(TrustError::Read {
                    path: path.clone(),
                    source: io::ErrorKind::NotFound.into(),
                }),
            },
        }
    }
}

fn read(path: &Path) -> Result<Option<InForce>, TrustError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(TrustError::Read { path, source });
        }
    };
    let path = path.to_owned();
    match Policy::parse(&bytes) {
        Ok(policy) => Ok(Some(InForce { path, policy })),
        Err(why) => Err(TrustError::Invalid { path, why }),
    }
}

/// A policy with the file that it is from.
pub struct InForce {
    path: PathBuf,
    policy: Policy,
}

impl InForce {
    /// Refuses what no signature could make acceptable: nothing needs to be fetched for that.
    ///
    /// # Errors
    /// [`TrustError::Refused`].
    pub fn check_name(&self, reference: &Reference) -> Result<(), TrustError> {
        for requirement in self.policy.demand(reference).requirements {
            match requirement {
                Requirement::AcceptAnything | Requirement::Signed(_) => {}
                Requirement::Reject => return Err(self.refused(reference, "it rejects this image".into())),
                Requirement::Unsupported(what) => {
                    return Err(self.refused(reference, format!("{what} is not supported, so nothing can fulfil it")));
                }
            }
        }
        Ok(())
    }

    /// Judges an image by the signatures at hand. `documents` are the digests of its manifest and of the indexes that
    /// led to it: who signs an index signs what it names.
    ///
    /// # Errors
    /// [`TrustError::Refused`] saying what is missing; [`TrustError::Invalid`] when a key cannot be read.
    pub fn judge(
        &self,
        reference: &Reference,
        documents: &[String],
        signatures: &Signatures,
    ) -> Result<Verdict, TrustError> {
        self.check_name(reference)?;
        let demand = self.policy.demand(reference);
        let mut keys = Vec::new();
        for requirement in demand.requirements {
            if let Requirement::Signed(signed) = requirement {
                keys.push(self.signed(demand, signed, reference, documents, signatures)?);
            }
        }
        Ok(Verdict {
            reference: reference.to_string(),
            policy: self.path.clone(),
            scope: demand.scope.to_owned(),
            keys,
            at: Timestamp::now(),
        })
    }

    /// Judges an image in its registry; the signatures that were looked at come with the verdict. They are fetched as
    /// long as the verdict depends on them: of the index first, then of this platform's manifest.
    ///
    /// # Errors
    /// Those of [`Self::judge`]; [`ImageError::Registry`] when it does not say whether there are signatures.
    pub async fn judge_in(
        &self,
        session: &Session,
        reference: &Reference,
        documents: &[String],
    ) -> Result<(Verdict, Vec<Signature>), ImageError> {
        let mut signatures = Signatures::default();
        let places = self.places(reference);
        for document in documents {
            for place in &places {
                match self.judge(reference, documents, &signatures) {
                    Ok(verdict) => return Ok((verdict, signatures.usable)),
                    Err(TrustError::Refused { .. }) => signatures.fetch(session, document, *place).await?,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let verdict = self.judge(reference, documents, &signatures)?;
        Ok((verdict, signatures.usable))
    }

    /// Where there are signatures of the kinds that are demanded.
    fn places(&self, reference: &Reference) -> Vec<Place> {
        let requirements = self.policy.demand(reference).requirements;
        let is_asked = |place: &Place| {
            let looks_there = |requirement: &Requirement| match requirement {
                Requirement::Signed(signed) => signed.places().contains(place),
                _ => false,
            };
            requirements.iter().any(looks_there)
        };
        Place::ALL.into_iter().filter(is_asked).collect()
    }

    /// Who signed what a requirement demands.
    fn signed(
        &self,
        demand: Demand<'_>,
        signed: &Signed,
        reference: &Reference,
        documents: &[String],
        signatures: &Signatures,
    ) -> Result<String, TrustError> {
        let signers = signed.signers().map_err(|why| TrustError::Invalid {
            path: self.path.clone(),
            why,
        })?;
        let mut reasons = signatures.unusable.clone();
        for signature in signatures.usable.iter().filter(|signature| signature.is_for(&signers)) {
            let accepted = signature.claim(&signers).and_then(|(claim, by)| {
                check_documents(&claim, documents)?;
                match &claim.reference {
                    Some(name) => signed.identity.check(reference, name)?,
                    None => signed.identity.check_unnamed(reference, demand.scope)?,
                }
                Ok(by)
            });
            match accepted {
                Ok(by) => return Ok(by),
                Err(why) => reasons.push(why),
            }
        }
        reasons.dedup();
        Err(self.refused(
            reference,
            match reasons.is_empty() {
                true => "a signature is demanded, and there is none".into(),
                false => format!("no signature is accepted: {}", reasons.join("; ")),
            },
        ))
    }

    fn refused(&self, reference: &Reference, why: String) -> TrustError {
        TrustError::Refused {
            reference: reference.to_string(),
            path: self.path.clone(),
            scope: self.policy.demand(reference).scope.to_owned(),
            why,
        }
    }
}

fn check_documents(claim: &Claim, documents: &[String]) -> Result<(), String> {
    match claim.documents.iter().any(|digest| documents.contains(digest)) {
        true => Ok(()),
        false => Err(format!(
            "a signature is for {}, which is not this image",
            claim.documents.join(" and ")
        )),
    }
}
