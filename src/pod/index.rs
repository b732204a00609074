//! Every sandbox and container that exists, as everyone reads it: listing never waits for a slow operation.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock},
};

use tokio::sync::watch;

use super::{
    PodError,
    records::{ContainerPlan, ContainerSpec, SandboxChanges, SandboxPlan, SandboxStatus},
};
use crate::{
    model::{
        ContainerConfig, ContainerFilter, ContainerId, ContainerMetadata, ContainerState, ContainerView, Resources,
        SandboxConfig, SandboxFilter, SandboxId, SandboxMetadata, SandboxView, Stages,
    },
    shim::Shim,
    store::Folder,
};

/// A sandbox that a client was told of.
pub struct Sandbox {
    pub plan: SandboxPlan,
    pub folder: Folder,
    /// Replaced as a whole; the record on disk is written first.
    pub status: watch::Sender<SandboxStatus>,
    /// What was changed since it was run; on disk first.
    pub changes: watch::Sender<SandboxChanges>,
    /// Whose turn it is to change, stop or remove it.
    pub turn: tokio::sync::Mutex<()>,
    /// Where the time of RunPodSandbox went; empty after a restart of the daemon.
    pub stages: Stages,
}

impl Sandbox {
    /// A snapshot for readers.
    pub fn view(&self) -> SandboxView {
        let status = self.status.borrow();
        let changes = self.changes.borrow().clone();
        let planned = &self.plan.config;
        SandboxView {
            id: self.plan.id.clone(),
            config: SandboxConfig {
                overhead: changes.overhead.or_else(|| planned.overhead.clone()),
                resources: changes.resources.or_else(|| planned.resources.clone()),
                ..planned.clone()
            },
            state: status.state,
            created_at: self.plan.created_at,
            ips: status.ips.clone(),
        }
    }
}

/// A container that a client was told of.
pub struct Container {
    pub plan: ContainerPlan,
    pub spec: ContainerSpec,
    pub folder: Folder,
    /// Replaced as a whole; the record on disk is written first.
    pub state: watch::Sender<ContainerState>,
    /// The limits it has now; on disk first.
    pub resources: watch::Sender<Resources>,
    /// Whose turn it is to start, change or remove it.
    pub turn: tokio::sync::Mutex<()>,
    /// The earliest of the deadlines of the StopContainer calls under way, and whether the stop signal was sent.
    pub stopping: watch::Sender<Option<tokio::time::Instant>>,
    /// The connection to its shim; `None` once it has exited. Guards the slot only.
    pub shim: Mutex<Option<Arc<Shim>>>,
    /// Where the time of CreateContainer went; empty after a restart of the daemon.
    pub stages: Stages,
}

impl Container {
    /// A snapshot for readers.
    pub fn view(&self) -> ContainerView {
        let state = self.state.borrow().clone();
        ContainerView {
            id: self.plan.id.clone(),
            sandbox: self.plan.sandbox.clone(),
            config: ContainerConfig {
                resources: self.resources.borrow().clone(),
                ..self.plan.config.clone()
            },
            image_id: self.plan.image_id.clone(),
            volume_images: self.plan.volume_images.clone(),
            user: self.spec.user.clone(),
            stop_signal: self.spec.stop_signal,
            log: self.plan.log.clone(),
            created_at: self.plan.created_at,
            pid: (!matches!(state, ContainerState::Exited { .. })).then_some(self.spec.init),
            state,
        }
    }

    /// The shim's connection while the container's init is alive.
    pub fn shim(&self) -> Option<Arc<Shim>> {
        self.shim.lock().expect("no panic while the slot is held").clone()
    }
}

/// All of them, by id.
#[derive(Default)]
pub struct Index {
    /// Guards the two tables; never held across an await.
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    sandboxes: HashMap<SandboxId, Arc<Sandbox>>,
    containers: HashMap<ContainerId, Arc<Container>>,
}

impl Index {
    pub fn insert_sandbox(&self, sandbox: Arc<Sandbox>) {
        self.write().sandboxes.insert(sandbox.plan.id.clone(), sandbox);
    }

    pub fn insert_container(&self, container: Arc<Container>) {
        self.write().containers.insert(container.plan.id.clone(), container);
    }

    pub fn forget_sandbox(&self, id: &SandboxId) {
        self.write().sandboxes.remove(id);
    }

    pub fn forget_container(&self, id: &ContainerId) {
        self.write().containers.remove(id);
    }

