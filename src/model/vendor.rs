//! What a vendor's device needs beside nodes and mounts: programs run, interfaces moved, a class of cache and memory.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// A program that a device wants run at a moment of its container's life.
///
/// Source: OCI runtime specification, "POSIX-platform Hooks".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Whose it is, as it was asked for: `vendor/class=name`.
    pub device: String,
    pub moment: Moment,
    /// Absolute; of the container for [`Moment::StartContainer`], of the host else.
    pub path: PathBuf,
    /// With argument zero; empty: the path alone.
    pub args: Vec<String>,
    /// `NAME=value`, all that it gets; empty for [`Moment::StartContainer`]: the container's.
    pub env: Vec<String>,
    /// How long the vendor lets it take.
    pub timeout: Option<Duration>,
}

/// When a hook runs, and with that where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Moment {
    /// The older name of the next one; runs before it.
    Prestart,
    /// On the node, when the container's namespaces exist and its root is not yet its root.
    CreateRuntime,
    /// Right after that, in the container's namespaces but with the host's files.
    CreateContainer,
    /// In the container, right before its program.
    StartContainer,
    /// On the node, once the program runs.
    Poststart,
    /// On the node, when the container is gone.
    Poststop,
}

/// An interface of the host that a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetDevice {
    /// Whose it is: `vendor/class=name`.
    pub device: String,
    pub host_name: String,
    /// In the pod.
    pub name: String,
}

/// A class of service for cache and memory bandwidth. Source: OCI runtime specification, "IntelRdt".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rdt {
    /// Absent: a class of the container's own, with its id.
    pub class: Option<String>,
    /// Lines of the class' `schemata`; none: the class is taken as it is.
    pub schemata: Vec<String>,
    /// A monitoring group of the container's own.
    pub monitoring: bool,
}

impl Hook {
    /// How long it may take: without a word of the vendor's for as long as a kubelet waits for an answer.
    pub fn limit(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(120))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        })
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} hook {}", self.device, self.moment, self.path.display())
    }
}
