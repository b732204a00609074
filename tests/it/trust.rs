//! Which images may be pulled and run: `policy.json`, and signatures as cosign attaches them, made by openssl.

mod bundles;
mod fulcio;
mod gpg;
mod pki;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::harness::{
    Node, Pod,
    http::{Answer, Server},
    registry::{Registry, Setup, Storage, write_hosts},
    v1,
};

/// What most tests pull, and its repository in the registry.
const IMAGE: &str = "signed.example/library/shell:latest";
const REPOSITORY: &str = "library/shell";

#[test]
fn an_image_signed_by_the_policys_key_is_pulled_and_runs() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    stage.sign(&stage.key, IMAGE);
    let id = stage.pull("").expect("signed");
    let container = stage.pod("default").run_container(&id, &["true"]);
    assert_eq!(container.wait().exit_code, 0);
    let [verdict] = &stage.verdicts()[..] else {
        panic!("{:?}", stage.verdicts())
    };
    assert_eq!(verdict["reference"], IMAGE);
    assert_eq!(verdict["policy"], stage.policy.display().to_string());
    assert_eq!(verdict["scope"], "signed.example");
    let key = verdict["keys"][0].as_str().expect("a key");
    assert!(
        key.starts_with(&format!("keyPath {}", stage.key.public().display())),
        "{key}"
    );
}

#[test]
fn an_unsigned_image_is_refused_and_nothing_of_it_is_fetched() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    let proxy = stage.watch();
    refused(stage.pull(""), "a signature is demanded, and there is none");
    let asked: Vec<String> = proxy.seen().iter().map(|request| request.target.clone()).collect();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|target| !target.contains("/blobs/")), "{asked:?}");
    assert_eq!(stage.node.image(IMAGE), None);
    for folder in ["layers", "images", "tmp", "blobs/sha256"] {
        let left = fs::read_dir(stage.node.dir().join("root").join(folder)).expect(folder);
        assert_eq!(left.count(), 0, "{folder}");
    }
}

#[test]
fn a_signed_payload_that_was_changed_is_refused() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    let other = payload(&stage.storage.digest("library/tiny", "latest"), IMAGE);
    let signature = stage.key.sign(&other);
    let changed = payload(&stage.digest(), IMAGE);
    stage.attach(&[(changed, signature)]);
    refused(stage.pull(""), "made by none of the keys");
}

#[test]
fn a_payload_that_is_not_what_its_manifest_names_is_refused() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    let signed = payload(&stage.digest(), IMAGE);
    stage.attach(&[(signed.clone(), stage.key.sign(&signed))]);
    let digest = crate::harness::registry::digest_of(signed.as_bytes());
    let swapped = signed.replace("null", "{}  ");
    assert_eq!(swapped.len(), signed.len());
    stage.storage.overwrite_blob(&digest, swapped.as_bytes());
    refused(stage.pull(""), &format!("not {digest}"));
}

#[test]
fn a_signature_that_was_changed_is_refused() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    let signed = payload(&stage.digest(), IMAGE);
    let mut signature = stage.key.sign(&signed);
    let last = signature.len() - 1;
    signature[last] ^= 1;
    stage.attach(&[(signed, signature)]);
    refused(stage.pull(""), "made by none of the keys");
}

#[test]
fn a_signature_by_another_key_is_refused() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    stage.sign(&stage.other_key, IMAGE);
    refused(stage.pull(""), "made by none of the keys");
}

#[test]
fn a_signature_for_another_name_is_refused() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    for name in [
        "signed.example/library/shell:v1",
        "signed.example/library/shell",
        "other.example/library/shell:latest",
    ] {
        stage.sign(&stage.key, name);
        refused(
            stage.pull(""),
            &format!("a signature is for {name:?}, not for this name"),
        );
    }
}

