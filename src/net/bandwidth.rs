//! How fast a pod may receive and send, as its annotations say.

use std::collections::BTreeMap;

/// A number of bits a second, from a thousand to 10^15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub bits_a_second: u64,
}

/// The limits of one pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of what it receives.
    pub ingress: Option<Rate>,
    /// Of what it sends.
    pub egress: Option<Rate>,
}

/// An annotation that names no rate.
#[derive(Debug, thiserror::Error)]
#[error("config.annotations[{annotation:?}]: {text:?} is no rate of 1k to 1P bits")]
pub struct BadRate {
    annotation: &'static str,
    text: String,
}

impl Limits {
    /// From a pod's annotations. Source: Kubernetes, "Network Plugins", traffic shaping.
    ///
    /// # Errors
    /// [`BadRate`].
    pub fn of(annotations: &BTreeMap<String, String>) -> Result<Self, BadRate> {
        let rate = |annotation: &'static str| {
            let Some(text) = annotations.get(annotation) else {
                return Ok(None);
            };
            let bits = quantity(text).filter(|bits| (1_000..=1_000_000_000_000_000).contains(bits));
            let rate = bits.map(|bits_a_second| Rate { bits_a_second });
            rate.map(Some).ok_or_else(|| BadRate {
                annotation,
                text: text.clone(),
            })
        };
        Ok(Self {
            ingress: rate(INGRESS)?,
            egress: rate(EGRESS)?,
        })
    }
}

impl Rate {
    pub fn bytes_a_second(self) -> u64 {
        self.bits_a_second / 8
    }

    /// How much may go at once: what comes in 50 ms, so that timers of some milliseconds do not cost any of the rate.
    pub fn bytes_at_once(self) -> u32 {
        u32::try_from(self.bytes_a_second() / 20).unwrap_or(u32::MAX).max(LEAST)
    }

    /// How much may wait: what goes in another 100 ms. More is dropped.
    pub fn bytes_waiting(self) -> u32 {
        let queue = u32::try_from(self.bytes_a_second() / 10).unwrap_or(u32::MAX).max(LEAST);
        self.bytes_at_once().saturating_add(queue)
    }
}

/// A whole number as Kubernetes writes quantities, rounded up. Source: k8s.io/apimachinery, pkg/api/resource.
pub fn quantity(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "m" => return number.parse::<u64>().ok().map(|thousandths| thousandths.div_ceil(1000)),
        _ => {
            let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            10_u64.checked_pow(exponent)?
        }
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() || part.contains('.') {
        return None;
    }
    let parse = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse::<u64>().ok()
        }
    };
    let whole = parse(whole)?.checked_mul(factor)?;
    let scale = 10_u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part = (u128::from(parse(part)?) * u128::from(factor)).div_ceil(scale);
    whole.checked_add(u64::try_from(part).ok()?)
}

pub const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
pub const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Some packets of the largest interfaces.
const LEAST: u32 = 64 << 10;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, value) in [
            ("10M", Some(10_000_000)),
            ("1.5k", Some(1500)),
            ("1Mi", Some(1 << 20)),
            ("0.0000001Gi", Some(108)),
            ("1e6", Some(1_000_000)),
            ("1500m", Some(2)),
            ("12", Some(12)),
            ("", None),
            ("M", None),
            ("1.2.3", None),
            ("-1", None),
            ("10X", None),
            ("99999999999999999999", None),
            ("1e99", None),
        ] {
            assert_eq!(quantity(text), value, "{text:?}");
        }
    }

    #[test]
    fn limits_are_of_the_direction_that_is_named() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Limits::of(&pairs.collect())
        };
        let limits = of(&[(INGRESS, "10M"), ("other", "x")]).unwrap();
        assert_eq!(
            (limits.ingress.unwrap().bytes_a_second(), limits.egress),
            (1_250_000, None)
        );
        for bad in ["", "x", "10", "2P"] {
            let why = of(&[(EGRESS, bad)]).unwrap_err().to_string();
            assert!(why.contains(EGRESS) && why.contains(&format!("{bad:?}")), "{why}");
        }
    }

    #[test]
    fn a_bucket_holds_some_packets_of_any_rate() {
        for bits_a_second in [1_000, 1_000_000, 1_000_000_000_000_000] {
            let rate = Rate { bits_a_second };
            assert!(rate.bytes_at_once() >= LEAST && rate.bytes_waiting() > rate.bytes_at_once() / 2);
        }
        let gigabit = Rate {
            bits_a_second: 1_000_000_000,
        };
        assert_eq!(
            (gigabit.bytes_at_once(), gigabit.bytes_waiting()),
            (6_250_000, 18_750_000)
        );
    }
}
