//! Signatures by who holds a certificate of the policy's authority, and logs that have seen them.
//!
//! The authority and the log are made here, in the formats of the vectors of `src/image/trust`, which cosign 3.1.3 takes for
//! good; cosign was not asked about what is made here.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType, date_time_ymd,
};
use serde_json::{Value, json};

use super::{
    IMAGE, REPOSITORY, SigningKey, Stage,
    bundles::{BUNDLE, SCOPE, SIGNED, envelope, refer_bundle, signed_statement},
    by_path, for_scope, payload, refused,
};
use crate::harness::registry::digest_of;

const EMAIL: &str = "builder@signed.example";
const ISSUER: &str = "https://login.example";
/// Within the year in which certificates are good here, and one after it: seconds of 2026-06-01 and 2027-06-01.
const IN_TIME: u64 = 1_780_272_000;
const TOO_LATE: u64 = 1_811_808_000;

#[test]
fn an_image_signed_by_the_policys_identity_is_pulled_and_runs() {
    let stage = Stage::new();
    let house = House::new(&stage, "house");
    house.demand(&stage, "signed.example", json!({"type": "matchExact"}));
    refused(stage.pull(""), "there is none");
    house.signature(&stage).attach(&stage);
    let id = stage.pull("").expect("signed");
    assert_eq!(stage.pod("default").run_container(&id, &["true"]).wait().exit_code, 0);
    let by = stage.verdicts()[0]["keys"][0].as_str().expect("who").to_owned();
    assert!(
        by.starts_with(&format!("{EMAIL} of {ISSUER} by fulcio.caData (sha256:")),
        "{by}"
    );
    let bundle = house.bundle(&stage);
    stage.attach(&[]);
    stage.node.remove_image(IMAGE);
    house.demand(&stage, SCOPE, json!({"type": "matchRepository"}));
    refer_bundle(&stage, &bundle.text());
    stage.pull("").expect("the bundle is as good");
}

#[test]
fn a_certified_signature_counts_for_its_identity_authority_log_and_time_only() {
    let stage = Stage::new();
    let (house, other) = (House::new(&stage, "house"), House::new(&stage, "other"));
    house.demand(&stage, "signed.example", json!({"type": "matchRepository"}));
    let certified = |email: &str, issuer: &str, usage: ExtendedKeyUsagePurpose| {
        house.logged(&stage, house.certify(email, issuer, usage, &house.holder), IN_TIME)
    };
    let code = || ExtendedKeyUsagePurpose::CodeSigning;
    let good = || house.signature(&stage);
    let changed = |change: &dyn Fn(&mut Attached)| {
        let mut signature = good();
        change(&mut signature);
        signature
    };
    let other_log = Attached {
        entry: house.entry(&other.log, &good(), IN_TIME),
        ..good()
    };
    let other_key = house.certify(EMAIL, ISSUER, code(), &other.holder);
    let for_other_key = house.logged(&stage, other_key, IN_TIME);
    let of_other = other.signature(&stage);
    for (what, signature, why) in [
        (
            "another e-mail",
            certified("thief@signed.example", ISSUER, code()),
            "a certificate is of [\"thief@",
        ),
        (
            "another issuer",
            certified(EMAIL, "https://other.example", code()),
            "is of issuer \"https://other.example\"",
        ),
        (
            "no certificate to sign code",
            certified(EMAIL, ISSUER, ExtendedKeyUsagePurpose::ServerAuth),
            "is not good",
        ),
        (
            "expired",
            house.logged(&stage, house.certificate(), TOO_LATE),
            "a certificate is not good",
        ),
        (
            "not yet",
            house.logged(&stage, house.certificate(), 1),
            "a certificate is not good",
        ),
        ("another's key", for_other_key, "not made by its certificate's key"),
        (
            "another authority",
            Attached {
                entry: house.entry(&house.log, &of_other, IN_TIME),
                ..of_other
            },
            "is not good",
        ),
        ("another log", other_log, "made by none of the logs"),
        (
            "another time",
            changed(&|s| s.entry["Payload"]["integratedTime"] = json!(IN_TIME + 1)),
            "none of the logs",
        ),
        (
            "a torn promise",
            changed(&|s| s.entry["SignedEntryTimestamp"] = json!("MEQCIA==")),
            "none of the logs",
        ),
        (
            "another's entry",
            changed(&|s| s.entry = house.signature_of(&stage, "r.test/x:1").entry),
            "of another signature",
        ),
        (
            "no entry",
            changed(&|s| s.entry = Value::Null),
            "without an entry of a log",
        ),
        (
            "no certificate",
            changed(&|s| s.certificate.clear()),
            "without a certificate",
        ),
        (
            "another payload",
            changed(&|s| s.payload = s.payload.replace("latest", "first")),
            "of another signature",
        ),
    ] {
        signature.attach(&stage);
        let told = refused(stage.pull(""), why);
        println!("{what}: {told}");
    }
    good().attach(&stage);
    stage.storage.copy_repository(REPOSITORY, "stranger/shell");
    refused(
        stage.pull_name("signed.example/stranger/shell", ""),
        "not for this name",
    );
    stage.pull("").expect("signed");
}

