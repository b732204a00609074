//! Keyrings: the keys of a requirement, all of them together.

use std::io::Read;

use pgp::{
    armor::Dearmor,
    errors::Error,
    packet::{Packet, PacketParser, PacketTrait, PublicKey, Signature, SignatureType},
    types::KeyDetails,
};

use super::{
    certificate::{Certificate, Part, id},
    message::{self, Message},
    told,
};

/// Keys as they are at a time.
pub struct Keyring {
    certificates: Vec<Certificate>,
    /// Of keys and subkeys, wherever they stand: GnuPG finds them in any order, and in blocks of their own.
    revocations: Vec<Signature>,
    /// In seconds since 1970.
    now: u64,
}

impl Keyring {
    /// Of files, binary or armored, each with its name.
    ///
    /// # Errors
    /// The file at fault, and why.
    pub fn new(files: &[(String, Vec<u8>)], now: u64) -> Result<Self, String> {
        let mut keyring = Self {
            certificates: Vec::new(),
            revocations: Vec::new(),
            now,
        };
        for (name, bytes) in files {
            let added = blocks(bytes).and_then(|blocks| blocks.iter().try_for_each(|block| keyring.add(name, block)));
            added.map_err(|why| format!("{name}: {why}"))?;
        }
        match keyring.certificates.is_empty() {
            true => Err("there is no key in any of the keyrings".into()),
            false => Ok(keyring),
        }
    }

    fn add(&mut self, name: &str, block: &[u8]) -> Result<(), String> {
        let mut at = None;
        let mut part = Part::Key;
        for packet in PacketParser::new(block) {
            let packet = match packet {
                Ok(packet) => packet,
                Err(error) if is_of_the_future(&error) => continue,
                Err(error) => return Err(format!("it is not an OpenPGP keyring: {}", told(&error))),
            };
            match (packet, at) {
                (Packet::PublicKey(key), _) => {
                    at = Some(self.place_of(name, key));
                    part = Part::Key;
                }
                (Packet::SecretKey(_) | Packet::SecretSubkey(_), _) => {
                    return Err("there is a secret key in it".into());
                }
                (Packet::Signature(signature), _) if is_revocation(&signature) => self.revocations.push(signature),
                (Packet::Signature(signature), Some(at)) => self.certificates[at].take(signature, part),
                (Packet::UserId(id), Some(at)) => part = self.certificates[at].user(id),
                (Packet::PublicSubkey(key), Some(at)) => part = self.certificates[at].subkey(key),
                // What is said of a picture says nothing of the key.
                (Packet::UserAttribute(_), _) => part = Part::Other,
                (Packet::Trust(_) | Packet::Marker(_) | Packet::Padding(_), _) => {}
                (other, _) => {
                    let kind = other.tag();
                    return Err(format!("there is something else than public keys in it: {kind:?}"));
                }
            }
        }
        Ok(())
    }

    /// A key that is there twice is one, and everything counts that is said of it.
    fn place_of(&mut self, name: &str, key: PublicKey) -> usize {
        let is_same = |known: &Certificate| known.primary.fingerprint() == key.fingerprint();
        let known = self.certificates.iter().position(is_same);
        known.unwrap_or_else(|| {
            self.certificates.push(Certificate::new(name, key));
            self.certificates.len() - 1
        })
    }

    /// What a message says if one of the keys has signed it, and which.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn open(&self, message: &[u8]) -> Result<(Vec<u8>, String), String> {
        let message = Message::read(message)?;
        message::check_form(&message.signature)?;
        let by = self.maker(&message)?;
        Ok((message.content, by))
    }

    fn maker(&self, message: &Message) -> Result<String, String> {
        let mut refused = "a signature was made by none of the keys".to_owned();
        for certificate in &self.certificates {
            match self.made_by(message, certificate) {
                Ok(None) => {}
                Ok(Some(by)) => return Ok(by),
                Err(why) => refused = why,
            }
        }
        Err(refused)
    }

    /// `None`: this key did not make it, nor did a subkey.
    fn made_by(&self, message: &Message, certificate: &Certificate) -> Result<Option<String>, String> {
        let (signature, content) = (&message.signature, &message.content[..]);
        let primary = &certificate.primary;
        if signature.verify(primary, content).is_ok() {
            let key = format!("the key {}", id(primary));
            let may = certificate.check_signs(&self.revocations, self.now);
            may.map_err(|why| format!("a signature is by {key}, which {why}"))?;
            self.check_time(signature, primary, &key)?;
            return Ok(Some(certificate.to_string()));
        }
        let mut subkeys = certificate.subkeys.iter();
        let Some(subkey) = subkeys.find(|subkey| signature.verify(&subkey.key, content).is_ok()) else {
            return Ok(None);
        };
        let key = format!("the subkey {} of {}", id(&subkey.key), id(primary));
        let may = certificate.check_subkey_signs(subkey, &self.revocations, self.now);
        may.map_err(|why| format!("a signature is by {key}, which {why}"))?;
        self.check_time(signature, &subkey.key, &key)?;
        Ok(Some(certificate.to_string()))
    }

    fn check_time(&self, signature: &Signature, key: &impl KeyDetails, name: &str) -> Result<(), String> {
        let Some(created) = signature.created() else {
            return Err(format!("a signature by {name} does not say when it was made"));
        };
        if created.as_secs() < key.created_at().as_secs() {
            return Err(format!("a signature by {name} is older than that"));
        }
        match message::expiry(signature) {
            Some(expiry) if expiry <= self.now => Err(format!("a signature by {name} has expired")),
            _ => Ok(()),
        }
    }
}

fn is_revocation(signature: &Signature) -> bool {
    matches!(
        signature.typ(),
        Some(SignatureType::KeyRevocation | SignatureType::SubkeyRevocation)
    )
}

/// A kind of packet that RFC 9580 wants to be passed over by who does not know it.
fn is_of_the_future(error: &Error) -> bool {
    match error {
        Error::Unsupported { .. } => true,
        Error::InvalidPacketContent { source } => is_of_the_future(source),
        _ => false,
    }
}

/// The bytes themselves, or what is in their blocks of armor: Red Hat's file has two, with text around them.
fn blocks(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        return Ok(vec![bytes.to_owned()]);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is neither a binary keyring nor text".to_owned())?;
    let begins = text.match_indices(BEGIN);
    let blocks: Vec<_> = begins.map(|(at, _)| unarmored(&text[at..])).collect::<Result<_, _>>()?;
    match blocks.is_empty() {
        true => Err("there is no PGP PUBLIC KEY BLOCK in it".into()),
        false => Ok(blocks),
    }
}

/// The block at the beginning of a text. `pgp` gets no more than that: of two blocks it would read none.
fn unarmored(text: &str) -> Result<Vec<u8>, String> {
    let end = text.find(END).ok_or("its armor has no end")? + END.len();
    let mut block = Vec::new();
    match Dearmor::new(&text.as_bytes()[..end]).read_to_end(&mut block) {
        Ok(_) => Ok(block),
        Err(error) => Err(format!("its armor is malformed: {}", told(&error))),
    }
}

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
