//! Images from a real registry: every form of reference and manifest, and what must not be believed.

use std::{fs, path::Path, process::Command, time::Duration};

use tonic::Code;

use crate::harness::{
    Node,
    archive::{Files, Image},
    eventually, v1,
};

fn list(node: &Node) -> Vec<v1::Image> {
    node.cri
        .list_images(v1::ListImagesRequest::default())
        .expect("list images")
        .images
}

#[test]
fn every_form_of_reference_finds_the_image() {
    let node = Node::start();
    let id = node.pull("shell");
    let image = node.image("shell").expect("an image");
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, ["docker.io/library/shell:latest"]);
    let [by_digest] = &image.repo_digests[..] else {
        panic!("{image:?}")
    };
    let digest = by_digest.rsplit_once('@').expect("a digest").1;
    for reference in [
        "shell:latest",
        "library/shell",
        "docker.io/library/shell",
        "docker.io/shell",
        "index.docker.io/library/shell:latest",
        by_digest,
        &format!("shell@{digest}"),
        &format!("docker.io/library/shell:latest@{digest}"),
        &id,
        id.strip_prefix("sha256:").unwrap_or(&id),
    ] {
        assert_eq!(
            node.image(reference).map(|found| found.id),
            Some(id.clone()),
            "{reference}"
        );
    }
    assert_eq!(node.pull(&format!("shell@{digest}")), id);
    assert_eq!(node.pull(&format!("docker.io/library/shell:v1@{digest}")), id);
    assert_eq!(node.image("shell:other"), None);
    assert!(image.size > 0);
}

#[test]
fn every_kind_of_manifest_and_layer_runs() {
    let node = Node::start();
    let pod = node.pod(|_| {});
    for name in ["shell", "docker", "zstd", "plain", "platforms", "many-layers"] {
        node.pull(name);
        let container = pod.run_container(name, &["sh", "-c", "echo it runs"]);
        assert_eq!(container.wait().exit_code, 0, "{name}");
        container.wait_logged("it runs\n");
    }
    let foreign = node.try_pull("platforms:foreign").expect_err("no platform of ours");
    assert!(
        foreign.message().contains("platform") || foreign.code() == Code::NotFound,
        "{foreign:?}"
    );
}

#[test]
fn layers_are_applied_in_order() {
    apply_layers(&Node::start());
}

/// For a node with either snapshotter.
pub fn apply_layers(node: &Node) {
    node.pull("layered");
    let container = node.pod(|_| {}).run_container("layered", &["sleep", "1000"]);
    assert_eq!(
        container.sh("ls -d /removed /gone 2>/dev/null | wc -l"),
        "0",
        "whiteouts"
    );
    assert_eq!(container.sh("ls /opaque"), "new");
    assert_eq!(container.sh("cat /becomes-folder/inside /becomes-file"), "yesfile");
    assert_eq!(
        container.sh("stat -c %i /linked"),
        container.sh("stat -c %i /linked-too")
    );
    assert_eq!(
        container.sh("readlink /link; stat -c %a /suid; stat -c '%u:%g %a' /owned"),
        "linked\n4755\n1000:50000 640"
    );
    assert_eq!(
        container.sh("find /long -type f | wc -c"),
        (1 + 4 + 1 + 180 + 1 + 180 + 1).to_string()
    );
    assert_eq!(container.sh("stat -c %Y /suid"), "1577836800");
}

#[test]
fn the_images_config_meets_the_containers() {
    let node = Node::start();
    node.pull("configured");
    let pod = node.pod(|_| {});
    let plain = pod.run_container("configured", &[]);
    assert_eq!(plain.wait().exit_code, 0);
    plain.wait_logged("from image\n");
    let with_args = pod.container("configured", &[], |config| {
        config.args = vec!["from".into(), "pod".into()]
    });
    with_args.start();
    with_args.wait();
    with_args.wait_logged("from pod\n");
    let with_command = pod.container(
        "configured",
        &["sh", "-c", "id -u; pwd; echo $FROM_IMAGE $OVERRIDDEN"],
        |config| {
            config.envs.push(v1::KeyValue {
                key: "OVERRIDDEN".into(),
                value: "pod".into(),
            });
        },
    );
    with_command.start();
    with_command.wait();
    with_command.wait_logged("1000\n/made/by/runtime\nyes pod\n");
    let image = node.image("configured").expect("an image");
    assert_eq!((image.username.as_str(), image.uid), ("default-user", None));
}

