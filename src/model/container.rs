//! A container: what was asked for and where it is in its life.

use std::{
    collections::BTreeMap,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ContainerId, ImageId, Resources, SandboxId, Security, Timestamp, User};

/// Source: CRI `ContainerMetadata`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerMetadata {
    pub name: String,
    pub attempt: u32,
}

/// Source: CRI `MountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

/// How read-only a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    ReadWrite,
    /// The top mount only.
    ReadOnly,
    /// Everything below it too (CRI `recursive_read_only`).
    RecursiveReadOnly,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A folder or file of the host; absolute.
    Host(PathBuf),
    /// The root file system of an image. Source: CRI `Mount.image`.
    Image(ImageMount),
}

/// Source: CRI `Mount.image` and `Mount.image_sub_path`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// The reference or id as the client wrote it.
    pub image: String,
    pub user_specified_image: String,
    /// Below the image's root, without `..`; empty: all of it.
    pub sub_path: PathBuf,
}

/// A folder or file of the host, or an image, inside the container. Source: CRI `Mount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute.
    pub container_path: PathBuf,
    pub source: MountSource,
    pub access: Access,
    pub propagation: Propagation,
    /// Of `noexec`, `nodev`, `nosuid` (CRI `mount_options`).
    pub options: Vec<String>,
}

/// Source: CRI `Device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    /// A non-empty subset of `rwm`.
    pub permissions: String,
}

impl Mount {
    /// The host's path that it shows, if it does show one.
    pub fn host_path(&self) -> Option<&Path> {
        match &self.source {
            MountSource::Host(path) => Some(path),
            MountSource::Image(_) => None,
        }
    }

    /// The image that it shows, if it does show one.
    pub fn image(&self) -> Option<&ImageMount> {
        match &self.source {
            MountSource::Host(_) => None,
            MountSource::Image(image) => Some(image),
        }
    }
}

/// A node that is made in a container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute, in the container.
    pub place: PathBuf,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    /// The permission bits.
    pub mode: u32,
    /// As the host counts.
    pub uid: u32,
    pub gid: u32,
}

/// Source: OCI runtime-spec `linux.devices[].type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    Char,
    Block,
    Fifo,
}

/// What a process's standard streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    pub stdin: bool,
    /// Close stdin after the first attach that had it.
    pub stdin_once: bool,
    pub tty: bool,
}

/// What CreateContainer was asked for. Source: CRI `ContainerConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub metadata: ContainerMetadata,
    /// The reference as the client wrote it (CRI `image.image`).
    pub image: String,
    /// CRI `image.user_specified_image`, echoed in status.
    pub user_specified_image: String,
    /// CRI `command`: replaces the image's entrypoint *and* drops its cmd.
    pub command: Vec<String>,
    /// CRI `args`: replaces the image's cmd.
    pub args: Vec<String>,
    /// `None`: the image's.
    pub working_dir: Option<PathBuf>,
    /// In order; later entries win. Values are bytes that happen to be a string on the wire.
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// CDI devices, each `vendor/class=name`.
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Under the sandbox's log folder; relative, without `..`.
    pub log_path: Option<PathBuf>,
    pub stdio: Stdio,
    pub resources: Resources,
    pub security: Security,
    /// Signal number; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 to 255; 128 + signal when a signal ended it.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, `ShimLost`.
    pub reason: String,
    pub message: String,
    pub finished_at: Timestamp,
}

/// Where a container is in its life. Persisted: a new variant needs a new record version.
///
/// ```text
/// Created ──start──▶ Running ──exit──▶ Exited ──remove──▶ (gone)
///    └────────────── exit/stop ──────────▲
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Init waits for the start message.
    Created,
    Running {
        started_at: Timestamp,
    },
    Exited {
        started_at: Option<Timestamp>,
        exit: Exit,
    },
}

/// What never changes of a container that exists.
#[derive(Debug)]
pub struct ContainerFacts {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub config: Arc<ContainerConfig>,
    pub image_id: ImageId,
    /// Of the mounts that show images, in their order.
    pub volume_images: Vec<ImageId>,
    /// The user that init really runs as.
    pub user: User,
    /// The AppArmor profile that its processes have.
    pub apparmor: Option<String>,
    /// Resolved stop signal.
    pub stop_signal: i32,
    /// Absolute path of the log file, if it has one.
    pub log: Option<PathBuf>,
    pub created_at: Timestamp,
    /// How a list shows these facts, kept by who rendered them first.
    pub listed: OnceLock<Bytes>,
}

/// A container as a list shows it.
#[derive(Debug, Clone)]
pub struct ContainerEntry {
    pub facts: Arc<ContainerFacts>,
    pub phase: ContainerPhase,
}

/// A container as everyone reads it; cheap to clone.
#[derive(Debug, Clone)]
pub struct ContainerView {
    pub facts: Arc<ContainerFacts>,
    /// The limits it has now.
    pub resources: Arc<Resources>,
    pub state: ContainerState,
    /// Pid of init on the host while the container exists as a process.
    pub pid: Option<u32>,
}

impl Deref for ContainerView {
    type Target = ContainerFacts;
    fn deref(&self) -> &ContainerFacts {
        &self.facts
    }
}

/// Coarse state as the CRI lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerPhase {
    Created,
    Running,
    Exited,
}

impl ContainerState {
    /// The state without its data.
    pub fn phase(&self) -> ContainerPhase {
        match self {
            Self::Created => ContainerPhase::Created,
            Self::Running { .. } => ContainerPhase::Running,
            Self::Exited { .. } => ContainerPhase::Exited,
        }
    }
}

/// Which containers to list; every field that is set must match. Source: CRI `ContainerFilter`.
#[derive(Debug, Clone, Default)]
pub struct ContainerFilter {
    /// A full id or a prefix of one.
    pub id: Option<String>,
    pub sandbox: Option<String>,
    pub phase: Option<ContainerPhase>,
    pub labels: BTreeMap<String, String>,
}
