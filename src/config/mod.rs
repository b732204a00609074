//! Configuration: one TOML file and its drop-ins into each component's `Config`.
//!
//! `/etc/inro/config.toml` may be absent; `config.toml.d/*.toml` beside it are read in order and win key by key. Unknown
//! keys are errors that name the key and the file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{cgroup, image, metrics, net, pod, stream};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/inro/config.toml";

/// The whole configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Images, layers and leases; on a disk.
    pub root: PathBuf,
    /// Records and sockets of what runs; on a tmpfs.
    pub state: PathBuf,
    /// `unix:///path` of the CRI socket.
    pub listen: String,
    pub cgroup: cgroup::Config,
    pub image: image::Config,
    pub metrics: metrics::Config,
    pub net: net::Config,
    pub pod: pod::Config,
    pub stream: stream::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/inro".into(),
            state: "/run/inro".into(),
            listen: "unix:///run/inro/inro.sock".into(),
            cgroup: cgroup::Config::default(),
            image: image::Config::default(),
            metrics: metrics::Config::default(),
            net: net::Config::default(),
            pod: pod::Config::default(),
            stream: stream::Config::default(),
        }
    }
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {why}", path.display())]
    Invalid { path: PathBuf, why: String },
    #[error("{key}: {why}")]
    Value { key: &'static str, why: String },
}

impl Config {
    /// The keys, as `table.key`, whose values differ from those of `other`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let table = |config| toml::Table::try_from(config).unwrap_or_default();
        let mut keys = Vec::new();
        compare("", &table(self), &table(other), &mut keys);
        keys
    }

    /// Reads `path` and its drop-ins. A missing file is an error only when it was `asked_for`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file, and the key if one is at fault.
    pub fn load(path: &Path, asked_for: bool) -> Result<Self, ConfigError> {
        let mut merged = toml::Table::new();
        for (file, needed) in std::iter::once((path.to_owned(), asked_for)).chain(drop_ins(path)) {
            let text = match fs::read_to_string(&file) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !needed => continue,
                Err(source) => return Err(ConfigError::Read { path: file, source }),
            };
            let invalid = |why: String| ConfigError::Invalid {
                path: file.clone(),
                why,
            };
            // Each file by itself first, so that an error names it.
            toml::from_str::<Self>(&text).map_err(|error| invalid(error.to_string().trim_end().to_owned()))?;
            merge(
                &mut merged,
                toml::from_str(&text).map_err(|error| invalid(error.to_string()))?,
            );
        }
        let whole = toml::Value::Table(merged).try_into();
        whole.map_err(|error: toml::de::Error| ConfigError::Invalid {
            path: path.to_owned(),
            why: error.to_string(),
        })
    }

    /// The socket's path.
    ///
    /// # Errors
    /// [`ConfigError::Value`] when `listen` is not `unix:///path`.
    pub fn socket(&self) -> Result<PathBuf, ConfigError> {
        let path = self
            .listen
            .strip_prefix("unix://")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        path.ok_or_else(|| ConfigError::Value {
            key: "listen",
            why: format!("{:?} is not unix:///path", self.listen),
        })
    }
}

fn drop_ins(path: &Path) -> Vec<(PathBuf, bool)> {
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut files: Vec<_> = entries
        .filter(|file| file.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files.into_iter().map(|file| (file, true)).collect()
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(more)) => merge(known, more),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The keys at which two tables differ, each behind `prefix`.
fn compare(prefix: &str, one: &toml::Table, other: &toml::Table, keys: &mut Vec<String>) {
    let names: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    for name in names {
        let key = format!("{prefix}{name}");
        match (one.get(name), other.get(name)) {
            (Some(toml::Value::Table(one)), Some(toml::Value::Table(other))) => {
                compare(&format!("{key}."), one, other, keys);
            }
            (one, other) if one != other => keys.push(key),
            _ => {}
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn drop_ins_win_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "root = '/r'\n[net]\nbridge = 'b0'\nmtu = 1400\n").unwrap();
        fs::create_dir(dir.path().join("config.toml.d")).unwrap();
        fs::write(dir.path().join("config.toml.d/10.toml"), "[net]\nmtu = 9000\n").unwrap();
        let config = Config::load(&path, true).unwrap();
        assert_eq!(
            (config.root.to_str(), config.net.bridge.as_str(), config.net.mtu),
            (Some("/r"), "b0", 9000)
        );
        assert_eq!(config.state, Path::new("/run/inro"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for (text, key) in [
            ("rot = 1", "rot"),
            ("[net]\nbridg = 'x'", "bridg"),
            ("[image]\nhosts = 'x'", "hosts"),
            ("[metrics]\nlisten = ':9750'", "listen = ':9750'"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Config::load(&path, true).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("config.toml"), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_an_error_only_when_it_was_asked_for() {
        let path = Path::new("/nonexistent/config.toml");
        assert!(Config::load(path, false).is_ok());
        assert!(
            Config::load(path, true)
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/config.toml")
        );
    }

    #[test]
    fn what_differs_is_told_by_key() {
        let mut other = Config::default();
        assert_eq!(Config::default().differences(&other), Vec::<String>::new());
        other.net.mtu = 9000;
        other.image.preload_dir = Some("/p".into());
        other.root = "/r".into();
        let keys = ["image.preload_dir", "net.mtu", "root"];
        assert_eq!(Config::default().differences(&other), keys);
        assert_eq!(other.differences(&Config::default()), keys);
    }

    #[test]
    fn the_default_configuration() {
        insta::assert_snapshot!(toml::to_string(&Config::default()).unwrap());
    }
}
