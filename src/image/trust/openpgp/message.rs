//! A signed message: one signature, and what it is over.

use std::{fmt::Display, io::Read};

use pgp::{
    crypto::hash::HashAlgorithm,
    packet::{CompressedData, Packet, PacketParser, Signature, SignatureType, SubpacketData},
};

use super::told;

/// Unverified.
pub struct Message {
    pub content: Vec<u8>,
    pub signature: Signature,
}

impl Message {
    /// # Errors
    /// Why it is not one content with one signature.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut packets = packets(bytes)?;
        if let [Packet::CompressedData(compressed)] = &packets[..] {
            packets = self::packets(&decompressed(compressed)?)?;
        }
        let mut packets = packets.into_iter();
        match (packets.next(), packets.next(), packets.next(), packets.next()) {
            // The first of three says what will follow, for who reads it as it comes.
            (
                Some(Packet::OnePassSignature(_)),
                Some(Packet::LiteralData(literal)),
                Some(Packet::Signature(signature)),
                None,
            )
            | (Some(Packet::Signature(signature)), Some(Packet::LiteralData(literal)), None, None) => Ok(Self {
                content: literal.data().to_owned(),
                signature,
            }),
            _ => Err("a GPG signature is not a message with one signature".into()),
        }
    }
}

fn malformed(error: &dyn Display) -> String {
    format!("a GPG signature is malformed: {}", told(error))
}

fn packets(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    PacketParser::new(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(&error))
}

fn decompressed(packet: &CompressedData) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let reader = packet.decompress().map_err(|error| malformed(&error))?;
    let length = reader.take(MOST + 1).read_to_end(&mut bytes);
    match length.map_err(|error| malformed(&error))? as u64 {
        length if length > MOST => Err(format!(
            "a GPG signature has more than {MOST} bytes when it is unpacked"
        )),
        _ => Ok(bytes),
    }
}

/// Whether it is of a kind that can be over a content, by a hash that nobody has broken.
///
/// # Errors
/// Why it is not.
pub fn check_form(signature: &Signature) -> Result<(), String> {
    match signature.typ() {
        Some(SignatureType::Binary | SignatureType::Text) => {}
        _ => return Err("a GPG signature is not one of a content".into()),
    }
    match signature.hash_alg() {
        Some(
            HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512,
        ) => {}
        Some(other) => return Err(format!("a GPG signature is made with {other}, which is not trusted")),
        None => return Err("a GPG signature is of an unknown version".into()),
    }
    match is_understood(signature) {
        true => Ok(()),
        false => Err("a GPG signature has a critical part that is unknown here".into()),
    }
}

/// Whether all is known that its maker has marked as critical; `pgp` refuses what is not of the RFC's kinds itself.
pub fn is_understood(signature: &Signature) -> bool {
    let parts = signature
        .config()
        .into_iter()
        .flat_map(|config| config.hashed_subpackets());
    let mut critical = parts.filter(|part| part.is_critical);
    critical.all(|part| !matches!(part.data, SubpacketData::Notation(_) | SubpacketData::Experimental(..)))
}

/// When it ends to count, in seconds since 1970; `None`: never.
pub fn expiry(signature: &Signature) -> Option<u64> {
    let created = u64::from(signature.created()?.as_secs());
    let lasts = signature.signature_expiration_time()?.as_secs();
    (lasts != 0).then(|| created + u64::from(lasts))
}

/// Most bytes of what was compressed.
const MOST: u64 = 64 << 10;
