//! Taking apart all that a plan can name. Each step is idempotent and goes on after a failure of another, so that one
//! stuck thing never keeps the rest; what fails is logged and tried again at the next call or start.

use std::time::Duration;

use super::{
    Inner, PodError, blocking, pins,
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
    pub(super) async fn tear_down_sandbox(&self, plan: &SandboxPlan, folder: &Folder) -> bool {
        let (network, cgroups) = (self.with.network.clone(), self.with.cgroups.clone());
        let cgroup = plan.cgroup.clone();
        let (id, path) = (plan.id.clone(), folder.path().to_owned());
        let work = move || {
            let steps = [
                (
                    "remove the reaper's cgroup",
                    cgroup.map_or(Ok(()), |cgroup| cgroups.remove(&cgroup).map_err(PodError::from)),
                ),
                ("unpin the namespaces", pins::unpin(&path)),
                // When the interface goes already.
                ("detach the network", network.detach(&id).map_err(PodError::from)),
            ];
            let mut clean = true;
            for (step, result) in steps {
                if let Err(error) = result {
                    tracing::warn!(sandbox = %id, error = %chain(&error), "cannot {step}");
                    clean = false;
                }
            }
            Ok::<_, PodError>(clean)
        };
        blocking(work).await.unwrap_or(false)
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
        let (cgroups, cgroup) = (self.with.cgroups.clone(), plan.cgroup.clone());
        note("remove the cgroup", blocking(move || cgroups.remove(&cgroup)).await);
        note(
            "end the shim",
            shim::end(folder.path(), SHIM_DRAIN).await.map_err(PodError::from),
        );
        let (snapshots, id) = (self.with.snapshots.clone(), plan.id.clone());
        note("remove the snapshot", blocking(move || snapshots.remove(&id)).await);
        note(
            "take back what its devices brought",
            self.end_vendor(plan, folder).await,
        );
        for image in plan.images() {
            self.with.images.release(image, &plan.id);
        }
        clean
    }

    /// Removes a folder whose contents are torn down.
    pub(super) async fn discard(&self, folder: &Folder) {
        let folder = folder.clone();
        if let Err(error) = blocking(move || folder.remove()).await {
            tracing::warn!(error = %chain(&error), "cannot remove a folder");
        }
    }
}
