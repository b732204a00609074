//! Where a registry's content is to be had: containerd's `hosts.toml`, read at each pull.
//!
//! Source: containerd, "Registry Configuration" (docs/hosts.md). Folders are tried in its order: `host:port`,
//! `host_port_`, `_default`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Url, header::HeaderMap};
use serde::Deserialize;
use toml::Value;

use super::{FileError, client::header};

/// What an endpoint may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Content by digest.
    Pull,
    /// Tags.
    Resolve,
}

/// A place that serves a registry's content.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub url: Url,
    pull: bool,
    resolve: bool,
    pub ca: Vec<PathBuf>,
    pub client: Option<ClientCertificate>,
    pub skip_verify: bool,
    pub headers: HeaderMap,
    pub override_path: bool,
    pub dial_timeout: Option<Duration>,
    /// A mirror is told which registry it stands for.
    pub namespace: Option<String>,
    /// The registry itself, not a mirror of it.
    pub is_server: bool,
    /// Where plain HTTP will do if it speaks no TLS.
    pub or_plain: Option<Url>,
    /// The file and table that name it, or that none does.
    pub rule: String,
}

/// What proves to a registry which node asks: files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub certificate: PathBuf,
    /// `None`: it is in the certificate's file.
    pub key: Option<PathBuf>,
}

impl Endpoint {
    /// A server of files that is no registry: it gets no credentials.
    pub fn of_files(url: Url, rule: String) -> Self {
        Self {
            url,
            override_path: true,
            is_server: false,
            rule,
            ..without_file("", Otherwise::Tls)
        }
    }

