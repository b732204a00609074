//! What happened to a sandbox or a container, with its whole pod as it was then.

use super::{ContainerView, SandboxView, Timestamp};

/// A pod at one moment: nothing in it changed between the reading of the first and of the last.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Later than every event that this includes, earlier than every one that it does not.
    pub at: Timestamp,
    pub sandbox: SandboxView,
    /// Newest first.
    pub containers: Vec<ContainerView>,
}

/// Source: CRI `ContainerEventType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// One change. Source: CRI `ContainerEventResponse`.
#[derive(Debug, Clone)]
pub struct Event {
    /// The container's id, or the sandbox's for what happens to a sandbox.
    pub subject: String,
    pub kind: EventKind,
    /// Later than that of every event before.
    pub at: Timestamp,
    /// The pod right after the change; a sandbox that was deleted is there a last time.
    pub pod: Option<PodView>,
}
