//! A node whose policy demands GPG's signatures, gpg, and skopeo, which judges by the same files.

use std::{
    fs,
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::super::{Stage, for_scope, path};
use crate::harness::{
    http::{Answer, Server},
    registry::write_server,
    tools,
};

/// A stage with keys of GPG and a storage for signatures, which all images have unless a test says otherwise.
pub struct Scene {
    // Its agent ends before the stage looks at what is left.
    pub gpg: Gpg,
    pub lookaside: PathBuf,
    pub port: u16,
    pub stage: Stage,
}

impl Scene {
    pub fn new() -> Scene {
        let stage = Stage::new();
        let scene = Scene {
            gpg: Gpg::new(&stage.dir.path().join("gpg")),
            lookaside: stage.dir.path().join("lookaside"),
            port: stage.registry.as_ref().expect("the registry").port,
            stage,
        };
        fs::create_dir(&scene.lookaside).expect("a storage");
        let url = format!("file://{}", scene.lookaside.display());
        scene.write_storage("a.yaml", &format!("default-docker: {{lookaside: {url:?}}}\n"));
        scene
    }

    pub fn write_storage(&self, file: &str, text: &str) {
        let folder = self.stage.node.dir().join("registries.d");
        fs::create_dir_all(&folder).expect("registries.d");
        fs::write(folder.join(file), text).expect("a file of registries.d");
    }

    /// A proxy before the registry that has an API for signatures besides, if it says so, with this list.
    pub fn with_api(&self, supports: &'static str, list: &str) -> Server {
        let list = list.to_owned();
        let proxy = Server::start(self.port, move |request, _| {
            match request.target.split('?').next().expect("a path") {
                "/v2/" => {
                    let header = format!("X-Registry-Supports-Signatures: {supports}\r\n");
                    Answer::Say("200 OK", header, "{}".into())
                }
                path if path.starts_with("/extensions/") => {
                    Answer::Give("application/json".into(), list.clone().into_bytes())
                }
                _ => Answer::Pass { cut: None },
            }
        });
        let server = format!("server = \"http://127.0.0.1:{}\"\n", proxy.port);
        write_server(&self.stage.node.dir().join("hosts"), "signed.example", &server);
        proxy
    }

    pub fn write_policy(&self, scope: &str, requirement: &Value) {
        self.stage.write_policy(&for_scope(scope, &json!([requirement])));
    }

    /// The name of an image by which skopeo finds it as well.
    pub fn image(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/library/{rest}", self.port)
    }

    pub fn manifest(&self) -> PathBuf {
        let file = self.stage.dir.path().join("manifest.json");
        fs::write(&file, self.stage.storage.blob(&self.stage.digest())).expect("a manifest");
        file
    }

    /// Replaces what the storage has for a manifest.
    pub fn store(&self, repository: &str, digest: &str, signatures: &[Vec<u8>]) {
        store_in(&self.lookaside, repository, digest, signatures);
    }

    /// Whether containers/image takes it, by the same policy and the same storages.
    pub fn skopeo_takes(&self, image: &str) -> Result<(), String> {
        let dir = self.stage.dir.path();
        let copied = skopeo(&self.gpg.home)
            .args([
                "--policy",
                path(&self.stage.policy),
                "--tmpdir",
                path(dir),
                "--registries.d",
            ])
            .arg(self.stage.node.dir().join("registries.d"))
            .args(["copy", "--quiet", "--src-tls-verify=false", "--remove-signatures"])
            .arg(format!("docker://{image}"))
            .arg(format!("dir:{}", dir.join("copied").display()))
            .output()
            .expect("skopeo");
        match copied.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&copied.stderr).into_owned()),
        }
    }
}

/// GPG with keys of its own.
pub struct Gpg {
    home: PathBuf,
}

impl Gpg {
    pub fn new(home: &Path) -> Gpg {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(home)
            .expect("a folder for gpg");
        Gpg { home: home.to_owned() }
    }

