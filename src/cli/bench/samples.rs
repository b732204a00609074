//! Measured values, in the order they came.

use serde::Serialize;

/// One value, and how busy the machine was just before: the share of all processors' time, `None` when nobody looked.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub value: f64,
    pub busy: Option<f64>,
}

/// Values of one measurement at one endpoint.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Samples {
    values: Vec<f64>,
    /// As many as there are values.
    busy: Vec<Option<f64>>,
}

impl Samples {
    pub fn push(&mut self, sample: Sample) {
        self.values.push(sample.value);
        self.busy.push(sample.busy);
    }

    pub fn values(&self) -> &[f64] {
        &self.values
    }

    pub fn busy(&self) -> impl Iterator<Item = f64> {
        self.busy.iter().flatten().copied()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let busy = vec![None; values.len()];
        Self { values, busy }
    }
}