#[test]
fn a_certified_bundle_counts_for_its_identity_authority_log_and_time_only() {
    let stage = Stage::new();
    let (house, other) = (House::new(&stage, "house"), House::new(&stage, "other"));
    house.demand(&stage, SCOPE, json!({"type": "matchRepository"}));
    let code = || ExtendedKeyUsagePurpose::CodeSigning;
    let certified = |email: &str, issuer: &str| {
        house.bundle_with(
            &stage,
            house.certify(email, issuer, code(), &house.holder),
            &house.log,
            IN_TIME,
        )
    };
    let good = || house.bundle(&stage);
    let changed = |key: &str, value: Value| {
        let mut bundle = good();
        *bundle.0.pointer_mut(key).expect(key) = value;
        bundle
    };
    let entry = "/verificationMaterial/tlogEntries/0";
    let at = |key: &str| format!("{entry}/{key}");
    let of_tiny = {
        let digest = stage.storage.digest("library/tiny", "latest");
        house.bundle_of(&digest, house.certificate(), &house.log, IN_TIME)
    };
    let entry_of_tiny = of_tiny.0.pointer(entry).expect("an entry").clone();
    for (what, bundle, why) in [
        (
            "another e-mail",
            certified("thief@signed.example", ISSUER),
            "a certificate is of [\"thief@",
        ),
        (
            "another issuer",
            certified(EMAIL, "https://other.example"),
            "is of issuer",
        ),
        (
            "expired",
            house.bundle_with(&stage, house.certificate(), &house.log, TOO_LATE),
            "is not good",
        ),
        (
            "another authority",
            house.bundle_with(&stage, other.certificate(), &house.log, IN_TIME),
            "is not good",
        ),
        (
            "another log",
            house.bundle_with(&stage, house.certificate(), &other.log, IN_TIME),
            "none of the logs",
        ),
        (
            "another time",
            changed(&at("integratedTime"), json!((IN_TIME + 1).to_string())),
            "none of the logs",
        ),
        (
            "another image's entry",
            changed(entry, entry_of_tiny),
            "of another signature",
        ),
        (
            "no promise",
            changed(&at("inclusionPromise"), Value::Null),
            "no signed timestamp",
        ),
        (
            "no entry",
            changed("/verificationMaterial/tlogEntries", json!([])),
            "without an entry of a log",
        ),
        (
            "no certificate",
            changed("/verificationMaterial/certificate", Value::Null),
            "without a certificate",
        ),
        ("another image", of_tiny, "which is not this image"),
    ] {
        refer_bundle(&stage, &bundle.text());
        let told = refused(stage.pull(""), why);
        println!("{what}: {told}");
    }
    refer_bundle(&stage, &good().text());
    stage.pull("").expect("signed");
}

