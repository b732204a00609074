//! What is known of a pod's attachment: enough to end it, whatever has become of the configuration since.

use std::{collections::BTreeSet, fs, io::ErrorKind, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{CniError, conf::Network, io, plugin::Target};
use crate::{durable, model::SandboxId};

/// A pod on a network, or on its way to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attachment {
    pub network: Network,
    pub args: String,
    /// The pod's values of all capabilities.
    pub wishes: Map<String, Value>,
    /// The last plugin's result, once there is one.
    pub result: Option<Value>,
}

impl Attachment {
    /// What plugins are told of it; `netns` is empty when the pod's network namespace is gone.
    pub fn target(&self, id: &SandboxId, netns: &str) -> Target {
        Target {
            container_id: id.to_string(),
            netns: netns.to_owned(),
            ifname: INTERFACE.into(),
            args: self.args.clone(),
        }
    }
}

/// The attachments of this node: one file each, which outlives the node's power. Addresses of plugins do too.
pub struct Attachments {
    folder: PathBuf,
}

impl Attachments {
    /// Those in `folder`, which is made.
    ///
    /// # Errors
    /// [`CniError::Io`].
    pub fn open(folder: PathBuf) -> Result<Self, CniError> {
        durable::create_private_dir(&folder).map_err(io("make", &folder))?;
        Ok(Self { folder })
    }

    /// # Errors
    /// [`CniError::Io`].
    pub fn write(&self, id: &SandboxId, attachment: &Attachment) -> Result<(), CniError> {
        let path = self.path(id);
        let text = serde_json::to_vec(attachment).map_err(|error| io("write", &path)(error.into()))?;
        durable::write_synced(&path, &text).map_err(io("write", &path))
    }

    /// `None` when the pod has none.
    ///
    /// # Errors
    /// [`CniError::Io`], [`CniError::Config`] for a record that is none.
    pub fn read(&self, id: &SandboxId) -> Result<Option<Attachment>, CniError> {
        let path = self.path(id);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read", &path)(error)),
        };
        let attachment = serde_json::from_slice(&text);
        attachment.map(Some).map_err(|error| CniError::Config {
            path,
            why: error.to_string(),
        })
    }

    pub fn has(&self, id: &SandboxId) -> bool {
        self.path(id).exists()
    }

    /// # Errors
    /// [`CniError::Io`].
    pub fn remove(&self, id: &SandboxId) -> Result<(), CniError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// The pods that have one.
    ///
    /// # Errors
    /// [`CniError::Io`].
    pub fn all(&self) -> Result<BTreeSet<SandboxId>, CniError> {
        let entries = fs::read_dir(&self.folder).map_err(io("list", &self.folder))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    fn path(&self, id: &SandboxId) -> PathBuf {
        self.folder.join(id.as_str())
    }
}

/// The pod's interface.
pub const INTERFACE: &str = "eth0";