    /// What it prints when it is given `input`.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = Command::new("gpg")
            .env("GNUPGHOME", &self.home)
            .args([
                "--batch",
                "--quiet",
                "--yes",
                "--no-tty",
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                "",
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gpg, which tests/tools.sh installs");
        let mut stdin = child.stdin.take().expect("stdin");
        stdin.write_all(input).expect("gpg reads");
        drop(stdin);
        let output = child.wait_with_output().expect("gpg");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gpg {arguments:?}: {told}");
        output.stdout
    }

    /// A new key for signing; its fingerprint.
    pub fn key(&self, name: &str) -> String {
        self.key_with(name, &[], "sign", "never")
    }

    pub fn key_with(&self, name: &str, options: &[&str], usage: &str, expiry: &str) -> String {
        let name = format!("{name}@signed.example");
        let generate = ["--quick-generate-key", &name, "ed25519", usage, expiry];
        self.run(&[options, &generate].concat(), b"");
        self.fingerprints(&name).remove(0)
    }

    /// A new subkey for signing.
    pub fn subkey(&self, key: &str) -> String {
        self.run(&["--quick-add-key", key, "ed25519", "sign", "never"], b"");
        format!("{}!", self.fingerprints(key).remove(1))
    }

    /// Of a key and its subkeys.
    fn fingerprints(&self, key: &str) -> Vec<String> {
        let told = self.run(&["--with-colons", "--list-keys", key], b"");
        let told = String::from_utf8(told).expect("UTF-8");
        let found = told.lines().filter(|line| line.starts_with("fpr:"));
        found
            .map(|line| line.split(':').nth(9).expect("a fingerprint").to_owned())
            .collect()
    }

    /// With the certificate that gpg made with the key, whose first line's colon keeps it from being used by mistake.
    pub fn revoke(&self, key: &str) {
        let file = self.home.join(format!("openpgp-revocs.d/{key}.rev"));
        let certificate = fs::read_to_string(file).expect("a revocation");
        self.run(
            &["--import"],
            certificate.replace(":-----BEGIN", "-----BEGIN").as_bytes(),
        );
    }

    pub fn export(&self, file: &str, keys: &[&str]) -> PathBuf {
        let file = self.home.join(file);
        fs::write(&file, self.run(&[&["--export"], keys].concat(), b"")).expect("a keyring");
        file
    }

    pub fn sign(&self, payload: &str, key: &str, options: &[&str]) -> Vec<u8> {
        let sign = ["-u", key, "--sign"];
        self.run(&[options, &sign].concat(), payload.as_bytes())
    }

    pub fn skopeo_sign(&self, manifest: &Path, name: &str, key: &str) -> Vec<u8> {
        let file = self.home.join("signature");
        let signed = skopeo(&self.home)
            .args(["standalone-sign", path(manifest), name, key, "--output", path(&file)])
            .output()
            .expect("skopeo");
        assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
        fs::read(file).expect("a signature")
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let ended = Command::new("gpgconf")
            .env("GNUPGHOME", &self.home)
            .args(["--kill", "all"])
            .status();
        assert!(std::thread::panicking() || ended.is_ok_and(|status| status.success()));
    }
}

pub fn by_path(keyring: &Path) -> Value {
    json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": keyring})
}

/// What skopeo signs. Source: containers-signature(5).
pub fn payload(digest: &str, name: &str) -> String {
    let critical = json!({
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "atomic container signature",
    });
    json!({"critical": critical, "optional": {"creator": "a test", "timestamp": 1}}).to_string()
}

pub fn store_in(root: &Path, repository: &str, digest: &str, signatures: &[Vec<u8>]) {
    let folder = root.join(format!("{repository}@{}", digest.replace(':', "=")));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a storage");
    for (at, signature) in signatures.iter().enumerate() {
        fs::write(folder.join(format!("signature-{}", at + 1)), signature).expect("a signature");
    }
}

fn skopeo(home: &Path) -> Command {
    let root = tools().join("skopeo");
    let libraries = fs::read_dir(root.join("usr/lib")).expect("skopeo, which tests/tools.sh fetches");
    let libraries: Vec<String> = libraries
        .flatten()
        .map(|entry| path(&entry.path()).to_owned())
        .collect();
    let mut command = Command::new(root.join("usr/bin/skopeo"));
    command
        .env("LD_LIBRARY_PATH", libraries.join(":"))
        .env("GNUPGHOME", home);
    command
}
