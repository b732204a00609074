//! CheckpointContainer: a running container's memory and files into an archive; the container goes on.

use std::{path::Path, time::Duration};

use super::{PodError, Pods};
use crate::{
    checkpoint::{self, Description, Subject},
    model::{ContainerState, Timestamp},
};

impl Pods {
    /// Writes a checkpoint of a container to `location`. Source: CRI CheckpointContainer.
    ///
    /// # Errors
    /// [`PodError::NoContainer`]; [`PodError::WrongState`] when it does not run; [`PodError::Checkpoint`] naming what is
    /// missing.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: &Path,
        timeout: Option<Duration>,
    ) -> Result<(), PodError> {
        let container = self.inner.index.container(id)?;
        // Nobody stops, changes or removes it meanwhile; only its own end may come between, which criu tells.
        let _turn = container.turn.lock().await;
        let state = container.state.borrow().clone();
        let what = match state {
            ContainerState::Running { .. } => None,
            ContainerState::Created => Some("created"),
            ContainerState::Exited { .. } => Some("exited"),
        };
        if let Some(state) = what {
            return Err(PodError::WrongState {
                id: container.plan.id.clone(),
                state,
                needed: "running",
            });
        }
        let plan = &container.plan;
        let image = plan.image_id.to_string();
        let named = match plan.config.user_specified_image.as_str() {
            "" => plan.config.image.clone(),
            name => name.to_owned(),
        };
        let subject = Subject {
            description: Description {
                id: plan.id.clone(),
                name: plan.config.metadata.name.clone(),
                rootfs_image: image.clone(),
                rootfs_image_ref: image,
                rootfs_image_name: named,
                runtime: "inro",
                created_time: plan.created_at.rfc3339(),
                checkpointed_time: Timestamp::now().rfc3339(),
            },
            init: container.spec.init,
            spec: container.folder.path().join("config.json"),
            upper: self.inner.with.snapshots.upper(&plan.id),
            volumes: plan
                .config
                .mounts
                .iter()
                .map(|mount| mount.container_path.clone())
                .collect(),
        };
        checkpoint::write(&self.inner.config().criu, subject, location, timeout).await?;
        tracing::info!(container = %plan.id, location = %location.display(), "checkpoint written");
        Ok(())
    }
}