#[test]
fn a_signature_replayed_to_another_repository_is_refused() {
    let stage = Stage::new();
    stage.demand_with(&stage.key, Some(json!({"type": "matchRepository"})));
    stage.sign(&stage.key, IMAGE);
    stage.pull("").expect("where it was signed for");
    stage.storage.copy_repository(REPOSITORY, "stranger/shell");
    refused(
        stage.pull_name("signed.example/stranger/shell", ""),
        "not for this name",
    );
}

#[test]
fn a_signature_of_another_image_is_refused() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    let other = payload(&stage.storage.digest("library/tiny", "latest"), IMAGE);
    stage.attach(&[(other.clone(), stage.key.sign(&other))]);
    refused(stage.pull(""), "which is not this image");
}

#[test]
fn one_good_signature_among_bad_ones_is_enough() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    let good = payload(&stage.digest(), IMAGE);
    let stranger = payload(&stage.digest(), "other.example/x:1");
    stage.attach(&[
        (stranger.clone(), stage.key.sign(&stranger)),
        (good.clone(), stage.key.sign(&good)),
        (good.clone(), stage.other_key.sign(&good)),
        ("{}".into(), stage.key.sign("{}")),
    ]);
    stage.pull("").expect("one of them is good");
}

#[test]
fn all_requirements_have_to_be_met() {
    let stage = Stage::new();
    let both = [by_data(&[&stage.key]), by_data(&[&stage.other_key])];
    stage.write_policy(&for_scope("signed.example", &json!(both)));
    let signed = payload(&stage.digest(), IMAGE);
    let (one, other) = (stage.key.sign(&signed), stage.other_key.sign(&signed));
    stage.attach(&[(signed.clone(), one.clone())]);
    refused(stage.pull(""), "made by none of the keys");
    stage.attach(&[(signed.clone(), one), (signed, other)]);
    stage.pull("").expect("signed by both");
    assert_eq!(stage.verdicts()[0]["keys"].as_array().expect("keys").len(), 2);
    // One requirement with two keys is met by either.
    let either = json!([by_data(&[&stage.other_key, &stage.key])]);
    stage.write_policy(&for_scope("signed.example", &either));
    stage.sign(&stage.key, IMAGE);
    stage.pull("").expect("signed by one of them");
}

#[test]
fn who_signs_an_index_signs_what_it_names_and_a_manifest_can_be_signed_by_itself() {
    let stage = Stage::new();
    stage.demand(&stage.key);
    let (repository, image) = ("library/platforms", "signed.example/library/platforms:latest");
    let index = stage.storage.digest(repository, "latest");
    let names: Value = serde_json::from_slice(&stage.storage.blob(&index)).expect("an index");
    let is_ours = |entry: &&Value| entry["platform"]["architecture"] == "amd64" || cfg!(not(target_arch = "x86_64"));
    let manifests = names["manifests"].as_array().expect("manifests");
    let ours = manifests
        .iter()
        .filter(is_ours)
        .map(|entry| entry["digest"].as_str().expect("a digest"));
    refused(stage.pull_name(image, ""), "there is none");
    let of_index = payload(&index, image);
    stage.attach_to(repository, &index, &[(of_index.clone(), stage.key.sign(&of_index))]);
    stage.pull_name(image, "").expect("the index is signed");
    stage.node.remove_image(image);
    stage.attach_to(repository, &index, &[]);
    for digest in ours {
        let signed = payload(digest, image);
        stage.attach_to(repository, digest, &[(signed.clone(), stage.key.sign(&signed))]);
    }
    stage.pull_name(image, "").expect("the manifest is signed");
}

#[test]
fn a_rejected_scope_is_not_even_asked_for() {
    let stage = Stage::new();
    let proxy = stage.watch();
    let scopes = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {
            "signed.example/library": [{"type": "reject"}],
            "signed.example/library/tiny": [{"type": "insecureAcceptAnything"}],
        }},
    });
    stage.write_policy(&scopes);
    refused(stage.pull(""), r#""signed.example/library": it rejects this image"#);
    refused(
        stage.pull_name("docker.io/library/shell", ""),
        r#""default": it rejects this image"#,
    );
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
    stage
        .pull_name("signed.example/library/tiny", "")
        .expect("the more special scope");
}

