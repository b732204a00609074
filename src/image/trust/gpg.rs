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

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_gpg_signed_is_read_as_strictly_as_containers_image_does() {
        let critical = |kind: &str| {
            format!(
                r#"{{"type": "{kind}", "image": {{"docker-manifest-digest": "sha256:a"}},
                "identity": {{"docker-reference": "r.test/x:1"}}}}"#
            )
        };
        let payload = |optional: &str| format!(r#"{{"critical": {}, "optional": {optional}}}"#, critical(KIND));
        let other = format!(r#"{{"critical": {}, "optional": {{}}}}"#, critical("another"));
        let table = [
            (payload("{}"), ""),
            (payload(r#"{"creator": "a", "timestamp": 1769904000, "x": [1]}"#), ""),
            (payload(r#"{"timestamp": 1.769904e9}"#), ""),
            (payload(r#"{"timestamp": 1.5}"#), "optional.timestamp"),
            (payload(r#"{"timestamp": "1"}"#), "optional.timestamp"),
            (payload(r#"{"creator": 1}"#), "optional.creator"),
            (payload(r#"{"x": 1, "x": 1}"#), "there twice"),
            (payload("null"), "malformed"),
            (payload("[]"), "malformed"),
            (payload(r#"{}, "x": 1"#), "unknown field `x`"),
            (payload("{}") + "{}", "trailing"),
            (
                format!(r#"{{"critical": {}}}"#, critical(KIND)),
                "missing field `optional`",
            ),
            (other, r#"is a "another""#),
        ];
        for (payload, why) in table {
            match simple::claim::<OptionalJson>(payload.as_bytes(), KIND) {
                Ok(claim) => assert!(why.is_empty() && claim.documents == ["sha256:a"], "{payload}"),
                Err(told) => assert!(!why.is_empty() && told.contains(why), "{payload}: {told}"),
            }
        }
    }

    #[test]
    fn a_signature_may_say_of_which_format_it_is() {
        assert_eq!(Signature::of(b"\0simple-signing\nabc"), Signature::of(b"abc"));
        for (bytes, why) in [
            (&b""[..], "empty"),
            (b"\0simple-signing\n", "empty"),
            (&[0x90; MOST + 1], "has 16385 bytes"),
        ] {
            let told = Signature::of(bytes).unwrap_err();
            assert!(told.contains(why), "{why}: {told}");
        }
    }
}
