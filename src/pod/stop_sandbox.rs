//! StopPodSandbox and RemovePodSandbox. Both succeed for a sandbox that is not there.

use std::{sync::Arc, time::Duration};

use super::{Inner, PodError, Pods, in_place, index::Sandbox, records::SandboxStatus};
use crate::{
    model::{SandboxState, chain},
    store::Name,
};

impl Pods {
    /// Ends every process of a pod at once and closes its host ports; its network interface goes soon after, and then its
    /// address is free. Source: CRI StopPodSandbox.
    ///
    /// # Errors
    /// [`PodError::Ambiguous`]; [`PodError::Unkillable`] and those of the record; what could not be taken apart stays
    /// planned and is tried again by the next stop, remove or start of the daemon.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), PodError> {
        match self.inner.index.sandbox(id) {
            Ok(sandbox) => self.inner.stop_sandbox(&sandbox).await,
            Err(PodError::NoSandbox(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Stops a sandbox if it still runs, and removes it with all its containers. Source: CRI RemovePodSandbox.
    ///
    /// # Errors
    /// As [`Pods::stop_sandbox`] and [`Pods::remove_container`].
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), PodError> {
        let sandbox = match self.inner.index.sandbox(id) {
            Ok(sandbox) => sandbox,
            Err(PodError::NoSandbox(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.inner.stop_sandbox(&sandbox).await?;
        let _turn = sandbox.turn.lock().await;
        for container in self.inner.index.containers_of(&sandbox.plan.id) {
            self.inner.remove_container(&container).await?;
        }
        self.inner.discard(&sandbox.folder);
        self.inner.index.forget_sandbox(&sandbox.plan.id);
        Ok(())
    }
}

impl Inner {
    async fn stop_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), PodError> {
        let _turn = sandbox.turn.lock().await;
        if sandbox.status.borrow().state == SandboxState::NotReady {
            // Nothing to do, unless its address could not be freed then.
            return Ok(self.with.network.detach(&sandbox.plan.id)?);
        }
        let stops = self.index.containers_of(&sandbox.plan.id).into_iter().map(|container| {
            let inner = self.clone();
            async move { inner.stop_container(&container, Duration::ZERO).await }
        });
        futures_util::future::try_join_all(stops).await?;
        if let Err(error) = in_place(|| self.release_devices(sandbox)) {
            tracing::warn!(sandbox = %sandbox.plan.id, error = %chain(&error), "cannot bring an interface back");
        }
        if !self.tear_down_sandbox(&sandbox.plan, &sandbox.folder) {
            return Err(PodError::Invalid {
                field: "pod_sandbox_id",
                why: format!(
                    "sandbox {} could not be taken apart; the daemon's log says why",
                    sandbox.plan.id
                ),
            });
        }
        let ips = sandbox.status.borrow().ips.clone();
        let status = SandboxStatus {
            state: SandboxState::NotReady,
            ips,
            reaper: None,
        };
        sandbox.folder.write(Name::Status, &status)?;
        self.index.set_status(sandbox, status);
        Ok(())
    }
}
