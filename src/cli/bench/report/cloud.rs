//! The distribution of one measurement: for each endpoint every value as a dot, their density above, and the median with
//! its interval.

use super::{
    super::{
        statistics::Interval,
        study::{Measurement, Row, Unit},
    },
    Colours,
    element::{Element, element},
    scale::{Scale, number, with_unit},
};

const WIDTH: f64 = 500.0;
const ROW: f64 = 66.0;
/// Of a row: where the density stands, and how high it may be.
const FLOOR: f64 = 42.0;
const HEIGHT: f64 = 22.0;

pub fn figure(measurement: &Measurement, colours: &Colours<'_>) -> Element {
    let unit = measurement.what.unit;
    // What lies beyond the 99th percentile is told in words: one straggler would press all others together.
    let most = measurement.rows.iter().map(|row| row.summary.p99).fold(0.0, f64::max) * 1.05;
    let scale = Scale {
        most,
        left: 4.0,
        width: WIDTH - 30.0,
    };
    let bottom = ROW * measurement.rows.len() as f64;
    let rows = measurement.rows.iter().enumerate().map(|(at, row)| {
        let place = format!("translate(0,{})", ROW * at as f64);
        cloud(row, scale, unit)
            .with("transform", place)
            .class(&colours.class(&row.endpoint))
    });
    let svg = element("svg")
        .with("viewBox", format!("0 0 {WIDTH} {}", bottom + 20.0))
        .with("role", "img")
        .with(
            "aria-label",
            format!("{}: every value, by endpoint", measurement.what.name),
        )
        .add(scale.grid(14.0, bottom, unit))
        .add_all(rows);
    element("figure")
        .add(element("figcaption").text(&measurement.what.name))
        .add(svg)
}

fn cloud(row: &Row, scale: Scale, unit: Unit) -> Element {
    let values = row.samples.values();
    let median = scale.place(row.summary.p50);
    let line = element("line").class("median");
    let line = line.at([
        ("x1", median),
        ("x2", median),
        ("y1", FLOOR - HEIGHT),
        ("y2", FLOOR + 13.0),
    ]);
    let mut group = element("g").add(label(row, unit));
    if let Some(Interval(low, high)) = row.summary.p50_interval {
        let (left, width) = (scale.place(low), scale.length(high) - scale.length(low));
        let band = element("rect").class("interval");
        group = group.add(band.at([
            ("x", left),
            ("y", FLOOR - HEIGHT),
            ("width", width.max(1.0)),
            ("height", HEIGHT + 13.0),
        ]));
    }
    if let Some(shape) = density(values, scale) {
        group = group.add(shape);
    }
    // A few are to be seen, many are to be told apart.
    let radius = if values.len() > 12 { 1.7 } else { 3.0 };
    let dots = values.iter().enumerate().filter(|(_, value)| **value <= scale.most);
    let dots = dots.map(|(at, value)| {
        let place = [
            ("cx", scale.place(*value)),
            ("cy", FLOOR + 4.0 + jitter(at)),
            ("r", radius),
        ];
        element("circle").at(place)
    });
    group
        .add(element("g").class("dots").add_all(dots))
        .add(line)
        .add(beyond(values, scale, unit))
}

/// Name, median and its interval.
fn label(row: &Row, unit: Unit) -> Element {
    let median = with_unit(row.summary.p50, unit);
    let interval = row.summary.p50_interval.map_or(String::new(), |Interval(low, high)| {
        format!("  {} to {}", number(low), number(high))
    });
    let name = element("tspan").class("name").text(&row.endpoint);
    let text = element("text").class("label").at([("x", 4.0), ("y", 13.0)]);
    text.add(name)
        .add(element("tspan").with("dx", 10).class("value").text(&median))
        .add(element("tspan").with("dx", 4).class("soft").text(&interval))
}

/// How many values are not drawn, and the largest.
fn beyond(values: &[f64], scale: Scale, unit: Unit) -> Element {
    let count = values.iter().filter(|value| **value > scale.most).count();
    let text = element("text").class("beyond").at([("x", WIDTH - 4.0), ("y", 13.0)]);
    match count {
        0 => text,
        _ => text.text(&format!(
            "{count} more, to {} \u{25b8}",
            with_unit(values.iter().copied().fold(0.0, f64::max), unit)
        )),
    }
}

/// A Gaussian kernel's, each as high as the other: it is the shape that tells. None for a few values.
fn density(values: &[f64], scale: Scale) -> Option<Element> {
    if values.len() < 8 {
        return None;
    }
    let width = bandwidth(values).max(scale.most / 400.0);
    let (low, high) = (
        values.iter().copied().fold(f64::MAX, f64::min) - 3.0 * width,
        values.iter().copied().fold(0.0, f64::max) + 3.0 * width,
    );
    let (low, high) = (low.max(0.0), high.min(scale.most));
    let at = |step: u32| low + (high - low) * f64::from(step) / f64::from(STEPS);
    let weight = |x: f64| -> f64 {
        values
            .iter()
            .map(|value| (-0.5 * ((x - value) / width).powi(2)).exp())
            .sum()
    };
    let curve: Vec<(f64, f64)> = (0..=STEPS).map(|step| (at(step), weight(at(step)))).collect();
    let peak = curve
        .iter()
        .map(|(_, weight)| *weight)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut path = format!("M{:.1} {FLOOR}", scale.place(low));
    for (x, weight) in curve {
        path += &format!("L{:.1} {:.1}", scale.place(x), FLOOR - weight / peak * HEIGHT);
    }
    path += &format!("L{:.1} {FLOOR}Z", scale.place(high));
    Some(element("path").class("density").with("d", path))
}

/// Silverman's rule of thumb.
fn bandwidth(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quartiles = sorted[sorted.len() * 3 / 4] - sorted[sorted.len() / 4];
    0.9 * deviation.min(quartiles / 1.34) * count.powf(-0.2)
}

/// A little up or down, so that equal values do not hide each other: the golden ratio's multiples are spread evenly.
fn jitter(at: usize) -> f64 {
    (at as f64 * 0.618_034).fract() * 9.0
}

const STEPS: u32 = 90;