#[test]
fn each_namespace_has_its_own_policy() {
    let stage = Stage::new();
    let accept = json!({"default": [{"type": "insecureAcceptAnything"}]});
    let reject = json!({"default": [{"type": "reject"}]});
    stage.write_policy(&reject);
    stage.write_namespace("free", &accept);
    stage.write_namespace(
        "strict",
        &for_scope("signed.example", &json!([by_path(&stage.key, None)])),
    );
    refused(stage.pull(""), "rejects this image");
    refused(stage.pull("other"), "rejects this image");
    refused(stage.pull("strict"), "there is none");
    let id = stage.pull("free").expect("free");
    // Being here is not being allowed: what one namespace pulled is not another's.
    let free = stage.pod("free").run_container(&id, &["true"]);
    assert_eq!(free.wait().exit_code, 0);
    let create = |namespace: &str| {
        stage
            .pod(namespace)
            .try_container(&id, &["true"], |_| {})
            .map(|_| String::new())
    };
    refused(create("strict"), "there is none");
    refused(create("other"), "rejects this image");
    stage.sign(&stage.key, IMAGE);
    create("strict").expect("signed meanwhile");
    let climbing = stage.pull("../policies/free").expect_err("no namespace");
    assert_eq!(climbing.code(), Code::InvalidArgument, "{climbing:?}");
    assert!(climbing.message().contains("image.policy_dir"), "{climbing:?}");
}

#[test]
fn an_image_is_judged_again_by_the_policy_of_the_day_before_each_container() {
    let mut stage = Stage::new();
    stage.write_policy(&json!({"default": [{"type": "insecureAcceptAnything"}]}));
    let id = stage.pull("").expect("everything is accepted");
    let pod = stage.pod("default");
    let create = |pod: &Pod| {
        let made = pod.try_container(&id, &["true"], |config| {
            config.image.as_mut().expect("an image").user_specified_image = IMAGE.into();
        });
        made.map(|container| container.id)
    };
    create(&pod).expect("accepted");

    stage.demand(&stage.key);
    refused(create(&pod), "there is none");
    stage.sign(&stage.key, IMAGE);
    create(&pod).expect("its signature is fetched now");

    // From then on the signature is on record: neither the registry nor this life of the daemon is needed.
    stage.registry = None;
    create(&pod).expect("by what is on record");
    stage.node.daemon.kill9();
    stage.node.daemon.restart();
    create(&pod).expect("by what is on the disk");

    stage.demand(&stage.other_key);
    let told = refused(create(&pod), "made by none of the keys");
    assert!(told.contains("RegistryUnavailable"), "why it knows no more: {told}");
    stage.write_policy(&json!({"default": [{"type": "reject"}]}));
    refused(create(&pod), "rejects this image");
}

#[test]
fn the_name_that_the_pod_has_is_what_counts() {
    let stage = Stage::new();
    stage.storage.copy_repository(REPOSITORY, "stranger/shell");
    let (signed, stranger) = (IMAGE, "signed.example/stranger/shell:latest");
    stage.write_policy(&json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {"signed.example/library": [{"type": "insecureAcceptAnything"}]}},
    }));
    let id = stage.pull("").expect("accepted");
    let pod = stage.pod("default");
    let create = |image: &str, user: &str| {
        let made = pod.try_container(image, &["true"], |config| {
            config.image.as_mut().expect("an image").user_specified_image = user.into();
        });
        made.map(|container| container.id)
    };
    create(&id, signed).expect("by id, with its name");
    create(&id, &id).expect("by id twice");
    create(&id[..20], "").expect("by the beginning of its id");
    create(signed, "").expect("by its name");
    refused(create(&id, stranger), "is not known by this name");
    // The same image by a name of which the policy says something else.
    stage.write_namespace("free", &json!({"default": [{"type": "insecureAcceptAnything"}]}));
    assert_eq!(stage.pull_name(stranger, "free").expect("accepted there"), id);
    refused(create(&id, stranger), "rejects this image");
    refused(create(stranger, ""), "rejects this image");
    create(&id, signed).expect("as before");
}

