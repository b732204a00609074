use super::{
    super::{
        rounds::Turn,
        study::{Image, Options, Runtime, Sheet, Study, Unit},
    },
    page,
};
use crate::cli::bench::machine::Machine;

/// Two runtimes, of which one tells its stages, with names that would break a page.
fn study() -> Study {
    let runtime = |endpoint: &str, name: &str| Runtime {
        endpoint: endpoint.into(),
        socket: "/run/a&b.sock".into(),
        handler: String::new(),
        name: name.into(),
        version: "1.2.3".into(),
    };
    let mut study = Study {
        version: 1,
        date: "2030-01-02T03:04:05.000000000Z".into(),
        command: ["inro", "bench", "pod"].map(String::from).into(),
        machine: Machine::this(),
        options: Options {
            rounds: 20,
            warm_up: 0,
            pause_ms: 0,
            wait_idle_ms: 0,
            concurrency: 8,
            pods: 20,
        },
        image: Image {
            name: "busybox".into(),
            id: "0123".into(),
        },
        endpoints: vec![runtime("one", "inro"), runtime("</script><b>", "\"other\" & <co>")],
        measurements: Vec::new(),
        notes: vec!["one <note>".into()],
    };
    for endpoint in 0..2 {
        for round in 0..20 {
            let turn = Turn {
                endpoint,
                counted: true,
            };
            let name = study.endpoints[endpoint].endpoint.clone();
            let sheets = sheets(endpoint, round);
            sheets.into_iter().for_each(|sheet| study.keep(turn, &name, sheet));
        }
    }
    study.sum_up();
    study
}

fn sheets(endpoint: usize, round: usize) -> [Sheet; 2] {
    let value = (1 + endpoint * 10) as f64 + (round * 7 % 20) as f64 / 10.0;
    let mut pod = Sheet::new("pod", "host network");
    pod.rested(Some(0.25));
    for name in [
        "RunPodSandbox",
        "CreateContainer",
        "StartContainer",
        "first instruction",
        "pod-up",
    ] {
        pod.value(name, Unit::Milliseconds, value);
    }
    if endpoint == 0 {
        pod.part("RunPodSandbox", "its network", Unit::Milliseconds, value / 2.0);
    }
    let mut memory = Sheet::new("memory", "20 pods");
    memory.value("per pod", Unit::Mebibytes, value);
    memory.part("per pod", "shim", Unit::Mebibytes, value);
    [pod, memory]
}

#[test]
fn a_page_is_well_formed_whatever_is_written_in_it() {
    let page = page(&study()).unwrap();
    let body = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
    check(body).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        !page.contains("<b>\u{20}") && !page.contains("http"),
        "nothing from elsewhere"
    );
}

#[test]
fn a_page_shows_clouds_bars_stages_and_memory() {
    let page = page(&study()).unwrap();
    for told in [
        "The life of a pod",
        "class=\"density\"",
        "What one does in a pod",
        "its network",
        "first instruction, ",
        "by process",
    ] {
        assert!(page.contains(told), "{told}");
    }
    assert!(!page.contains("What &lt;/script&gt;"), "no stages, no waterfall");
}

#[test]
fn a_page_carries_its_samples() {
    let study = study();
    let page = page(&study).unwrap();
    let (_, data) = page
        .split_once("<script type=\"application/json\" id=\"study\">")
        .unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let carried: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(carried, serde_json::to_value(&study).unwrap());
    let row = &carried["measurements"][0]["rows"][1];
    assert_eq!(row["endpoint"], "</script><b>");
    assert_eq!(row["values"].as_array().unwrap().len(), 20);
    assert_eq!(row["busy"][0], 0.25);
    assert_eq!(row["summary"]["count"], 20);
}

#[test]
fn an_empty_study_has_a_page_too() {
    let empty = Study {
        measurements: Vec::new(),
        ..study()
    };
    check(page(&empty).unwrap().strip_prefix("<!DOCTYPE html>\n").unwrap()).unwrap();
}

#[test]
fn the_check_finds_what_is_wrong() {
    for wrong in [
        "<a><b></a></b>",
        "<a>",
        "</a>",
        "<a b=c></a>",
        "<a>&nbsp;</a>",
        "<a b=\"<\"></a>",
        "<a></a",
        "<a/>&",
    ] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
    check("<a b=\"c &lt; d\" e=\"\">f<g/>&amp;</a>").unwrap();
}

/// Whether every element ends, every attribute is quoted, and every `<` and `&` means one.
fn check(mut text: &str) -> Result<(), String> {
    let mut open = Vec::new();
    while let Some(begin) = text.find('<') {
        check_text(&text[..begin])?;
        let rest = &text[begin + 1..];
        let end = rest.find('>').ok_or_else(|| format!("no end: {rest:.40}"))?;
        let tag = &rest[..end];
        text = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let last: Option<&str> = open.pop();
            (last == Some(name))
                .then_some(())
                .ok_or_else(|| format!("{name} ends in {last:?}"))?;
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        check_attributes(tag[name.len()..].trim_end_matches('/'))?;
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    check_text(text)?;
    open.is_empty().then_some(()).ok_or_else(|| format!("open: {open:?}"))
}

fn check_attributes(mut text: &str) -> Result<(), String> {
    while !text.is_empty() {
        let wrong = || format!("attributes: {text:.60}");
        let (name, rest) = text.split_once("=\"").ok_or_else(wrong)?;
        let (value, rest) = rest.split_once('"').ok_or_else(wrong)?;
        let word = name.strip_prefix(' ').ok_or_else(wrong)?;
        let is_word = !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '-');
        (is_word && !value.contains('<')).then_some(()).ok_or_else(wrong)?;
        check_text(value)?;
        text = rest;
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), String> {
    let known = ["amp;", "lt;", "gt;", "quot;"];
    let wrong = text
        .split('&')
        .skip(1)
        .find(|after| !known.iter().any(|name| after.starts_with(name)));
    wrong.map_or(Ok(()), |after| Err(format!("&{after:.20}")))
}
