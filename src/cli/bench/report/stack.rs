//! Bars made of parts: which steps a whole takes, one bar for each endpoint.

use super::{
    super::study::Unit,
    Colours,
    element::{Element, element},
    scale::{Scale, with_unit},
};

pub struct Stack {
    pub endpoint: String,
    /// In their order, from the left.
    pub parts: Vec<(String, f64)>,
}

const WIDTH: f64 = 1020.0;
const ROW: f64 = 46.0;

/// All on one scale. The parts are told apart by their shade; their names are above the bar in the same order, and in it
/// where there is room.
pub fn figure(caption: &str, stacks: &[Stack], unit: Unit, colours: &Colours<'_>) -> Element {
    let total = |stack: &Stack| stack.parts.iter().map(|(_, value)| value.max(0.0)).sum::<f64>();
    let scale = Scale {
        most: stacks.iter().map(total).fold(0.0, f64::max),
        left: 2.0,
        width: WIDTH - 120.0,
    };
    let bars = stacks.iter().enumerate().map(|(at, stack)| {
        let top = ROW * at as f64;
        let name = element("text").class("label").at([("x", 2.0), ("y", top + 13.0)]);
        let listed = element("tspan").class("soft").with("dx", 10).text(&listed(stack, unit));
        let name = name
            .add(element("tspan").class("name").text(&stack.endpoint))
            .add(listed);
        let sum = element("text")
            .class("sum")
            .at([("x", scale.place(total(stack)) + 8.0), ("y", top + 32.0)]);
        let class = colours.class(&stack.endpoint);
        let bar = element("g")
            .class(&class)
            .add(name)
            .add_all(parts(stack, scale, top + 18.0, unit));
        bar.add(sum.text(&with_unit(total(stack), unit)))
    });
    let bottom = ROW * stacks.len() as f64;
    let svg = element("svg")
        .with("viewBox", format!("0 0 {WIDTH} {}", bottom + 20.0))
        .with("role", "img")
        .with("aria-label", caption)
        .add(scale.grid(16.0, bottom, unit))
        .add_all(bars);
    element("figure")
        .class("wide")
        .add(element("figcaption").text(caption))
        .add(svg)
}

/// Every part with its value.
fn listed(stack: &Stack, unit: Unit) -> String {
    let parts = stack
        .parts
        .iter()
        .map(|(name, value)| format!("{name}\u{a0}{}", with_unit(*value, unit)));
    parts.collect::<Vec<_>>().join("  \u{b7}  ")
}

fn parts(stack: &Stack, scale: Scale, top: f64, unit: Unit) -> Vec<Element> {
    let mut from = 0.0;
    let mut drawn = Vec::new();
    for (at, (name, value)) in stack.parts.iter().enumerate() {
        let (x, width) = (scale.place(from), scale.length(*value));
        from += value.max(0.0);
        let told = format!("{name} {}", with_unit(*value, unit));
        let shade = format!("part shade{}", at % 4);
        let bar = element("rect")
            .class(&shade)
            .at([("x", x), ("y", top), ("width", width), ("height", 20.0)]);
        let mut group = element("g").add(bar.add(element("title").text(&told)));
        // A letter is about six units wide.
        if name.chars().count() as f64 * 6.4 + 10.0 < width {
            let inside = element("text").class(&format!("inside shade{}", at % 4));
            group = group.add(inside.at([("x", x + 6.0), ("y", top + 14.0)]).text(name));
        }
        drawn.push(group);
    }
    drawn
}
