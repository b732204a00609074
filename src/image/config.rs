//! The section `image` of the configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Snapshotter, WritableLayer, registry};
use crate::model::Resources;

/// Where images come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of `hosts.toml` files, in containerd's layout; read at each pull.
    pub hosts_dir: PathBuf,
    /// `registries.conf` of the containers tools, with its drop-ins in the folder `registries.conf.d` beside it; read at each
    /// pull. The default need not be there; empty: none.
    pub registries_conf: PathBuf,
    /// Folder of files that say where GPG signatures of images are, as containers-registries.d(5) has them; read when a
    /// policy demands such a signature. It need not be there.
    pub registries_dir: PathBuf,
    /// Credentials for registries and mirrors where a pull brings none: Docker's `config.json` or the containers tools'
    /// `auth.json`; read at each pull.
    pub auth_file: Option<PathBuf>,
    /// Folder of `NAMESPACE-SHA256.json`, credentials of one namespace for one pull of one repository, as CRI-O's credential
    /// provider writes them. They win over `auth_file`, and are removed by the pull that uses them.
    pub namespaced_auth_dir: Option<PathBuf>,
    /// Layers unpacked at once; 0: cores + 1.
    pub concurrent_layers: usize,
    /// Blobs fetched at once by all pulls together, parts of a blob each for itself; shared evenly between pulls.
    pub connections: usize,
    /// Bytes a second of all pulls together; 0: as fast as they come.
    pub bandwidth: u64,
    /// Parts of one large blob fetched at once where one connection is slower than unpacking, from registries that can; 1:
    /// never more than one.
    pub parallel_ranges: usize,
    /// A blob is fetched in parts when it has at least so many bytes left.
    pub parallel_ranges_from: u64,
    /// What came of a layer with at least so many compressed bytes is kept until it is unpacked, so that neither a broken
    /// pull nor a restart has it sent again; 0: nothing is.
    pub keep_partial_from: u64,
    /// Most bytes kept so of all layers; what nobody went on with for a day is removed.
    pub keep_partial_most: u64,
    /// Seconds after which a layer is given up of which neither a byte came nor one was unpacked.
    pub progress_timeout_s: u64,
    /// What layers are unpacked into: `overlay`, a folder each, or `erofs`, a file each, which takes Linux 6.15. Layers
    /// that are there stay what they are.
    pub snapshotter: Snapshotter,
    /// Archives and layouts in this folder are imported at start; for nodes without a registry.
    pub preload_dir: Option<PathBuf>,
    /// Root folders of stores that others filled, such as one in the node's system image: they are read and never written,
    /// and may be on a read-only file system. Their images cannot be removed. Read at start; one that is broken is logged.
    pub additional_stores: Vec<PathBuf>,
    /// Images that the kubelet's clean-up leaves alone: full names with tag or digest, or with a `*` at the end, the
    /// beginning or both.
    pub pinned: Vec<String>,
    /// Which images may be pulled and run: a `policy.json`, as containers-policy.json(5) has it; read at each pull and
    /// each start. None: `/etc/containers/policy.json`, and without that file everything is accepted.
    pub policy: Option<PathBuf>,
    /// In it `<namespace>.json` is the policy for the pods of a namespace, in the place of the other.
    pub policy_dir: PathBuf,
    pub workers: Workers,
    pub writable_layer: WritableLayer,
}

/// What unpacks layers: how much of the node it may take beside the pods.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workers {
    /// Path of their cgroup below the hierarchies' roots, made when it is needed. Empty: they are in the daemon's.
    pub cgroup: String,
    /// Their weight beside `kubepods` and the node's services, 2 to 262144, as `cpu.shares` of cgroup v1 counts: what
    /// nobody else wants they have whole.
    pub cpu_shares: u64,
    /// CPUs that they have at most, all together; 0: no limit.
    pub cpus: f64,
    /// Memory that they have at most, all together, with the page cache of what they write; 0: no limit.
    pub memory_bytes: u64,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            cgroup: "/inro-unpack".into(),
            cpu_shares: 128,
            cpus: 0.0,
            memory_bytes: 0,
        }
    }
}

impl Workers {
    /// The same as limits of a cgroup.
    pub fn resources(&self) -> Resources {
        const PERIOD_US: u64 = 100_000;
        let has_quota = self.cpus > 0.0;
        Resources {
            cpu_shares: Some(self.cpu_shares),
            // Less than a millisecond the kernel does not take.
            cpu_quota_us: has_quota.then(|| ((self.cpus * PERIOD_US as f64) as i64).max(1000)),
            cpu_period_us: has_quota.then_some(PERIOD_US),
            memory_limit_bytes: (self.memory_bytes > 0).then(|| i64::try_from(self.memory_bytes).unwrap_or(i64::MAX)),
            ..Resources::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let bounds = registry::Bounds::default();
        Self {
            hosts_dir: "/etc/inro/hosts".into(),
            registries_conf: registry::DEFAULT_REGISTRIES_CONF.into(),
            registries_dir: registry::DEFAULT_REGISTRIES_DIR.into(),
            auth_file: None,
            namespaced_auth_dir: None,
            concurrent_layers: 0,
            connections: bounds.connections,
            bandwidth: bounds.bandwidth,
            parallel_ranges: bounds.ranges,
            parallel_ranges_from: bounds.ranges_from,
            keep_partial_from: 16 << 20,
            keep_partial_most: 4 << 30,
            progress_timeout_s: 300,
            snapshotter: Snapshotter::default(),
            preload_dir: None,
            additional_stores: Vec::new(),
            pinned: Vec::new(),
            policy: None,
            policy_dir: "/etc/inro/policies".into(),
            workers: Workers::default(),
            writable_layer: WritableLayer::default(),
        }
    }
}

impl Config {
    /// How much may be fetched at once.
    pub(super) fn bounds(&self) -> registry::Bounds {
        registry::Bounds {
            connections: self.connections,
            bandwidth: self.bandwidth,
            ranges: self.parallel_ranges,
            ranges_from: self.parallel_ranges_from,
        }
    }

    /// The files that say where images are to be had, and as whom.
    pub fn files(&self) -> registry::Files {
        registry::Files {
            hosts_dir: self.hosts_dir.clone(),
            registries_conf: self.registries_conf.clone(),
            registries_dir: self.registries_dir.clone(),
            auth_file: self.auth_file.clone(),
            namespaced_auth_dir: self.namespaced_auth_dir.clone(),
        }
    }
}
