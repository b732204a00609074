//! Credentials from files: Docker's `config.json`, the containers tools' `auth.json`, and the programs that these name.
//!
//! Sources: containers-auth.json(5), which adds keys with a path to Docker's registries; docker-credential-helpers, "Usage".
//! A helper of the registry's own comes first, then the most specific key with something in it, then the store of all others.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{
    FileError,
    auth::{Credentials, host_of, hub},
};
use crate::{
    image::content::sha256,
    model::{Auth, Secret},
    sys::program::{self, Program, Unfinished},
};

/// A file of credentials, as it was read.
pub struct AuthFile {
    path: PathBuf,
    content: FileJson,
    digest: String,
}

/// What a file has for a repository.
#[derive(Debug)]
pub struct Entry {
    pub credentials: Held,
    /// The file and key, without what is in it.
    pub source: String,
}

/// Credentials, or how to get them.
#[derive(Debug, Clone)]
pub enum Held {
    Ready(Credentials),
    Helper(Helper),
}

/// A program that knows the credentials of a registry.
#[derive(Debug, Clone)]
pub struct Helper {
    name: String,
    /// What it is asked about.
    server: String,
}

impl AuthFile {
    /// `None`: there is no such file, which is as good as an empty one.
    ///
    /// # Errors
    /// [`FileError`]; nothing of the file's content is in it.
    pub fn read(path: &Path) -> Result<Option<Self>, FileError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let path = path.to_owned();
                return Err(FileError::Read { path, source });
            }
        };
        // What the parser says may quote the value that it did not expect.
        let content = serde_json::from_slice(&bytes).map_err(|error| FileError::Invalid {
            path: path.to_owned(),
            why: format!(
                "it is not a file of credentials: line {}, column {}",
                error.line(),
                error.column()
            ),
        })?;
        Ok(Some(Self {
            path: path.to_owned(),
            content,
            digest: sha256(&bytes),
        }))
    }

    /// Of all that is in it.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What there is for a repository of a host.
    ///
    /// # Errors
    /// [`FileError::Invalid`] naming the key at fault.
    pub fn entry(&self, host: &str, repository: &str) -> Result<Option<Entry>, FileError> {
        let found = self
            .content
            .helpers
            .iter()
            .find(|(key, _)| key.as_str() == host || registry_of(key) == hub(host));
        if let Some((key, name)) = found {
            return self.helper(name, host, &format!("credHelpers.{key:?}")).map(Some);
        }
        if let Some((key, json)) = self.most_specific(host, repository) {
            let invalid = |why: &str| self.invalid(&format!("auths.{key:?}: {why}"));
            let credentials = Credentials::of(Some(&json.auth()), host)
                .map_err(|_| invalid("auth: is not base64 of user:password"))?
                .ok_or_else(|| invalid("it has nothing in it"))?;
            return Ok(Some(Entry {
                credentials: Held::Ready(credentials),
                source: format!("{}: auths.{key:?}", self.path.display()),
            }));
        }
        match self.content.store.as_str() {
            "" => Ok(None),
            name => self.helper(name, host, "credsStore").map(Some),
        }
    }

    fn most_specific(&self, host: &str, repository: &str) -> Option<(&str, &EntryJson)> {
        let whole = format!("{host}/{repository}");
        let ends = whole.rmatch_indices('/').map(|(end, _)| end);
        let mut keys = std::iter::once(whole.len()).chain(ends).map(|end| &whole[..end]);
        let full = |(_, json): &(&String, &EntryJson)| !json.is_empty();
        let exact = keys.find_map(|key| self.content.auths.get_key_value(key).filter(full));
        let by_host = || {
            let mut auths = self.content.auths.iter().filter(full);
            auths.find(|(key, _)| registry_of(key) == hub(host))
        };
        exact.or_else(by_host).map(|(key, json)| (key.as_str(), json))
    }

    fn helper(&self, name: &str, host: &str, key: &str) -> Result<Entry, FileError> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_plain) {
            return Err(self.invalid(&format!("{key}: {name:?} is not the name of a helper")));
        }
        let server = if hub(host) == "docker.io" { HUB_SERVER } else { host };
        let helper = Helper {
            name: name.to_owned(),
            server: server.to_owned(),
        };
        Ok(Entry {
            credentials: Held::Helper(helper),
            source: format!("{PREFIX}{name} of {}: {key}", self.path.display()),
        })
    }

    fn invalid(&self, why: &str) -> FileError {
        FileError::Invalid {
            path: self.path.clone(),
            why: why.to_owned(),
        }
    }
}

