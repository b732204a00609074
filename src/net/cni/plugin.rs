//! Running one plugin for one verb.
//!
//! A plugin is somebody else's program: it gets a time of its own and a bounded ear, and whatever it does costs its pod an
//! error and nothing else.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{
    CniError, Failure,
    conf::{Network, Plugin, Version},
    result::Refusal,
};
use crate::sys::program::{self, Program, Unfinished};

/// What is asked of a plugin. Source: section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }
}

/// Which interface of which pod, as plugins are told.
#[derive(Debug, Clone)]
pub struct Target {
    pub container_id: String,
    /// The path of the network namespace; empty when it is gone.
    pub netns: String,
    pub ifname: String,
    /// `K8S_POD_NAME=...;...`
    pub args: String,
}

/// How plugins are run.
#[derive(Debug, Clone)]
pub struct Runner {
    /// Where their programs are looked for.
    pub bin_dirs: Vec<PathBuf>,
    /// How long one may take.
    pub limit: Duration,
}

impl Runner {
    /// Runs `plugin` of `network` with its configuration, to which `more` is added; answers what it printed.
    ///
    /// # Errors
    /// [`CniError::NoProgram`], [`CniError::Plugin`].
    pub fn run(
        &self,
        verb: Verb,
        network: &Network,
        plugin: &Plugin,
        target: Option<&Target>,
        more: Map<String, Value>,
    ) -> Result<Vec<u8>, CniError> {
        let path = self.find(&plugin.kind)?;
        let input = match verb {
            Verb::Version => json!({"cniVersion": network.version.to_string()}),
            _ => input(network, plugin, more),
        };
        let env = self.environment(verb, target);
        let ran = program::run(&Program {
            path: &path,
            args: &[],
            env: &env,
            cwd: Path::new("/"),
            input: input.to_string().as_bytes(),
            most_output: MOST_OUTPUT,
            limit: self.limit,
        });
        ran.map_err(|unfinished| {
            CniError::Plugin(Box::new(Failure {
                verb,
                plugin: plugin.kind.clone(),
                network: network.name.clone(),
                refusal: refusal_of(&unfinished),
                unfinished,
            }))
        })
    }

    /// The program of a plugin.
    ///
    /// # Errors
    /// [`CniError::NoProgram`].
    pub fn find(&self, kind: &str) -> Result<PathBuf, CniError> {
        let paths = self.bin_dirs.iter().map(|dir| dir.join(kind));
        let mut found = paths.filter(|path| path.is_file());
        found.next().ok_or_else(|| CniError::NoProgram {
            plugin: kind.to_owned(),
            bin_dirs: self.bin_dirs.clone(),
        })
    }

    fn environment(&self, verb: Verb, target: Option<&Target>) -> Vec<String> {
        let dirs: Vec<_> = self.bin_dirs.iter().map(|dir| dir.to_string_lossy()).collect();
        let dirs = dirs.join(":");
        let mut env = vec![
            format!("CNI_COMMAND={}", verb.name()),
            format!("CNI_PATH={dirs}"),
            // Plugins execute programs of the host.
            format!("PATH={}", std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.into())),
        ];
        if let Some(target) = target {
            env.extend([
                format!("CNI_CONTAINERID={}", target.container_id),
                format!("CNI_NETNS={}", target.netns),
                format!("CNI_IFNAME={}", target.ifname),
                format!("CNI_ARGS={}", target.args),
            ]);
        }
        env
    }
}

/// The plugin's configuration as it is handed to it. Source: section 3, "Deriving execution configuration".
fn input(network: &Network, plugin: &Plugin, more: Map<String, Value>) -> Value {
    let mut conf = plugin.conf.clone();
    conf.insert("name".into(), network.name.clone().into());
    conf.insert("cniVersion".into(), network.version.to_string().into());
    conf.extend(more);
    conf.into()
}

/// What of the pod's wishes a plugin has said that it can do.
pub fn runtime_config(plugin: &Plugin, wishes: &Map<String, Value>) -> Option<Value> {
    let capabilities = plugin.conf.get("capabilities")?.as_object()?;
    let wanted = wishes
        .iter()
        .filter(|(name, _)| capabilities.get(*name) == Some(&Value::Bool(true)));
    let config: Map<String, Value> = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
    (!config.is_empty()).then(|| config.into())
}

fn refusal_of(unfinished: &Unfinished) -> Option<Refusal> {
    let Unfinished::Failed { output, .. } = unfinished else {
        return None;
    };
    serde_json::from_slice(output).ok()
}

/// The versions that a plugin says it speaks. Source: section 4, VERSION.
pub fn versions(output: &[u8]) -> Vec<Version> {
    let value: Value = serde_json::from_slice(output).unwrap_or_default();
    let listed = value["supportedVersions"].as_array().cloned().unwrap_or_default();
    listed
        .iter()
        .filter_map(|version| Version::parse(version.as_str()?))
        .collect()
}

/// Bytes that a plugin may print: a result has a few kilobytes.
const MOST_OUTPUT: usize = 1 << 20;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
