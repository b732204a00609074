//! What a starting daemon finds: for each folder its plan is taken up again or undone. Nothing is searched for.

use std::{path::Path, sync::Arc};

use super::{
    Inner, PodError, Pods,
    create::init_exe,
    index::{Container, Sandbox},
    pins,
    records::{
        ContainerChanges, ContainerPlan, ContainerSpec, ContainerStatus, SandboxChanges, SandboxPlan, SandboxStatus,
    },
};
use crate::{
    model::{ContainerState, SandboxState, Stages, Timestamp, chain},
    net::LivePod,
    shim::Shim,
    store::{Folder, Name, Shelf},
};

impl Pods {
    /// Takes up every sandbox and container of the run folder, and undoes what no client was told of.
    ///
    /// A record that cannot be read is put into quarantine and costs nobody else anything.
    ///
    /// # Errors
    /// [`PodError::Store`] when the run folder itself cannot be read.
    pub async fn recover(&self) -> Result<(), PodError> {
        let inner = &self.inner;
        for id in inner.sandboxes.ids()? {
            let folder = inner.sandboxes.folder(&id);
            if let Err(error) = inner.recover_sandbox(&folder).await {
                quarantine(&inner.sandboxes, &id, &error);
            }
        }
        for id in inner.containers.ids()? {
            let folder = inner.containers.folder(&id);
            if let Err(error) = inner.clone().recover_container(&folder).await {
                // Its processes can be killed all the same: the cgroup's name follows from the plan, if that is whole.
                if let Ok(Some(plan)) = folder.read::<ContainerPlan>(Name::Plan) {
                    inner.tear_down_container(&plan, &folder).await;
                }
                quarantine(&inner.containers, &id, &error);
            }
        }
        let (network, live) = (inner.with.network.clone(), inner.live());
        if let Err(error) = super::blocking(move || network.recover(&live)).await {
            tracing::warn!(error = %chain(&error), "cannot release addresses");
        }
        let containers = inner.containers.ids()?;
        let snapshots = inner.with.snapshots.clone();
        super::blocking(move || snapshots.retain(|id| containers.iter().any(|known| known == id))).await?;
        Ok(())
    }
}

impl Inner {
    async fn recover_sandbox(&self, folder: &Folder) -> Result<(), PodError> {
        let Some(plan) = folder.read::<SandboxPlan>(Name::Plan)? else {
            // Not even planned: nothing was made.
            self.discard(folder);
            return Ok(());
        };
        let Some(mut status) = folder.read::<SandboxStatus>(Name::Status)? else {
            tracing::info!(sandbox = %plan.id, "undoing a sandbox that nobody was told of");
            self.tear_down_sandbox(&plan, folder);
            self.discard(folder);
            return Ok(());
        };
        let ended = plan.boot_id != self.boot_id || is_cut_off(&status, folder);
        if ended && status.state == SandboxState::Ready {
            self.tear_down_sandbox(&plan, folder);
            status = SandboxStatus {
                state: SandboxState::NotReady,
                reaper: None,
                ..status
            };
            folder.write(Name::Status, &status)?;
        }
        let changes = folder.read::<SandboxChanges>(Name::Changes)?.unwrap_or_default();
        let (status, turn) = (tokio::sync::watch::Sender::new(status), tokio::sync::Mutex::default());
        self.index.insert_sandbox(Arc::new(Sandbox {
            plan,
            folder: folder.clone(),
            status,
            changes: tokio::sync::watch::Sender::new(changes),
            turn,
            stages: Stages::new(),
        }));
        Ok(())
    }

    async fn recover_container(self: Arc<Self>, folder: &Folder) -> Result<(), PodError> {
        let Some(plan) = folder.read::<ContainerPlan>(Name::Plan)? else {
            self.discard(folder);
            return Ok(());
        };
        let told = folder
            .read::<ContainerStatus>(Name::Status)?
            .zip(folder.read::<ContainerSpec>(Name::Spec)?);
        let Some((status, spec)) = told else {
            tracing::info!(container = %plan.id, "undoing a container that nobody was told of, or that was removed");
            if self.tear_down_container(&plan, folder).await {
                self.discard(folder);
            }
            return Ok(());
        };
        self.hold_images(&plan);
        let changes = folder.read::<ContainerChanges>(Name::Changes)?;
        let state = status.state.clone();
        let container = Container::new(plan, spec, folder.clone(), state);
        if let Some(changes) = changes {
            container.resources.send_replace(Arc::new(changes.resources));
        }
        let container = Arc::new(container);
        self.index.insert_container(container.clone());
        if matches!(status.state, ContainerState::Exited { .. }) {
            return Ok(());
        }
        if status.state == ContainerState::Created && was_started(&container.spec) {
            // The message was sent and the daemon died before it wrote that down.
            self.running(&container, Timestamp::now())?;
            self.started_with_vendor(&container).await;
        }
        match Shim::connect(folder.path()) {
            Ok(shim) => self.watch(container, Arc::new(shim)),
            // It has ended: the exit record says how, and without one it was lost.
            Err(_) => self.settle(&container).await,
        }
        Ok(())
    }

    fn live(&self) -> Vec<LivePod> {
        let all = self.index.sandboxes(&Default::default());
        all.into_iter()
            .filter(|view| view.state == SandboxState::Ready)
            .map(|view| LivePod {
                netns: pins::network(self.sandboxes.folder(view.id.as_str()).path()),
                id: view.id,
                ips: view.ips,
                port_mappings: view.config.port_mappings.clone(),
            })
            .collect()
    }
}

/// Whether a stop was cut off before it was on record: it may have taken away the reaper, or some of the namespaces. Its
/// client was not told, and asks again if it still wants it; nobody can make a container in such a pod.
fn is_cut_off(status: &SandboxStatus, folder: &Folder) -> bool {
    let is_dead = |reaper: u32| !Path::new("/proc").join(reaper.to_string()).exists();
    status.reaper.is_some_and(is_dead) || !pins::are_whole(folder.path())
}

fn was_started(spec: &ContainerSpec) -> bool {
    let now = init_exe(spec.init);
    now.is_some() && spec.init_exe.is_some() && now != spec.init_exe
}

fn quarantine(shelf: &Shelf, id: &str, error: &PodError) {
    match shelf.quarantine(id) {
        Ok(to) => tracing::error!(id, error = %chain(error), to = %to.display(), "put into quarantine"),
        Err(failure) => tracing::error!(id, error = %chain(error), failure = %chain(&failure), "cannot be recovered"),
    }
}
