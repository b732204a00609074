//! StopContainer: the stop signal, the grace period, then SIGKILL to the whole cgroup.
//!
//! Callers do not queue: each waits for the exit, and the earliest of their deadlines holds for all, so that a second
//! StopContainer with a shorter timeout shortens the wait of the first.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Inner, PodError, Pods, in_place, index::Container};
use crate::model::ContainerState;

/// How long a container may take to die of SIGKILL before the client is told that it does not.
const KILL_WAIT: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

impl Pods {
    /// Stops a container; succeeds when it is stopped already or not there. `grace` of zero kills at once.
    ///
    /// # Errors
    /// [`PodError::Ambiguous`]; [`PodError::Unkillable`] when SIGKILL does not end it in time (a process in
    /// uninterruptible sleep): call again.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), PodError> {
        match self.inner.index.container(id) {
            Ok(container) => self.inner.stop_container(&container, grace).await,
            Err(PodError::NoContainer(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Inner {
    pub(super) async fn stop_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        grace: Duration,
    ) -> Result<(), PodError> {
        let mut state = container.state.subscribe();
        let graceful = match *state.borrow() {
            ContainerState::Exited { .. } => return Ok(()),
            // Init still waits to be started: as pid 1 it would ignore everything but SIGKILL.
            ContainerState::Created => false,
            ContainerState::Running { .. } => grace > Duration::ZERO,
        };
        if graceful {
            self.ask_to_stop(container, Instant::now() + grace).await;
            let mut deadline = container.stopping.subscribe();
            loop {
                let at = deadline.borrow_and_update().unwrap_or_else(Instant::now);
                tokio::select! {
                    _ = exited(&mut state) => return Ok(()),
                    _ = tokio::time::sleep_until(at) => break,
                    _ = deadline.changed() => {}
                }
            }
        }
        self.kill(container).await;
        match tokio::time::timeout(KILL_WAIT, exited(&mut state)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(PodError::Unkillable(container.plan.id.clone())),
        }
    }

    /// Sends the stop signal the first time, and moves the deadline nearer every time.
    async fn ask_to_stop(&self, container: &Container, deadline: Instant) {
        let mut first = false;
        container.stopping.send_modify(|at| {
            first = at.is_none();
            *at = Some(at.map_or(deadline, |at| at.min(deadline)));
        });
        if !first {
            return;
        }
        if let Some(shim) = container.shim()
            && let Err(error) = shim.kill(container.spec.stop_signal).await
        {
            tracing::debug!(container = %container.plan.id, %error, "stop signal not delivered");
        }
    }

    /// SIGKILL to init, by its parent that holds it unreaped, and to everything else in the cgroup.
    async fn kill(&self, container: &Container) {
        container.stopping.send_modify(|at| *at = Some(Instant::now()));
        if let Some(shim) = container.shim()
            && let Err(error) = shim.kill(SIGKILL).await
        {
            tracing::debug!(container = %container.plan.id, %error, "SIGKILL not delivered by the shim");
        }
        if let Err(error) = in_place(|| self.with.cgroups.kill(&container.plan.cgroup, SIGKILL)) {
            tracing::warn!(container = %container.plan.id, %error, "cannot kill the cgroup");
        }
    }
}

async fn exited(state: &mut tokio::sync::watch::Receiver<ContainerState>) {
    // An error means that the container was removed, which only happens after its exit.
    let _ = state
        .wait_for(|state| matches!(state, ContainerState::Exited { .. }))
        .await;
}
