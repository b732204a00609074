//! Images mounted into containers: read-only, of the image's own layers, for as long as the container is there.

use std::fs;

use tonic::Code;

use crate::harness::{Container, Node, Pod, eventually, v1};

/// A mount of `image` at `/mnt/image`.
fn mount(image: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: "/mnt/image".into(),
        readonly: true,
        image: Some(v1::ImageSpec {
            image: image.into(),
            user_specified_image: format!("{image}:asked"),
            ..Default::default()
        }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

fn create(pod: &Pod, mount: v1::Mount) -> Result<Container, tonic::Status> {
    pod.try_container("shell", &["sleep", "1000"], |config| config.mounts = vec![mount])
}

fn with(pod: &Pod, mount: v1::Mount) -> Container {
    let container = create(pod, mount).unwrap_or_else(|status| panic!("create: {status:?}"));
    container.start();
    container
}

#[test]
fn an_image_is_mounted_read_only_and_its_programs_run() {
    mount_read_only(&Node::start());
}

/// For a node with either snapshotter.
pub fn mount_read_only(node: &Node) {
    node.pull("shell");
    let id = node.pull("layered");
    let pod = node.pod(|_| {});
    let container = with(&pod, mount(&id, ""));
    // The merged layers, not one of them: what the upper one removes is gone.
    assert_eq!(
        container.sh("cat /mnt/image/becomes-folder/inside; ls /mnt/image/opaque"),
        "yesnew"
    );
    assert_ne!(container.exec(&["ls", "/mnt/image/removed"]).exit_code, 0);
    assert_eq!(container.sh("/mnt/image/bin/echo runs"), "runs");
    let written = container.exec(&["touch", "/mnt/image/new"]);
    assert!(
        String::from_utf8_lossy(&written.stderr).contains("Read-only file system"),
        "{written:?}"
    );

    let told = container.status().mounts.remove(0);
    let image = told.image.expect("an image");
    assert_eq!(image.image_ref, id);
    assert_eq!(image.user_specified_image, format!("{id}:asked"));
    assert!(
        told.readonly && told.host_path.is_empty(),
        "{told:?}",
        told = told.container_path
    );
}

#[test]
fn a_sub_path_is_found_inside_the_image_only() {
    let node = Node::start();
    node.pull("shell");
    node.pull("volumes");
    let pod = node.pod(|_| {});
    assert_eq!(
        with(&pod, mount("volumes", "data")).sh("cat /mnt/image/seed"),
        "from the image"
    );
    assert_eq!(
        with(&pod, mount("volumes", "data/seed")).sh("cat /mnt/image"),
        "from the image"
    );
    // `hop` leads to ../../../../tmp: that of the image, which is empty, not the host's, where this test is.
    assert_eq!(with(&pod, mount("volumes", "hop")).sh("ls -A /mnt/image"), "");

    for (mount, code, part) in [
        (
            mount("volumes", "data/none"),
            Code::InvalidArgument,
            "ImageVolumeMountFailed: image_sub_path \"data/none\"",
        ),
        (
            mount("volumes", "hop/none"),
            Code::InvalidArgument,
            "ImageVolumeMountFailed",
        ),
        (
            mount("not-here", ""),
            Code::NotFound,
            "ImageVolumeMountFailed: image \"not-here\"",
        ),
        (
            mount("volumes", "../data"),
            Code::InvalidArgument,
            "config.mounts[0].image_sub_path",
        ),
        (
            v1::Mount {
                readonly: false,
                ..mount("volumes", "")
            },
            Code::InvalidArgument,
            "config.mounts[0].readonly",
        ),
        (
            v1::Mount {
                host_path: "/tmp".into(),
                ..mount("volumes", "")
            },
            Code::InvalidArgument,
            "config.mounts[0].host_path",
        ),
    ] {
        let status = create(&pod, mount).err().expect("an error");
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(part), "{status:?} should say {part}");
    }
}

#[test]
fn the_layers_stay_while_a_container_shows_them() {
    let mut node = Node::start();
    node.pull("shell");
    node.pull("volumes");
    let pod = node.pod(|_| {});
    let container = with(&pod, mount("volumes", "data"));
    node.remove_image("volumes");
    assert!(node.image("volumes").is_none());
    node.daemon.kill9();
    node.daemon.restart();
    // Another image's removal sweeps; what is mounted is not swept, also after a restart.
    node.pull("tiny");
    node.remove_image("tiny");
    assert_eq!(container.sh("cat /mnt/image/seed"), "from the image");
    let layers = || fs::read_dir(node.dir().join("root/layers")).expect("layers").count();
    let with_it = layers();
    container.remove();
    eventually("its layers are gone", std::time::Duration::from_secs(5), || {
        (layers() < with_it).then_some(())
    });
}
