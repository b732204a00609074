//! What the run folder says of a sandbox and of a container.
//!
//! The plan names what will be made, before it is made; every other name follows from the id. A change here is a
//! change of record version in `store`.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::model::{
    CapabilitySets, ContainerConfig, ContainerId, ContainerState, ImageId, Resources, SandboxConfig, SandboxId,
    SandboxState, Timestamp, User,
};

/// A sandbox's plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxPlan {
    pub id: SandboxId,
    /// Shared with every view of it.
    #[serde(with = "shared")]
    pub config: Arc<SandboxConfig>,
    pub created_at: Timestamp,
    /// cgroup path of the reaper of a shared PID namespace.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// The boot that it belongs to (`/proc/sys/kernel/random/boot_id`): a sandbox of another boot is dead.
    pub boot_id: String,
}

/// A sandbox's status: exists once the client was told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxStatus {
    pub state: SandboxState,
    pub ips: Vec<IpAddr>,
    /// Pid of the reaper of a shared PID namespace.
    pub reaper: Option<u32>,
}

/// What UpdatePodSandboxResources said last, over the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxChanges {
    pub overhead: Option<Resources>,
    pub resources: Option<Resources>,
}

/// A container's plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    /// Shared with every view of it.
    #[serde(with = "shared")]
    pub config: Arc<ContainerConfig>,
    pub image_id: ImageId,
    /// Of the mounts that show images, in their order.
    #[serde(default)]
    pub volume_images: Vec<ImageId>,
    /// Absolute path of the log.
    pub log: Option<PathBuf>,
    /// cgroup path under the hierarchies' roots.
    pub cgroup: String,
    pub created_at: Timestamp,
}

impl ContainerPlan {
    /// Every image whose layers the container uses.
    pub fn images(&self) -> impl Iterator<Item = &ImageId> {
        std::iter::once(&self.image_id).chain(&self.volume_images)
    }
}

/// What was found out while a container was made, and what an exec in it starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub user: User,
    /// The host's ids of that user.
    #[serde(default)]
    pub owner: (u32, u32),
    /// How many were killed for want of memory in its scope's slice before it was made.
    #[serde(default)]
    pub oom_kills_before: u64,
    pub stop_signal: i32,
    pub capabilities: CapabilitySets,
    /// Whether its seccomp filter keeps its files in the project that limits its writable layer.
    #[serde(default)]
    pub keeps_project: bool,
    /// The AppArmor profile of its processes.
    #[serde(default)]
    pub apparmor: Option<String>,
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub init: u32,
    /// The program that init runs from while it waits (device and inode).
    pub init_exe: Option<(u64, u64)>,
}

/// A container's status: exists once the client was told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub state: ContainerState,
}

/// What a container's limits became in place, over the plan: whole, not only what was changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerChanges {
    pub resources: Resources,
}

/// A shared value is recorded as what it is.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        T::serialize(value, to)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}
