//! Taking apart all that a plan can name. Each step is idempotent and goes on after a failure of another, so that one
//! stuck thing never keeps the rest; what fails is logged and tried again at the next call or start.

use std::time::Duration;

use tokio::task::block_in_place;

use super::{
    Inner, PodError, in_place, pins,
    records::{ContainerPlan, SandboxPlan},
};
use crate::{model::chain, shim, store::Folder};

/// How long a shim may take to write out what its container printed last.
const SHIM_DRAIN: Duration = Duration::from_secs(5);

impl Inner {
    /// Everything of a sandbox but its folder and its containers.
    ///
    /// Answers whether all of it is gone, but for its network interface: that goes with the namespaces, and the pod's address
    /// is free after that. The network sees to it when this has returned, logs what fails there, and tries it again at
    /// the next stop, removal or start.
    pub(super) fn tear_down_sandbox(&self, plan: &SandboxPlan, folder: &Folder) -> bool {
        block_in_place(|| {
            self.with.network.release(&plan.id, &pins::network(folder.path()));
            let steps = [
                // First: a start that finds no pins knows that a stop was cut off.
                ("unpin the namespaces", pins::unpin(folder.path())),
                (
                    "remove the reaper's cgroup",
                    match &plan.cgroup {
                        Some(cgroup) => self.with.cgroups.remove(cgroup).map_err(PodError::from),
                        None => Ok(()),
                    },
                ),
                // When the interface goes already.
                (
                    "detach the network",
                    self.with.network.detach(&plan.id).map_err(PodError::from),
                ),
            ];
            let mut clean = true;
            for (step, result) in steps {
                if let Err(error) = result {
                    tracing::warn!(sandbox = %plan.id, error = %chain(&error), "cannot {step}");
                    clean = false;
                }
            }
            clean
        })
    }

    /// Everything of a container but its folder: its processes, cgroup, shim, snapshot and hold on the image.
    ///
    /// Answers whether all of it is gone.
    pub(super) async fn tear_down_container(&self, plan: &ContainerPlan, folder: &Folder) -> bool {
        let mut clean = true;
        let mut note = |step: &str, result: Result<(), PodError>| {
            if let Err(error) = result {
                tracing::warn!(container = %plan.id, error = %chain(&error), "cannot {step}");
                clean = false;
            }
        };
        note("remove the cgroup", in_place(|| self.with.cgroups.remove(&plan.cgroup)));
        note(
            "end the shim",
            shim::end(folder.path(), SHIM_DRAIN).await.map_err(PodError::from),
        );
        note("remove the snapshot", in_place(|| self.with.snapshots.remove(&plan.id)));
        note(
            "take back what its devices brought",
            self.end_vendor(plan, folder).await,
        );
        for image in plan.images() {
            tokio::task::block_in_place(|| self.with.images.release(image, &plan.id));
        }
        clean
    }

    /// Removes a folder whose contents are torn down.
    pub(super) fn discard(&self, folder: &Folder) {
        if let Err(error) = in_place(|| folder.remove()) {
            tracing::warn!(error = %chain(&error), "cannot remove a folder");
        }
    }
}
