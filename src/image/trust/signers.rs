//! Whose signatures count: who holds one of some keys, or a certificate that an authority gave to an identity, or a key of
//! a GPG keyring; and whether a log has to know of the signature.
//!
//! Source: containers-policy.json(5), "sigstoreSigned", "signedBy".

use super::{authority::Authority, key::Key, log::Entry, openpgp::Keyring};
use crate::model::Timestamp;

/// What a requirement demands of who signs.
pub struct Signers {
    pub who: Who,
    /// Keys of logs, one of which has to have the signature; `None`: none has to.
    pub logs: Option<Vec<NamedKey>>,
}

pub enum Who {
    Keys(Vec<NamedKey>),
    Certified(Authority),
    Keyring(Keyring),
}

/// A key with where the policy has it from.
pub struct NamedKey {
    pub name: String,
    pub key: Key,
}

/// A signature with what came with it: all of it unverified.
pub struct Made<'a> {
    pub message: &'a [u8],
    pub signature: &'a [u8],
    /// In DER, that of the signer first; or why they cannot be read, which matters to who asks for them only.
    pub certificates: Result<Vec<Vec<u8>>, String>,
    /// Of a log; the same.
    pub entry: Result<Option<Entry<'a>>, String>,
}

impl Signers {
    /// Whether it is GPG that they sign with.
    pub fn use_gpg(&self) -> bool {
        matches!(self.who, Who::Keyring(_))
    }

    /// What is in a message that GPG signed, and who made it, in words.
    ///
    /// # Errors
    /// Why it was made by nobody who counts.
    pub fn open(&self, message: &[u8]) -> Result<(Vec<u8>, String), String> {
        match &self.who {
            Who::Keyring(keyring) => keyring.open(message),
            Who::Keys(_) | Who::Certified(_) => Err("a signature is one of GPG".into()),
        }
    }

    /// Who made a signature, in words.
    ///
    /// # Errors
    /// Why it was made by nobody who counts.
    pub fn maker(&self, made: &Made<'_>) -> Result<String, String> {
        let is_by = |key: &Key| key.made(made.signature, made.message);
        match &self.who {
            Who::Keys(keys) => {
                let by = keys.iter().find(|named| is_by(&named.key));
                let by = by.ok_or("a signature was made by none of the keys")?;
                if self.logs.is_some() {
                    self.logged_at(made, &by.key.der)?;
                }
                Ok(format!("{} ({})", by.name, by.key.fingerprint))
            }
            Who::Certified(authority) => {
                let certificates = made.certificates.as_ref().map_err(Clone::clone)?;
                let leaf = certificates.first().ok_or("a signature comes without a certificate")?;
                let at = match authority.needs_log() {
                    true => self.logged_at(made, leaf)?,
                    false => Timestamp::now().seconds(),
                };
                let key = authority.holder(certificates, at)?;
                match is_by(&key) {
                    true => Ok(format!("{authority} ({})", key.fingerprint)),
                    false => Err("a signature was not made by its certificate's key".into()),
                }
            }
            Who::Keyring(_) => Err("a signature is none of GPG".into()),
        }
    }

    /// When a log took in the signature, of this key or certificate; in seconds since 1970.
    fn logged_at(&self, made: &Made<'_>, signer: &[u8]) -> Result<u64, String> {
        let entry = made.entry.as_ref().map_err(Clone::clone)?;
        let entry = entry.as_ref().ok_or("a signature comes without an entry of a log")?;
        let at = entry.verified_time(self.logs.as_deref().unwrap_or_default())?;
        entry.check_body(made.signature, signer)?;
        Ok(at)
    }
}

#[cfg(test)]
mod test {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    use serde_json::{Value, json};

    use super::*;
    use crate::image::trust::{authority::Subject, signature::Signature};

