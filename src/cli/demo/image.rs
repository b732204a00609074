//! The built-in image as an OCI archive: one layer with one file, the freestanding demo program.

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::model::hex;

/// What the archive's index calls it.
pub const NAME: &str = "inro.invalid/demo:built-in";

static PROGRAM: &[u8] = include_bytes!(env!("INRO_DEMO"));

/// The archive.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn archive() -> anyhow::Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    add(&mut layer, "demo", 0o755, PROGRAM)?;
    let layer = layer.into_inner()?;
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": ["/demo"], "User": "65534:65534"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": NAME});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let mut archive = Builder::new(Vec::new());
    add(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add(&mut archive, "index.json", 0o644, index.as_bytes())?;
    for blob in [layer.as_slice(), config.as_bytes(), manifest.as_bytes()] {
        let name = digest(blob).replace("sha256:", "blobs/sha256/");
        add(&mut archive, &name, 0o644, blob)?;
    }
    Ok(archive.into_inner()?)
}

fn add(tar: &mut Builder<Vec<u8>>, name: &str, mode: u32, data: &[u8]) -> std::io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    header.set_cksum();
    tar.append(&header, data)
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}
