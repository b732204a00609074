//! Signatures by who holds a certificate of a PKI that the policy names.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use serde_json::{Value, json};

use super::{
    IMAGE, SigningKey, Stage, for_scope,
    fulcio::{Attached, authority},
    payload, refused,
};

const EMAIL: &str = "builder@signed.example";
const HOST: &str = "ci.signed.example";

#[test]
fn an_image_signed_by_who_has_a_certificate_of_the_policys_pki_is_pulled_and_runs() {
    let stage = Stage::new();
    let pki = Pki::new(&stage, "house");
    pki.demand(&stage, json!({"subjectEmail": EMAIL, "subjectHostname": HOST}));
    refused(stage.pull(""), "there is none");
    pki.sign(&stage, &holder()).attach(&stage);
    let id = stage.pull("").expect("signed");
    assert_eq!(stage.pod("default").run_container(&id, &["true"]).wait().exit_code, 0);
    let by = stage.verdicts()[0]["keys"][0].as_str().expect("who").to_owned();
    assert!(
        by.starts_with(&format!("{EMAIL} at {HOST} by pki.caRootsData (sha256:")),
        "{by}"
    );
    // What was let in by the policy of another day is judged by that of today.
    pki.demand(&stage, json!({"subjectEmail": "other@signed.example"}));
    let made = stage.pod("default").try_container(&id, &["true"], |_| {});
    refused(made.map(|container| container.id), "a certificate is of [\"builder@");
}

#[test]
fn a_certificate_of_a_pki_counts_for_its_names_and_authority_and_as_long_as_it_is_good() {
    let stage = Stage::new();
    let (pki, other) = (Pki::new(&stage, "house"), Pki::new(&stage, "other"));
    let names = json!({"subjectEmail": EMAIL, "subjectHostname": HOST});
    let (mut expired, mut for_servers) = (holder(), holder());
    expired.not_after = date_time_ymd(2021, 1, 1);
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let good = || pki.sign(&stage, &holder());
    let bare = Attached {
        certificate: String::new(),
        ..good()
    };
    let by_another_key = Attached {
        signature: other.sign(&stage, &holder()).signature,
        ..good()
    };
    for (what, demanded, signature, why) in [
        (
            "another e-mail",
            json!({"subjectEmail": "x@signed.example"}),
            good(),
            "a certificate is of",
        ),
        (
            "another host",
            json!({"subjectHostname": "x.example"}),
            good(),
            "not of x.example",
        ),
        (
            "another authority",
            names.clone(),
            other.sign(&stage, &holder()),
            "not good",
        ),
        ("expired", names.clone(), pki.sign(&stage, &expired), "not good"),
        (
            "for something else",
            names.clone(),
            pki.sign(&stage, &for_servers),
            "not good",
        ),
        ("without it", names.clone(), bare, "without a certificate"),
        (
            "by another key",
            names.clone(),
            by_another_key,
            "not made by its certificate's key",
        ),
    ] {
        pki.demand(&stage, demanded);
        signature.attach(&stage);
        let told = refused(stage.pull(""), why);
        println!("{what}: {told}");
    }
    pki.demand(&stage, names);
    good().attach(&stage);
    stage.pull("").expect("signed");
}

/// A root, an authority below it that gives certificates, and who gets them.
struct Pki {
    root: String,
    between: String,
    authority: Issuer<'static, KeyPair>,
    holder: SigningKey,
}

impl Pki {
    fn new(stage: &Stage, name: &str) -> Pki {
        let [root_key, key] = [(); 2].map(|()| KeyPair::generate().expect("a key"));
        let (root, between) = (
            authority(&format!("{name} root")),
            authority(&format!("{name} authority")),
        );
        let root_pem = root.self_signed(&root_key).expect("a root").pem();
        let root = Issuer::new(root, root_key);
        Pki {
            root: root_pem,
            between: between.signed_by(&key, &root).expect("an authority").pem(),
            authority: Issuer::new(between, key),
            holder: SigningKey::new(stage.dir.path(), &format!("{name}-holder")),
        }
    }

    /// Has the policy demand a signature by whom these names are of.
    fn demand(&self, stage: &Stage, names: Value) {
        let mut pki = names;
        pki["caRootsData"] = json!(STANDARD.encode(&self.root));
        pki["caIntermediatesData"] = json!(STANDARD.encode(&self.between));
        let requirement = json!({"type": "sigstoreSigned", "pki": pki, "signedIdentity": {"type": "matchExact"}});
        stage.write_policy(&for_scope("signed.example", &json!([requirement])));
    }

    fn sign(&self, stage: &Stage, certified: &CertificateParams) -> Attached {
        let payload = payload(&stage.digest(), IMAGE);
        Attached {
            signature: self.holder.sign(&payload),
            payload,
            certificate: certified
                .signed_by(&self.holder.pair(), &self.authority)
                .expect("a certificate")
                .pem(),
            entry: Value::Null,
        }
    }
}

fn holder() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![
        SanType::Rfc822Name(EMAIL.try_into().expect("ASCII")),
        SanType::DnsName(HOST.try_into().expect("a name")),
    ];
    params.not_before = date_time_ymd(2020, 1, 1);
    params
}
