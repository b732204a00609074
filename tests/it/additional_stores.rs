//! Additional stores: images that somebody else put on the node, used in place and never changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tonic::Code;

use crate::harness::{
    Node,
    archive::{Files, Image},
    own_users, v1,
};

/// A store as a system image brings it: mounted read-only.
struct Baked {
    dir: TempDir,
}

impl Baked {
    /// With these images.
    fn with(images: &[&str]) -> Baked {
        let dir = tempfile::tempdir().expect("a folder");
        let node = Node::start();
        images.iter().for_each(|image| drop(node.pull(image)));
        let (source, place) = (dir.path().join("image"), dir.path().join("store"));
        for folder in [&source, &place] {
            fs::create_dir(folder).expect("a folder");
        }
        for folder in ["blobs", "layers", "images"] {
            let root = node.dir().join("root");
            run(Command::new("cp").arg("-a").arg(root.join(folder)).arg(&source));
        }
        // It would take the mount for a leak.
        drop(node);
        run(Command::new("mount").arg("--bind").args([&source, &place]));
        run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&place));
        Baked { dir }
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn config(&self) -> String {
        format!("additional_stores = [{:?}]\n", self.place())
    }
}

impl Drop for Baked {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.place()));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

fn layers(node: &Node) -> usize {
    fs::read_dir(node.dir().join("root/layers")).expect("layers").count()
}

fn list(node: &Node) -> Vec<v1::Image> {
    let request = v1::ListImagesRequest::default();
    node.cri.list_images(request).expect("list images").images
}

fn try_remove(node: &Node, image: &str) -> Result<(), tonic::Status> {
    let image = Some(v1::ImageSpec {
        image: image.into(),
        ..Default::default()
    });
    node.cri.remove_image(v1::RemoveImageRequest { image }).map(drop)
}

#[test]
fn images_of_an_additional_store_are_used_in_place_and_cannot_be_removed() {
    let baked = Baked::with(&["layered", "volumes"]);
    let mut node = Node::with_config(&baked.config());
    let images = list(&node);
    assert_eq!(images.len(), 2);
    assert!(images.iter().all(|image| image.pinned), "{images:?}");

    // No registry is asked, and nothing is copied.
    let container = node.pod(|_| {}).run_container("layered", &["sleep", "1000"]);
    assert_eq!(container.sh("ls /opaque; cat /becomes-folder/inside"), "new\nyes");
    container.sh("echo changed > /becomes-file");
    let mount = v1::Mount {
        container_path: "/mnt".into(),
        readonly: true,
        image: Some(v1::ImageSpec {
            image: "volumes".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let in_users = node.pod(own_users);
    let mapped = in_users.container("layered", &["sleep", "1000"], |config| config.mounts = vec![mount]);
    mapped.start();
    assert_eq!(
        mapped.sh("stat -c %u:%g /owned /linked; cat /mnt/data/seed"),
        "1000:50000\n0:0\nfrom the image"
    );
    assert_eq!(layers(&node), 0);

    for name in ["layered", &images[0].id] {
        let refused = try_remove(&node, name).expect_err("it is read-only");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        let told = format!("is in the additional store {}", baked.place().display());
        assert!(refused.message().contains(&told), "{refused:?}");
    }
    assert_eq!(list(&node), images);
    assert!(
        node.inro_image_ok(&["verify"])
            .starts_with("looked at 2 images: 6 documents")
    );
    node.daemon.kill9();
    node.daemon.restart();
    assert_eq!(list(&node), images);
    assert_eq!(container.sh("cat /becomes-file"), "changed");
}

#[test]
fn pulls_take_layers_from_an_additional_store_and_newer_names_win() {
    let baked = Baked::with(&["shared-0", "tiny"]);
    let node = Node::with_config(&baked.config());
    let shared = fs::read_dir(baked.place().join("layers")).expect("layers").count();
    node.pull("shared-1");
    assert!(
        layers(&node) < shared,
        "{} of {shared} layers were fetched again",
        layers(&node)
    );
    let container = node.pod(|_| {}).run_container("shared-1", &["cat", "/which"]);
    container.wait();
    container.wait_logged("1");
    let request = v1::ImageFsInfoRequest::default();
    let info = node.cri.image_fs_info(request).expect("fs info");
    let used = info.image_filesystems[0].used_bytes.as_ref().expect("bytes").value;
    assert!(used < 1 << 20, "{used} bytes: what is not ours is counted");

    // The same image by another name: one image, with both names for as long as ours is here.
    let id = node.pull("quay.io/library/shared-0");
    let names = || node.image(&id).expect("the image").repo_tags;
    assert_eq!(names().len(), 2);
    assert_eq!(list(&node).len(), 3);
    try_remove(&node, &id).expect_err("it stays in the additional store");
    assert_eq!(names(), ["docker.io/library/shared-0:latest"]);

    // A container of an image that is not ours keeps nothing else from being removed.
    let holder = node.pod(|_| {}).run_container("shared-0", &["sleep", "1000"]);
    container.remove();
    node.remove_image("shared-1");
    assert_eq!(layers(&node), 0);
    assert_eq!(holder.sh("cat /which"), "0");

    // A tag that was pulled since is that of the pulled image.
    let older = node.image("tiny").expect("the image").id;
    let archive = Files::oci_of(&Image::prepared("shell"), "docker.io/library/tiny:latest");
    let archive = archive.write_tar(&node.dir().join("tiny.tar"));
    node.inro_image_ok(&["import", &archive.display().to_string()]);
    let all = list(&node);
    let called: Vec<_> = all
        .iter()
        .filter(|image| image.repo_tags.contains(&"docker.io/library/tiny:latest".to_owned()))
        .collect();
    assert_eq!((called.len(), called[0].pinned), (1, false), "{all:?}");
    assert_eq!(node.image("tiny").expect("the image").id, called[0].id);
    assert_eq!(node.image(&older).expect("the older image").repo_tags, [""; 0]);
    node.inro_image_ok(&["verify"]);
}

#[test]
fn a_broken_additional_store_costs_its_images_only() {
    let baked = Baked::with(&["tiny", "volumes"]);
    // Writable behind the mount.
    let image = baked.dir.path().join("image");
    let broken = record_of(&image, "tiny");
    fs::write(&broken, "{").expect("a record");
    let stores = format!(
        "additional_stores = [\"/nowhere/at-all\", {:?}, {:?}]\n",
        baked.dir.path().join("image/blobs"),
        baked.place()
    );
    let node = Node::with_config(&stores);
    let names: Vec<_> = list(&node).into_iter().flat_map(|image| image.repo_tags).collect();
    assert_eq!(names, ["docker.io/library/volumes:latest"]);
    let log = node.daemon.log_tail();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert!(
        lines[0].contains("image.additional_stores") && lines[0].contains("/nowhere/at-all"),
        "{log}"
    );
    assert!(
        lines[2].contains(&*broken.file_name().expect("a name").to_string_lossy()),
        "{log}"
    );
    assert!(broken.exists(), "it is not ours to remove");
    node.pull("tiny");
}

fn record_of(store: &Path, name: &str) -> PathBuf {
    let mut records = fs::read_dir(store.join("images")).expect("records");
    let record = records.find_map(|entry| {
        let path = entry.expect("a record").path();
        let text = fs::read_to_string(&path).expect("a record");
        text.contains(&format!("library/{name}:")).then_some(path)
    });
    record.expect("the image's record")
}
