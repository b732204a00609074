//! One id for an image in every answer, removal by any of its names, and images that the configuration pins.

use crate::harness::{Node, v1};

#[test]
fn pull_image_and_container_tell_one_id() {
    let node = Node::start();
    for name in ["shell", "tiny"] {
        let pulled = node.pull(name);
        let image = node.image(name).expect("the image");
        assert_eq!(pulled, image.id, "{name}");
        assert!(image.id.starts_with("sha256:"), "{image:?}");
    }
    let id = node.pull("shell");
    let pod = node.pod(|_| {});
    let by = |image: &str| {
        let container = pod.container(image, &["true"], |_| {});
        let status = container.status();
        let request = v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter {
                id: container.id.clone(),
                ..Default::default()
            }),
        };
        let listed = node.cri.list_containers(request).expect("list").containers;
        for told in [
            &status.image_id,
            &status.image_ref,
            &listed[0].image_id,
            &listed[0].image_ref,
        ] {
            assert_eq!(*told, id, "{image}");
        }
    };
    by("shell");
    by(&id);
    by(&node.image("shell").expect("the image").repo_digests[0]);
}

#[test]
fn a_status_names_the_image_as_the_pod_does() {
    let node = Node::start();
    let id = node.pull("shell");
    let container = node.pod(|_| {}).container(&id, &["true"], |config| {
        let image = config.image.as_mut().expect("made by container");
        image.user_specified_image = "docker.io/library/shell:v1".into();
    });
    let status = container.status();
    assert_eq!(status.image.expect("its image").image, "docker.io/library/shell:v1");
    assert_eq!(status.image_ref, id);
}

#[test]
fn any_name_removes_the_image() {
    let node = Node::start();
    node.pull("shell");
    let image = node.image("shell").expect("the image");
    let digest = image.repo_digests[0].clone();
    let bare = image.id.trim_start_matches("sha256:").to_owned();
    for name in [
        "shell",
        "docker.io/library/shell:latest",
        &digest,
        &image.id,
        &bare,
        &bare[..12],
    ] {
        node.pull("shell");
        node.remove_image(name);
        assert!(node.image("shell").is_none(), "{name}");
        assert!(node.image(&image.id).is_none(), "{name}");
    }
}

#[test]
fn pinned_images_are_told() {
    let node = Node::with_config("pinned = [\"docker.io/library/sh*\", \"docker.io/library/other:1\"]\n");
    node.pull("shell");
    node.pull("tiny");
    let pinned = |name: &str| node.image(name).expect("the image").pinned;
    assert_eq!((pinned("shell"), pinned("tiny")), (true, false));
    let listed = node
        .cri
        .list_images(v1::ListImagesRequest::default())
        .expect("list")
        .images;
    assert_eq!(listed.iter().filter(|image| image.pinned).count(), 1);
}

#[test]
fn a_registry_that_is_not_there_is_named_as_the_kubelet_knows_it() {
    let node = Node::start();
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.expect("a port").port();
    let refused = node
        .try_pull(&format!("localhost:{port}/nobody/home:1"))
        .expect_err("nobody listens");
    // The kubelet's client gives its image manager the bare message of this code, and of no other.
    assert_eq!(refused.code(), tonic::Code::Unknown, "{refused:?}");
    assert!(refused.message().starts_with("RegistryUnavailable"), "{refused:?}");
}