impl Helper {
    /// Asks the program; `None`: it knows none. Blocks.
    ///
    /// # Errors
    /// What went wrong; nothing that it printed to its standard output is in it.
    pub fn ask(&self) -> Result<Option<Credentials>, String> {
        let program = format!("{PREFIX}{}", self.name);
        let fail = |why: &dyn std::fmt::Display| format!("{program}: {why}");
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::split_paths(&folders)
            .map(|folder| folder.join(&program))
            .find(|path| path.is_file())
            .ok_or_else(|| fail(&"there is no such program in PATH"))?;
        // Helpers find their own configuration by it: a cloud's, a desktop's.
        let env: Vec<String> = std::env::vars_os()
            .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value.to_str()?)))
            .collect();
        let printed = program::run(&Program {
            path: &path,
            args: &[program.clone(), "get".into()],
            env: &env,
            cwd: Path::new("/"),
            input: self.server.as_bytes(),
            most_output: MOST_OUTPUT,
            limit: LIMIT,
        });
        let printed = match printed {
            Ok(printed) => printed,
            Err(Unfinished::Failed { output, .. }) if says_none(&output) => return Ok(None),
            Err(error) => return Err(fail(&error)),
        };
        let json: AnswerJson = serde_json::from_slice(&printed).map_err(|_| fail(&"its answer is not JSON"))?;
        Ok(match json.user.as_str() {
            // What the helpers' protocol calls an identity token.
            "<token>" => Some(Credentials::Identity(Secret(json.secret))),
            "" if json.secret.is_empty() => None,
            _ => Some(Credentials::Password {
                user: json.user,
                password: Secret(json.secret),
            }),
        })
    }
}

/// The protocol's words for credentials that are not there; each helper ends with one of its own.
fn says_none(output: &[u8]) -> bool {
    String::from_utf8_lossy(output)
        .trim()
        .starts_with("credentials not found")
}

/// A file that was written for one pull: for an image's repository, in pods of one namespace. It is read once, and gone then.
///
/// Source: CRI-O, `namespaced_auth_dir`.
pub struct Namespaced {
    path: PathBuf,
}

impl Namespaced {
    /// In `dir`, for a repository's whole name without tag and digest. `None`: the namespace can be in no file's name.
    pub fn new(dir: &Path, namespace: &str, name: &str) -> Option<Self> {
        let is_label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if namespace.is_empty() || !namespace.bytes().all(is_label) {
            return None;
        }
        let digest = sha256(name.as_bytes());
        let hex = digest.trim_start_matches("sha256:");
        let path = dir.join(format!("{namespace}-{hex}.json"));
        Some(Self { path })
    }

    /// # Errors
    /// [`FileError`].
    pub fn read(&self) -> Result<Option<AuthFile>, FileError> {
        AuthFile::read(&self.path)
    }

    /// Removes it: the next pull has to bring its own.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "credentials of a namespace stay");
        }
    }
}

/// The registry that a key without a path of its own is for. Docker once had whole URLs as keys.
fn registry_of(key: &str) -> &str {
    match key.contains("://") {
        true => host_of(key),
        false => hub(key),
    }
}

#[derive(Deserialize)]
struct FileJson {
    #[serde(default)]
    auths: BTreeMap<String, EntryJson>,
    #[serde(rename = "credHelpers", default)]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore", default)]
    store: String,
}

#[derive(Deserialize)]
struct EntryJson {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(rename = "identitytoken", default)]
    identity_token: String,
    #[serde(rename = "registrytoken", default)]
    registry_token: String,
}

impl EntryJson {
    /// Docker leaves an empty one where the credentials are in its store.
    fn is_empty(&self) -> bool {
        let fields = [&self.auth, &self.username, &self.password, &self.identity_token];
        fields.into_iter().chain([&self.registry_token]).all(String::is_empty)
    }

    fn auth(&self) -> Auth {
        Auth {
            username: self.username.clone(),
            password: Secret(self.password.clone()),
            auth: Secret(self.auth.clone()),
            server_address: String::new(),
            identity_token: Secret(self.identity_token.clone()),
            registry_token: Secret(self.registry_token.clone()),
        }
    }
}

