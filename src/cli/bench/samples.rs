//! Measured values and what they say.

use serde::Serialize;

/// Values of one measurement, in the order they came.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(transparent)]
pub struct Samples(Vec<f64>);

impl<const N: usize> From<[f64; N]> for Samples {
    fn from(values: [f64; N]) -> Self {
        Self(values.into())
    }
}

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that at least `rank` percent of all are not above: nearest rank, 0 without values.
    pub fn percentile(&self, rank: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (rank / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(at.max(1) - 1).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut samples = Samples::default();
        assert_eq!(samples.percentile(50.0), 0.0);
        for value in (1..=100).rev() {
            samples.push(f64::from(value));
        }
        for (rank, value) in [(0.0, 1.0), (50.0, 50.0), (99.0, 99.0), (100.0, 100.0)] {
            assert_eq!(samples.percentile(rank), value, "{rank}");
        }
        assert_eq!(Samples::from([7.0]).percentile(99.0), 7.0);
    }
}
