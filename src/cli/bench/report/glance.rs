//! The few figures that one would tell somebody: a card for each.

use super::{
    super::study::{Group, Measurement, Study},
    Colours,
    element::{Element, element},
    scale::{Scale, number, with_unit},
};

pub fn cards(study: &Study, colours: &Colours<'_>) -> Element {
    let groups = study.groups();
    let chosen = groups.iter().filter_map(|group| Some((group, headline(group)?)));
    element("div")
        .class("cards")
        .add_all(chosen.map(|(group, measurement)| card(group, measurement, colours)))
}

/// The one measurement of a subject.
fn headline<'a>(group: &Group<'a>) -> Option<&'a Measurement> {
    let name = match group.subject {
        "pod" => "pod-up",
        "exec" => "ExecSync",
        "list" => "ListContainers",
        "pull" => "PullImage",
        "memory" => "per pod",
        // Of a burst the first: all pods up.
        _ => return group.wholes().next(),
    };
    group.whole(name)
}

fn card(group: &Group<'_>, measurement: &Measurement, colours: &Colours<'_>) -> Element {
    let scale = Scale {
        most: measurement.rows.iter().map(|row| row.summary.p50).fold(0.0, f64::max),
        left: 0.0,
        width: 100.0,
    };
    let rows = measurement.rows.iter().map(|row| {
        let compared = row.summary.ratio.map_or(String::new(), |ratio| {
            format!("{}\u{d7} {}", number(ratio), measurement.rows[0].endpoint)
        });
        let bar = element("i").with("style", format!("width:{:.1}%", scale.length(row.summary.p50)));
        element("div")
            .class(&format!("entry {}", colours.class(&row.endpoint)))
            .add(element("span").class("name").text(&row.endpoint))
            .add(
                element("span")
                    .class("figure")
                    .text(&with_unit(row.summary.p50, measurement.what.unit)),
            )
            .add(element("span").class("soft").text(&compared))
            .add(element("div").class("track").add(bar))
    });
    let title = element("h3").text(&measurement.what.name);
    element("div")
        .class("card")
        .add(title)
        .add(element("p").class("soft").text(&group.title()))
        .add_all(rows)
}
