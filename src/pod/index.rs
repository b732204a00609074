//! Every sandbox and container that exists, as everyone reads it: listing never waits for a slow operation.
//!
//! What changes is changed here, in a turn of the journal, and told with it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock, RwLock},
};

use tokio::sync::watch;

use super::{
    PodError,
    events::{Events, Journal, Turn},
    records::{ContainerPlan, ContainerSpec, SandboxChanges, SandboxPlan, SandboxStatus},
};
use crate::{
    model::{
        ContainerEntry, ContainerFacts, ContainerFilter, ContainerId, ContainerMetadata, ContainerState, ContainerView,
        EventKind, LayerUsage, PodView, Resources, SandboxConfig, SandboxFilter, SandboxId, SandboxMetadata,
        SandboxView, Stages, Timestamp,
    },
    shim::Shim,
    store::Folder,
};

/// A sandbox that a client was told of.
pub struct Sandbox {
    pub plan: SandboxPlan,
    pub folder: Folder,
    /// Replaced as a whole, by [`Index::set_status`]; the record on disk is written first.
    pub status: watch::Sender<SandboxStatus>,
    /// What was changed since it was run. Replaced as a whole, by [`Index::set_changes`]; on disk first.
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
        let config = match changes {
            SandboxChanges {
                overhead: None,
                resources: None,
            } => planned.clone(),
            SandboxChanges { overhead, resources } => Arc::new(SandboxConfig {
                overhead: overhead.or_else(|| planned.overhead.clone()),
                resources: resources.or_else(|| planned.resources.clone()),
                ..SandboxConfig::clone(planned)
            }),
        };
        SandboxView {
            id: self.plan.id.clone(),
            config,
            state: status.state,
            created_at: self.plan.created_at,
            ips: status.ips.clone(),
        }
    }
}

/// A container that a client was told of.
pub struct Container {
    /// What readers share.
    pub facts: Arc<ContainerFacts>,
    pub plan: ContainerPlan,
    pub spec: ContainerSpec,
    pub folder: Folder,
    /// Replaced as a whole, by [`Index::set_state`]; the record on disk is written first.
    pub state: watch::Sender<ContainerState>,
    /// Held from reading the state until its successor is recorded and published, so that no change is lost.
    pub recording: Mutex<()>,
    /// The limits it has now. Replaced as a whole, by [`Index::set_resources`]; on disk first.
    pub resources: watch::Sender<Arc<Resources>>,
    /// Whose turn it is to start, change or remove it.
    pub turn: tokio::sync::Mutex<()>,
    /// The earliest of the deadlines of the StopContainer calls under way, and whether the stop signal was sent.
    pub stopping: watch::Sender<Option<tokio::time::Instant>>,
    /// The connection to its shim; `None` once it has exited. Guards the slot only.
    pub shim: Mutex<Option<Arc<Shim>>>,
    /// Where the time of CreateContainer went; empty after a restart of the daemon.
    pub stages: Stages,
    /// Where the time of StartContainer went; unset until it has succeeded, and after a restart of the daemon.
    pub start_stages: OnceLock<Stages>,
    /// What its writable layer takes; `None` until somebody measured it. Guards the value only.
    pub layer: Mutex<Option<LayerUsage>>,
}

impl Container {
    /// A container in `state`, whose shim nobody is connected to yet.
    pub fn new(plan: ContainerPlan, spec: ContainerSpec, folder: Folder, state: ContainerState) -> Self {
        let facts = ContainerFacts {
            id: plan.id.clone(),
            sandbox: plan.sandbox.clone(),
            config: plan.config.clone(),
            image_id: plan.image_id.clone(),
            volume_images: plan.volume_images.clone(),
            user: spec.user.clone(),
            apparmor: spec.apparmor.clone(),
            stop_signal: spec.stop_signal,
            log: plan.log.clone(),
            created_at: plan.created_at,
            listed: OnceLock::new(),
        };
        Self {
            facts: Arc::new(facts),
            resources: watch::Sender::new(Arc::new(plan.config.resources.clone())),
            plan,
            spec,
            folder,
            state: watch::Sender::new(state),
            recording: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            stopping: watch::Sender::new(None),
            shim: Mutex::default(),
            stages: Stages::new(),
            start_stages: OnceLock::new(),
            layer: Mutex::default(),
        }
    }