#[test]
fn remove_takes_every_name_and_is_idempotent() {
    let node = Node::start();
    let id = node.pull("shell");
    assert_eq!(node.pull("shell:v1"), id);
    assert_eq!(list(&node)[0].repo_tags.len(), 2);
    node.remove_image("shell:v1");
    assert_eq!((list(&node).len(), node.image("shell")), (0, None));
    node.remove_image("shell:v1");
    node.remove_image(&id);
    node.pull("shell");
}

#[test]
fn an_image_in_use_keeps_its_layers() {
    keep_layers_in_use(&Node::start());
}

/// For a node with either snapshotter.
pub fn keep_layers_in_use(node: &Node) {
    node.pull("shell");
    let container = node.pod(|_| {}).run_container("shell", &["sleep", "1000"]);
    node.remove_image("shell");
    assert_eq!(list(node).len(), 0);
    assert_eq!(container.sh("echo alive"), "alive");
    container.stop(0);
    assert_eq!(node.image("shell"), None);
    container.remove();
}

#[test]
fn images_survive_a_restart_and_layers_are_shared() {
    share_layers(&mut Node::start());
}

/// For a node with either snapshotter.
pub fn share_layers(node: &mut Node) {
    let used = |node: &Node| {
        let reply = node
            .cri
            .image_fs_info(v1::ImageFsInfoRequest::default())
            .expect("fs info");
        reply.image_filesystems[0]
            .used_bytes
            .as_ref()
            .expect("used bytes")
            .value
    };
    let id = node.pull("shared-0");
    let one = used(node);
    assert!(one > 0);
    for number in 1..4 {
        node.pull(&format!("shared-{number}"));
    }
    assert!(used(node) < one + one / 4, "{} after {one}", used(node));
    node.daemon.kill9();
    node.daemon.restart();
    assert_eq!(list(node).len(), 4);
    assert_eq!(node.image("shared-0").expect("an image").id, id);
    let container = node.pod(|_| {}).run_container("shared-3", &["cat", "/which"]);
    container.wait();
    container.wait_logged("3");
}

#[test]
fn a_pull_killed_half_way_leaves_nothing_wrong() {
    let mut node = Node::start();
    node.registry();
    for delay in [5, 15, 30, 60, 120] {
        let cri = node.cri.clone();
        let pull = std::thread::spawn(move || {
            let image = Some(v1::ImageSpec {
                image: "large".into(),
                ..Default::default()
            });
            cri.pull_image(v1::PullImageRequest {
                image,
                ..Default::default()
            })
        });
        std::thread::sleep(std::time::Duration::from_millis(delay));
        node.daemon.kill9();
        node.daemon.restart();
        // It may have come through; then it has to be whole, which the next step shows.
        let _ = pull.join().expect("the client");
    }
    node.pull("large");
    let container = node
        .pod(|_| {})
        .run_container("large", &["sh", "-c", "wc -c < /data/noise"]);
    container.wait();
    container.wait_logged("25165824\n");
    nothing_is_left(&node);
}

/// A daemon serves before all is gone that the one before it was making.
pub fn nothing_is_left(node: &Node) {
    eventually("what was left is removed", Duration::from_secs(30), || {
        let left = fs::read_dir(node.dir().join("root/tmp")).expect("tmp");
        (left.count() == 0).then_some(())
    });
}

