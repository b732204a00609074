//! The domain: sandboxes and containers, one file per operation.
//!
//! ```text
//! sandbox    (plan) ──run──▶ Ready ──stop──▶ NotReady ──remove──▶ (gone)
//! container  (plan) ──create──▶ Created ──start──▶ Running ──exit──▶ Exited ──remove──▶ (gone)
//! ```
//! This is the only conductor: it calls the mechanisms, and none of them knows another. What exists is told by the run
//! folder's records; the index is what they say, in memory. Everything an operation makes is named by its plan record
//! before it is made, and one teardown per kind takes apart all that a plan can name: it serves a failed operation, an
//! ordinary removal and the recovery after a crash alike, so the path that matters most is the one walked every day.
//!
//! A mutating call runs to its end once begun, and the same request arriving meanwhile joins it.

mod attach;
mod checkpoint;
mod connect;
mod create;
mod error;
mod events;
mod exec;
mod flight;
mod index;
mod layers;
mod log;
mod meter;
mod pins;
mod records;
mod recover;
mod relay;
mod remove;
mod run;
mod session;
mod spool;
mod start;
mod stats;
mod stop;
mod stop_sandbox;
mod teardown;
mod tickets;
mod update;
mod userns;
mod vendor;
mod volumes;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
};

use serde::{Deserialize, Serialize};

pub use error::PodError;
pub use events::Events;
pub use exec::ExecOutput;
pub use session::{Control, Input, Output, Session};
pub use tickets::{StreamCall, StreamKind, Streams, Token};

use crate::{
    cgroup::{self, Cgroups},
    image::{Images, snapshot::Snapshots},
    lockdown::apparmor::AppArmor,
    model::{
        ContainerEntry, ContainerFilter, ContainerId, ContainerMetadata, ContainerStages, ContainerView, DiskTotals,
        PodView, SandboxFilter, SandboxId, SandboxMetadata, SandboxView, StageObserver, Stages,
    },
    net::Network,
    store::Shelf,
    zygote::Zygote,
};
use flight::Flights;
use index::Index;
use meter::Meter;
use spool::Spools;
use tickets::Tickets;

/// Node policy for pods.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// cgroup parent of sandboxes that name none. Empty: `/inro`, and `system.slice` with the driver systemd.
    pub cgroup_parent: String,
    /// Names of runtime handlers beside the default, empty one.
    pub runtime_handlers: Vec<String>,
    /// Most processes and threads of one container; 0: no limit.
    pub pids_limit: i64,
    /// Folders of CDI specifications; a later one wins over an earlier one.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// The criu program, for CheckpointContainer and nothing else; it need not be there.
    pub criu: PathBuf,
    /// Whether PodSandboxStatus has the containers' statuses and its time, or neither. A kubelet 1.37 with EventedPLEG starts
    /// init containers for ever when it gets them (`docs/decisions/0012-containers-in-status.md`).
    pub containers_in_status: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cgroup_parent: String::new(),
            runtime_handlers: vec!["inro".into()],
            pids_limit: 0,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            criu: "/usr/sbin/criu".into(),
            containers_in_status: false,
        }
    }
}

/// The mechanisms that pods are made with.
pub struct Mechanisms {
    pub zygote: Zygote,
    pub cgroups: Cgroups,
    pub network: Network,
    pub images: Images,
    pub snapshots: Snapshots,
    pub apparmor: AppArmor,
}

/// Sandboxes and containers. Cheap to clone.
#[derive(Clone)]
pub struct Pods {
    inner: Arc<Inner>,
}

struct Inner {
    /// What is in force. Guards the value only: an operation begins with a copy.
    config: RwLock<Arc<Config>>,
    /// The configured cgroup parent as the driver has it. It stays: pods that run are found below it.
    cgroup_parent: String,
    boot_id: String,
    /// The run folder.
    state: PathBuf,
    sandboxes: Shelf,
    containers: Shelf,
    with: Mechanisms,
    index: Index,
    /// Why pods cannot have user namespaces of their own, if they cannot.
    no_user_namespaces: std::sync::OnceLock<Option<String>>,
    meter: Meter,
    /// The file system of the writable layers, as it was lately. Guards the value only.
    disk: Mutex<DiskTotals>,
    runs: Flights<SandboxMetadata, SandboxId>,
    creates: Flights<(SandboxId, ContainerMetadata), ContainerId>,
    tickets: Tickets,
    spools: Spools,
    /// Who is told of stages, if anyone.
    stage_observer: std::sync::OnceLock<StageObserver>,
}

impl Pods {
    /// Pods whose records are below `state`, with `root` on a disk; call [`Pods::recover`] before serving.
    ///
    /// # Errors
    /// [`PodError::Store`] when the run folder cannot be made, [`PodError::Io`] when the boot id cannot be read.
    pub fn open(state: &Path, root: &Path, config: Config, with: Mechanisms) -> Result<Self, PodError> {
        let cgroup_parent = run::cgroup_parent(&with.cgroups, &config.cgroup_parent, "pod.cgroup_parent")?;
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = std::fs::read_to_string(path)
            .map_err(|source| PodError::Io {
                action: "read",
                path: path.into(),
                source,
            })?
            .trim()
            .to_owned();
        let thread = |source| PodError::Io {
            action: "start a thread that watches",
            path: state.into(),
            source,
        };
        let inner = Inner {
            config: RwLock::new(Arc::new(config)),
            cgroup_parent,
            boot_id,
            state: state.to_owned(),
            sandboxes: Shelf::open(state, "sandboxes")?,
            containers: Shelf::open(state, "containers")?,
            with,
            index: Index::default(),
            no_user_namespaces: std::sync::OnceLock::new(),
            meter: Meter::start().map_err(thread)?,
            disk: Mutex::default(),
            runs: Flights::default(),
            creates: Flights::default(),
            tickets: Tickets::default(),
            spools: Spools::below(root),
            stage_observer: std::sync::OnceLock::new(),
        };
        let inner = Arc::new(inner);
        inner.meter.watch(Arc::downgrade(&inner));
        layers::watch(Arc::downgrade(&inner)).map_err(thread)?;
        Ok(Self { inner })
    }

