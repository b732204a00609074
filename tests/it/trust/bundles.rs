//! What refers to an image: sigstore's bundles, which name no repository, and cosign's signatures.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{IMAGE, REPOSITORY, SigningKey, Stage, payload, refused};
use crate::harness::{
    http::{Answer, Server},
    registry::{digest_of, write_hosts},
};

pub const SCOPE: &str = "signed.example/library/shell";
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const COSIGN: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const STATEMENT: &str = "application/vnd.in-toto+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The predicate of `cosign sign`.
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

#[test]
fn an_image_with_a_bundle_by_the_policys_key_is_pulled_and_runs() {
    let mut stage = Stage::new();
    demand(&stage, SCOPE);
    refused(stage.pull(""), "there is none");
    refer_bundle(&stage, &statement_bundle(&stage.key, &stage.digest(), SIGNED));
    let id = stage.pull("").expect("a bundle refers to it");
    let pod = stage.pod("default");
    let container = pod.run_container(&id, &["true"]);
    assert_eq!(container.wait().exit_code, 0);
    // It is on record: neither the registry nor this life of the daemon is needed.
    stage.registry = None;
    stage.node.daemon.kill9();
    stage.node.daemon.restart();
    assert_eq!(pod.run_container(&id, &["true"]).wait().exit_code, 0);
    stage.demand_for(SCOPE, &stage.other_key, Some(json!({"type": "matchRepository"})));
    let made = pod.try_container(&id, &["true"], |_| {});
    refused(made.map(|container| container.id), "made by none of the keys");
}

#[test]
fn a_bundle_counts_only_as_it_was_signed_and_where_the_policy_binds_its_key_to_the_repository() {
    let stage = Stage::new();
    let digest = stage.digest();
    let good = statement_bundle(&stage.key, &digest, SIGNED);
    let tiny = stage.storage.digest("library/tiny", "latest");
    let of_tiny = statement_bundle(&stage.key, &tiny, SIGNED);
    let changed = |key: &str, value: Value| {
        let mut bundle: Value = serde_json::from_str(&good).expect("a bundle");
        *bundle.pointer_mut(key).expect(key) = value;
        bundle.to_string()
    };
    let own_payload = of_tiny_payload(&of_tiny);
    demand(&stage, SCOPE);
    for (bundle, why) in [
        (
            statement_bundle(&stage.other_key, &digest, SIGNED),
            "made by none of the keys",
        ),
        (
            changed("/dsseEnvelope/payload", own_payload),
            "made by none of the keys",
        ),
        (
            changed("/dsseEnvelope/payloadType", json!("application/json")),
            "made by none of the keys",
        ),
        (
            changed("/dsseEnvelope/signatures/0/sig", json!("MEQCIA==")),
            "made by none of the keys",
        ),
        (of_tiny, "which is not this image"),
        (message_bundle(&stage.key, b"{}"), "which is not this image"),
        (
            statement_bundle(&stage.key, &digest, "https://slsa.dev/provenance/v1"),
            "which is no signature",
        ),
        (
            changed(
                "/mediaType",
                json!("application/vnd.dev.sigstore.bundle+json;version=0.1"),
            ),
            "version=0.1",
        ),
        ("{".into(), "malformed"),
    ] {
        refer_bundle(&stage, &bundle);
        refused(stage.pull(""), why);
    }
    refer_bundle(&stage, &good);
    for scope in ["signed.example/library", "signed.example", ""] {
        demand(&stage, scope);
        refused(stage.pull(""), &format!("it counts under the scope {SCOPE:?} only"));
    }
    stage.demand_for(SCOPE, &stage.key, None);
    refused(stage.pull(""), "a bundle names no tag");
    let by_digest = format!("{SCOPE}@{digest}");
    stage.pull_name(&by_digest, "").expect("a digest needs no tag");
    demand(&stage, SCOPE);
    stage.pull("").expect("by key and repository");
}

#[test]
fn a_bundle_replayed_to_another_repository_is_refused() {
    let stage = Stage::new();
    demand(&stage, SCOPE);
    refer_bundle(&stage, &statement_bundle(&stage.key, &stage.digest(), SIGNED));
    stage.pull("").expect("where the key is for");
    stage.storage.copy_repository(REPOSITORY, "stranger/shell");
    let replayed = || stage.pull_name("signed.example/stranger/shell", "");
    let any = json!({"type": "matchRepository"});
    stage.demand_for("signed.example/stranger/shell", &stage.other_key, Some(any.clone()));
    refused(replayed(), "made by none of the keys");
    stage.demand_for("signed.example/stranger", &stage.key, Some(any));
    refused(
        replayed(),
        "it counts under the scope \"signed.example/stranger/shell\" only",
    );
    let one = json!({"type": "exactRepository", "dockerRepository": SCOPE});
    stage.demand_for("signed.example/stranger/shell", &stage.key, Some(one));
    refused(replayed(), "a bundle names no repository");
}

#[test]
fn a_bundle_may_sign_the_manifest_itself() {
    let stage = Stage::new();
    demand(&stage, SCOPE);
    let manifest = stage.storage.blob(&stage.digest());
    refer_bundle(&stage, &message_bundle(&stage.key, &manifest));
    let id = stage.pull("").expect("the manifest is signed");
    assert_eq!(stage.pod("default").run_container(&id, &["true"]).wait().exit_code, 0);
}

