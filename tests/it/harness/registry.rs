//! A stock registry on loopback over the prepared images.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{eventually, target};

/// Ends with its value.
pub struct Registry {
    pub port: u16,
    child: Child,
}

/// Who may pull, and how.
#[derive(Default)]
pub struct Setup<'a> {
    /// A line of `htpasswd`: this user's password is asked for.
    pub htpasswd: Option<&'a str>,
    /// The lines of the configuration's `auth`, for what has no field of its own here.
    pub auth: Option<String>,
    /// Certificate and key: it speaks TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// With TLS: whose certificate a client has to show.
    pub clients: Option<PathBuf>,
    /// What it serves in the place of `target/test-images`.
    pub storage: Option<&'a Storage>,
}

impl Registry {
    /// Serves `target/test-images` to everybody, over HTTP.
    pub fn start(dir: &Path) -> Registry {
        Registry::start_with(dir, Setup::default())
    }

    pub fn start_with(dir: &Path, setup: Setup) -> Registry {
        let storage = setup.storage.map_or_else(prepared, |storage| storage.root.clone());
        fs::create_dir_all(dir).expect("registry folder");
        let port = free_port();
        let mut config = format!(
            "version: 0.1\n\
             log: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}, maintenance: {{readonly: {{enabled: true}}}}}}\n",
            storage.display()
        );
        config += &match setup.tls {
            None => format!("http: {{addr: \"127.0.0.1:{port}\"}}\n"),
            Some((certificate, key)) => format!(
                "http: {{addr: \"127.0.0.1:{port}\", tls: {{certificate: \"{}\", key: \"{}\", clientcas: [{}]}}}}\n",
                certificate.display(),
                key.display(),
                setup
                    .clients
                    .map_or_else(String::new, |path| format!("\"{}\"", path.display()))
            ),
        };
        if let Some(line) = setup.htpasswd {
            let path = dir.join("htpasswd");
            fs::write(&path, line).expect("htpasswd");
            config += &format!("auth: {{htpasswd: {{realm: test, path: \"{}\"}}}}\n", path.display());
        }
        if let Some(auth) = setup.auth {
            config += &format!("auth: {auth}\n");
        }
        fs::write(dir.join("registry.yml"), config).expect("registry.yml");
        let log = fs::File::create(dir.join("registry.log")).expect("registry.log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("registry.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("docker-registry, which tests/tools.sh installs");
        let registry = Registry { port, child };
        eventually("the registry answers", Duration::from_secs(10), || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        registry
    }

    /// Makes pulls from `host` come here: one file of a `hosts.toml` tree.
    pub fn serve_as(&self, host: &str, hosts: &Path) {
        write_hosts(hosts, host, &[self.port]);
    }

    /// Makes this registry `host` itself, not a mirror of it: it gets that host's credentials.
    pub fn be(&self, host: &str, hosts: &Path) {
        write_server(hosts, host, &format!("server = \"http://127.0.0.1:{}\"\n", self.port));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `tests/run` put what registries serve.
fn prepared() -> PathBuf {
    let storage = target().join("test-images/registry");
    assert!(storage.exists(), "no images: run tests/run");
    storage
}

/// What one registry serves, to be changed under its hands: the folders of Distribution's `filesystem` driver.
pub struct Storage {
    root: PathBuf,
    /// In memory where it can be: a disk takes seconds for so many small files.
    _folder: TempDir,
}

impl Storage {
    /// A copy of the prepared images.
    pub fn copy() -> Storage {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a folder");
        let root = folder.path().join("storage");
        let copied = Command::new("cp").arg("-a").arg(prepared()).arg(&root).status();
        assert!(copied.expect("cp").success());
        Storage { root, _folder: folder }
    }

    /// The digest of the manifest that a tag names.
    pub fn digest(&self, repository: &str, tag: &str) -> String {
        let link = self.repository(repository).join("_manifests/tags").join(tag);
        fs::read_to_string(link.join("current/link")).expect("a tag")
    }

    pub fn blob(&self, digest: &str) -> Vec<u8> {
        fs::read(self.blob_path(digest)).expect("a blob")
    }

    /// Makes `to` have all that `from` has.
    pub fn copy_repository(&self, from: &str, to: &str) {
        let to = self.repository(to);
        fs::create_dir_all(to.parent().expect("a folder")).expect("a repository's folder");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(self.repository(from))
            .arg(&to)
            .status();
        assert!(copied.expect("cp").success());
    }

    /// Adds a blob; its digest.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        self.overwrite_blob(&digest, bytes);
        link(
            &self.repository(repository).join("_layers/sha256").join(hex(&digest)),
            &digest,
        );
        digest
    }

    /// Makes a digest lead to these bytes, be it theirs or not.
    pub fn overwrite_blob(&self, digest: &str, bytes: &[u8]) {
        let path = self.blob_path(digest);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a blob's folder");
        fs::write(path, bytes).expect("a blob");
    }

    /// Adds a manifest under a tag.
    pub fn put_manifest(&self, repository: &str, tag: &str, bytes: &[u8]) {
        let digest = digest_of(bytes);
        self.overwrite_blob(&digest, bytes);
        let manifests = self.repository(repository).join("_manifests");
        link(&manifests.join("revisions/sha256").join(hex(&digest)), &digest);
        link(&manifests.join("tags").join(tag).join("current"), &digest);
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.root.join("docker/registry/v2/repositories").join(name)
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = hex(digest);
        let blobs = self.root.join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

fn link(folder: &Path, digest: &str) {
    fs::create_dir_all(folder).expect("a link's folder");
    fs::write(folder.join("link"), digest).expect("a link");
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").expect("a SHA-256")
}

pub fn digest_of(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Mirrors for `host`, tried in order.
pub fn write_hosts(hosts: &Path, host: &str, ports: &[u16]) -> PathBuf {
    let text: String = ports
        .iter()
        .map(|port| format!("[host.\"http://127.0.0.1:{port}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"))
        .collect();
    write_server(hosts, host, &text)
}

/// The `hosts.toml` of `host`.
pub fn write_server(hosts: &Path, host: &str, text: &str) -> PathBuf {
    let dir = hosts.join(host);
    fs::create_dir_all(&dir).expect("hosts folder");
    let path = dir.join("hosts.toml");
    fs::write(&path, text).expect("hosts.toml");
    path
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port()
}
