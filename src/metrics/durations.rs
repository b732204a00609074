//! How long calls and their stages take, as histograms. What never happened is not there.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::model::Stages;

/// Clones count into the same histograms.
#[derive(Debug, Clone)]
pub struct Durations {
    calls: Family<Call, Histogram>,
    stages: Family<Stage, Histogram>,
    pulls: Family<Pull, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pull {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    operation: &'static str,
    stage: String,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            calls: Family::new_with_constructor(|| Histogram::new(CALLS)),
            stages: Family::new_with_constructor(|| Histogram::new(STAGES)),
            pulls: Family::new_with_constructor(|| Histogram::new(PULLS)),
        }
    }
}

impl Durations {
    /// A call of the CRI, and the gRPC code that it ended with.
    pub fn call(&self, method: &'static str, code: &'static str, took: Duration) {
        let call = Call { method, code };
        self.calls.get_or_create(&call).observe(took.as_secs_f64());
    }

    /// An operation that succeeded. One whose stages are of the same name counts each.
    pub fn stages(&self, operation: &'static str, stages: &Stages) {
        for (stage, took) in stages {
            let stage = stage.clone();
            let stage = Stage { operation, stage };
            self.stages.get_or_create(&stage).observe(took.as_secs_f64());
        }
    }

    /// A pull that ended, however many waited for it.
    pub fn pull(&self, succeeded: bool, took: Duration) {
        let outcome = if succeeded { "succeeded" } else { "failed" };
        self.pulls.get_or_create(&Pull { outcome }).observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "inro_cri_request_duration",
            "How long calls of the CRI took that have one answer, by how they ended",
            Unit::Seconds,
            self.calls.clone(),
        );
        registry.register_with_unit(
            "inro_stage_duration",
            "Where the time of pods' and containers' starts went",
            Unit::Seconds,
            self.stages.clone(),
        );
        registry.register_with_unit(
            "inro_pull_duration",
            "How long pulls took, however many waited for each",
            Unit::Seconds,
            self.pulls.clone(),
        );
    }
}

/// Seconds: from the quickest list to a pull.
const CALLS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];
/// Most stages are over before the first of [`CALLS`] is.
const STAGES: [f64; 17] = [
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];
/// From an image that is here to one of many gigabytes.
const PULLS: [f64; 10] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