/// A helper's answer.
#[derive(Deserialize)]
struct AnswerJson {
    #[serde(rename = "Username", default)]
    user: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

const PREFIX: &str = "docker-credential-";
/// What `docker login` calls Docker Hub.
const HUB_SERVER: &str = "https://index.docker.io/v1/";
/// Most bytes of a helper's answer; a cloud's tokens have a few thousand.
const MOST_OUTPUT: usize = 64 << 10;
/// How long a helper may take; some ask a cloud.
const LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod test {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    fn file(text: &str) -> AuthFile {
        AuthFile {
            path: "/a.json".into(),
            content: serde_json::from_str(text).unwrap(),
            digest: String::new(),
        }
    }

    fn source(file: &AuthFile, host: &str, repository: &str) -> String {
        file.entry(host, repository)
            .unwrap()
            .map_or_else(|| "none".into(), |entry| entry.source)
    }

    #[test]
    fn the_most_specific_key_wins() {
        let pair = STANDARD.encode("u:p");
        let file = file(&format!(
            r#"{{"auths": {{
                "r.test": {{"auth": "{pair}"}}, "r.test/a": {{"auth": "{pair}"}}, "r.test/a/b": {{"auth": "{pair}"}},
                "r.test/empty": {{}}, "only.test/a": {{"auth": "{pair}"}}, "https://old.test/v1/": {{"auth": "{pair}"}},
                "https://index.docker.io/v1/": {{"auth": "{pair}"}}, "port.test:5000": {{"auth": "{pair}"}}
            }}}}"#
        ));
        for (host, repository, key) in [
            ("r.test", "a/b", r#"/a.json: auths."r.test/a/b""#),
            ("r.test", "a/b/c", r#"/a.json: auths."r.test/a/b""#),
            ("r.test", "a/bc", r#"/a.json: auths."r.test/a""#),
            ("r.test", "ab", r#"/a.json: auths."r.test""#),
            ("r.test", "empty", r#"/a.json: auths."r.test""#),
            ("only.test", "b", "none"),
            ("old.test", "x", r#"/a.json: auths."https://old.test/v1/""#),
            (
                "docker.io",
                "library/x",
                r#"/a.json: auths."https://index.docker.io/v1/""#,
            ),
            ("port.test:5000", "x", r#"/a.json: auths."port.test:5000""#),
            ("port.test", "x", "none"),
            ("sub.r.test", "x", "none"),
        ] {
            assert_eq!(source(&file, host, repository), key, "{host}/{repository}");
        }
    }

    #[test]
    fn a_helper_of_the_registry_comes_first_and_the_store_last() {
        let file = file(
            r#"{"auths": {"r.test": {"identitytoken": "t"}, "h.test": {"identitytoken": "t"}, "s.test": {}},
                "credHelpers": {"h.test": "cloud", "index.docker.io": "hub"}, "credsStore": "all"}"#,
        );
        for (host, expected) in [
            ("h.test", r#"docker-credential-cloud of /a.json: credHelpers."h.test""#),
            ("r.test", r#"/a.json: auths."r.test""#),
            ("s.test", "docker-credential-all of /a.json: credsStore"),
            (
                "docker.io",
                r#"docker-credential-hub of /a.json: credHelpers."index.docker.io""#,
            ),
        ] {
            assert_eq!(source(&file, host, "x"), expected);
        }
    }

    #[test]
    fn faults_name_their_key_and_no_secret() {
        let bad = file(r#"{"auths": {"r.test": {"auth": "sesame"}}, "credHelpers": {"h.test": "../sh"}}"#);
        for (host, key) in [
            ("r.test", "auths.\"r.test\": auth"),
            ("h.test", "credHelpers.\"h.test\""),
        ] {
            let error = bad.entry(host, "x").unwrap_err().to_string();
            assert!(
                error.contains(key) && error.contains("/a.json") && !error.contains("sesame"),
                "{error}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        fs::write(&path, r#"{"auths": {"r.test": "open sesame"}}"#).unwrap();
        let error = AuthFile::read(&path).map(drop).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("sesame"), "{error}");
        assert!(AuthFile::read(&dir.path().join("none.json")).unwrap().is_none());
        let held = file(r#"{"auths": {"r.test": {"identitytoken": "sesame"}}}"#);
        let entry = held.entry("r.test", "x").unwrap();
        assert!(!format!("{entry:?}").contains("sesame"));
    }

    #[test]
    fn a_namespaces_file_is_named_as_with_its_writer() {
        let of = |namespace: &str| Namespaced::new(Path::new("/d"), namespace, "docker.io/library/image");
        assert_eq!(
            of("default").unwrap().path.to_str().unwrap(),
            "/d/default-8581475589e460fbc5af7cc11e5c83985967720e86c8394bc5f52c37e16a204d.json"
        );
        assert!(of("../x").is_none() && of("").is_none());
    }
}
