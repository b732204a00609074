//! A primary key with what it says of itself, and its subkeys: whether one of them may sign at a time.

use std::fmt;

use pgp::{
    crypto::hash::HashAlgorithm,
    packet::{KeyFlags, PublicKey, PublicSubkey, Signature, SignatureType, SubpacketData, UserId},
    ser::Serialize,
    types::{EcdsaPublicParams, EddsaLegacyPublicParams, KeyDetails, KeyVersion, PublicParams, Tag},
};

use super::message::{expiry, is_understood};

/// What RFC 9580 calls a transferable public key. Its signatures are unverified, and some may be others'.
pub struct Certificate {
    /// The file that it is from.
    source: String,
    pub primary: PublicKey,
    direct: Vec<Signature>,
    users: Vec<User>,
    pub subkeys: Vec<Subkey>,
}

struct User {
    id: UserId,
    signatures: Vec<Signature>,
}

pub struct Subkey {
    pub key: PublicSubkey,
    signatures: Vec<Signature>,
}

/// What a signature of a keyring is about: all of the key, or the name or the subkey with a number.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    Key,
    User(usize),
    Subkey(usize),
    Other,
}

/// As `signedBy` has it in a verdict.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.source, id(&self.primary))
    }
}

impl Certificate {
    pub fn new(source: &str, primary: PublicKey) -> Self {
        Self {
            source: source.to_owned(),
            primary,
            direct: Vec::new(),
            users: Vec::new(),
            subkeys: Vec::new(),
        }
    }

    /// The part that a name is, which may be known.
    pub fn user(&mut self, id: UserId) -> Part {
        let known = self.users.iter().position(|user| user.id.id() == id.id());
        Part::User(known.unwrap_or_else(|| {
            let signatures = Vec::new();
            self.users.push(User { id, signatures });
            self.users.len() - 1
        }))
    }

    /// The same of a subkey.
    pub fn subkey(&mut self, key: PublicSubkey) -> Part {
        let fingerprint = key.fingerprint();
        let known = self
            .subkeys
            .iter()
            .position(|subkey| subkey.key.fingerprint() == fingerprint);
        Part::Subkey(known.unwrap_or_else(|| {
            let signatures = Vec::new();
            self.subkeys.push(Subkey { key, signatures });
            self.subkeys.len() - 1
        }))
    }

    /// Adds a signature that was found behind a part.
    pub fn take(&mut self, signature: Signature, part: Part) {
        match part {
            Part::Key => self.direct.push(signature),
            Part::User(at) => self.users[at].signatures.push(signature),
            Part::Subkey(at) => self.subkeys[at].signatures.push(signature),
            Part::Other => {}
        }
    }

    /// Whether the primary key may sign.
    ///
    /// # Errors
    /// Why it may not: the end of a sentence about it.
    pub fn check_signs(&self, revocations: &[Signature], now: u64) -> Result<(), String> {
        let own = self.check_primary(revocations, now)?;
        match own.flags.is_none_or(|flags| flags.sign()) {
            true => Ok(()),
            false => Err("is not for signing".into()),
        }
    }

    /// Whether a subkey of it may.
    ///
    /// # Errors
    /// The same.
    pub fn check_subkey_signs(&self, subkey: &Subkey, revocations: &[Signature], now: u64) -> Result<(), String> {
        self.check_primary(revocations, now)
            .map_err(|why| format!("is of a key that {why}"))?;
        check_kind(&subkey.key)?;
        let is_of_it = |signature: &&Signature| signature.verify_subkey_binding(&self.primary, &subkey.key).is_ok();
        let is_a = |typ| move |signature: &&Signature| signature.typ() == Some(typ);
        let mut revocations = revocations.iter().filter(is_a(SignatureType::SubkeyRevocation));
        if revocations.any(|signature| is_of_it(&signature)) {
            return Err("was revoked".into());
        }
        let bindings = subkey.signatures.iter().filter(is_a(SignatureType::SubkeyBinding));
        let binding = newest(bindings.filter(|signature| counts(signature, now)).filter(is_of_it));
        let binding = binding.ok_or("is not bound to it")?;
        check_expiry(&subkey.key, duration(binding), now)?;
        match flags(binding).is_none_or(|flags| flags.sign()) {
            true => {}
            false => return Err("is not for signing".into()),
        }
        // Else who has signed nothing could bind the subkey of another to his own key.
        let back = binding.embedded_signature().filter(|back| counts(back, now));
        match back.is_some_and(|back| back.verify_primary_key_binding(&subkey.key, &self.primary).is_ok()) {
            true => Ok(()),
            false => Err("has not agreed to be its subkey".into()),
        }
    }

    /// Whether the primary key may vouch for anything.
    fn check_primary(&self, revocations: &[Signature], now: u64) -> Result<Own, String> {
        check_kind(&self.primary)?;
        if self.is_revoked(revocations) {
            return Err("was revoked".into());
        }
        let own = self.own(now).ok_or("has not signed itself")?;
        check_expiry(&self.primary, own.duration, now)?;
        Ok(own)
    }

