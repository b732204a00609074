//! What values say, and how sure that is.

use serde::Serialize;

/// Of one measurement at one endpoint. Percentiles are values that were measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub count: usize,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
    /// Contains the true median with 95 % confidence; `None` below six values.
    pub p50_interval: Option<Interval>,
    /// p50 through that of the first endpoint, of all others.
    pub ratio: Option<f64>,
    pub ratio_interval: Option<Interval>,
}

/// From here to there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval(pub f64, pub f64);

impl Summary {
    /// Of `values`, compared with those of the `first` endpoint.
    pub fn of(values: &[f64], first: Option<&[f64]>) -> Self {
        let sorted = sorted(values);
        let p50 = percentile(&sorted, 50.0);
        let divisor = first
            .map(|first| percentile(&self::sorted(first), 50.0))
            .filter(|median| *median > 0.0);
        Self {
            count: sorted.len(),
            p50,
            p90: percentile(&sorted, 90.0),
            p99: percentile(&sorted, 99.0),
            max: percentile(&sorted, 100.0),
            p50_interval: median_interval(&sorted),
            ratio: divisor.map(|divisor| p50 / divisor),
            ratio_interval: divisor.and(first).and_then(|first| ratio_interval(values, first)),
        }
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The smallest value that at least `rank` percent of all are not above: nearest rank, 0 without values.
pub fn percentile(sorted: &[f64], rank: f64) -> f64 {
    let at = (rank / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(at.max(1) - 1).copied().unwrap_or(0.0)
}

/// Two of the values: how many of `n` are below the true median is binomial with one half, whatever the distribution,
/// so the values that enclose the middle 95 % of that enclose the median as often.
///
/// Source: Conover, "Practical Nonparametric Statistics", confidence intervals for a quantile.
fn median_interval(sorted: &[f64]) -> Option<Interval> {
    let rank = lower_rank(sorted.len())?;
    Some(Interval(sorted[rank], sorted[sorted.len() - 1 - rank]))
}

/// The largest position `k` such that fewer than 2.5 % of all draws have `k` values or fewer below the median.
fn lower_rank(count: usize) -> Option<usize> {
    // ln C(count, 0) + count ln ½; each next term follows from the one before. In logarithms: 2^-1100 is 0.
    let mut term = count as f64 * 0.5f64.ln();
    let (mut sum, mut rank) = (0.0, None);
    for below in 0..count / 2 {
        sum += term.exp();
        if sum > TAIL {
            break;
        }
        rank = Some(below);
        term += ((count - below) as f64 / (below + 1) as f64).ln();
    }
    rank
}

/// The percentile bootstrap of `median(values) / median(first)`: both are drawn from anew, each for itself, and the
/// middle 95 % of the ratios is the interval. The draws are the same in each run.
///
/// Source: Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 13.
fn ratio_interval(values: &[f64], first: &[f64]) -> Option<Interval> {
    if lower_rank(values.len()).is_none() || lower_rank(first.len()).is_none() {
        return None;
    }
    let mut draws = Draws(0x9e37_79b9_7f4a_7c15);
    let mut ratio = || draws.median(values) / draws.median(first);
    let ratios: Vec<f64> = (0..RESAMPLES).map(|_| ratio()).collect();
    let ratios = sorted(&ratios);
    Some(Interval(
        percentile(&ratios, TAIL * 100.0),
        percentile(&ratios, 100.0 - TAIL * 100.0),
    ))
}

/// Pseudo-random numbers: splitmix64.
struct Draws(u64);

impl Draws {
    /// Of as many values as there are, drawn with replacement.
    fn median(&mut self, values: &[f64]) -> f64 {
        let mut drawn: Vec<f64> = values.iter().map(|_| values[self.below(values.len())]).collect();
        let middle = (drawn.len() - 1) / 2;
        *drawn.select_nth_unstable_by(middle, f64::total_cmp).1
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // Multiply and shift: as even as a remainder, without the division.
        ((u128::from(mixed) * bound as u128) >> 64) as usize
    }
}

/// On either side of 95 %.
const TAIL: f64 = 0.025;
const RESAMPLES: usize = 2000;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        assert_eq!(percentile(&[], 50.0), 0.0);
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        for (rank, value) in [(0.0, 1.0), (50.0, 50.0), (99.0, 99.0), (100.0, 100.0)] {
            assert_eq!(percentile(&values, rank), value, "{rank}");
        }
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
    }

    /// The ranks of Conover's table, counted from 0.
    #[test]
    fn the_medians_interval_has_the_ranks_of_the_table() {
        for (count, rank) in [
            (0, None),
            (5, None),
            (6, Some(0)),
            (8, Some(0)),
            (9, Some(1)),
            (10, Some(1)),
            (20, Some(5)),
            (50, Some(17)),
            (100, Some(39)),
            (5000, Some(2430)),
        ] {
            assert_eq!(lower_rank(count), rank, "{count}");
        }
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(median_interval(&values), Some(Interval(40.0, 61.0)));
    }

    #[test]
    fn a_true_ratio_is_in_its_interval_and_chance_is_no_difference() {
        let wave = |scale: f64| -> Vec<f64> {
            (0..60)
                .map(|n| scale * (10.0 + f64::from(n * 37 % 60) / 10.0))
                .collect()
        };
        let twice = Summary::of(&wave(2.0), Some(&wave(1.0)));
        assert_eq!(twice.ratio, Some(2.0));
        let Interval(low, high) = twice.ratio_interval.unwrap();
        assert!(low > 1.7 && low < 2.0 && high > 2.0 && high < 2.3, "{low} {high}");
        assert_eq!(
            twice,
            Summary::of(&wave(2.0), Some(&wave(1.0))),
            "the same values say the same"
        );
        assert_eq!(Summary::of(&wave(1.0), Some(&[1.0, 2.0])).ratio_interval, None);
        assert_eq!(Summary::of(&wave(1.0), Some(&[0.0])).ratio, None);
        assert_eq!(Summary::of(&wave(1.0), None).ratio, None);
    }
}