    /// A signature with a certificate and a log's entry in each form, and the authority and the log that they are of. Made
    /// with openssl; `cosign verify` 3.1.3 takes both for good, with these two as its trusted root.
    const SIGNATURE: &str = include_str!("vectors/signature.json");
    const BUNDLE: &str = include_str!("vectors/bundle.json");
    const AUTHORITY: &str = include_str!("vectors/authority.pem");
    const LOG: &str = include_str!("vectors/log.pub");
    const DIGEST: &str = "sha256:7a24d2760230fd372e0c9941cfbcf63533da23e5bbe58feff1f51d53911ac8f7";

    fn signers() -> Signers {
        let key = Key::from_pem(LOG.as_bytes()).unwrap();
        Signers {
            who: Who::Certified(Authority {
                name: "caPath /ca".into(),
                roots: vec![CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).unwrap()],
                between: Vec::new(),
                subject: Subject::LoggedIn {
                    issuer: "https://login.example".into(),
                    email: "builder@signed.example".into(),
                },
            }),
            logs: Some(vec![NamedKey {
                name: "log".into(),
                key,
            }]),
        }
    }

    fn of_bundle(text: &str) -> Signature {
        serde_json::from_value(json!({"bundle": text})).unwrap()
    }

    #[test]
    fn what_cosign_takes_for_good_is_good_here() {
        let signature: Signature = serde_json::from_str(SIGNATURE).unwrap();
        let name = Some("127.0.0.1:5999/t/keyless:1".to_owned());
        for (signature, name) in [(signature, name), (of_bundle(BUNDLE), None)] {
            let (claim, by) = signature.claim(&signers()).unwrap();
            assert_eq!((claim.documents, claim.reference), (vec![DIGEST.to_owned()], name));
            assert!(
                by.starts_with("builder@signed.example of https://login.example by caPath /ca (sha256:"),
                "{by}"
            );
        }
    }

    #[test]
    fn what_was_changed_anywhere_is_not() {
        let whole: Value = serde_json::from_str(SIGNATURE).unwrap();
        for key in ["payload", "signature", "certificate", "entry"] {
            let text = whole[key].as_str().unwrap();
            for at in (0..text.len()).step_by(7) {
                let mut torn = text.as_bytes().to_vec();
                torn[at] ^= 1;
                let mut changed = whole.clone();
                changed[key] = json!(String::from_utf8(torn).unwrap());
                let signature: Signature = serde_json::from_value(changed).unwrap();
                // The lines of PEM may be broken elsewhere.
                let is_line = key == "certificate" && !text.as_bytes()[at].is_ascii_graphic();
                assert!(is_line || signature.claim(&signers()).is_err(), "{key}, byte {at}");
            }
        }
        // Of the log's tree nothing is looked at.
        let tree = BUNDLE.find("\"inclusionProof\"").unwrap()..BUNDLE.find("\"canonicalizedBody\"").unwrap();
        for at in (0..BUNDLE.len()).step_by(7).filter(|at| !tree.contains(at)) {
            let mut torn = BUNDLE.as_bytes().to_vec();
            torn[at] ^= 1;
            let Ok((claim, _)) = of_bundle(&String::from_utf8(torn).unwrap()).claim(&signers()) else {
                continue;
            };
            assert_eq!(claim.documents, [DIGEST], "byte {at}");
        }
    }

    #[test]
    fn a_log_or_an_authority_of_another_is_refused() {
        for text in [SIGNATURE, &json!({"bundle": BUNDLE}).to_string()] {
            let signature: Signature = serde_json::from_str(text).unwrap();
            let other_log = Signers {
                logs: Some(Vec::new()),
                ..signers()
            };
            let refused = signature.claim(&other_log).unwrap_err();
            assert!(refused.contains("none of the logs"), "{refused}");
            let mut other = signers();
            if let Who::Certified(authority) = &mut other.who {
                authority.roots.clear();
            }
            let refused = signature.claim(&other).unwrap_err();
            assert!(refused.contains("a certificate is not good"), "{refused}");
        }
    }
}
