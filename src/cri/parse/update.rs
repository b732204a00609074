//! The calls that change what is there, UpdateContainerResources and its like, and the one that copies it.

use std::{path::PathBuf, time::Duration};

use inro_proto as wire;

use super::{Parsed, absolute, container::resources, non_empty, seconds};
use crate::{cri::error::Fault, model::Resources};

/// The container, and what is to change: zero and empty mean "as it is", `oom_score_adj` included.
pub fn update_container(request: wire::UpdateContainerResourcesRequest) -> Parsed<(String, Resources)> {
    let id = non_empty(request.container_id, "container_id")?;
    if request.windows.is_some() {
        return Err(Fault::new("windows", "this runtime has Linux containers only"));
    }
    let keeps_score = request.linux.as_ref().is_none_or(|linux| linux.oom_score_adj == 0);
    let mut change = resources(request.linux, "linux")?;
    if keeps_score {
        change.oom_score_adj = None;
    }
    Ok((id, change))
}

/// The sandbox, its overhead and its resources.
pub fn update_sandbox(
    request: wire::UpdatePodSandboxResourcesRequest,
) -> Parsed<(String, Option<Resources>, Option<Resources>)> {
    let id = non_empty(request.pod_sandbox_id, "pod_sandbox_id")?;
    let some = |wire: Option<_>, field| wire.map(|wire| resources(Some(wire), field)).transpose();
    Ok((
        id,
        some(request.overhead, "overhead")?,
        some(request.resources, "resources")?,
    ))
}

/// The pods' subnet; empty when the kubelet names none.
pub fn pod_cidr(request: wire::UpdateRuntimeConfigRequest) -> String {
    let network = request.runtime_config.and_then(|config| config.network_config);
    network.unwrap_or_default().pod_cidr
}

/// The container, where its checkpoint goes, and how long that may take; zero seconds are the runtime's choice.
pub fn checkpoint(request: wire::CheckpointContainerRequest) -> Parsed<(String, PathBuf, Option<Duration>)> {
    let id = non_empty(request.container_id, "container_id")?;
    let location = absolute(&request.location, "location")?;
    if location.file_name().is_none() {
        return Err(Fault::new("location", "is not the path of a file"));
    }
    let timeout = seconds(request.timeout, "timeout")?;
    Ok((id, location, Some(timeout).filter(|limit| !limit.is_zero())))
}
