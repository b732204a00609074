//! How a pod starts, by what the runtime itself tells of it: each stage where it begins and as long as it takes.

use super::{
    super::study::{Group, Unit},
    Colours,
    element::{Element, element},
    scale::{Scale, with_unit},
};

/// One bar; stages are inside their call.
struct Step {
    name: String,
    begin: f64,
    length: f64,
    is_call: bool,
}

const WIDTH: f64 = 1020.0;
const NAMES: f64 = 190.0;
const ROW: f64 = 19.0;

/// Nothing for an endpoint that tells no stages.
pub fn figure(group: &Group<'_>, endpoint: &str, colours: &Colours<'_>) -> Option<Element> {
    let tells = |call: &str| group.parts(call).any(|part| part.row(endpoint).is_some());
    if !CALLS.iter().any(|call| tells(call)) {
        return None;
    }
    let steps = steps(group, endpoint);
    let first = median(group, "first instruction", endpoint)?;
    let started = steps.iter().rfind(|step| step.is_call)?.begin;
    let end = steps
        .iter()
        .map(|step| step.begin + step.length)
        .fold(started + first, f64::max);
    let scale = Scale {
        most: end,
        left: NAMES,
        width: WIDTH - NAMES - 130.0,
    };
    let bottom = ROW * steps.len() as f64 + 6.0;
    let bars = steps
        .iter()
        .enumerate()
        .map(|(at, step)| bar(step, scale, ROW * at as f64));
    let svg = element("svg")
        .with("viewBox", format!("0 0 {WIDTH} {}", bottom + 20.0))
        .with("role", "img")
        .with("aria-label", format!("the stages of a pod's start with {endpoint}"))
        .class(&colours.class(endpoint))
        .add(scale.grid(0.0, bottom, Unit::Milliseconds))
        .add(mark(scale, started + first, bottom))
        .add_all(bars);
    let caption = format!("What {endpoint} does in a pod\u{2019}s start: the median of each stage");
    Some(
        element("figure")
            .class("wide")
            .add(element("figcaption").text(&caption))
            .add(svg),
    )
}

/// The calls one after the other, each followed by its stages.
fn steps(group: &Group<'_>, endpoint: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut begin = 0.0;
    for call in CALLS {
        let Some(length) = median(group, call, endpoint) else {
            continue;
        };
        steps.push(Step {
            name: call.to_owned(),
            begin,
            length,
            is_call: true,
        });
        let mut at = begin;
        for part in group.parts(call) {
            let Some(row) = part.row(endpoint) else { continue };
            steps.push(Step {
                name: part.what.name.clone(),
                begin: at,
                length: row.summary.p50,
                is_call: false,
            });
            at += row.summary.p50;
        }
        begin += length;
    }
    steps
}

fn median(group: &Group<'_>, name: &str, endpoint: &str) -> Option<f64> {
    Some(group.whole(name)?.row(endpoint)?.summary.p50)
}

fn bar(step: &Step, scale: Scale, top: f64) -> Element {
    let (class, height) = match step.is_call {
        true => ("call", 13.0),
        false => ("stage", 9.0),
    };
    let (x, width) = (scale.place(step.begin), scale.length(step.length).max(1.0));
    let y = top + (ROW - height) / 2.0;
    let name = element("text")
        .class(&format!("step {class}-name"))
        .at([("x", NAMES - 10.0), ("y", top + 13.5)]);
    let time = element("text")
        .class("time")
        .at([("x", x + width + 6.0), ("y", top + 13.0)]);
    let rect = element("rect")
        .class(class)
        .at([("x", x), ("y", y), ("width", width), ("height", height)]);
    element("g")
        .add(name.text(&step.name))
        .add(rect.with("rx", 1.5))
        .add(time.text(&with_unit(step.length, Unit::Milliseconds)))
}

/// Where the workload begins.
fn mark(scale: Scale, at: f64, bottom: f64) -> Element {
    let x = scale.place(at);
    let line = element("line")
        .class("mark")
        .at([("x1", x), ("x2", x), ("y1", 0.0), ("y2", bottom)]);
    let text = element("text").class("mark-name").at([("x", x - 6.0), ("y", 12.0)]);
    element("g")
        .add(line)
        .add(text.text(&format!("first instruction, {}", with_unit(at, Unit::Milliseconds))))
}

const CALLS: [&str; 3] = ["RunPodSandbox", "CreateContainer", "StartContainer"];
