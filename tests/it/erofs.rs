//! `image.snapshotter = "erofs"`: layers are images of one file each, and nobody who uses them can tell.

use std::{fs, path::Path, time::Duration};

use crate::{
    harness::{EROFS, Node, eventually},
    hostile, image_verify, image_volumes, images, userns,
};

fn node() -> Node {
    Node::with_config(EROFS)
}

/// The image of each layer.
fn files(node: &Node) -> Vec<std::path::PathBuf> {
    let layers = image_verify::layers(node).into_iter();
    layers.map(|layer| layer.join("erofs/layer")).collect()
}

/// How many EROFS file systems the kernel has. Source: Documentation/ABI/testing/sysfs-fs-erofs.
fn mounted() -> usize {
    let entries = fs::read_dir("/sys/fs/erofs").expect("EROFS");
    let is_mount = |name: &std::ffi::OsStr| name != "features";
    entries.flatten().filter(|entry| is_mount(&entry.file_name())).count()
}

#[test]
fn a_layer_is_one_file_and_mounted_once_for_all_containers() {
    let node = node();
    let before = mounted();
    images::apply_layers(&node);
    let layers = files(&node);
    assert!(
        layers.len() > 1 && layers.iter().all(|file| file.is_file()),
        "{layers:?}"
    );
    for layer in image_verify::layers(&node) {
        let names: Vec<_> = fs::read_dir(layer)
            .expect("a layer")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(names.len() == 2 && !names.iter().any(|name| name == "fs"), "{names:?}");
    }
    let pod = node.pod(|_| {});
    let containers: Vec<_> = (0..3)
        .map(|_| pod.run_container("layered", &["sleep", "1000"]))
        .collect();
    containers[0].sh("echo mine > /linked");
    assert_eq!(containers[0].sh("cat /linked"), "mine");
    assert_ne!(containers[1].sh("cat /linked"), "mine");
    assert_eq!(mounted(), before + layers.len(), "one for each layer");
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", node.daemon.pid())).expect("mounts");
    assert!(!table.contains(" - erofs "), "{table}");
}

#[test]
fn layers_go_with_the_last_who_needs_them() {
    let node = node();
    let before = mounted();
    images::keep_layers_in_use(&node);
    eventually("the layers are gone", Duration::from_secs(10), || {
        (files(&node).is_empty() && mounted() == before).then_some(())
    });
}

#[test]
fn layers_are_shared_and_outlive_the_daemon() {
    images::share_layers(&mut node());
}

#[test]
fn a_container_reads_on_when_the_daemon_is_gone() {
    let mut node = node();
    node.pull("layered");
    let container = node.pod(|_| {}).run_container("layered", &["sleep", "1000"]);
    let root = format!("/proc/{}/root", container.pid());
    node.daemon.kill9();
    assert_eq!(
        fs::read_to_string(Path::new(&root).join("becomes-folder/inside")).expect("a file"),
        "yes"
    );
    node.daemon.restart();
    assert_eq!(container.sh("cat /becomes-file"), "file");
    let second = node.pod(|_| {}).run_container("layered", &["sleep", "1000"]);
    assert_eq!(second.sh("cat /becomes-file"), "file");
}

#[test]
fn pods_with_users_of_their_own_have_their_layers_mapped() {
    userns::map_images(&node());
}

#[test]
fn an_image_is_a_volume() {
    image_volumes::mount_read_only(&node());
}

#[test]
fn a_layer_of_one_file_is_refused_or_harmless() {
    hostile::refuse_layers(&node());
}

#[test]
fn a_node_that_changes_its_snapshotter_keeps_its_images() {
    let mut node = Node::start();
    let config = node.dir().join("config.toml");
    let overlay = fs::read_to_string(&config).expect("a configuration");
    node.pull("layered");
    let folders = image_verify::layers(&node).len();
    node.daemon.terminate();
    fs::write(&config, overlay.replace("[image]\n", &format!("[image]\n{EROFS}"))).expect("a configuration");
    node.daemon.restart();
    node.pull("layered");
    assert_eq!(
        image_verify::layers(&node).len(),
        folders,
        "what is there is not pulled again"
    );
    node.pull("shared-0");
    assert!(files(&node).iter().any(|file| file.exists()));
    for text in [EROFS, ""] {
        let containers = ["layered", "shared-0"].map(|image| node.pod(|_| {}).run_container(image, &["sleep", "1000"]));
        assert_eq!(containers[0].sh("cat /becomes-file"), "file", "{text}");
        assert_eq!(containers[1].sh("cat /which"), "0", "{text}");
        node.inro_image_ok(&["verify"]);
        node.daemon.terminate();
        fs::write(&config, &overlay).expect("a configuration");
        node.daemon.restart();
    }
}

#[test]
fn a_damaged_image_is_found_and_repaired() {
    let node = node();
    node.pull("layered");
    node.pull("tiny");
    let output = node.inro_image_ok(&["verify"]);
    assert!(output.contains("looked at 2 images: 6 documents, 4 layers"), "{output}");
    for damage in [
        |file: &Path| image_verify::flip(file),
        |file: &Path| {
            let file = fs::File::options().write(true).open(file).expect("an image");
            let size = file.metadata().expect("a size").len();
            file.set_len(size - 4096).expect("an image");
        },
        |file: &Path| fs::remove_file(file).expect("an image"),
        |file: &Path| fs::write(file.with_file_name("../done"), "{").expect("a mark"),
    ] {
        let file = files(&node)
            .into_iter()
            .max_by_key(|file| fs::metadata(file).expect("an image").len());
        damage(&file.expect("an image"));
        let output = node.inro_image(&["verify"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = node.inro_image_ok(&["verify", "--repair"]);
        assert!(text.contains("; repaired"), "{text}");
        node.inro_image_ok(&["verify"]);
    }
    let container = node.pod(|_| {}).run_container("layered", &["sleep", "1000"]);
    assert_eq!(container.sh("stat -c %a /suid; ls /opaque"), "4755\nnew");
}
