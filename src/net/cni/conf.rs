//! Configurations: `*.conflist`, and `*.conf` and `*.json` with one plugin.
//!
//! They are read whenever they are needed, a folder of a few small files: what a cluster's network puts there or takes
//! away counts at once.
//!
//! Source: CNI specification 1.1.0, section 1.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{CniError, io as failed};

/// A network: plugins that are run one after the other. On record it is a list with all of them in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Value", try_from = "Value")]
pub struct Network {
    pub name: String,
    pub version: Version,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<Plugin>,
}

/// One plugin of a network, with its configuration as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// The name of its program.
    pub kind: String,
    pub conf: Map<String, Value>,
}

/// A version of the specification: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The newest that is spoken here, and the oldest.
    pub const NEWEST: Self = Self(1, 1, 0);
    const OLDEST: Self = Self(0, 1, 0);
    /// With STATUS and GC.
    pub const WITH_STATUS: Self = Self(1, 1, 0);
    /// With CHECK, and a previous result for DEL.
    pub const WITH_CHECK: Self = Self(0, 4, 0);

    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Self(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }

    fn is_spoken(self) -> bool {
        (Self::OLDEST..=Self::NEWEST).contains(&self)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The network of a folder: that of its first file, by name, that is one. Files that are none are told in the log, and in
/// the error when there is no other. `None` when there is no file at all.
///
/// # Errors
/// [`CniError::Config`] with the first file that is at fault, [`CniError::Io`].
pub fn load(folder: &Path) -> Result<Option<Network>, CniError> {
    let mut first = None;
    for path in files(folder)? {
        match read(&path) {
            Ok(network) => return Ok(Some(network)),
            Err(error) => {
                tracing::debug!(error = %crate::model::chain(&error), "no network configuration");
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(None), Err)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, CniError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder)(error)),
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = paths.map_err(failed("list", folder))?;
    paths.retain(|path| {
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        matches!(suffix, Some("conf" | "conflist" | "json")) && !path.is_dir()
    });
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Network, CniError> {
    let fault = |why: String| CniError::Config {
        path: path.to_owned(),
        why,
    };
    let text = read_bounded(path).map_err(failed("read", path))?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| fault(error.to_string()))?;
    let Value::Object(map) = value else {
        return Err(fault("is no JSON object".into()));
    };
    let is_list = map.contains_key("plugins") || path.extension().is_some_and(|suffix| suffix == "conflist");
    let network = match is_list {
        true => of_list(map, path),
        false => of_plugin(map),
    };
    network.map_err(fault)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut text = Vec::new();
    fs::File::open(path)?.take(MOST + 1).read_to_end(&mut text)?;
    match text.len() as u64 > MOST {
        true => Err(io::Error::other(format!("is longer than {MOST} bytes"))),
        false => Ok(text),
    }
}

impl TryFrom<Value> for Network {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => of_list(map, Path::new("")),
            _ => Err("is no JSON object".into()),
        }
    }
}

impl From<Network> for Value {
    fn from(network: Network) -> Self {
        serde_json::json!({
            "name": network.name,
            "cniVersion": network.version.to_string(),
            "disableCheck": network.disable_check,
            "disableGC": network.disable_gc,
            "loadOnlyInlinedPlugins": true,
            "plugins": network.plugins.into_iter().map(|plugin| plugin.conf).collect::<Vec<_>>(),
        })
    }
}

fn of_list(map: Map<String, Value>, path: &Path) -> Result<Network, String> {
    let inlined = match map.get("plugins") {
        Some(Value::Array(plugins)) => plugins.clone(),
        None => Vec::new(),
        Some(_) => return Err("plugins: is no list".into()),
    };
    let mut plugins = inlined
        .into_iter()
        .enumerate()
        .map(|(at, plugin)| plugin_of(plugin).map_err(|why| format!("plugins[{at}]: {why}")))
        .collect::<Result<Vec<_>, _>>()?;
    let name = name_of(&map)?;
    if !flag(&map, "loadOnlyInlinedPlugins")? && !path.as_os_str().is_empty() {
        plugins.extend(of_folder(&path.with_file_name(&name))?);
    }
    if plugins.is_empty() {
        return Err("plugins: there are none".into());
    }
    Ok(Network {
        version: version_of(&map)?,
        disable_check: flag(&map, "disableCheck")?,
        disable_gc: flag(&map, "disableGC")?,
        name,
        plugins,
    })
}

/// A configuration of one plugin, without a list around it.
fn of_plugin(map: Map<String, Value>) -> Result<Network, String> {
    Ok(Network {
        name: name_of(&map)?,
        version: version_of(&map)?,
        disable_check: false,
        disable_gc: false,
        plugins: vec![plugin_of(Value::Object(map))?],
    })
}

/// Further plugins of a network, one in a file, in the folder that has its name beside its list.
fn of_folder(folder: &Path) -> Result<Vec<Plugin>, String> {
    let list = files(folder).map_err(|error| crate::model::chain(&error).to_string())?;
    let confs = list
        .into_iter()
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "conf"));
    confs
        .map(|path| {
            let fault = |why: String| format!("{}: {why}", path.display());
            let text = read_bounded(&path).map_err(|error| fault(error.to_string()))?;
            let value = serde_json::from_slice(&text).map_err(|error| fault(error.to_string()))?;
            plugin_of(value).map_err(fault)
        })
        .collect()
}

fn plugin_of(value: Value) -> Result<Plugin, String> {
    let Value::Object(conf) = value else {
        return Err("is no JSON object".into());
    };
    let kind = match conf.get("type") {
        Some(Value::String(kind)) if !kind.is_empty() => kind.clone(),
        _ => return Err("type: is missing".into()),
    };
    // It is looked for in folders, and nowhere else.
    if kind.contains('/') || kind == "." || kind == ".." {
        return Err(format!("type: {kind:?} is no file name"));
    }
    Ok(Plugin { kind, conf })
}

fn name_of(map: &Map<String, Value>) -> Result<String, String> {
    let name = match map.get("name") {
        Some(Value::String(name)) => name,
        _ => return Err("name: is missing".into()),
    };
    // Source: section 1, "must start with an alphanumeric character, ...".
    let mut characters = name.chars();
    let begins = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    match begins && characters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        true => Ok(name.clone()),
        false => Err(format!("name: {name:?} is no name of a network")),
    }
}

/// The newest of those that it is written for and we speak.
fn version_of(map: &Map<String, Value>) -> Result<Version, String> {
    let text = |value: &Value| value.as_str().map(String::from);
    let all = match (map.get("cniVersions"), map.get("cniVersion")) {
        (Some(Value::Array(versions)), one) => versions.iter().chain(one).map(text).collect(),
        (Some(_), _) => return Err("cniVersions: is no list".into()),
        (None, Some(one)) => vec![text(one)],
        // What the first version was before there were any.
        (None, None) => vec![Some("0.1.0".into())],
    };
    let spoken = all
        .iter()
        .filter_map(|text| Version::parse(text.as_deref()?))
        .filter(|version| version.is_spoken());
    spoken.max().ok_or_else(|| {
        let all: Vec<_> = all.into_iter().map(Option::unwrap_or_default).collect();
        format!("cniVersion: {} is none of 0.1.0 to {}", all.join(", "), Version::NEWEST)
    })
}

/// A switch, also one that is written as a string.
fn flag(map: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match map.get(key) {
        None => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(format!("{key}: is neither true nor false")),
    }
}

/// Bytes of a file.
const MOST: u64 = 1 << 20;
