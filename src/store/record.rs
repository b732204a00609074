//! The bytes of a record: a header line that versions and checks, then JSON.

use serde::{Serialize, de::DeserializeOwned};

/// Version of every record's shape. A change of a persisted `model` type raises it.
const VERSION: u32 = 1;
const MAGIC: &str = "inro-record";

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    #[error("no header line")]
    Header,
    #[error("version {0:?} is not {VERSION}")]
    Version(String),
    #[error("length or checksum does not match")]
    Checksum,
    #[error("not the JSON of its type: {0}")]
    Json(#[from] serde_json::Error),
}

/// The bytes of `value`.
///
/// # Errors
/// [`BadRecord::Json`] when the value has no JSON form.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, BadRecord> {
    let body = serde_json::to_vec(value)?;
    let mut bytes = format!("{MAGIC} {VERSION} {:08x} {}\n", crc32fast::hash(&body), body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The value in `bytes`.
///
/// # Errors
/// Every [`BadRecord`]: any damage of any byte is found.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadRecord> {
    let end = bytes.iter().position(|&b| b == b'\n').ok_or(BadRecord::Header)?;
    let header = std::str::from_utf8(&bytes[..end]).map_err(|_| BadRecord::Header)?;
    let body = &bytes[end + 1..];
    let mut words = header.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(BadRecord::Header);
    }
    let version = words.next().unwrap_or_default();
    if version != VERSION.to_string() {
        return Err(BadRecord::Version(version.to_owned()));
    }
    let expected = format!("{:08x} {}", crc32fast::hash(body), body.len());
    if words.collect::<Vec<_>>().join(" ") != expected {
        return Err(BadRecord::Checksum);
    }
    Ok(serde_json::from_slice(body)?)
}
