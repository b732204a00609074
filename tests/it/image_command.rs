//! `inro image`: what an operator types, and what comes of it.

use std::{fs, process::Command};

use serde_json::Value;

use crate::harness::{
    Node, inro,
    registry::{Registry, Setup},
};

/// User `tester`, password `open sesame`.
const HTPASSWD: &str = "tester:$2y$05$inroinroinroinroinroi.VsUrpJQ1kgjm59ZDmOBBU7DtUmtFVzK\n";

#[test]
fn images_are_pulled_listed_inspected_measured_and_removed() {
    let node = Node::with_config("pinned = [\"docker.io/library/tiny:latest\"]\n");
    node.registry();
    assert_eq!(node.inro_image_ok(&["ls"]), "IMAGE  ID  SIZE  PINNED");
    let id = node.inro_image_ok(&["pull", "shell"]);
    assert_eq!(id, node.image("shell").expect("shell").id);
    node.inro_image_ok(&["pull", "shell:v1"]);
    node.inro_image_ok(&["pull", "tiny"]);

    let table = node.inro_image_ok(&["ls"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<_> = rows.iter().map(|row| row[0]).collect();
    let library = |name: &str| format!("docker.io/library/{name}");
    assert_eq!(names[1..], ["shell:latest", "shell:v1", "tiny:latest"].map(library));
    assert_eq!(rows[1][1], &id["sha256:".len()..][..12]);
    assert_eq!(rows[3].last(), Some(&"yes"), "{table}");

    let listed: Value = serde_json::from_str(&node.inro_image_ok(&["ls", "--json"])).expect("JSON");
    assert_eq!(listed["images"][0]["id"], id);
    assert_eq!(listed["images"].as_array().map(Vec::len), Some(2));
    let inspected: Value = serde_json::from_str(&node.inro_image_ok(&["inspect", "shell"])).expect("JSON");
    assert_eq!(inspected, listed["images"][0]);

    let usage = node.inro_image_ok(&["df"]);
    let root = node.dir().join("root").display().to_string();
    assert!(usage.lines().count() == 3 && usage.contains(&root), "{usage}");

    // What is named has to be there, and what is there goes.
    let told = node.inro_image_fails(&["rm", "absent", "shell:v1"]);
    assert!(told.contains("image absent is not here"), "{told}");
    assert_eq!(node.image("shell"), None, "with all its names");
    for arguments in [["inspect", "shell"], ["verify", "shell"], ["pull", "absent"]] {
        let told = node.inro_image_fails(&arguments);
        assert!(told.contains(arguments[1]), "{arguments:?}: {told}");
    }
}

#[test]
fn credentials_come_from_an_argument_or_a_file() {
    let node = Node::start();
    let setup = Setup {
        htpasswd: Some(HTPASSWD),
        ..Setup::default()
    };
    let registry = Registry::start_with(&node.dir().join("private"), setup);
    registry.be("private.example", &node.dir().join("hosts"));
    let image = "private.example/library/tiny";
    node.inro_image_fails(&["pull", image]);
    node.inro_image_fails(&["pull", image, "--creds", "tester:wrong"]);
    let told = node.inro_image_fails(&["pull", image, "--creds", "no colon"]);
    assert!(told.contains("--creds: not USER:PASSWORD"), "{told}");
    node.inro_image_ok(&["pull", image, "--creds", "tester:open sesame"]);
    node.inro_image_ok(&["rm", image]);
    let file = node.dir().join("creds");
    fs::write(&file, "tester:open sesame\n").expect("a file");
    node.inro_image_ok(&["pull", image, "--creds-file", file.to_str().expect("UTF-8")]);
}

#[test]
fn without_a_daemon_the_socket_is_named() {
    for arguments in [&["ls"][..], &["import", "/etc/hostname"], &["verify"]] {
        let output = Command::new(inro())
            .args(["image", "--endpoint", "unix:///nowhere/inro.sock"])
            .args(arguments)
            .output()
            .expect("inro image");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.contains("connect to /nowhere/inro.sock"), "{arguments:?}: {told}");
    }
}