#[test]
fn a_key_with_a_log_counts_only_with_the_logs_entry() {
    let stage = Stage::new();
    let house = House::new(&stage, "house");
    let mut requirement = by_path(&stage.key, None);
    requirement["rekorPublicKeyPath"] = json!(house.log.public());
    stage.write_policy(&for_scope("signed.example", &json!([requirement])));
    stage.sign(&stage.key, IMAGE);
    refused(stage.pull(""), "without an entry of a log");
    let text = payload(&stage.digest(), IMAGE);
    let mut signature = Attached {
        signature: stage.key.sign(&text),
        payload: text,
        certificate: fs::read_to_string(stage.other_key.public()).expect("a key"),
        entry: Value::Null,
    };
    signature.entry = house.entry(&house.log, &signature, IN_TIME);
    signature.attach(&stage);
    refused(stage.pull(""), "of another signature");
    signature.certificate = fs::read_to_string(stage.key.public()).expect("a key");
    signature.entry = house.entry(&house.log, &signature, IN_TIME);
    signature.attach(&stage);
    stage.pull("").expect("signed and logged");
}

/// An authority, a log, and one who has a certificate.
struct House {
    authority: Issuer<'static, KeyPair>,
    root: String,
    holder: SigningKey,
    log: SigningKey,
}

/// Who may certify.
pub fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2020, 1, 1);
    params
}

impl House {
    fn new(stage: &Stage, name: &str) -> House {
        let params = authority(name);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root").pem();
        House {
            authority: Issuer::new(params, key),
            root,
            holder: SigningKey::new(stage.dir.path(), &format!("{name}-holder")),
            log: SigningKey::new(stage.dir.path(), &format!("{name}-log")),
        }
    }

    fn demand(&self, stage: &Stage, scope: &str, identity: Value) {
        let requirement = json!({
            "type": "sigstoreSigned",
            "fulcio": {"caData": STANDARD.encode(&self.root), "oidcIssuer": ISSUER, "subjectEmail": EMAIL},
            "rekorPublicKeyPath": self.log.public(),
            "signedIdentity": identity,
        });
        stage.write_policy(&for_scope(scope, &json!([requirement])));
    }