    pub fn can(&self, capability: Capability) -> bool {
        match capability {
            Capability::Pull => self.pull,
            Capability::Resolve => self.resolve,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileToml {
    #[serde(default)]
    server: Option<String>,
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    ca: Option<OneOrMany>,
    #[serde(default)]
    client: Option<Value>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    dial_timeout: Option<String>,
    /// In the order of the file.
    #[serde(default)]
    host: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostToml {
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    ca: Option<OneOrMany>,
    #[serde(default)]
    client: Option<Value>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// How a registry is spoken to that has no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// TLS, but plain HTTP on this very host, as with containerd.
    TlsUnlessLoopback,
    Tls,
    /// TLS with any certificate, or none at all: `insecure` of `registries.conf`.
    Insecure,
}

/// The endpoints of a registry in the order to try: its mirrors, then itself.
///
/// # Errors
/// [`FileError`] with the file and key at fault.
pub fn endpoints(hosts_dir: &Path, registry: &str, otherwise: Otherwise) -> Result<Vec<Endpoint>, FileError> {
    let Some(path) = find(hosts_dir, registry) else {
        return Ok(vec![without_file(registry, otherwise)]);
    };
    let text = fs::read_to_string(&path).map_err(|source| FileError::Read {
        path: path.clone(),
        source,
    })?;
    parse(&text, &path, registry).map_err(|why| FileError::Invalid { path, why })
}

fn find(hosts_dir: &Path, registry: &str) -> Option<PathBuf> {
    let escaped = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let names = [Some(registry.to_owned()), escaped, Some("_default".to_owned())];
    let mut files = names
        .into_iter()
        .flatten()
        .map(|name| hosts_dir.join(name).join("hosts.toml"));
    files.find(|path| path.is_file())
}

fn parse(text: &str, path: &Path, registry: &str) -> Result<Vec<Endpoint>, String> {
    let file: FileToml =
        toml::from_str(text).map_err(|error| error.message().to_owned() + &where_in(text, error.span()))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut endpoints = Vec::new();
    for (url, table) in file.host {
        let host: HostToml = table
            .try_into()
            .map_err(|error: toml::de::Error| format!("host.{url:?}: {}", error.message()))?;
        let mut endpoint = endpoint(&url, host, folder).map_err(|why| format!("host.{url:?}: {why}"))?;
        endpoint.namespace = Some(registry.to_owned());
        endpoint.rule = format!("{}: host.{url:?}", path.display());
        endpoints.push(endpoint);
    }
    let own = HostToml {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
    };
    let plain = without_file(registry, Otherwise::TlsUnlessLoopback);
    let server = file.server.unwrap_or_else(|| plain.url.to_string());
    let mut server = endpoint(&server, own, folder)?;
    server.is_server = true;
    server.rule = format!("{}: server", path.display());
    if server.url.host_str() != plain.url.host_str() {
        server.namespace = Some(registry.to_owned());
    }
    endpoints.push(server);
    Ok(endpoints)
}

fn endpoint(url: &str, host: HostToml, folder: &Path) -> Result<Endpoint, String> {
    let client = host.client.map(|value| client(&value, folder)).transpose()?;
    let full = if url.contains("://") {
        url.to_owned()
    } else {
        format!("https://{url}")
    };
    let mut url = Url::parse(&full).map_err(|error| format!("{full:?}: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{full:?} is neither http nor https"));
    }
    // containerd takes `https://mirror.test/v2` and `https://mirror.test` for the same.
    if !host.override_path && url.path().trim_end_matches('/').ends_with("/v2") {
        let shorter = url.path().trim_end_matches('/').trim_end_matches("/v2").to_owned();
        url.set_path(&shorter);
    }
    let capabilities = host
        .capabilities
        .unwrap_or_else(|| vec!["pull".into(), "resolve".into()]);
    if let Some(unknown) = capabilities
        .iter()
        .find(|c| !matches!(c.as_str(), "pull" | "resolve" | "push" | "referrers"))
    {
        return Err(format!("capabilities: {unknown:?} is unknown"));
    }
    let mut headers = HeaderMap::new();
    for (name, values) in host.header {
        for value in values.into_vec() {
            let (name, value) = header(&name, &value).ok_or_else(|| format!("header.{name}: not a header"))?;
            headers.append(name, value);
        }
    }
    let dial_timeout = host.dial_timeout.as_deref().map(duration).transpose()?;
    Ok(Endpoint {
        url,
        pull: capabilities.iter().any(|c| c == "pull"),
        resolve: capabilities.iter().any(|c| c == "resolve"),
        ca: host
            .ca
            .map(OneOrMany::into_vec)
            .unwrap_or_default()
            .into_iter()
            .map(|ca| folder.join(ca))
            .collect(),
        client,
        skip_verify: host.skip_verify,
        headers,
        override_path: host.override_path,
        dial_timeout,
        namespace: None,
        is_server: false,
        or_plain: None,
        rule: String::new(),
    })
}

/// A file, or a certificate's and its key's; a list of one of these is the same. Source: containerd, `docs/hosts.md`, "client".
fn client(value: &Value, folder: &Path) -> Result<ClientCertificate, String> {
    let file = |value: &Value| value.as_str().map(|path| folder.join(path));
    let pair = match value {
        Value::Array(list) => match list.as_slice() {
            [only] => only.as_array().map_or(std::slice::from_ref(only), Vec::as_slice),
            _ => {
                return Err(
                    "client: a host is shown one certificate, as \"FILE\" or [[\"CERTIFICATE\", \"KEY\"]]".into(),
                );
            }
        },
        one => std::slice::from_ref(one),
    };
    let files: Option<Vec<_>> = pair.iter().map(file).collect();
    match files.as_deref() {
        Some([certificate]) => Ok(ClientCertificate {
            certificate: certificate.clone(),
            key: None,
        }),
        Some([certificate, key]) => Ok(ClientCertificate {
            certificate: certificate.clone(),
            key: Some(key.clone()),
        }),
        _ => Err("client: neither a file nor a certificate's and its key's".into()),
    }
}

fn without_file(registry: &str, otherwise: Otherwise) -> Endpoint {
    let host = if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let loopback =
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) || name == "[::1]";
    let url = |scheme: &str| {
        Url::parse(&format!("{scheme}://{host}")).unwrap_or_else(|_| Url::parse("https://invalid").expect("a constant"))
    };
    let is_insecure = otherwise == Otherwise::Insecure;
    Endpoint {
        url: match otherwise {
            Otherwise::TlsUnlessLoopback if loopback => url("http"),
            _ => url("https"),
        },
        pull: true,
        resolve: true,
        ca: Vec::new(),
        client: None,
        skip_verify: is_insecure,
        headers: HeaderMap::new(),
        override_path: false,
        dial_timeout: None,
        namespace: None,
        is_server: true,
        or_plain: is_insecure.then(|| url("http")),
        rule: "no hosts.toml".into(),
    }
}

/// Go's spelling of a duration, in the forms that people use: `300ms`, `5s`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("dial_timeout: {text:?} is not a duration such as \"5s\"");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
    let number: f64 = text[..split].parse().map_err(|_| bad())?;
    let unit = match &text[split..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| bad())
}

fn where_in(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    span.map_or_else(String::new, |span| {
        format!(" in line {}", text[..span.start.min(text.len())].lines().count().max(1))
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn of(text: &str) -> Result<Vec<Endpoint>, String> {
        parse(text, Path::new("/etc/inro/hosts/r.test/hosts.toml"), "r.test")
    }

    #[test]
    fn mirrors_come_in_order_and_then_the_server() {
        let text = r#"
            server = "https://r.test"
            [host."https://b.test/v2"]
              capabilities = ["pull"]
              ca = "b.crt"
            [host."http://a.test:5000/x/y"]
              override_path = true
              dial_timeout = "300ms"
              [host."http://a.test:5000/x/y".header]
                x-a = ["1", "2"]
        "#;
        let all = of(text).unwrap();
        let urls: Vec<_> = all.iter().map(|e| e.url.as_str()).collect();
        assert_eq!(urls, ["https://b.test/", "http://a.test:5000/x/y", "https://r.test/"]);
        assert!(all[0].can(Capability::Pull) && !all[0].can(Capability::Resolve));
        assert_eq!(all[0].ca, [Path::new("/etc/inro/hosts/r.test/b.crt")]);
        assert_eq!(all[1].dial_timeout, Some(Duration::from_millis(300)));
        assert_eq!(all[1].headers.get_all("x-a").iter().count(), 2);
        assert_eq!(all[0].namespace.as_deref(), Some("r.test"));
        assert!(all[2].is_server && all[2].namespace.is_none());
    }

    #[test]
    fn faults_name_their_key() {
        let fault = |text: &str| of(text).unwrap_err();
        assert!(fault("servr = 'x'").contains("servr"));
        assert!(fault("[host.'https://m.test']\nskip_verfy = true").contains("skip_verfy"));
        assert!(fault("[host.'https://m.test']\ncapabilities = ['pul']").contains("capabilities"));
        assert!(fault("[host.'https://m.test']\ndial_timeout = 'soon'").contains("dial_timeout"));
        assert!(fault("[host.'ftp://m.test']").contains("ftp://m.test"));
    }

    #[test]
    fn without_a_file_only_loopback_is_plain() {
        let none = Path::new("/nonexistent");
        let of = |registry: &str, otherwise| endpoints(none, registry, otherwise).unwrap().remove(0);
        let scheme = |registry: &str| of(registry, Otherwise::TlsUnlessLoopback).url.scheme().to_owned();
        assert_eq!(
            ["localhost:5000", "127.0.0.1:1", "r.test", "10.0.0.1:5000"].map(scheme),
            ["http", "http", "https", "https"]
        );
        let hub = of("docker.io", Otherwise::TlsUnlessLoopback);
        assert_eq!(hub.url.host_str(), Some("registry-1.docker.io"));
        let named = of("localhost:5000", Otherwise::Tls);
        assert!(named.url.as_str() == "https://localhost:5000/" && named.or_plain.is_none() && !named.skip_verify);
        let insecure = of("localhost:5000", Otherwise::Insecure);
        assert!(insecure.url.scheme() == "https" && insecure.skip_verify);
        assert_eq!(insecure.or_plain.unwrap().as_str(), "http://localhost:5000/");
    }
}
