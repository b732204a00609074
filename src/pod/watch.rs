//! From a container's exit to its record: one task per live container.

use std::{sync::Arc, time::Duration};

use super::{Inner, PodError, in_place, index::Container};
use crate::{
    model::{ContainerState, EventKind, Exit, Timestamp, chain},
    shim::{self, Shim},
};

/// How long an exit may wait for the StartContainer under way.
const START_FIRST: Duration = Duration::from_secs(1);

impl Inner {
    /// Waits for the shim's word, then settles the container.
    pub(super) fn watch(self: &Arc<Self>, container: Arc<Container>, shim: Arc<Shim>) {
        *container.shim.lock().expect("no panic while the slot is held") = Some(shim.clone());
        let inner = self.clone();
        tokio::spawn(async move {
            shim.exited().await;
            inner.settle(&container).await;
        });
    }

    /// Reads how init ended, publishes it, and ends what it left in its cgroup.
    pub(super) async fn settle(&self, container: &Container) {
        let exit = match in_place(|| self.read_exit(container)) {
            Ok(exit) => exit,
            Err(error) => {
                tracing::error!(container = %container.plan.id, error = %chain(&error), "exit record unreadable");
                lost("its exit record cannot be read")
            }
        };
        // The cgroup's leftovers die before the exit is told: after it nothing of the container runs.
        if let Err(error) = in_place(|| self.with.cgroups.clear(&container.plan.cgroup)) {
            tracing::warn!(container = %container.plan.id, error = %chain(&error), "cannot clear the cgroup");
        }
        // A start under way tells first that it has started; one that hangs does not keep the exit back for long.
        let _turn = tokio::time::timeout(START_FIRST, container.turn.lock()).await;
        let written = self.advance(container, |now| {
            let started_at = match *now {
                ContainerState::Running { started_at } => Some(started_at),
                _ => None,
            };
            let exit = exit.clone();
            Some((ContainerState::Exited { started_at, exit }, Some(EventKind::Stopped)))
        });
        if let Err(error) = written {
            tracing::error!(container = %container.plan.id, error = %chain(&error), "exit not recorded");
        }
        *container.shim.lock().expect("no panic while the slot is held") = None;
        tracing::info!(container = %container.plan.id, code = exit.code, reason = exit.reason, "exited");
    }

    fn read_exit(&self, container: &Container) -> Result<Exit, PodError> {
        let (cgroups, path) = (&self.with.cgroups, &container.plan.cgroup);
        let Some(record) = shim::read_exit(container.folder.path())? else {
            return Ok(lost("its shim died"));
        };
        // The kernel counts a kill before it sends it, so the count is there when init is reaped, and on v2 the shim has
        // read it. But systemd removes a scope once it is empty, and may be faster than the shim: then a kill in the
        // slice, the pod's, since the container was made is taken for one of its own. A parent whose child was killed may
        // end with a code of its own.
        let before = container.spec.oom_kills_before;
        let in_slice = || cgroups.oom_kills_in_slice(path).saturating_sub(before);
        let kills = || match record.oom_kills {
            Some(kills) => u64::from(kills),
            None => cgroups.oom_kills(path).unwrap_or_else(|_| in_slice()),
        };
        let oom_killed = record.code != 0 && kills() > 0;
        let reason = match record.code {
            _ if oom_killed => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        Ok(Exit {
            code: record.code,
            reason: reason.to_owned(),
            message: String::new(),
            finished_at: Timestamp(record.finished_at_ns),
        })
    }
}

fn lost(why: &str) -> Exit {
    Exit {
        code: 255,
        reason: "ShimLost".to_owned(),
        message: format!("the container was killed because {why}"),
        finished_at: Timestamp::now(),
    }
}
