//! Simple signing: the JSON that says which image is meant, signed by cosign as well as by GPG.
//!
//! Source: containers-signature(5), "The JSON format", as strict as containers/image reads it.

use serde::{Deserialize, de::DeserializeOwned};

use super::signature::Claim;

/// What a payload of this kind says, if what it may say besides is an `Optional`.
///
/// # Errors
/// Why it says nothing.
pub fn claim<Optional: DeserializeOwned>(payload: &[u8], kind: &str) -> Result<Claim, String> {
    let payload: PayloadJson<Optional> =
        serde_json::from_slice(payload).map_err(|error| format!("a signed payload is malformed: {error}"))?;
    let critical = payload.critical;
    if critical.kind != kind {
        return Err(format!("a signed payload is a {:?}", critical.kind));
    }
    Ok(Claim {
        documents: vec![critical.image.digest],
        reference: Some(critical.identity.reference),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PayloadJson<Optional> {
    critical: CriticalJson,
    #[serde(rename = "optional")]
    _optional: Optional,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CriticalJson {
    #[serde(rename = "type")]
    kind: String,
    image: ImageJson,
    identity: IdentityJson,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageJson {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityJson {
    #[serde(rename = "docker-reference")]
    reference: String,
}