#[test]
fn images_that_mounts_show_are_judged_too() {
    let stage = Stage::new();
    let id = stage.pull("").expect("no policy says otherwise");
    let shown = "signed.example/library/tiny:latest";
    stage.pull_name(shown, "").expect("no policy says otherwise");
    stage.write_policy(&json!({
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {"signed.example/library/tiny": [{"type": "reject"}]}},
    }));
    let pod = stage.pod("default");
    let made = pod.try_container(&id, &["true"], |config| {
        config.mounts.push(v1::Mount {
            container_path: "/shown".into(),
            readonly: true,
            image: Some(v1::ImageSpec {
                image: shown.into(),
                ..Default::default()
            }),
            ..Default::default()
        });
    });
    refused(made.map(|container| container.id), "rejects this image");
}

#[test]
fn what_a_policy_demands_and_nobody_here_can_verify_is_refused_by_name() {
    let stage = Stage::new();
    stage.sign(&stage.key, IMAGE);
    for (requirement, named) in [
        (
            json!({"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/etc/key.pem"}),
            "signedBy with keys of type X509Certificates",
        ),
        (
            json!({"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}),
            "signedBaseLayer",
        ),
    ] {
        stage.write_policy(&for_scope("signed.example", &json!([requirement])));
        refused(stage.pull(""), named);
        // Of other images such a policy says what it always said.
        stage.node.pull("tiny");
    }
}

#[test]
fn a_policy_that_cannot_be_read_fails_the_pull_with_its_file_and_key() {
    let stage = Stage::new();
    let path = stage.policy.display().to_string();
    let key = stage.dir.path().join("absent.pub").display().to_string();
    let fails = |text: &str, parts: &[&str]| {
        fs::write(&stage.policy, text).expect("the policy");
        let status = stage.pull("").expect_err(text);
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        for part in parts {
            assert!(status.message().contains(part), "{part}: {status:?}");
        }
    };
    fails("{", &[&path, "line 1"]);
    fails(
        r#"{"default": [{"type": "rejekt"}]}"#,
        &[&path, "default[0]", "`rejekt`"],
    );
    fails(
        r#"{"default": [{"type": "insecureAcceptAnything"}], "transport": {}}"#,
        &[&path, "`transport`"],
    );
    let mistyped = for_scope("r.test", &json!([{"type": "sigstoreSigned", "keypath": "/k"}]));
    fails(
        &mistyped.to_string(),
        &[&path, r#""docker": "r.test": [0]"#, "`keypath`"],
    );
    let absent = for_scope("signed.example", &json!([{"type": "sigstoreSigned", "keyPath": key}]));
    fails(&absent.to_string(), &[&path, "keyPath", &key]);
    let mut unlogged = by_path(&stage.key, None);
    unlogged["rekorPublicKeyPath"] = json!(key);
    fails(
        &for_scope("signed.example", &json!([unlogged])).to_string(),
        &[&path, "rekorPublicKeyPath", &key],
    );
    fs::remove_file(&stage.policy).expect("the policy");
    let gone = stage.pull("").expect_err("one that was asked for has to be there");
    assert!(gone.message().contains(&path), "{gone:?}");
}

/// A refusal as the kubelet knows it; what it says.
fn refused(result: Result<String, Status>, why: &str) -> String {
    let status = result.expect_err("the policy is against it");
    assert_eq!(status.code(), Code::Unknown, "{status:?}");
    assert!(
        status.message().starts_with("SignatureValidationFailed: "),
        "{status:?}"
    );
    assert!(status.message().contains(why), "{why}: {status:?}");
    status.message().to_owned()
}

/// A node with a policy of its own, a registry whose content can be changed, and two keys.
struct Stage {
    registry: Option<Registry>,
    node: Node,
    storage: Storage,
    policy: PathBuf,
    key: SigningKey,
    other_key: SigningKey,
    dir: TempDir,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir().expect("a folder");
        let policy = dir.path().join("policy.json");
        let namespaces = dir.path().join("policies");
        fs::create_dir(&namespaces).expect("policies");
        let node = Node::with_config(&format!(
            "policy = \"{}\"\npolicy_dir = \"{}\"\n",
            policy.display(),
            namespaces.display()
        ));
        let storage = Storage::copy();
        let setup = Setup {
            storage: Some(&storage),
            ..Setup::default()
        };
        let registry = Registry::start_with(&dir.path().join("registry"), setup);
        registry.serve_as("signed.example", &node.dir().join("hosts"));
        let stage = Stage {
            registry: Some(registry),
            node,
            storage,
            policy,
            key: SigningKey::new(dir.path(), "key"),
            other_key: SigningKey::new(dir.path(), "other"),
            dir,
        };
        stage.write_policy(&json!({"default": [{"type": "insecureAcceptAnything"}]}));
        stage
    }

    fn write_policy(&self, policy: &Value) {
        fs::write(&self.policy, policy.to_string()).expect("the policy");
    }

    fn write_namespace(&self, namespace: &str, policy: &Value) {
        let path = self.dir.path().join(format!("policies/{namespace}.json"));
        fs::write(path, policy.to_string()).expect("a namespace's policy");
    }

    /// Images of `signed.example` have to be signed by this key.
    fn demand(&self, key: &SigningKey) {
        self.demand_with(key, None);
    }

    fn demand_with(&self, key: &SigningKey, identity: Option<Value>) {
        self.demand_for("signed.example", key, identity);
    }

    fn demand_for(&self, scope: &str, key: &SigningKey, identity: Option<Value>) {
        self.write_policy(&for_scope(scope, &json!([by_path(key, identity)])));
    }

    fn digest(&self) -> String {
        self.storage.digest(REPOSITORY, "latest")
    }

    /// Signs the image as cosign does, for a name; nothing else is attached to it then.
    fn sign(&self, key: &SigningKey, name: &str) {
        let signed = payload(&self.digest(), name);
        let signature = key.sign(&signed);
        self.attach(&[(signed, signature)]);
    }

    fn attach(&self, signatures: &[(String, Vec<u8>)]) {
        self.attach_to(REPOSITORY, &self.digest(), signatures);
    }

    /// Source: sigstore/cosign, "Signature Specification", "Storage".
    fn attach_to(&self, repository: &str, digest: &str, signatures: &[(String, Vec<u8>)]) {
        let manifest = self.signature_manifest(repository, signatures);
        self.put_signature_manifest(repository, digest, &manifest);
    }

    fn put_signature_manifest(&self, repository: &str, digest: &str, manifest: &Value) {
        let tag = format!("{}.sig", digest.replace(':', "-"));
        self.storage
            .put_manifest(repository, &tag, manifest.to_string().as_bytes());
    }

    fn signature_manifest(&self, repository: &str, signatures: &[(String, Vec<u8>)]) -> Value {
        let layer = |(payload, signature): &(String, Vec<u8>)| {
            let media_type = "application/vnd.dev.cosign.simplesigning.v1+json";
            let mut layer = self.descriptor(repository, media_type, payload.as_bytes());
            layer["annotations"] = json!({"dev.cosignproject.cosign/signature": STANDARD.encode(signature)});
            layer
        };
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.descriptor(repository, "application/vnd.oci.image.config.v1+json", b"{}"),
            "layers": signatures.iter().map(layer).collect::<Vec<_>>(),
        })
    }

    /// Puts a blob there.
    fn descriptor(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Value {
        let digest = self.storage.put_blob(repository, bytes);
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// A proxy before the registry that remembers what was asked.
    fn watch(&self) -> Server {
        let registry = self.registry.as_ref().expect("the registry");
        let proxy = Server::start(registry.port, |_, _| Answer::Pass { cut: None });
        write_hosts(&self.node.dir().join("hosts"), "signed.example", &[proxy.port]);
        proxy
    }

    fn pull(&self, namespace: &str) -> Result<String, Status> {
        self.pull_name(IMAGE, namespace)
    }

    /// Pulls for a pod of a namespace; empty: for nobody in particular.
    fn pull_name(&self, image: &str, namespace: &str) -> Result<String, Status> {
        let pod = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                namespace: namespace.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = v1::PullImageRequest {
            image: Some(v1::ImageSpec {
                image: image.into(),
                ..Default::default()
            }),
            sandbox_config: (!namespace.is_empty()).then_some(pod),
            ..Default::default()
        };
        self.node.cri.pull_image(request).map(|reply| reply.image_ref)
    }

    fn pod(&self, namespace: &str) -> Pod {
        self.node
            .pod(|config| config.metadata.as_mut().expect("metadata").namespace = namespace.into())
    }

    /// What is on record of the image's trust.
    fn verdicts(&self) -> Vec<Value> {
        let request = v1::ImageStatusRequest {
            image: Some(v1::ImageSpec {
                image: IMAGE.into(),
                ..Default::default()
            }),
            verbose: true,
        };
        let reply = self.node.cri.image_status(request).expect("image status");
        let info: Value = serde_json::from_str(&reply.info["info"]).expect("info is JSON");
        info["trust"].as_array().expect("verdicts").clone()
    }
}

fn for_scope(scope: &str, requirements: &Value) -> Value {
    json!({
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {scope: requirements}},
    })
}

fn by_path(key: &SigningKey, identity: Option<Value>) -> Value {
    let mut requirement = json!({"type": "sigstoreSigned", "keyPath": key.public()});
    if let Some(identity) = identity {
        requirement["signedIdentity"] = identity;
    }
    requirement
}

/// One of these keys, in the policy itself.
fn by_data(keys: &[&SigningKey]) -> Value {
    let data = keys
        .iter()
        .map(|key| STANDARD.encode(fs::read(key.public()).expect("a key")));
    json!({"type": "sigstoreSigned", "keyDatas": data.collect::<Vec<_>>()})
}

/// What cosign signs. Source: containers-signature(5), and cosign for the type and the missing `optional`.
fn payload(digest: &str, name: &str) -> String {
    let critical = json!({
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    });
    json!({"critical": critical, "optional": null}).to_string()
}

/// An ECDSA P-256 key pair, as `cosign generate-key-pair` makes it.
struct SigningKey {
    private: PathBuf,
}

impl SigningKey {
    /// The same for who makes certificates of it.
    fn pair(&self) -> rcgen::KeyPair {
        let pem = fs::read_to_string(&self.private).expect("a key");
        rcgen::KeyPair::from_pem(&pem).expect("PKCS #8")
    }

    fn new(dir: &Path, name: &str) -> SigningKey {
        let key = SigningKey {
            private: dir.join(format!("{name}.key")),
        };
        openssl(
            &[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
                path(&key.private),
            ],
            b"",
        );
        openssl(
            &[
                "pkey",
                "-pubout",
                "-in",
                path(&key.private),
                "-out",
                path(&key.public()),
            ],
            b"",
        );
        key
    }

    fn public(&self) -> PathBuf {
        self.private.with_extension("pub")
    }

    fn sign(&self, payload: &str) -> Vec<u8> {
        openssl(&["dgst", "-sha256", "-sign", path(&self.private)], payload.as_bytes())
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What openssl prints when it is given `input`.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl, which tests/tools.sh installs");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(input).expect("openssl reads");
    drop(stdin);
    let output = child.wait_with_output().expect("openssl");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {told}");
    output.stdout
}
