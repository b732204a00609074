//! `inro image verify`: damage is found, told and repaired, and nothing else is touched.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::harness::{
    Node,
    archive::{Files, Image},
    eventually,
};

/// The layers of a node, by their folders.
pub fn layers(node: &Node) -> Vec<PathBuf> {
    let folder = node.dir().join("root/layers");
    let mut layers: Vec<_> = fs::read_dir(folder)
        .expect("layers")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    layers.sort();
    layers
}

/// The layer that has a file, and the file.
fn file(node: &Node, name: &str) -> (PathBuf, PathBuf) {
    let layer = layers(node)
        .into_iter()
        .find(|layer| layer.join("fs").join(name).exists());
    let layer = layer.unwrap_or_else(|| panic!("no layer has {name}"));
    let file = layer.join("fs").join(name);
    (layer, file)
}

/// Changes one bit, and neither size nor times.
pub fn flip(path: &Path) {
    let times = fs::metadata(path).and_then(|meta| meta.modified()).expect("its time");
    let mut bytes = fs::read(path).expect("a file");
    bytes[0] ^= 1;
    fs::write(path, bytes).expect("a file");
    let file = fs::File::options().write(true).open(path).expect("a file");
    file.set_modified(times).expect("its time");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

#[test]
fn damage_of_any_kind_is_found_and_repaired_and_nothing_else_is_touched() {
    let node = Node::start();
    let id = node.pull("layered");
    node.pull("tiny");
    assert!(
        node.inro_image_ok(&["verify"])
            .contains("looked at 2 images: 6 documents, 4 layers")
    );

    let digest = node.image("layered").expect("layered").repo_digests[0].clone();
    let root = node.dir().join("root");
    let hex = id.trim_start_matches("sha256:").to_owned();
    let manifest = root
        .join("blobs/sha256")
        .join(digest.rsplit(':').next().expect("a digest"));
    let config = root.join("blobs/sha256").join(&hex);
    let record = root.join("images").join(&hex);
    let linked = |node: &Node| file(node, "linked");
    type Damage<'a> = Box<dyn Fn(&Node) + 'a>;
    let table: Vec<(&str, &str, Damage<'_>)> = vec![
        ("a bit", "its files are not", Box::new(|node| flip(&linked(node).1))),
        (
            "a mode",
            "its files are not",
            Box::new(|node| set_mode(&linked(node).1, 0o600)),
        ),
        (
            "a file",
            "its files are not",
            Box::new(|node| fs::remove_file(file(node, "suid").1).expect("a file")),
        ),
        (
            "a new file",
            "its files are not",
            Box::new(|node| fs::write(linked(node).0.join("fs/new"), "").expect("a file")),
        ),
        (
            "all files",
            "cannot be read",
            Box::new(|node| fs::remove_dir_all(linked(node).0.join("fs")).expect("a folder")),
        ),
        (
            "the mark",
            "its mark",
            Box::new(|node| fs::write(linked(node).0.join("done"), "{").expect("the mark")),
        ),
        (
            "a layer",
            "its mark",
            Box::new(|node| fs::remove_dir_all(linked(node).0).expect("a layer")),
        ),
        (
            "an opaque folder",
            "its files are not",
            Box::new(|node| {
                let folder = linked(node).0.join("fs/opaque");
                let unset = rustix::fs::removexattr(&folder, "trusted.overlay.opaque");
                unset.expect("the mark of an opaque folder");
            }),
        ),
        ("a manifest", "its digest is", Box::new(|_| flip(&manifest))),
        (
            "no manifest",
            "cannot be read",
            Box::new(|_| fs::remove_file(&manifest).expect("a manifest")),
        ),
        ("a config", "its digest is", Box::new(|_| flip(&config))),
        ("a record", "what the daemon has read", Box::new(|_| flip(&record))),
    ];
    for (what, told, damage) in table {
        damage(&node);
        let before: Vec<_> = layers(&node)
            .iter()
            .map(|layer| (layer.clone(), inode(layer)))
            .collect();
        let output = node.inro_image(&["verify"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {text}");
        assert!(text.contains(told) && text.contains("layered"), "{what}: {text}");
        let text = node.inro_image_ok(&["verify", "--repair"]);
        assert!(text.contains("; repaired"), "{what}: {text}");
        node.inro_image_ok(&["verify"]);
        let changed = before
            .iter()
            .filter(|(layer, inode_before)| inode(layer) != *inode_before);
        assert!(changed.count() <= 1, "{what}: other layers were touched");
        assert_eq!(fs::read_dir(root.join("tmp")).expect("tmp").count(), 0, "{what}");
    }
    let container = node.pod(|_| {}).run_container("layered", &["sleep", "1000"]);
    assert_eq!(container.sh("stat -c %a /suid; ls /opaque"), "4755\nnew");
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.ino())
}

#[test]
fn a_layer_below_a_container_is_repaired_when_that_is_gone() {
    let mut node = Node::start();
    node.pull("layered");
    let container = node.pod(|_| {}).run_container("layered", &["sleep", "1000"]);
    flip(&file(&node, "linked").1);
    // Also a daemon that did not make the container knows it.
    for _ in 0..2 {
        let output = node.inro_image(&["verify", "--repair", "layered"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("not repaired") && text.contains(&container.id), "{text}");
        node.daemon.kill9();
        node.daemon.restart();
    }
    assert_eq!(container.sh("echo alive"), "alive");
    container.stop(0);
    container.remove();
    eventually("the layer can be repaired", Duration::from_secs(10), || {
        node.inro_image(&["verify", "--repair"]).status.success().then_some(())
    });
    node.inro_image_ok(&["verify"]);
}

#[test]
fn what_no_registry_has_is_told_and_an_import_mends_it() {
    let node = Node::start();
    let image = Image::prepared("layered");
    let name = "registry.test:1/imported:1";
    let archive = Files::oci_of(&image, name).write_tar(&node.dir().join("image.tar"));
    let archive = archive.to_str().expect("UTF-8");
    node.inro_image_ok(&["import", archive]);
    flip(&file(&node, "linked").1);
    let output = node.inro_image(&["verify", "--repair"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("not repaired: RegistryUnavailable"), "{text}");
    node.inro_image_ok(&["rm", name]);
    node.inro_image_ok(&["import", archive]);
    node.inro_image_ok(&["verify"]);
}

#[test]
fn a_layer_of_before_trees_were_kept_is_only_looked_for() {
    let node = Node::start();
    node.pull("tiny");
    let done = layers(&node)[0].join("done");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&done).expect("done")).expect("JSON");
    record
        .as_object_mut()
        .expect("an object")
        .remove("tree")
        .expect("a digest of the tree");
    fs::write(&done, record.to_string()).expect("done");
    let text = node.inro_image_ok(&["verify", "tiny"]);
    assert!(text.contains("of 1 layers only that they are there"), "{text}");
    fs::remove_dir_all(layers(&node)[0].join("fs")).expect("a layer's files");
    node.inro_image_fails(&["verify", "tiny"]);
}
