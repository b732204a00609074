//! The Container Device Interface's files, as its specification has them: JSON or YAML. Unknown fields are errors, so
//! that nothing a device needs is passed over.
//!
//! Source: CDI specification, version 1.1.0.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::model::Moment;

/// One file: devices of a kind.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    pub cdi_version: String,
    /// `vendor/class`.
    pub kind: String,
    #[serde(default, rename = "annotations")]
    pub _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub devices: Vec<Device>,
    /// For every container that gets one of the devices.
    #[serde(default)]
    pub container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    pub name: String,
    #[serde(default, rename = "annotations")]
    pub _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edits {
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub device_nodes: Vec<Node>,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    #[serde(default)]
    pub additional_gids: Vec<u32>,
    #[serde(default)]
    pub hooks: Vec<Hook>,
    #[serde(default)]
    pub net_devices: Vec<NetDevice>,
    pub intel_rdt: Option<IntelRdt>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// In the container.
    pub path: PathBuf,
    /// Absent: as in the container.
    pub host_path: Option<PathBuf>,
    /// `b`, `c`, `u` or `p`; this and all that follows: as on the host where it is absent.
    pub r#type: Option<String>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub file_mode: Option<u32>,
    pub permissions: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    pub r#type: Option<String>,
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    pub hook_name: Moment,
    pub path: PathBuf,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds.
    pub timeout: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetDevice {
    pub host_interface_name: String,
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IntelRdt {
    #[serde(rename = "closID")]
    pub class: Option<String>,
    /// One or more lines of `schemata`.
    pub l3_cache_schema: Option<String>,
    pub mem_bw_schema: Option<String>,
    #[serde(default)]
    pub schemata: Vec<String>,
    #[serde(default)]
    pub enable_monitoring: bool,
    /// Before 1.1 the two kinds of monitoring were asked for one by one; the kernel has no group for only one.
    #[serde(default, rename = "enableCMT")]
    pub enable_cmt: bool,
    #[serde(default, rename = "enableMBM")]
    pub enable_mbm: bool,
}

/// The file in `text`; `is_json` says which of the two forms it has.
pub fn parse(text: &str, is_json: bool) -> Result<File, String> {
    let value = if is_json {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
        match &documents[..] {
            [document] => json(document)?,
            _ => return Err(format!("{} documents instead of one", documents.len())),
        }
    };
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// YAML's tree as JSON's. An empty value is an absent one.
fn json(yaml: &Yaml) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::String(text) => Value::from(text.as_str()),
        Yaml::Integer(number) => Value::from(*number),
        Yaml::Boolean(value) => Value::from(*value),
        Yaml::Real(text) => Value::from(text.parse::<f64>().map_err(|error| error.to_string())?),
        Yaml::Array(items) => Value::from(items.iter().map(json).collect::<Result<Vec<_>, _>>()?),
        Yaml::Hash(fields) => {
            let mut object = serde_json::Map::new();
            for (key, value) in fields {
                let Yaml::String(key) = key else {
                    return Err(format!("a key that is no text: {key:?}"));
                };
                if !value.is_null() {
                    object.insert(key.clone(), json(value)?);
                }
            }
            Value::Object(object)
        }
        Yaml::Null => Value::Null,
        Yaml::Alias(_) | Yaml::BadValue => return Err("a value that cannot be read".into()),
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn json_and_yaml_say_the_same() {
        let json = r#"{"cdiVersion": "0.6.0", "kind": "v/c", "devices": [{"name": "0", "containerEdits":
            {"env": ["A=b"], "deviceNodes": [{"path": "/dev/x", "fileMode": 438, "permissions": "rw"}]}}]}"#;
        let yaml = "cdiVersion: \"0.6.0\"\nkind: v/c\ndevices:\n- name: \"0\"\n  containerEdits:\n    env: [A=b]\n    \
                    mounts:\n    deviceNodes:\n    - path: /dev/x\n      fileMode: 438\n      permissions: rw\n";
        let (one, other) = (parse(json, true).unwrap(), parse(yaml, false).unwrap());
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
    }

    #[test]
    fn what_is_not_known_is_an_error_that_names_it() {
        for (text, part) in [
            (
                r#"{"cdiVersion": "1.0.0", "kind": "v/c", "containerEdits": {"gpus": 1}}"#,
                "gpus",
            ),
            (r#"{"kind": "v/c"}"#, "cdiVersion"),
            ("{", "EOF"),
        ] {
            let error = parse(text, true).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(parse("a: b\n---\nc: d\n", false).unwrap_err().contains("2 documents"));
    }
}
