//! UpdateContainerResources and UpdatePodSandboxResources: limits changed in place, on record before they are told.

use super::{
    PodError, Pods, blocking,
    records::{ContainerChanges, SandboxChanges},
};
use crate::{
    model::{ContainerState, Resources},
    store::Name,
};

impl Pods {
    /// Changes the limits of a container that was created or runs; what `change` leaves out stays. All of it is applied
    /// or none. Source: CRI UpdateContainerResources.
    ///
    /// # Errors
    /// [`PodError::NoContainer`]; [`PodError::WrongState`] when it has exited; [`PodError::Cgroup`] naming the field.
    pub async fn update_container(&self, id: &str, change: Resources) -> Result<(), PodError> {
        let container = self.inner.index.container(id)?;
        let _turn = container.turn.lock().await;
        if matches!(*container.state.borrow(), ContainerState::Exited { .. }) {
            return Err(PodError::WrongState {
                id: container.plan.id.clone(),
                state: "exited",
                needed: "created or running",
            });
        }
        let before = container.resources.borrow().clone();
        let after = before.changed_by(&change);
        let (cgroups, path) = (self.inner.with.cgroups.clone(), container.plan.cgroup.clone());
        let (needed, folder) = (after.needed_for(&change), container.folder.clone());
        let resources = blocking(move || {
            cgroups.update(&path, &needed)?;
            if let Some(score) = needed.oom_score_adj {
                cgroups.set_oom_score_adj(&path, score)?;
            }
            folder.write(
                Name::Changes,
                &ContainerChanges {
                    resources: after.clone(),
                },
            )?;
            Ok::<_, PodError>(after)
        })
        .await?;
        tracing::info!(container = %container.plan.id, ?change, "limits changed");
        self.inner.index.set_resources(&container, resources);
        Ok(())
    }

    /// Keeps what the kubelet says of a pod's limits, which it applies to the pod's cgroup itself. `None`: as it was.
    /// Source: CRI UpdatePodSandboxResources.
    ///
    /// # Errors
    /// [`PodError::NoSandbox`], [`PodError::Store`].
    pub async fn update_sandbox(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), PodError> {
        let sandbox = self.inner.index.sandbox(id)?;
        let _turn = sandbox.turn.lock().await;
        let before = sandbox.changes.borrow().clone();
        let changes = SandboxChanges {
            overhead: overhead.or(before.overhead),
            resources: resources.or(before.resources),
        };
        sandbox.folder.write(Name::Changes, &changes)?;
        self.inner.index.set_changes(&sandbox, changes);
        Ok(())
    }

    /// Gives new pods addresses of the subnet that the kubelet names. Source: CRI UpdateRuntimeConfig.
    ///
    /// # Errors
    /// [`PodError::Net`] naming the field.
    pub async fn update_pod_cidr(&self, pod_cidr: String) -> Result<(), PodError> {
        let network = self.inner.with.network.clone();
        blocking(move || network.change_subnet(&pod_cidr)).await
    }
}
