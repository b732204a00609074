//! Who may know whom: holds the table in `src/lib.rs` and the homes of the foreign crates.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// From the ground up; a module uses lower rows only.
const ROWS: [&[&str]; 5] = [
    &["model", "sys", "durable"],
    &[
        "spec",
        "lockdown",
        "cgroup",
        "net",
        "image",
        "zygote",
        "shim",
        "store",
        "checkpoint",
        "resctrl",
    ],
    &["pod"],
    &["cri", "stream", "metrics"],
    &["cli", "daemon", "config"],
];

/// The rows whose modules may use each other: the ground, and what puts everything together.
const OPEN_ROWS: [usize; 2] = [0, 4];

/// Where a foreign crate may be named; a module, or a path below `src`.
const HOMES: &[(&str, &[&str])] = &[
    ("inro_proto", &["cri", "cli", "daemon"]),
    ("tonic", &["cri", "cli", "daemon"]),
    ("prost", &["cri"]),
    ("hyper", &["stream", "metrics"]),
    ("prometheus_client", &["metrics"]),
    ("libcontainer", &["zygote"]),
    ("libcgroups", &["zygote"]),
    ("pathrs", &["zygote"]),
    ("pgp", &["image/trust"]),
    ("oci_client", &["image/registry"]),
    ("netlink_packet_core", &["net"]),
    ("netlink_packet_route", &["net"]),
    ("seccompiler", &["lockdown"]),
    ("webpki", &["image/trust"]),
    ("x509_cert", &["image/trust"]),
    ("caps", &["lockdown", "zygote"]),
    ("procfs", &["cgroup", "sys"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("landlock", &["image"]),
    ("tar", &["image", "cli", "checkpoint"]),
    ("yaml_rust2", &["spec", "image/registry"]),
    ("zstd", &["image"]),
];

#[test]
fn modules_use_lower_rows_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module(&path);
        let Some(row) = row(&module) else { continue };
        for used in uses(&text, "crate") {
            let Some(other) = self::row(&used) else { continue };
            let allowed = used == module || other < row || (other == row && OPEN_ROWS.contains(&row));
            if !allowed {
                wrong.push(format!("{}: uses crate::{used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn foreign_crates_stay_at_home() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (name, homes) in HOMES {
            let at_home = homes
                .iter()
                .any(|home| path.starts_with(home) || path == Path::new(&format!("{home}.rs")));
            if !at_home && mentions(&text, name) {
                wrong.push(format!("{}: names {name}, whose home is {homes:?}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_has_a_row() {
    let known: Vec<&str> = ROWS.iter().flat_map(|row| row.iter().copied()).collect();
    let mut unknown = BTreeMap::new();
    for (path, _) in sources() {
        let module = module(&path);
        if !known.contains(&module.as_str()) && !["lib", "main"].contains(&module.as_str()) {
            unknown.insert(module, path);
        }
    }
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
}

#[test]
fn unsafe_code_lives_in_sys_alone() {
    let outside: Vec<PathBuf> = sources()
        .filter(|(path, text)| !path.starts_with("sys") && text.lines().any(|line| code(line).contains("unsafe {")))
        .map(|(path, _)| path)
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
}

/// Files below `src`, by their path there, without their test modules.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.into_iter().map(move |path| {
        let text = fs::read_to_string(&path).expect("a source file");
        // What a test needs to set its stage is not the module's business.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        (path.strip_prefix(&root).expect("below src").to_owned(), text)
    })
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("test.rs") {
            files.push(path);
        }
    }
}

fn module(path: &Path) -> String {
    let first = path.iter().next().expect("a path").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// The names right after `<root>::`, one level deep in braces, outside comments.
fn uses(text: &str, root: &str) -> Vec<String> {
    let text: String = text.lines().map(code).collect::<Vec<_>>().join("\n");
    let mut names = Vec::new();
    for (position, _) in text.match_indices(&format!("{root}::")) {
        let before = text[..position].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &text[position + root.len() + 2..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(top_names(group)),
            None => names.push(identifier(rest)),
        }
    }
    names
}

/// The first identifier of each entry of a brace group, nested groups skipped.
fn top_names(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut names) = (0, true, Vec::new());
    for (position, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if depth == 0 && start && c.is_alphabetic() => {
                names.push(identifier(&group[position..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether code names the crate: `name::` that is no part of a longer path or word.
fn mentions(text: &str, name: &str) -> bool {
    text.lines().map(code).any(|line| {
        line.match_indices(&format!("{name}::")).any(|(position, _)| {
            let before = line[..position].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    })
}

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

#[test]
fn the_reader_of_use_lines_reads_them() {
    let text =
        "use crate::{model::{A, B}, sys, pod::Pods};\nlet x = crate::net::open(); // crate::comment\nmy_crate::no";
    assert_eq!(uses(text, "crate"), ["model", "sys", "pod", "net"]);
}
