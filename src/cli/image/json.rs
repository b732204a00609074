//! Images as JSON, in the CRI's names, as its other clients print them.

use inro_proto as wire;
use serde_json::{Value, json};

pub fn image(image: &wire::Image) -> Value {
    let spec = image.spec.clone().unwrap_or_default();
    json!({
        "id": image.id,
        "repoTags": image.repo_tags,
        "repoDigests": image.repo_digests,
        "size": image.size,
        "uid": image.uid.as_ref().map(|uid| uid.value),
        "username": image.username,
        "annotations": spec.annotations,
        "pinned": image.pinned,
    })
}

/// With an end of line.
pub fn text(value: &Value) -> String {
    format!("{value:#}\n")
}