    /// A snapshot for readers.
    pub fn view(&self) -> ContainerView {
        let state = self.state.borrow().clone();
        ContainerView {
            facts: self.facts.clone(),
            resources: self.resources.borrow().clone(),
            pid: (!matches!(state, ContainerState::Exited { .. })).then_some(self.spec.init),
            state,
        }
    }

    /// What its writable layer took when it was measured last.
    pub fn layer(&self) -> Option<LayerUsage> {
        *self.layer.lock().expect("no panic while the value is held")
    }

    /// The shim's connection while the container's init is alive.
    pub fn shim(&self) -> Option<Arc<Shim>> {
        self.shim.lock().expect("no panic while the slot is held").clone()
    }
}

/// All of them, by id.
#[derive(Default)]
pub struct Index {
    journal: Journal,
    /// Guards the two tables; never held across an await.
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    sandboxes: HashMap<SandboxId, Arc<Sandbox>>,
    containers: HashMap<ContainerId, Arc<Container>>,
}

impl Index {
    /// Everything that happens from now on.
    /// Waits until nobody has the turn.
    pub fn wait_for_turn(&self) {
        drop(self.journal.turn());
    }

    pub fn listen(&self) -> Events {
        self.journal.listen()
    }

    /// A sandbox that was run, or found by a starting daemon.
    pub fn insert_sandbox(&self, sandbox: Arc<Sandbox>) {
        let mut turn = self.journal.turn();
        self.write().sandboxes.insert(sandbox.plan.id.clone(), sandbox.clone());
        for kind in [EventKind::Created, EventKind::Started] {
            turn.tell(kind, sandbox.plan.id.as_str(), |at| Some(self.pod_at(at, &sandbox)));
        }
    }

    /// A container that was created, or found by a starting daemon.
    pub fn insert_container(&self, container: Arc<Container>) {
        let mut turn = self.journal.turn();
        self.write()
            .containers
            .insert(container.plan.id.clone(), container.clone());
        self.tell(&mut turn, EventKind::Created, &container);
    }

    /// Publishes a sandbox's end: `status` is its last but for the removal.
    pub fn set_status(&self, sandbox: &Sandbox, status: SandboxStatus) {
        let mut turn = self.journal.turn();
        sandbox.status.send_replace(status);
        turn.tell(EventKind::Stopped, sandbox.plan.id.as_str(), |at| {
            Some(self.pod_at(at, sandbox))
        });
    }

    /// Publishes a container's next state. `kind` says what happened, if it is anything to tell.
    pub fn set_state(&self, container: &Container, state: ContainerState, kind: Option<EventKind>) {
        let mut turn = self.journal.turn();
        container.state.send_replace(state);
        if let Some(kind) = kind {
            self.tell(&mut turn, kind, container);
        }
    }

    /// Publishes what a sandbox was changed to. The CRI has no event for it; what is told next has it.
    pub fn set_changes(&self, sandbox: &Sandbox, changes: SandboxChanges) {
        let _turn = self.journal.turn();
        sandbox.changes.send_replace(changes);
    }

    /// Publishes a container's new limits. The CRI has no event for it; what is told next has them.
    pub fn set_resources(&self, container: &Container, resources: Resources) {
        let _turn = self.journal.turn();
        container.resources.send_replace(Arc::new(resources));
    }

    /// A sandbox that is gone. It is told of as it was last.
    pub fn forget_sandbox(&self, id: &SandboxId) {
        let mut turn = self.journal.turn();
        let gone = self.write().sandboxes.remove(id);
        if let Some(sandbox) = gone {
            turn.tell(EventKind::Deleted, id.as_str(), |at| Some(self.pod_at(at, &sandbox)));
        }
    }

