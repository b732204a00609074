//! RemoveContainer: stops it if it runs, then takes everything of it away.

use std::{sync::Arc, time::Duration};

use super::{Inner, PodError, Pods, index::Container};

impl Pods {
    /// Removes a container, killing it first if it runs; succeeds when it is not there. Its log stays.
    ///
    /// # Errors
    /// [`PodError::Ambiguous`], [`PodError::Unkillable`].
    pub async fn remove_container(&self, id: &str) -> Result<(), PodError> {
        match self.inner.index.container(id) {
            Ok(container) => self.inner.remove_container(&container).await,
            Err(PodError::NoContainer(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Inner {
    pub(super) async fn remove_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), PodError> {
        self.stop_container(container, Duration::ZERO).await?;
        let _turn = container.turn.lock().await;
        if self.tear_down_container(&container.plan, &container.folder).await {
            self.discard(&container.folder);
        } else {
            // The plan stays on disk: the next start of the daemon finishes what could not be done now.
            let status = container.folder.path().join("status");
            if let Err(error) = std::fs::remove_file(&status) {
                tracing::warn!(container = %container.plan.id, %error, "cannot mark as removed");
            }
        }
        self.index.forget_container(&container.plan.id);
        Ok(())
    }
}