#[test]
fn concurrent_pulls_of_one_image_are_one() {
    let node = Node::start();
    node.registry();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..6)
            .map(|_| {
                let cri = node.cri.clone();
                scope.spawn(move || {
                    let image = Some(v1::ImageSpec {
                        image: "shell".into(),
                        ..Default::default()
                    });
                    cri.pull_image(v1::PullImageRequest {
                        image,
                        ..Default::default()
                    })
                    .expect("pull")
                    .image_ref
                })
            })
            .collect();
        pulls.into_iter().map(|pull| pull.join().expect("a client")).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn what_lies_about_itself_is_refused() {
    let node = Node::start();
    for name in ["wrong-diff-id", "absent-layer", "wrong-size"] {
        let error = node.try_pull(name).expect_err(name);
        assert!(!error.message().is_empty());
        assert_eq!(node.image(name), None, "{name}");
    }
    let unknown = node.try_pull("no-such-image").expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound, "{unknown:?}");
    let malformed = node.try_pull("UPPER/Case:bad tag").expect_err("malformed");
    assert_eq!(malformed.code(), Code::InvalidArgument, "{malformed:?}");
    // And the next good one works.
    node.pull("shell");
}

#[test]
fn a_full_disk_refuses_a_pull_and_nothing_of_it_stays() {
    let mut node = Node::start();
    node.registry();
    let root = node.dir().join("root");
    node.daemon.terminate();
    let disk = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2500k", "none"])
        .arg(&root)
        .status();
    assert!(disk.expect("mount").success());
    node.daemon.restart();
    let error = node.try_pull("shell").expect_err("the disk is full");
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    assert!(error.message().contains(&root.display().to_string()), "{error:?}");
    assert_eq!(list(&node), []);
    for folder in ["tmp", "layers", "images"] {
        assert_eq!(fs::read_dir(root.join(folder)).expect(folder).count(), 0, "{folder}");
    }
    node.daemon.terminate();
    assert!(Command::new("umount").arg(&root).status().expect("umount").success());
    node.daemon.restart();
    node.pull("shell");
}

#[test]
fn nothing_is_stored_twice_and_nothing_is_left_of_what_nobody_wants() {
    let node = Node::start();
    let root = node.dir().join("root");
    let entries = |folder: &str| -> Vec<_> {
        let entries = fs::read_dir(root.join(folder)).expect("a folder of the store");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    };
    for name in ["large", "many-layers", "zstd", "layered"] {
        node.pull(name);
    }
    // A manifest and a config of each; what layers came as is not kept.
    let blobs = entries("blobs/sha256");
    assert_eq!(blobs.len(), 8, "{blobs:?}");
    for blob in blobs {
        let bytes = fs::read(&blob).expect("a blob");
        let document: Result<serde_json::Value, _> = serde_json::from_slice(&bytes);
        assert!(document.is_ok(), "{}", blob.display());
    }
    let du = Command::new("du").args(["-s", "-B1"]).arg(root.join("layers")).output();
    let du = String::from_utf8(du.expect("du").stdout).expect("its output");
    let on_disk: u64 = du
        .split_whitespace()
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    let noise = 24 << 20;
    assert!((noise..noise + (16 << 20)).contains(&on_disk), "{on_disk} bytes");

    // A tag that moves on leaves its image without a name, and that can be removed by its id.
    let old = node.image("zstd").expect("an image").id;
    let archive = Files::oci_of(&Image::prepared("tiny"), "docker.io/library/zstd:latest");
    let archive = archive.write_tar(&node.dir().join("newer.tar"));
    node.inro_image_ok(&["import", &archive.display().to_string()]);
    assert_eq!(node.image(&old).expect("the image").repo_tags, [""; 0]);
    node.remove_image(&old);
    for image in list(&node) {
        node.remove_image(&image.id);
    }
    for folder in ["layers", "blobs/sha256", "images", "tmp"] {
        assert_eq!(entries(folder), [""; 0].map(std::path::PathBuf::from), "{folder}");
    }
}

#[test]
fn a_layer_stays_in_its_folder() {
    let node = Node::start();
    let canary = Path::new("/tmp/inro-escaped");
    for name in ["climb", "through-link", "device"] {
        // Refusing and keeping it inside are both fine.
        let _ = node.try_pull(name);
        assert!(!canary.exists(), "{name}");
    }
}
