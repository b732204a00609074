//! StartContainer: one message to the init that waits, and one record.

use std::time::Duration;

use super::{Inner, PodError, Pods, blocking, index::Container, records::ContainerStatus, vendor::vendor_plan};
use crate::{
    model::{ContainerState, EventKind, Stopwatch, Timestamp},
    store::Name,
    zygote,
};

impl Pods {
    /// Lets a created container run. Starting a running one again is no error: a client that gave up waiting asks twice.
    ///
    /// # Errors
    /// [`PodError::NoContainer`]; [`PodError::WrongState`] when it has exited.
    ///
    /// `watch` takes its times.
    pub async fn start_container(&self, id: &str, mut watch: Stopwatch) -> Result<(), PodError> {
        let container = self.inner.index.container(id)?;
        let turn = container.turn.lock().await;
        match admit(&container.state.borrow()) {
            Admit::Go => {}
            Admit::Already => return Ok(()),
            Admit::Refuse(state) => {
                return Err(PodError::WrongState {
                    id: container.plan.id.clone(),
                    state,
                    needed: "created",
                });
            }
        }
        watch.lap("turn");
        let started = container.clone();
        // Before the message: what ends at once must not have ended before it was started.
        let started_at = Timestamp::now();
        let start = move || {
            let hooks = vendor_plan(&started).map_or(Duration::ZERO, |vendor| vendor.start_limit());
            zygote::start(started.folder.path(), hooks)
        };
        let stages = blocking(start).await?;
        watch.lap_with(stages, "hand-over");
        self.inner.running(&container, started_at)?;
        drop(turn);
        watch.lap("record");
        self.inner.started_with_vendor(&container).await;
        watch.lap("hooks");
        let stages = watch.stages();
        self.inner.tell_stages("StartContainer", &stages);
        // A container is started once.
        let _ = container.start_stages.set(stages);
        Ok(())
    }
}

impl Inner {
    /// Records and publishes that init runs, unless it has exited meanwhile: the exit is told by the watcher.
    pub(super) fn running(&self, container: &Container, started_at: Timestamp) -> Result<(), PodError> {
        self.advance(container, |now| match now {
            ContainerState::Created => Some((ContainerState::Running { started_at }, Some(EventKind::Started))),
            ContainerState::Exited { started_at: None, exit } => {
                let (started_at, exit) = (Some(started_at), exit.clone());
                Some((ContainerState::Exited { started_at, exit }, None))
            }
            _ => None,
        })
    }

    /// Takes a container to its next state: records it, publishes it and tells it. `next` answers `None` when there is
    /// nothing to change. What cannot be recorded is published all the same.
    pub(super) fn advance(
        &self,
        container: &Container,
        next: impl FnOnce(&ContainerState) -> Option<(ContainerState, Option<EventKind>)>,
    ) -> Result<(), PodError> {
        let _recording = container.recording.lock().expect("no panic while a state is recorded");
        let Some((state, kind)) = next(&container.state.borrow()) else {
            return Ok(());
        };
        let status = ContainerStatus { state };
        let written = container.folder.write(Name::Status, &status);
        self.index.set_state(container, status.state, kind);
        Ok(written?)
    }
}

enum Admit {
    Go,
    Already,
    Refuse(&'static str),
}

fn admit(state: &ContainerState) -> Admit {
    match state {
        ContainerState::Created => Admit::Go,
        ContainerState::Running { .. } => Admit::Already,
        ContainerState::Exited { .. } => Admit::Refuse("exited"),
    }
}