#[test]
fn a_cosign_signature_may_refer_to_its_image() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    let refer_signature = |name: &str| {
        let signed = payload(&stage.digest(), name);
        let manifest = stage.signature_manifest(REPOSITORY, &[(signed.clone(), stage.key.sign(&signed))]);
        refer(&stage, COSIGN, manifest);
    };
    refer_signature("signed.example/library/shell:v1");
    refused(stage.pull(""), "not for this name");
    refer_signature(IMAGE);
    stage.pull("").expect("a signature refers to it");
}

#[test]
fn referrers_are_asked_for_page_by_page() {
    let stage = Stage::new();
    demand(&stage, SCOPE);
    let bundle = statement_bundle(&stage.key, &stage.digest(), SIGNED);
    let wanted = refer_bundle(&stage, &bundle);
    let other = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest_of(b""), "size": 0,
        "artifactType": "application/spdx+json"});
    // The stand-in tag must not be what helps.
    let tag = stage.digest().replace(':', "-");
    stage.storage.put_manifest(
        REPOSITORY,
        &tag,
        index(std::slice::from_ref(&other)).to_string().as_bytes(),
    );
    let path = format!("/v2/{REPOSITORY}/referrers/{}", stage.digest());
    let registry = stage.registry.as_ref().expect("the registry");
    let proxy = Server::start(registry.port, move |request, _| {
        let (at, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        match (at == path, query.contains("last=1")) {
            (false, _) => Answer::Pass { cut: None },
            (true, true) => Answer::Give(INDEX.into(), index(std::slice::from_ref(&wanted)).to_string().into()),
            (true, false) => {
                let link = format!("Content-Type: {INDEX}\r\nLink: <{path}?n=1&last=1>; rel=\"next\"\r\n");
                Answer::Say("200 OK", link, index(std::slice::from_ref(&other)).to_string())
            }
        }
    });
    refused(stage.pull(""), "there is none");
    write_hosts(&stage.node.dir().join("hosts"), "signed.example", &[proxy.port]);
    stage.pull("").expect("it is on the second page");
}

fn demand(stage: &Stage, scope: &str) {
    stage.demand_for(scope, &stage.key, Some(json!({"type": "matchRepository"})));
}

/// Attaches a bundle as cosign 3 does; its entry in the index.
pub fn refer_bundle(stage: &Stage, bundle: &str) -> Value {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": stage.descriptor(REPOSITORY, "application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [stage.descriptor(REPOSITORY, BUNDLE, bundle.as_bytes())],
        "annotations": {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": SIGNED},
    });
    refer(stage, BUNDLE, manifest)
}

/// Makes a manifest refer to the image, alone, for a registry without the referrers API.
fn refer(stage: &Stage, artifact_type: &str, mut manifest: Value) -> Value {
    let digest = stage.digest();
    let size = stage.storage.blob(&digest).len();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    manifest["subject"] = json!({"mediaType": media_type, "digest": digest, "size": size});
    manifest["artifactType"] = json!(artifact_type);
    let text = manifest.to_string();
    stage.storage.put_manifest(REPOSITORY, "referrer", text.as_bytes());
    let entry = json!({"mediaType": media_type, "digest": digest_of(text.as_bytes()), "size": text.len(),
        "artifactType": artifact_type});
    let tag = digest.replace(':', "-");
    stage.storage.put_manifest(
        REPOSITORY,
        &tag,
        index(std::slice::from_ref(&entry)).to_string().as_bytes(),
    );
    entry
}

fn index(manifests: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
}

/// What `cosign sign` of version 3 makes with a key.
fn statement_bundle(key: &SigningKey, digest: &str, predicate_type: &str) -> String {
    let (statement, signature) = signed_statement(key, digest, predicate_type);
    let envelope = envelope(&statement, &signature);
    json!({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": ""}}, "dsseEnvelope": envelope})
        .to_string()
}

/// A statement of an image, and its signature as DSSE has it.
pub fn signed_statement(key: &SigningKey, digest: &str, predicate_type: &str) -> (String, Vec<u8>) {
    let hex = digest.strip_prefix("sha256:").expect("a SHA-256");
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": hex}, "annotations": {}}],
        "predicateType": predicate_type,
        "predicate": {},
    })
    .to_string();
    let signed = format!("DSSEv1 {} {STATEMENT} {} {statement}", STATEMENT.len(), statement.len());
    let signature = key.sign(&signed);
    (statement, signature)
}

pub fn envelope(statement: &str, signature: &[u8]) -> Value {
    json!({
        "payload": STANDARD.encode(statement),
        "payloadType": STATEMENT,
        "signatures": [{"sig": STANDARD.encode(signature)}],
    })
}

/// What `cosign sign-blob` makes with a key.
fn message_bundle(key: &SigningKey, message: &[u8]) -> String {
    let text = std::str::from_utf8(message).expect("JSON");
    let digest = ring::digest::digest(&ring::digest::SHA256, message);
    let message = json!({
        "messageDigest": {"algorithm": "SHA2_256", "digest": STANDARD.encode(digest)},
        "signature": STANDARD.encode(key.sign(text)),
    });
    json!({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": ""}}, "messageSignature": message})
        .to_string()
}

fn of_tiny_payload(bundle: &str) -> Value {
    let bundle: Value = serde_json::from_str(bundle).expect("a bundle");
    bundle["dsseEnvelope"]["payload"].clone()
}
