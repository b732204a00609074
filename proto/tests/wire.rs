//! The wire format is the official one, and the checked-in types are generated from it.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

const OFFICIAL: &str = "k8s.io/cri-api@v0.37.2";

fn compile(dir: &Path, file: &str) -> FileDescriptorSet {
    protox::compile([file], [dir]).unwrap()
}

fn ours(file: &str) -> FileDescriptorSet {
    compile(Path::new(env!("CARGO_MANIFEST_DIR")), file)
}

#[test]
fn the_generated_types_are_current() {
    let response = (".runtime.v1.ListContainersResponse", "crate::ListContainersResponse");
    compare("runtime.v1.rs", ours("api.proto"), response);
    compare("inro.v1.rs", ours("images.proto"), (".runtime.v1", "crate"));
}

/// Compares generated with checked-in types; `INRO_BLESS=1` rewrites them. `known` are types that are not to be generated.
fn compare(name: &str, set: FileDescriptorSet, known: (&str, &str)) {
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .build_transport(true)
        .extern_path(known.0, known.1)
        .compile_fds(set)
        .unwrap();
    let fresh = fs::read_to_string(out.path().join(name)).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name);
    if std::env::var_os("INRO_BLESS").is_some() {
        fs::write(&path, &fresh).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == fresh,
        "run with INRO_BLESS=1 to generate src/{name}"
    );
}

/// The official file, from the Go module proxy; without its import of Go's own options.
fn official() -> Option<FileDescriptorSet> {
    let scratch = tempfile::tempdir().unwrap();
    let go = |args: &[&str]| Command::new("go").args(args).current_dir(scratch.path()).output();
    if let Err(error) = go(&["version"]) {
        println!("skipped: no Go toolchain to fetch {OFFICIAL} with: {error}");
        return None;
    }
    go(&["mod", "init", "scratch"]).unwrap();
    let output = go(&["mod", "download", "-json", OFFICIAL]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let dir = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"Dir\": \"")?.strip_suffix("\","))
        .unwrap();
    let source = fs::read_to_string(Path::new(dir).join("pkg/apis/runtime/v1/api.proto")).unwrap();
    let plain: String = source
        .lines()
        .filter(|line| !line.contains("gogoproto/gogo.proto") && !line.starts_with("option (gogoproto"))
        .map(|line| match line.find("[(gogoproto") {
            Some(at) => format!("{};\n", line[..at].trim_end()),
            None => format!("{line}\n"),
        })
        .collect();
    fs::write(scratch.path().join("api.proto"), plain).unwrap();
    Some(compile(scratch.path(), "api.proto"))
}

fn file(set: &FileDescriptorSet) -> &FileDescriptorProto {
    set.file.iter().find(|file| file.package() == "runtime.v1").unwrap()
}

/// Every fact of a file that is on the wire, one line each.
fn facts(file: &FileDescriptorProto) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    file.message_type
        .iter()
        .for_each(|message| message_facts(message, "", &mut facts));
    for list in &file.enum_type {
        for value in &list.value {
            facts.insert(
                format!("enum {}.{}", list.name(), value.name()),
                value.number().to_string(),
            );
        }
    }
    for service in &file.service {
        for call in &service.method {
            let streams = (call.client_streaming(), call.server_streaming());
            facts.insert(
                format!("rpc {}.{}", service.name(), call.name()),
                format!("{} {} {streams:?}", call.input_type(), call.output_type()),
            );
        }
    }
    facts
}

fn message_facts(message: &DescriptorProto, outer: &str, facts: &mut BTreeMap<String, String>) {
    let name = format!("{outer}{}", message.name());
    facts.insert(
        format!("message {name}"),
        format!("{:?} {:?}", message.reserved_range, message.reserved_name),
    );
    for field in &message.field {
        let oneof = field
            .oneof_index
            .map(|at| message.oneof_decl[at as usize].name().to_owned());
        let fact = format!(
            "{} {:?} {:?} {} {oneof:?} {:?}",
            field.number(),
            field.r#type(),
            field.label(),
            field.type_name(),
            field.options.as_ref().map(|o| o.packed())
        );
        facts.insert(format!("field {name}.{}", field.name()), fact);
    }
    for list in &message.enum_type {
        for value in &list.value {
            facts.insert(
                format!("enum {name}.{}.{}", list.name(), value.name()),
                value.number().to_string(),
            );
        }
    }
    message
        .nested_type
        .iter()
        .for_each(|nested| message_facts(nested, &format!("{name}."), facts));
}

#[test]
fn the_wire_format_is_the_official_one() {
    let Some(official) = official() else { return };
    let (ours, theirs) = (ours("api.proto"), official);
    let (ours, theirs) = (facts(file(&ours)), facts(file(&theirs)));
    let calls = ours.keys().filter(|key| key.starts_with("rpc ")).count();
    assert_eq!(calls, 43);
    for (key, fact) in &theirs {
        assert_eq!(ours.get(key), Some(fact), "{key}");
    }
    let more: Vec<_> = ours.keys().filter(|key| !theirs.contains_key(*key)).collect();
    assert!(more.is_empty(), "{more:?}");
}
