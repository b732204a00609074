//! What a container may do: users, capabilities, profiles, namespaces.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whose namespace a container or sandbox uses. Source: CRI `NamespaceMode`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// The pod's own, shared by its containers.
    Pod,
    /// One for each container (pid only).
    Container,
    /// The host's.
    Node,
    /// Another container's (pid only).
    Target(super::ContainerId),
}

/// One range of a user namespace: ids from 0 on inside it are ids from `host` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub host: u32,
    /// At least 1; `host + size` is an id or one more than the last.
    pub size: u32,
}

impl IdRange {
    /// The host's number of an id inside; `None` when it is not mapped.
    pub fn to_host(self, id: u32) -> Option<u32> {
        (id < self.size).then(|| self.host + id)
    }
}

/// A pod's own user namespace. Source: CRI `UserNamespace` of mode `POD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    pub uids: IdRange,
    pub gids: IdRange,
}

impl UserNamespace {
    /// The host's ids of its root.
    pub fn root(&self) -> (u32, u32) {
        (self.uids.host, self.gids.host)
    }
}

/// Which namespaces are whose. Source: CRI `NamespaceOption`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// The pod's own; `None`: the host's, and of a container: the pod's.
    #[serde(default)]
    pub user: Option<UserNamespace>,
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Any mode.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
}

/// A seccomp or AppArmor choice. Source: CRI `SecurityProfile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// The profile that this build ships.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// For seccomp an absolute path on the host, for AppArmor a loaded profile's name.
    Localhost(String),
}

/// How supplementary groups are made. Source: CRI `SupplementalGroupsPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Those asked for plus those of the user in the image's `/etc/group`.
    #[default]
    Merge,
    /// Only those asked for.
    Strict,
}

/// The user a container is asked to run as, before the image's files were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// CRI `run_as_user`.
    Uid(u32),
    /// CRI `run_as_username`: a name in the image's `/etc/passwd`.
    Name(String),
}

/// The identity a process really gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, sorted, without duplicates.
    pub groups: Vec<u32>,
    /// Home folder from the image's `/etc/passwd`; `/` when it names none. Never empty.
    pub home: String,
}

/// Capability changes asked for; names are upper case with `CAP_` or the single word `ALL`. Source: CRI `Capability`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityChanges {
    /// Added to bounding, effective, permitted.
    pub add: Vec<String>,
    /// Removed everywhere.
    pub drop: Vec<String>,
    /// Added to the ambient and inheritable sets too.
    pub add_ambient: Vec<String>,
}

/// Everything that confines a container. Source: CRI `LinuxContainerSecurityContext`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// All capabilities, all devices, no profile, no masks.
    pub privileged: bool,
    /// `None`: the image's user.
    pub run_as: Option<RunAs>,
    /// Primary group; only with a user.
    pub run_as_group: Option<u32>,
    /// Additional groups.
    pub supplemental_groups: Vec<u32>,
    /// How `supplemental_groups` and the image's groups combine.
    pub groups_policy: GroupsPolicy,
    /// Capability changes against the default set.
    pub capabilities: CapabilityChanges,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Root file system mounted read-only.
    pub readonly_rootfs: bool,
    /// Seccomp profile.
    pub seccomp: Profile,
    /// AppArmor profile; `None`: not asked for, which is `RuntimeDefault` where there is AppArmor.
    pub apparmor: Option<Profile>,
    /// Paths hidden in the container; only absolute ones.
    pub masked_paths: Vec<PathBuf>,
    /// Paths made read-only in the container.
    pub readonly_paths: Vec<PathBuf>,
    /// Namespaces.
    pub namespaces: Namespaces,
}

/// The five capability sets of a process; bit N is capability number N.
///
/// Source: capabilities(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}
