//! Events.

use inro_proto as wire;

use super::{container_status, sandbox_status};
use crate::model::{Event, EventKind};

pub fn event(event: &Event) -> wire::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => wire::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => wire::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => wire::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => wire::ContainerEventType::ContainerDeletedEvent,
    };
    let containers = event.pod.iter().flat_map(|pod| &pod.containers);
    wire::ContainerEventResponse {
        container_id: event.subject.clone(),
        container_event_type: kind.into(),
        created_at: event.at.0,
        pod_sandbox_status: event.pod.as_ref().map(|pod| sandbox_status(&pod.sandbox)),
        containers_statuses: containers.map(container_status).collect(),
    }
}
