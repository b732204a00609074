//! A stock registry on loopback over the prepared images.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

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
}

impl Registry {
    /// Serves `target/test-images` to everybody, over HTTP.
    pub fn start(dir: &Path) -> Registry {
        Registry::start_with(dir, Setup::default())
    }

    pub fn start_with(dir: &Path, setup: Setup) -> Registry {
        let storage = target().join("test-images/registry");
        assert!(storage.exists(), "no images: run tests/run");
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
                "http: {{addr: \"127.0.0.1:{port}\", tls: {{certificate: \"{}\", key: \"{}\"}}}}\n",
                certificate.display(),
                key.display()
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
