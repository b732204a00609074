//! One page that shows what was measured: HTML with its drawings, its style and its data inside, and no script.
//!
//! `page` puts it together; each file makes one kind of figure of [`element::Element`]s.

mod bars;
mod cloud;
mod element;
mod facts;
mod glance;
mod scale;
mod stack;
#[cfg(test)]
mod test;
mod waterfall;
mod words;

use anyhow::Context;

use super::study::{Group, Study, Unit};
use element::{Element, element};
use stack::Stack;

/// The page.
///
/// # Errors
/// None in practice: the samples are written as JSON.
pub fn page(study: &Study) -> anyhow::Result<String> {
    let colours = Colours(study);
    let groups = study.groups();
    let sections = groups.iter().map(|group| section(group, study, &colours));
    let main = element("main")
        .add(header(study, &colours))
        .add(glance::cards(study, &colours))
        .add_all(sections)
        .add(footer(study))
        .add(data(study)?);
    let head = element("head")
        .add(element("meta").with("charset", "utf-8"))
        .add(
            element("meta")
                .with("name", "viewport")
                .with("content", "width=device-width, initial-scale=1"),
        )
        .add(
            element("meta")
                .with("name", "color-scheme")
                .with("content", "light dark"),
        )
        .add(element("title").text(&format!("{}: inro bench", facts::title(study))))
        .add(element("style").verbatim(STYLE));
    let html = element("html")
        .with("lang", "en")
        .add(head)
        .add(element("body").add(main));
    Ok(format!("<!DOCTYPE html>\n{html}\n"))
}

const STYLE: &str = include_str!("style.css");

/// Which colour an endpoint has: that of its position, everywhere.
struct Colours<'a>(&'a Study);

impl Colours<'_> {
    /// The style sheet has six.
    fn class(&self, endpoint: &str) -> String {
        let mut names = self.0.endpoints.iter();
        let at = names.position(|runtime| runtime.endpoint == endpoint);
        format!("e{}", at.unwrap_or(0) % 6)
    }
}

fn header(study: &Study, colours: &Colours<'_>) -> Element {
    element("header")
        .add(element("p").class("kicker").text("inro bench"))
        .add(element("h1").text(&facts::title(study)))
        .add(facts::summary(study, colours))
}

/// One subject in one setting: what it is, the figures that belong to it, the distributions, the table.
fn section(group: &Group<'_>, study: &Study, colours: &Colours<'_>) -> Element {
    let (title, explanation) = words::of(group.subject);
    let heading = element("h2").text(title);
    let heading = match group.setting {
        "" => heading,
        setting => heading.add(element("span").class("setting").text(setting)),
    };
    let clouds = group.wholes().map(|measurement| cloud::figure(measurement, colours));
    element("section")
        .add(heading)
        .add(element("p").class("lead").text(explanation))
        .add_all(special(group, study, colours))
        .add(element("div").class("clouds").add_all(clouds))
        .add(bars::table(group, colours))
}

/// What only some subjects have.
fn special(group: &Group<'_>, study: &Study, colours: &Colours<'_>) -> Vec<Element> {
    match group.subject {
        "pod" => {
            let up = ["RunPodSandbox", "CreateContainer", "first instruction"];
            let down = ["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"];
            let mut figures = vec![
                stack::figure(
                    "Up, call by call: medians",
                    &calls(group, study, &up),
                    Unit::Milliseconds,
                    colours,
                ),
                stack::figure(
                    "Down, call by call: medians",
                    &calls(group, study, &down),
                    Unit::Milliseconds,
                    colours,
                ),
            ];
            let names = study.endpoints.iter().map(|runtime| runtime.endpoint.as_str());
            figures.extend(names.filter_map(|name| waterfall::figure(group, name, colours)));
            figures
        }
        "memory" => {
            let caption = "Where the memory of one pod is, by process: medians";
            vec![stack::figure(
                caption,
                &parts(group, study, "per pod"),
                Unit::Mebibytes,
                colours,
            )]
        }
        _ => Vec::new(),
    }
}

/// The medians of some measurements, one after the other.
fn calls(group: &Group<'_>, study: &Study, names: &[&str]) -> Vec<Stack> {
    let stacks = study.endpoints.iter().map(|runtime| {
        let median = |name: &&str| {
            Some((
                (*name).to_owned(),
                group.whole(name)?.row(&runtime.endpoint)?.summary.p50,
            ))
        };
        Stack {
            endpoint: runtime.endpoint.clone(),
            parts: names.iter().filter_map(median).collect(),
        }
    });
    stacks.collect()
}

/// The medians of the parts of one measurement, the largest first.
fn parts(group: &Group<'_>, study: &Study, whole: &str) -> Vec<Stack> {
    let stacks = study.endpoints.iter().map(|runtime| {
        let rows = group
            .parts(whole)
            .filter_map(|part| Some((part, part.row(&runtime.endpoint)?)));
        let mut parts: Vec<_> = rows
            .map(|(part, row)| (part.what.name.clone(), row.summary.p50))
            .collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        Stack {
            endpoint: runtime.endpoint.clone(),
            parts,
        }
    });
    stacks.collect()
}

fn footer(study: &Study) -> Element {
    element("footer")
        .add(element("h2").text("How it was measured"))
        .add(element("p").class("lead").text(words::METHOD))
        .add(facts::list(study))
        .add(element("p").class("soft").text(
            "Every value is in this page as JSON, in the element with the id \u{201c}study\u{201d}, with how busy the machine was \
             before it.",
        ))
}

/// Everything, as `--json` writes it.
fn data(study: &Study) -> anyhow::Result<Element> {
    let json = serde_json::to_string(study).context("write the samples")?;
    // In JSON these stand in strings only, where they may be written so.
    let json = json
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    Ok(element("script")
        .with("type", "application/json")
        .with("id", "study")
        .verbatim(&json))
}
