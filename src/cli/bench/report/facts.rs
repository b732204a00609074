//! On what, by whom and when: what somebody needs to repeat it.

use super::{
    super::study::{Runtime, Study},
    Colours,
    element::{Element, element},
    scale::number,
};

/// The title of the page.
pub fn title(study: &Study) -> String {
    let names: Vec<&str> = study
        .endpoints
        .iter()
        .map(|runtime| runtime.endpoint.as_str())
        .collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Under the title: the runtimes in their colours, and the machine in one line.
pub fn summary(study: &Study, colours: &Colours<'_>) -> Element {
    let runtimes = study.endpoints.iter().map(|runtime| {
        element("li")
            .class(&colours.class(&runtime.endpoint))
            .add(element("b").text(&runtime.endpoint))
            .text(&format!(" {}", version(runtime)))
    });
    let machine = &study.machine;
    let line = format!(
        "{} \u{b7} {} \u{d7} {} \u{b7} {} GiB \u{b7} Linux {} \u{b7} cgroup {}",
        study.date.split('T').next().unwrap_or_default(),
        machine.processors,
        machine.processor,
        number((machine.memory_mib as f64 / 1024.0).round()),
        machine.kernel,
        machine.cgroup,
    );
    element("div")
        .add(element("ul").class("runtimes").add_all(runtimes))
        .add(element("p").class("soft").text(&line))
}

fn version(runtime: &Runtime) -> String {
    match runtime.handler.as_str() {
        "" => format!("{} {}", runtime.name, runtime.version),
        handler => format!("{} {}, handler {handler}", runtime.name, runtime.version),
    }
}

/// All of it, at the end of the page.
pub fn list(study: &Study) -> Element {
    let machine = &study.machine;
    let options = &study.options;
    let place = match machine.hypervisor {
        true => "virtual machine",
        false => "no hypervisor",
    };
    let mut facts = vec![
        ("Command", command(study)),
        ("Date", study.date.clone()),
        (
            "System",
            format!("{}, Linux {}, {}", machine.system, machine.kernel, machine.architecture),
        ),
        (
            "Machine",
            format!(
                "{} processors ({}), {} MiB of memory, {place}, cgroup {}",
                machine.processors, machine.processor, machine.memory_mib, machine.cgroup
            ),
        ),
        (
            "Rounds",
            format!(
                "{} after {} to warm up, {} ms of rest before each step",
                options.rounds, options.warm_up, options.pause_ms
            ),
        ),
        ("Busy", busy(study)),
        ("Image", format!("{} ({})", study.image.name, study.image.id)),
    ];
    let runtimes = study.endpoints.iter().map(|runtime| {
        (
            "Endpoint",
            format!("{}: {} at {}", runtime.endpoint, version(runtime), runtime.socket),
        )
    });
    facts.extend(runtimes);
    facts.extend(study.notes.iter().map(|note| ("Note", note.clone())));
    let pairs = facts
        .iter()
        .flat_map(|(name, value)| [element("dt").text(name), element("dd").text(value)]);
    element("dl").add_all(pairs)
}

fn command(study: &Study) -> String {
    study.command.join(" ")
}

fn busy(study: &Study) -> String {
    match study.busy_percent() {
        None => "not known: the rests were too short".to_owned(),
        Some((p50, p90)) => format!(
            "the machine was busy to {} % (p50) and {} % (p90) before the measured steps",
            number(p50),
            number(p90)
        ),
    }
}