    /// By itself, or by who it says may do it. Whether the latter did is not asked, since that key may not be there: who
    /// can put it into the keyring can as well take this key out of it.
    fn is_revoked(&self, revocations: &[Signature]) -> bool {
        let revokers = self.direct.iter().filter_map(|signature| signature.revocation_key());
        let revokers: Vec<_> = revokers.map(|revoker| &revoker.fingerprint[..]).collect();
        let is_by_revoker = |signature: &Signature| {
            let fingerprints = signature.issuer_fingerprint();
            let ids = signature.issuer_key_id();
            let mut issuers = fingerprints
                .iter()
                .map(|f| f.as_bytes())
                .chain(ids.iter().map(|id| id.as_ref()));
            issuers.any(|issuer: &[u8]| revokers.iter().any(|revoker| revoker.ends_with(issuer)))
        };
        let mut of_keys = revocations
            .iter()
            .filter(|signature| signature.typ() == Some(SignatureType::KeyRevocation));
        of_keys.any(|signature| signature.verify_key(&self.primary).is_ok() || is_by_revoker(signature))
    }

    /// What it says of itself: directly, and where that says nothing with the newest of its names.
    fn own(&self, now: u64) -> Option<Own> {
        let direct = self
            .direct
            .iter()
            .filter(|signature| signature.typ() == Some(SignatureType::Key));
        let direct = direct.filter(|signature| counts(signature, now) && signature.verify_key(&self.primary).is_ok());
        let users = self.users.iter().filter_map(|user| user.own(&self.primary, now));
        let (direct, user) = (newest(direct), newest(users));
        let both = || direct.into_iter().chain(user);
        both().next()?;
        Some(Own {
            duration: both().map(duration).find(|duration| *duration != 0).unwrap_or(0),
            flags: both().find_map(flags),
        })
    }
}

impl User {
    /// What the key says with this name, unless it has taken the name back since.
    fn own(&self, primary: &PublicKey, now: u64) -> Option<&Signature> {
        let is_own = |signature: &&Signature| {
            signature.is_certification()
                && counts(signature, now)
                && signature.verify_certification(primary, Tag::UserId, &self.id).is_ok()
        };
        newest(self.signatures.iter().filter(is_own))
            .filter(|signature| signature.typ() != Some(SignatureType::CertRevocation))
    }
}

/// What a key says of itself.
struct Own {
    /// How long it lasts, in seconds; 0: for ever.
    duration: u64,
    /// What it is for; `None`: whatever it can.
    flags: Option<KeyFlags>,
}

/// The fingerprint of a key, as GnuPG prints it.
pub fn id(key: &impl KeyDetails) -> String {
    format!("{:X}", key.fingerprint())
}

/// Whether what a key says of itself with a signature is to be heard. SHA-1 is, as with GnuPG: older keys have it, and
/// `pgp` computes it in a way that notices what collisions are made of.
fn counts(signature: &Signature, now: u64) -> bool {
    let is_broken = matches!(
        signature.hash_alg(),
        None | Some(HashAlgorithm::Md5 | HashAlgorithm::Ripemd160)
    );
    !is_broken && is_understood(signature) && expiry(signature).is_none_or(|expiry| expiry > now)
}

/// Of several from one second the last, as with GnuPG.
fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|signature| signature.created().map(|created| created.as_secs()))
}

fn duration(signature: &Signature) -> u64 {
    signature
        .key_expiration_time()
        .map_or(0, |duration| duration.as_secs().into())
}

fn flags(signature: &Signature) -> Option<KeyFlags> {
    let mut parts = signature.config()?.hashed_subpackets();
    parts.find_map(|part| match &part.data {
        SubpacketData::KeyFlags(flags) => Some(flags.clone()),
        _ => None,
    })
}

fn check_expiry(key: &impl KeyDetails, duration: u64, now: u64) -> Result<(), String> {
    let created = u64::from(key.created_at().as_secs());
    if created > now {
        return Err("is not made yet".into());
    }
    match duration {
        0 => Ok(()),
        duration if created + duration > now => Ok(()),
        _ => Err("has expired".into()),
    }
}

fn check_kind(key: &impl KeyDetails) -> Result<(), String> {
    if !matches!(key.version(), KeyVersion::V4 | KeyVersion::V6) {
        return Err("is of a version that is not trusted".into());
    }
    match key.public_params() {
        PublicParams::RSA(_) => match bits(key.public_params()) {
            bits if bits >= LEAST_BITS => Ok(()),
            bits => Err(format!("has {bits} bits only")),
        },
        PublicParams::ECDSA(EcdsaPublicParams::Unsupported { .. })
        | PublicParams::EdDSALegacy(EddsaLegacyPublicParams::Unsupported { .. }) => {
            Err("is on a curve that is unknown here".into())
        }
        PublicParams::ECDSA(_) | PublicParams::EdDSALegacy(_) | PublicParams::Ed25519(_) | PublicParams::Ed448(_) => {
            Ok(())
        }
        _ => Err(format!("is of a kind that is not trusted: {:?}", key.algorithm())),
    }
}

/// Of RSA's modulus, which comes first.
fn bits(params: &PublicParams) -> u16 {
    match params.to_bytes().as_deref() {
        Ok([high, low, ..]) => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

/// Of RSA, as for keys of cosign.
const LEAST_BITS: u16 = 2048;