    /// One sandbox with its containers, as they were at one moment. Source: CRI PodSandboxStatus.
    ///
    /// # Errors
    /// [`PodError::NoSandbox`], [`PodError::Ambiguous`].
    pub fn pod(&self, id: &str) -> Result<PodView, PodError> {
        Ok(self.inner.index.pod(&*self.inner.index.sandbox(id)?))
    }

    /// Sandboxes that match, newest first. Source: CRI ListPodSandbox.
    pub fn sandboxes(&self, filter: &SandboxFilter) -> Vec<SandboxView> {
        self.inner.index.sandboxes(filter)
    }

    /// One container. Source: CRI ContainerStatus.
    ///
    /// # Errors
    /// [`PodError::NoContainer`], [`PodError::Ambiguous`].
    pub fn container(&self, id: &str) -> Result<ContainerView, PodError> {
        Ok(self.inner.index.container(id)?.view())
    }

    /// Containers that match, newest first. Source: CRI ListContainers.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<ContainerEntry> {
        self.inner.index.containers(filter)
    }

    /// Where the time of a sandbox's run went; empty when an earlier daemon ran it.
    ///
    /// # Errors
    /// [`PodError::NoSandbox`], [`PodError::Ambiguous`].
    pub fn sandbox_stages(&self, id: &str) -> Result<Stages, PodError> {
        Ok(self.inner.index.sandbox(id)?.stages.clone())
    }

    /// Where the time of a container's creation and start went; empty what an earlier daemon did.
    ///
    /// # Errors
    /// [`PodError::NoContainer`], [`PodError::Ambiguous`].
    pub fn container_stages(&self, id: &str) -> Result<ContainerStages, PodError> {
        let container = self.inner.index.container(id)?;
        Ok(ContainerStages {
            create: container.stages.clone(),
            start: container.start_stages.get().cloned().unwrap_or_default(),
        })
    }

    /// From now on `observer` is told of the stages of every run, create and start that succeeds. There is one for good.
    pub fn observe_stages(&self, observer: StageObserver) {
        let _ = self.inner.stage_observer.set(observer);
    }

    /// What begins from now on follows `config`, but for the cgroup parent.
    pub fn reconfigure(&self, config: Config) {
        *self.inner.config.write().expect("no panic while it is held") = Arc::new(config);
    }

    /// Whether pods can still be made and told of: the zygote forks, and the journal is nobody's for long.
    ///
    /// # Errors
    /// [`PodError::Zygote`]. A journal that is stuck is not told, it is waited for.
    pub async fn check(&self) -> Result<(), PodError> {
        self.inner.with.zygote.hold().await?;
        let inner = self.inner.clone();
        Ok(tokio::task::spawn_blocking(move || inner.index.wait_for_turn()).await?)
    }

    /// The runtime handlers' names, the default one first.
    pub fn runtime_handlers(&self) -> Vec<String> {
        let mut names = vec![String::new()];
        names.extend(self.inner.config().runtime_handlers.iter().cloned());
        names
    }

    /// Whether a pod's status has those of its containers.
    pub fn containers_in_status(&self) -> bool {
        self.inner.config().containers_in_status
    }

    /// Who makes cgroups; the kubelet has to know.
    pub fn cgroup_driver(&self) -> cgroup::Driver {
        self.inner.with.cgroups.driver()
    }

    /// The AppArmor profile of unprivileged containers, or why they have none.
    pub fn apparmor(&self) -> String {
        self.inner.with.apparmor.state()
    }

    /// Whether pods can get addresses.
    pub async fn network_ready(&self) -> Result<(), String> {
        let network = self.inner.with.network.clone();
        let asked = tokio::task::spawn_blocking(move || network.ready()).await;
        asked.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl Inner {
    fn config(&self) -> Arc<Config> {
        self.config.read().expect("no panic while it is held").clone()
    }

    /// Tells who observes, if anyone does.
    fn tell_stages(&self, operation: &'static str, stages: &Stages) {
        if let Some(tell) = self.stage_observer.get() {
            tell(operation, stages);
        }
    }
}

/// Runs what may wait for a disk or the kernel where it does not hold up anyone else, from now on.
fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> impl Future<Output = Result<T, PodError>> + Send
where
    T: Send + 'static,
    E: Send + 'static,
    PodError: From<E>,
{
    let done = tokio::task::spawn_blocking(work);
    async { Ok(done.await??) }
}

/// The same on this thread, where nothing else of its task goes on meanwhile: it saves the way to another thread and back,
/// and the others that this one served are served by another.
fn in_place<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, PodError>
where
    PodError: From<E>,
{
    Ok(tokio::task::block_in_place(work)?)
}
