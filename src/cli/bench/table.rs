//! The figures as text.

use std::fmt::Write;

use super::{
    statistics::Interval,
    study::{Group, Measurement, Row, Study, Unit},
};

/// A table for each subject; what a runtime tells of itself only as medians.
pub fn text(study: &Study) -> String {
    let mut text = String::new();
    for runtime in &study.endpoints {
        let handler = match runtime.handler.as_str() {
            "" => String::new(),
            handler => format!(", handler {handler}"),
        };
        line(
            &mut text,
            &format!("{}: {} {}{handler}", runtime.endpoint, runtime.name, runtime.version),
        );
    }
    for group in study.groups() {
        line(&mut text, "");
        line(&mut text, &heading(&group));
        for measurement in group.wholes() {
            add(&mut text, measurement);
            parts(&mut text, &group, measurement);
        }
    }
    line(&mut text, "");
    line(&mut text, &busy(study));
    for note in &study.notes {
        line(&mut text, note);
    }
    text
}

fn heading(group: &Group<'_>) -> String {
    format!(
        "{:34} {:>9} {:>19} {:>9} {:>9} {:>9} {:>6} {:>9} {:>15}",
        group.title(),
        "p50",
        "95 % of p50",
        "p90",
        "p99",
        "max",
        "n",
        "to first",
        "95 %"
    )
}

fn add(text: &mut String, measurement: &Measurement) {
    let what = &measurement.what;
    let unit = match what.unit.name() {
        "" => String::new(),
        unit => format!(", {unit}"),
    };
    line(text, &format!("{}{unit}", what.name));
    for row in &measurement.rows {
        line(text, &figures(row));
    }
}

fn figures(row: &Row) -> String {
    let summary = &row.summary;
    let [p50, p90, p99, max] = [summary.p50, summary.p90, summary.p99, summary.max];
    let ratio = summary.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}x"));
    format!(
        "  {:32} {p50:9.2} {:>19} {p90:9.2} {p99:9.2} {max:9.2} {:6} {ratio:>9} {:>15}",
        row.endpoint,
        interval(summary.p50_interval),
        summary.count,
        interval(summary.ratio_interval),
    )
}

fn interval(interval: Option<Interval>) -> String {
    interval.map_or(String::new(), |Interval(low, high)| format!("{low:.2}..{high:.2}"))
}

/// One line for each endpoint.
fn parts(text: &mut String, group: &Group<'_>, whole: &Measurement) {
    for row in &whole.rows {
        let parts = group
            .parts(&whole.what.name)
            .filter_map(|part| Some((part, part.row(&row.endpoint)?)));
        let parts: Vec<String> = parts
            .map(|(part, row)| format!("{} {:.*}", part.what.name, digits(part.what.unit), row.summary.p50))
            .collect();
        if !parts.is_empty() {
            line(text, &format!("    {}: {}", row.endpoint, parts.join(", ")));
        }
    }
}

fn digits(unit: Unit) -> usize {
    match unit {
        Unit::Milliseconds | Unit::Mebibytes => 2,
        Unit::PerSecond | Unit::Count => 1,
    }
}

fn busy(study: &Study) -> String {
    match study.busy_percent() {
        None => "How busy the machine was is not known: the rests were too short.".to_owned(),
        Some((p50, p90)) => {
            format!("Before the measured steps the machine was busy to {p50:.0} % (p50), {p90:.0} % (p90).")
        }
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("writing to memory");
}
