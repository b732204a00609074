//! Filters of the list calls.

use inro_proto as wire;

use crate::model::{ContainerFilter, ContainerPhase, SandboxFilter, SandboxState};

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub fn sandbox_filter(filter: Option<wire::PodSandboxFilter>) -> SandboxFilter {
    let Some(filter) = filter else {
        return SandboxFilter::default();
    };
    SandboxFilter {
        id: some(filter.id),
        state: filter.state.map(|value| match value.state() {
            wire::PodSandboxState::SandboxReady => SandboxState::Ready,
            wire::PodSandboxState::SandboxNotready => SandboxState::NotReady,
        }),
        labels: filter.label_selector.into_iter().collect(),
    }
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
pub fn container_filter(filter: Option<wire::ContainerFilter>) -> Option<ContainerFilter> {
    let Some(filter) = filter else {
        return Some(ContainerFilter::default());
    };
    let phase = match filter.state.map(|value| value.state()) {
        None => None,
        Some(wire::ContainerState::ContainerCreated) => Some(ContainerPhase::Created),
        Some(wire::ContainerState::ContainerRunning) => Some(ContainerPhase::Running),
        Some(wire::ContainerState::ContainerExited) => Some(ContainerPhase::Exited),
        Some(wire::ContainerState::ContainerUnknown) => return None,
    };
    Some(ContainerFilter {
        id: some(filter.id),
        sandbox: some(filter.pod_sandbox_id),
        phase,
        labels: filter.label_selector.into_iter().collect(),
    })
}
