//! From values to places on a line, and the numbers written along it.

use super::{
    super::study::Unit,
    element::{Element, element},
};

/// From 0 to `most`, drawn from `left` over `width`.
#[derive(Clone, Copy)]
pub struct Scale {
    pub most: f64,
    pub left: f64,
    pub width: f64,
}

impl Scale {
    pub fn place(&self, value: f64) -> f64 {
        self.left + self.length(value)
    }

    /// Nothing is longer than the whole.
    pub fn length(&self, value: f64) -> f64 {
        match self.most > 0.0 {
            true => (value / self.most).clamp(0.0, 1.0) * self.width,
            false => 0.0,
        }
    }

    /// Round numbers, about five of them.
    pub fn ticks(&self) -> Vec<f64> {
        if self.most <= 0.0 {
            return vec![0.0];
        }
        let rough = self.most / 4.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .map(|digit| digit * power)
            .into_iter()
            .find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        (0..)
            .map(|n| f64::from(n) * step)
            .take_while(|tick| *tick <= self.most * 1.0001)
            .collect()
    }

    /// Lines from `top` to `bottom` with their numbers below.
    pub fn grid(&self, top: f64, bottom: f64, unit: Unit) -> Element {
        let ticks = self.ticks();
        let last = ticks.len() - 1;
        let lines = ticks.into_iter().enumerate().map(|(at, tick)| {
            let x = self.place(tick);
            let number = match at == last {
                true => with_unit(tick, unit),
                false => number(tick),
            };
            let line = element("line").at([("x1", x), ("x2", x), ("y1", top), ("y2", bottom)]);
            let text = element("text")
                .class("tick")
                .at([("x", x), ("y", bottom + 14.0)])
                .text(&number);
            element("g").add(line).add(text)
        });
        element("g").class("grid").add_all(lines)
    }
}

/// Three digits that count; thousands stand apart.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    thousands(&text)
}

pub fn with_unit(value: f64, unit: Unit) -> String {
    match unit.name() {
        "" => number(value),
        unit => format!("{}\u{a0}{unit}", number(value)),
    }
}

fn thousands(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let digits = whole.trim_start_matches('-').len();
    if digits < 5 {
        return text.to_owned();
    }
    let (front, back) = whole.split_at(whole.len() - 3);
    // A thin space that does not break: U+202F.
    format!("{}\u{202f}{back}{rest}", thousands(front))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (0.0312, "0.031"),
            (1.5, "1.5"),
            (4.216, "4.22"),
            (9.999, "10"),
            (45.25, "45.2"),
            (123.4, "123"),
            (12_345.6, "12\u{202f}346"),
            (-0.25, "-0.25"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(with_unit(2.0, Unit::Milliseconds), "2\u{a0}ms");
        assert_eq!(with_unit(2.0, Unit::Count), "2");
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let ticks = |most: f64| {
            Scale {
                most,
                left: 0.0,
                width: 100.0,
            }
            .ticks()
        };
        assert_eq!(ticks(9.7), [0.0, 2.5, 5.0, 7.5]);
        assert_eq!(ticks(40.0), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(ticks(0.0), [0.0]);
    }
}