    /// The sandbox with `id`, or with the only id that begins with it.
    ///
    /// # Errors
    /// [`PodError::NoSandbox`], [`PodError::Ambiguous`].
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, PodError> {
        let tables = self.read();
        let exact = id.parse().ok().and_then(|id: SandboxId| tables.sandboxes.get(&id));
        let found = match exact {
            Some(sandbox) => Some(sandbox),
            None => only(
                tables
                    .sandboxes
                    .iter()
                    .filter(|(k, _)| begins(k.as_str(), id))
                    .map(|(_, v)| v),
            )
            .map_err(|()| PodError::Ambiguous {
                what: "sandbox",
                id: id.to_owned(),
            })?,
        };
        found.cloned().ok_or_else(|| PodError::NoSandbox(id.to_owned()))
    }

    /// The container with `id`, or with the only id that begins with it.
    ///
    /// # Errors
    /// [`PodError::NoContainer`], [`PodError::Ambiguous`].
    pub fn container(&self, id: &str) -> Result<Arc<Container>, PodError> {
        let tables = self.read();
        let exact = id.parse().ok().and_then(|id: ContainerId| tables.containers.get(&id));
        let found = match exact {
            Some(container) => Some(container),
            None => only(
                tables
                    .containers
                    .iter()
                    .filter(|(k, _)| begins(k.as_str(), id))
                    .map(|(_, v)| v),
            )
            .map_err(|()| PodError::Ambiguous {
                what: "container",
                id: id.to_owned(),
            })?,
        };
        found.cloned().ok_or_else(|| PodError::NoContainer(id.to_owned()))
    }

    /// The sandbox that the kubelet named so.
    pub fn sandbox_named(&self, metadata: &SandboxMetadata) -> Option<Arc<Sandbox>> {
        self.read()
            .sandboxes
            .values()
            .find(|s| s.plan.config.metadata == *metadata)
            .cloned()
    }

    /// The container of `sandbox` that the kubelet named so.
    pub fn container_named(&self, sandbox: &SandboxId, metadata: &ContainerMetadata) -> Option<Arc<Container>> {
        let tables = self.read();
        tables
            .containers
            .values()
            .find(|c| c.plan.sandbox == *sandbox && c.plan.config.metadata == *metadata)
            .cloned()
    }

    /// Every container of a sandbox.
    pub fn containers_of(&self, sandbox: &SandboxId) -> Vec<Arc<Container>> {
        self.read()
            .containers
            .values()
            .filter(|c| c.plan.sandbox == *sandbox)
            .cloned()
            .collect()
    }

    /// Sandboxes that match, newest first.
    pub fn sandboxes(&self, filter: &SandboxFilter) -> Vec<SandboxView> {
        let tables = self.read();
        let mut views: Vec<_> = tables
            .sandboxes
            .values()
            .filter(|s| {
                filter
                    .id
                    .as_ref()
                    .is_none_or(|id| s.plan.id.as_str().starts_with(id.as_str()))
            })
            .filter(|s| filter.state.is_none_or(|state| s.status.borrow().state == state))
            .filter(|s| {
                filter
                    .labels
                    .iter()
                    .all(|(k, v)| s.plan.config.labels.get(k) == Some(v))
            })
            .map(|s| s.view())
            .collect();
        views.sort_by_key(|v| std::cmp::Reverse(v.created_at));
        views
    }

    /// Containers that match, newest first.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<ContainerView> {
        let tables = self.read();
        let mut views: Vec<_> = tables
            .containers
            .values()
            .filter(|c| {
                filter
                    .id
                    .as_ref()
                    .is_none_or(|id| c.plan.id.as_str().starts_with(id.as_str()))
            })
            .filter(|c| {
                filter
                    .sandbox
                    .as_ref()
                    .is_none_or(|id| c.plan.sandbox.as_str().starts_with(id.as_str()))
            })
            .filter(|c| filter.phase.is_none_or(|phase| c.state.borrow().phase() == phase))
            .filter(|c| {
                filter
                    .labels
                    .iter()
                    .all(|(k, v)| c.plan.config.labels.get(k) == Some(v))
            })
            .map(|c| c.view())
            .collect();
        views.sort_by_key(|v| std::cmp::Reverse(v.created_at));
        views
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().expect("no panic while the tables are held")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.tables.write().expect("no panic while the tables are held")
    }
}

fn begins(id: &str, prefix: &str) -> bool {
    !prefix.is_empty() && id.starts_with(prefix)
}

fn only<T>(mut found: impl Iterator<Item = T>) -> Result<Option<T>, ()> {
    let first = found.next();
    if found.next().is_some() { Err(()) } else { Ok(first) }
}