    /// Source: sigstore/fulcio, "Certificate Specification".
    fn certify(&self, email: &str, issuer: &str, usage: ExtendedKeyUsagePurpose, of: &SigningKey) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::Rfc822Name(email.try_into().expect("ASCII"))];
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        let id = |last| [1, 3, 6, 1, 4, 1, 57264, 1, last];
        let text = [&[0x0c, u8::try_from(issuer.len()).expect("short")], issuer.as_bytes()].concat();
        params.custom_extensions = vec![
            CustomExtension::from_oid_content(&id(1), issuer.into()),
            CustomExtension::from_oid_content(&id(8), text),
        ];
        params.signed_by(&of.pair(), &self.authority).expect("a certificate")
    }

    fn certificate(&self) -> Certificate {
        self.certify(EMAIL, ISSUER, ExtendedKeyUsagePurpose::CodeSigning, &self.holder)
    }

    fn signature(&self, stage: &Stage) -> Attached {
        self.logged(stage, self.certificate(), IN_TIME)
    }

    fn signature_of(&self, stage: &Stage, name: &str) -> Attached {
        self.logged_text(payload(&stage.digest(), name), self.certificate(), IN_TIME)
    }

    fn logged(&self, stage: &Stage, certificate: Certificate, at: u64) -> Attached {
        self.logged_text(payload(&stage.digest(), IMAGE), certificate, at)
    }

    fn logged_text(&self, payload: String, certificate: Certificate, at: u64) -> Attached {
        let mut made = Attached {
            signature: self.holder.sign(&payload),
            payload,
            certificate: certificate.pem(),
            entry: Value::Null,
        };
        made.entry = self.entry(&self.log, &made, at);
        made
    }

    /// Source: sigstore/rekor, `types/hashedrekord/v0.0.1`.
    fn entry(&self, log: &SigningKey, of: &Attached, at: u64) -> Value {
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": {"hash": {"algorithm": "sha256", "value": hex(&of.payload)}},
                "signature": {
                    "content": STANDARD.encode(&of.signature),
                    "publicKey": {"content": STANDARD.encode(&of.certificate)},
                },
            },
        });
        let (promise, said) = promise(log, &body, at);
        json!({"SignedEntryTimestamp": promise, "Payload": said})
    }

    fn bundle(&self, stage: &Stage) -> Bundle {
        self.bundle_with(stage, self.certificate(), &self.log, IN_TIME)
    }

    fn bundle_with(&self, stage: &Stage, certificate: Certificate, log: &SigningKey, at: u64) -> Bundle {
        self.bundle_of(&stage.digest(), certificate, log, at)
    }

    /// Source: sigstore/rekor, `types/dsse/v0.0.1`.
    fn bundle_of(&self, digest: &str, certificate: Certificate, log: &SigningKey, at: u64) -> Bundle {
        let (statement, signature) = signed_statement(&self.holder, digest, SIGNED);
        let envelope = envelope(&statement, &signature);
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": {"algorithm": "sha256", "value": hex(&envelope.to_string())},
                "payloadHash": {"algorithm": "sha256", "value": hex(&statement)},
                "signatures": [{
                    "signature": STANDARD.encode(&signature),
                    "verifier": STANDARD.encode(certificate.pem()),
                }],
            },
        });
        let (promise, said) = promise(log, &body, at);
        let entry = json!({
            "logIndex": said["logIndex"].to_string(),
            "logId": {"keyId": STANDARD.encode(log_id(log))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": at.to_string(),
            "inclusionPromise": {"signedEntryTimestamp": promise},
            "canonicalizedBody": said["body"],
        });
        Bundle(json!({
            "mediaType": BUNDLE,
            "verificationMaterial": {
                "certificate": {"rawBytes": STANDARD.encode(certificate.der())},
                "tlogEntries": [entry],
            },
            "dsseEnvelope": envelope,
        }))
    }
}

/// What a log says of an entry, and its signature.
fn promise(log: &SigningKey, body: &Value, at: u64) -> (String, Value) {
    let said = json!({
        "body": STANDARD.encode(body.to_string()),
        "integratedTime": at,
        "logID": hex_of(&log_id(log)),
        "logIndex": 7,
    });
    // With its keys in order, as serde_json has them.
    (STANDARD.encode(log.sign(&said.to_string())), said)
}

/// A signature as cosign attaches it, with what comes with it.
pub struct Attached {
    pub payload: String,
    pub signature: Vec<u8>,
    pub certificate: String,
    pub entry: Value,
}

impl Attached {
    /// Alone.
    pub fn attach(&self, stage: &Stage) {
        let signature = (self.payload.clone(), self.signature.clone());
        let mut manifest = stage.signature_manifest(REPOSITORY, &[signature]);
        let annotations = &mut manifest["layers"][0]["annotations"];
        if !self.certificate.is_empty() {
            annotations["dev.sigstore.cosign/certificate"] = json!(self.certificate);
        }
        if !self.entry.is_null() {
            annotations["dev.sigstore.cosign/bundle"] = json!(self.entry.to_string());
        }
        stage.put_signature_manifest(REPOSITORY, &stage.digest(), &manifest);
    }
}

struct Bundle(Value);

impl Bundle {
    fn text(&self) -> String {
        self.0.to_string()
    }
}

/// SHA-256 of its SubjectPublicKeyInfo.
fn log_id(log: &SigningKey) -> Vec<u8> {
    let pem = fs::read_to_string(log.public()).expect("a key");
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(base64).expect("PEM");
    ring::digest::digest(&ring::digest::SHA256, &der).as_ref().to_vec()
}

fn hex(text: &str) -> String {
    digest_of(text.as_bytes())["sha256:".len()..].to_owned()
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
