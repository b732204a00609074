//! Where the time of an operation went.

use std::time::{Duration, Instant};

/// The steps of an operation in their order, each with the time it took.
pub type Stages = Vec<(String, Duration)>;

/// Who is told where the time of an operation went: the operation by its name in the CRI, and its stages.
pub type StageObserver = Box<dyn Fn(&'static str, &Stages) + Send + Sync>;

/// Where the time of a container's way into life went. Empty: not done yet, or by an earlier daemon.
#[derive(Debug, Clone, Default)]
pub struct ContainerStages {
    /// Of CreateContainer.
    pub create: Stages,
    /// Of StartContainer.
    pub start: Stages,
}

/// Takes the time of each step: a few nanoseconds, so it always runs.
#[derive(Debug)]
pub struct Stopwatch {
    last: Instant,
    stages: Stages,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self::since(Instant::now())
    }

    /// Counts the first step from `begin`.
    pub fn since(begin: Instant) -> Self {
        Self {
            last: begin,
            stages: Stages::new(),
        }
    }

    /// Ends the step `name`; the next one begins.
    pub fn lap(&mut self, name: &str) {
        let now = Instant::now();
        self.stages.push((name.to_owned(), now - self.last));
        self.last = now;
    }

    /// Ends a step of which `parts` were taken by somebody else; what they leave over is `rest`.
    pub fn lap_with(&mut self, parts: Stages, rest: &str) {
        let before: Duration = parts.iter().map(|(_, time)| *time).sum();
        self.stages.extend(parts);
        self.lap(rest);
        if let Some((_, time)) = self.stages.last_mut() {
            *time = time.saturating_sub(before);
        }
    }

    pub fn stages(self) -> Stages {
        self.stages
    }
}
