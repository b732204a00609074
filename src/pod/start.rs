//! StartContainer: one message to the init that waits, and one record.

use super::{PodError, Pods, blocking, index::Container, records::ContainerStatus};
use crate::{
    model::{ContainerState, Timestamp},
    store::Name,
    zygote,
};

impl Pods {
    /// Lets a created container run. Starting a running one again is no error: a client that gave up waiting asks twice.
    ///
    /// # Errors
    /// [`PodError::NoContainer`]; [`PodError::WrongState`] when it has exited.
    pub async fn start_container(&self, id: &str) -> Result<(), PodError> {
        let container = self.inner.index.container(id)?;
        let _turn = container.turn.lock().await;
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
        let (dir, id) = (container.folder.path().to_owned(), container.plan.id.clone());
        // Before the message: what ends at once must not have ended before it was started.
        let started_at = Timestamp::now();
        blocking(move || zygote::start(&dir, &id)).await?;
        running(&container, started_at)
    }
}

/// Records and publishes that init runs, unless it has exited meanwhile: the exit is told by the watcher.
pub(super) fn running(container: &Container, started_at: Timestamp) -> Result<(), PodError> {
    let state = ContainerState::Running { started_at };
    let mut written = Ok(());
    container.state.send_if_modified(|now| {
        let created = matches!(now, ContainerState::Created);
        match now {
            ContainerState::Exited {
                started_at: at @ None, ..
            } => *at = Some(started_at),
            ContainerState::Created => *now = state.clone(),
            _ => return false,
        }
        written = container
            .folder
            .write(Name::Status, &ContainerStatus { state: now.clone() });
        created
    });
    Ok(written?)
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