    /// A container that is gone.
    pub fn forget_container(&self, id: &ContainerId) {
        let mut turn = self.journal.turn();
        let gone = self.write().containers.remove(id);
        if let Some(container) = gone {
            self.tell(&mut turn, EventKind::Deleted, &container);
        }
    }

    /// A sandbox with its containers, all of one moment.
    pub fn pod(&self, sandbox: &Sandbox) -> PodView {
        let mut turn = self.journal.turn();
        let at = turn.now();
        self.pod_at(at, sandbox)
    }

    fn tell(&self, turn: &mut Turn<'_>, kind: EventKind, container: &Container) {
        turn.tell(kind, container.plan.id.as_str(), |at| {
            let sandbox = self.read().sandboxes.get(&container.plan.sandbox).cloned();
            sandbox.map(|sandbox| self.pod_at(at, &sandbox))
        });
    }

    fn pod_at(&self, at: Timestamp, sandbox: &Sandbox) -> PodView {
        let mut containers: Vec<_> = self.containers_of(&sandbox.plan.id).iter().map(|c| c.view()).collect();
        containers.sort_by_key(|view| std::cmp::Reverse(view.created_at));
        PodView {
            at,
            sandbox: sandbox.view(),
            containers,
        }
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

    /// Sandboxes that match, newest first, as readers see them.
    pub fn sandboxes(&self, filter: &SandboxFilter) -> Vec<SandboxView> {
        self.find_sandboxes(filter)
            .iter()
            .map(|sandbox| sandbox.view())
            .collect()
    }

    /// Sandboxes that match, newest first.
    pub fn find_sandboxes(&self, filter: &SandboxFilter) -> Vec<Arc<Sandbox>> {
        let matches = |s: &Arc<Sandbox>| {
            starts(s.plan.id.as_str(), filter.id.as_deref())
                && filter.state.is_none_or(|state| s.status.borrow().state == state)
                && selects(&filter.labels, &s.plan.config.labels)
        };
        let mut found: Vec<_> = self.read().sandboxes.values().filter(|s| matches(s)).cloned().collect();
        found.sort_by_key(|s| std::cmp::Reverse(s.plan.created_at));
        found
    }

    /// Containers that match, newest first, as a list shows them: a view of each would copy what no list tells.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<ContainerEntry> {
        self.select_containers(filter, |container| ContainerEntry {
            facts: container.facts.clone(),
            phase: container.state.borrow().phase(),
        })
    }

    /// Containers that match, newest first.
    pub fn find_containers(&self, filter: &ContainerFilter) -> Vec<Arc<Container>> {
        self.select_containers(filter, Arc::clone)
    }

    fn select_containers<T>(&self, filter: &ContainerFilter, show: impl Fn(&Arc<Container>) -> T) -> Vec<T> {
        let matches = |c: &Arc<Container>| {
            starts(c.plan.id.as_str(), filter.id.as_deref())
                && starts(c.plan.sandbox.as_str(), filter.sandbox.as_deref())
                && filter.phase.is_none_or(|phase| c.state.borrow().phase() == phase)
                && selects(&filter.labels, &c.plan.config.labels)
        };
        let tables = self.read();
        let found = tables.containers.values().filter(|c| matches(c));
        // With their times beside them: they are all over the memory.
        let mut found: Vec<_> = found.map(|c| (c.plan.created_at, show(c))).collect();
        drop(tables);
        found.sort_unstable_by_key(|(created_at, _)| std::cmp::Reverse(*created_at));
        found.into_iter().map(|(_, shown)| shown).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().expect("no panic while the tables are held")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.tables.write().expect("no panic while the tables are held")
    }
}

/// Whether an id begins with what is asked for, if anything is.
fn starts(id: &str, asked: Option<&str>) -> bool {
    asked.is_none_or(|asked| id.starts_with(asked))
}

/// Whether every label asked for is there.
fn selects(asked: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    asked.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn begins(id: &str, prefix: &str) -> bool {
    !prefix.is_empty() && id.starts_with(prefix)
}

fn only<T>(mut found: impl Iterator<Item = T>) -> Result<Option<T>, ()> {
    let first = found.next();
    if found.next().is_some() { Err(()) } else { Ok(first) }
}
