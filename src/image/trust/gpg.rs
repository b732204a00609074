//! Signatures as GPG makes them for images: OpenPGP messages that have the JSON in them which says which image is meant.
//!
//! Source: containers-signature(5).

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{policy::Table, signature::Claim, signers::Signers, simple};

/// A message as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Base64.
    gpg: String,
}

impl Signature {
    /// Of what a storage has; nothing is verified.
    ///
    /// # Errors
    /// Why it is none.
    pub fn of(bytes: &[u8]) -> Result<Self, String> {
        let message = bytes.strip_prefix(PREFIX).unwrap_or(bytes);
        match message.len() {
            0 => Err("a GPG signature is empty".into()),
            length if length > MOST => Err(format!("a GPG signature has {length} bytes")),
            _ => Ok(Self {
                gpg: STANDARD.encode(message),
            }),
        }
    }

    /// What it says if one of the signers made it, and which.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn claim(&self, signers: &Signers) -> Result<(Claim, String), String> {
        let message = STANDARD
            .decode(&self.gpg)
            .map_err(|error| format!("a GPG signature is not base64: {error}"))?;
        let (content, by) = signers.open(&message)?;
        Ok((simple::claim::<OptionalJson>(&content, KIND)?, by))
    }
}

/// Who made it with what, and when: nothing hangs on it, but what is malformed is none.
#[derive(Deserialize)]
#[serde(try_from = "Table<Value>")]
struct OptionalJson;

impl TryFrom<Table<Value>> for OptionalJson {
    type Error = String;

    fn try_from(table: Table<Value>) -> Result<Self, String> {
        match (table.0.get("creator"), table.0.get("timestamp")) {
            (Some(creator), _) if !creator.is_string() => Err("optional.creator is not a string".into()),
            (_, Some(timestamp)) if !is_whole(timestamp) => Err("optional.timestamp is not a whole number".into()),
            _ => Ok(Self),
        }
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

const KIND: &str = "atomic container signature";
/// Before a message that says of which format it is. Source: containers/image, `internal/signature`.
const PREFIX: &[u8] = b"\0simple-signing\n";
/// Most bytes of a message: an honest one has some hundred.
const MOST: usize = 16 << 10;
