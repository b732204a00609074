//! The figures of one subject as a table with a bar in each row: the median's, and a line on to the 99th percentile.

use super::{
    super::{
        statistics::{Interval, Summary},
        study::{Group, Measurement, Row, Unit},
    },
    Colours,
    element::{Element, element},
    scale::{Scale, number},
};

const HEADS: [&str; 9] = ["", "", "", "p50", "95 % of p50", "p90", "p99", "max", "to the first"];
const WIDTH: f64 = 200.0;

pub fn table(group: &Group<'_>, colours: &Colours<'_>) -> Element {
    let heads = HEADS
        .into_iter()
        .map(|head| element("th").with("scope", "col").text(head));
    let bodies = group.wholes().map(|measurement| {
        let scale = scale(group, measurement.what.unit);
        let rows = measurement.rows.iter().enumerate().map(|(at, row)| {
            let cells = element("tr").class(&colours.class(&row.endpoint));
            let cells = match at {
                0 => cells.add(title(measurement)),
                _ => cells,
            };
            cells.add_all(figures(row, scale))
        });
        element("tbody").add_all(rows)
    });
    let table = element("table")
        .add(element("thead").add(element("tr").add_all(heads)))
        .add_all(bodies);
    // Narrow screens move it sideways.
    element("div").class("table").add(table)
}

/// Bars of one unit have one scale in the whole table.
fn scale(group: &Group<'_>, unit: Unit) -> Scale {
    let same = group.wholes().filter(|measurement| measurement.what.unit == unit);
    let rows = same.flat_map(|measurement| &measurement.rows);
    Scale {
        most: rows.map(|row| row.summary.p99).fold(0.0, f64::max),
        left: 0.0,
        width: WIDTH - 2.0,
    }
}

fn title(measurement: &Measurement) -> Element {
    let head = element("th")
        .with("scope", "rowgroup")
        .with("rowspan", measurement.rows.len());
    let unit = element("span").class("soft").text(measurement.what.unit.name());
    head.text(&measurement.what.name).text(" ").add(unit)
}

fn figures(row: &Row, scale: Scale) -> Vec<Element> {
    let Summary { p50, p90, p99, max, .. } = row.summary;
    let cell = |text: String| element("td").text(&text);
    vec![
        element("td").class("name").text(&row.endpoint),
        element("td").class("bar").add(bar(&row.summary, scale)),
        element("td").add(element("b").text(&number(p50))),
        cell(interval(row.summary.p50_interval)).class("soft"),
        cell(number(p90)),
        cell(number(p99)),
        cell(number(max)),
        ratio(&row.summary),
    ]
}

fn bar(summary: &Summary, scale: Scale) -> Element {
    let (median, far) = (scale.length(summary.p50), scale.length(summary.p99));
    let solid = element("rect").at([("x", 0.0), ("y", 3.0), ("width", median.max(1.0)), ("height", 10.0)]);
    let line = element("line").at([("x1", median), ("x2", far), ("y1", 8.0), ("y2", 8.0)]);
    let end = element("line").at([("x1", far), ("x2", far), ("y1", 4.0), ("y2", 12.0)]);
    let svg = element("svg")
        .with("viewBox", format!("0 0 {WIDTH} 16"))
        .with("aria-hidden", "true");
    svg.add(solid.with("rx", 1)).add(line).add(end)
}

fn ratio(summary: &Summary) -> Element {
    let cell = element("td");
    let Some(ratio) = summary.ratio else { return cell };
    let interval = element("span").class("soft").text(&interval(summary.ratio_interval));
    cell.text(&format!("{}\u{d7} ", number(ratio))).add(interval)
}

fn interval(interval: Option<Interval>) -> String {
    interval.map_or(String::new(), |Interval(low, high)| {
        format!("{} to {}", number(low), number(high))
    })
}
