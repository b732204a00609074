//! Filters of the list calls.

use inro_proto as wire;

use super::Parsed;
use crate::{
    cri::error::Fault,
    model::{ContainerFilter, ContainerPhase, SandboxFilter, SandboxState},
};

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn unknown_state(value: i32) -> Fault {
    Fault::new("filter.state.state", format!("{value} is unknown"))
}

pub fn sandbox_filter(filter: Option<wire::PodSandboxFilter>) -> Parsed<SandboxFilter> {
    let Some(filter) = filter else {
        return Ok(SandboxFilter::default());
    };
    let state = filter.state.map(|value| match value.state.try_into() {
        Ok(wire::PodSandboxState::SandboxReady) => Ok(SandboxState::Ready),
        Ok(wire::PodSandboxState::SandboxNotready) => Ok(SandboxState::NotReady),
        Err(_) => Err(unknown_state(value.state)),
    });
    Ok(SandboxFilter {
        id: some(filter.id),
        state: state.transpose()?,
        labels: filter.label_selector.into_iter().collect(),
    })
}

/// Of those that are ready: a sandbox that is not uses nothing.
pub fn sandbox_stats_filter(filter: Option<wire::PodSandboxStatsFilter>) -> SandboxFilter {
    let filter = filter.unwrap_or_default();
    SandboxFilter {
        id: some(filter.id),
        state: Some(SandboxState::Ready),
        labels: filter.label_selector.into_iter().collect(),
    }
}

pub fn container_stats_filter(filter: Option<wire::ContainerStatsFilter>) -> ContainerFilter {
    let filter = filter.unwrap_or_default();
    ContainerFilter {
        id: some(filter.id),
        sandbox: some(filter.pod_sandbox_id),
        phase: None,
        labels: filter.label_selector.into_iter().collect(),
    }
}

/// `None`: nothing can match (the unknown state, which no container of ours has).
pub fn container_filter(filter: Option<wire::ContainerFilter>) -> Parsed<Option<ContainerFilter>> {
    let Some(filter) = filter else {
        return Ok(Some(ContainerFilter::default()));
    };
    let phase = match filter.state {
        None => None,
        Some(value) => match value.state.try_into() {
            Ok(wire::ContainerState::ContainerCreated) => Some(ContainerPhase::Created),
            Ok(wire::ContainerState::ContainerRunning) => Some(ContainerPhase::Running),
            Ok(wire::ContainerState::ContainerExited) => Some(ContainerPhase::Exited),
            Ok(wire::ContainerState::ContainerUnknown) => return Ok(None),
            Err(_) => return Err(unknown_state(value.state)),
        },
    };
    Ok(Some(ContainerFilter {
        id: some(filter.id),
        sandbox: some(filter.pod_sandbox_id),
        phase,
        labels: filter.label_selector.into_iter().collect(),
    }))
}
