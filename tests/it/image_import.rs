//! `inro image import` and the preload folder: archives as tools write them, and as they come out of broken downloads.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::{
    harness::{
        Node,
        archive::{Files, Image, blob_path, plain, sha256},
        inro, skipped, tools, v1,
    },
    images,
};

const NAME: &str = "registry.test/imported:1";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn list(node: &Node) -> Vec<v1::Image> {
    let request = v1::ListImagesRequest::default();
    node.cri.list_images(request).expect("list images").images
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Whether a container of the image runs; it is gone then.
fn runs(node: &Node, image: &str) {
    let pod = node.pod(|_| {});
    let container = pod.run_container(image, &["sh", "-c", "echo it runs"]);
    assert_eq!(container.wait().exit_code, 0, "{image}");
    container.wait_logged("it runs\n");
    pod.stop();
    pod.remove();
}

/// Nothing is in the store, nor is anything being made.
fn assert_empty(node: &Node, what: &str) {
    assert_eq!(list(node), [], "{what}");
    for folder in ["tmp", "layers", "images", "blobs/sha256"] {
        let left: Vec<_> = fs::read_dir(node.dir().join("root").join(folder))
            .expect(folder)
            .flatten()
            .map(|entry| entry.path())
            .collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

#[test]
fn every_kind_of_archive_is_imported_and_runs() {
    let node = Node::start();
    let image = Image::prepared("layered");
    let (oci, docker) = (Files::oci_of(&image, NAME), Files::docker(&[(&image, &[NAME])]));
    let dir = node.dir();
    let archives: [(&str, PathBuf); 5] = [
        ("an OCI archive", oci.write_tar(&dir.join("oci.tar"))),
        ("one with gzip", oci.write_gz(&dir.join("oci.tar.gz"))),
        ("an OCI layout", oci.write_folder(&dir.join("layout"))),
        ("of docker save", docker.write_tar(&dir.join("docker.tar"))),
        ("of docker save, with gzip", docker.write_gz(&dir.join("docker.tgz"))),
    ];
    for (what, archive) in archives {
        let told = node.inro_image_ok(&["import", text(&archive)]);
        assert!(told.contains(NAME), "{what}: {told}");
        let found = node.image(NAME).expect(what);
        assert_eq!(found.id, image.id(), "{what}");
        assert_eq!(found.repo_tags, [NAME], "{what}");
        let is_docker = what.contains("docker");
        let digests = match is_docker {
            true => vec![],
            false => vec![format!("registry.test/imported@{}", image.digest())],
        };
        assert_eq!(found.repo_digests, digests, "{what}");
        runs(&node, NAME);
        assert!(node.inro_image_ok(&["verify"]).contains("looked at 1 images"), "{what}");
        node.inro_image_ok(&["rm", NAME]);
        assert_empty(&node, what);
    }
}

#[test]
fn an_archive_of_several_images_brings_all_of_them_with_all_names() {
    let node = Node::start();
    let (shell, tiny) = (Image::prepared("shell"), Image::prepared("tiny"));
    let dir = node.dir();
    let entries = [
        // Docker and containerd write a whole name beside what the specification has.
        shell.entry(&[("io.containerd.image.name", "registry.test/shell:a"), (REF_NAME, "a")]),
        shell.entry(&[(REF_NAME, "registry.test/shell:b")]),
        tiny.entry(&[(REF_NAME, "registry.test/tiny:1")]),
    ];
    let oci = Files::oci(&[&shell, &tiny], &entries).write_tar(&dir.join("oci.tar"));
    let both: [(&Image, &[&str]); 2] = [
        (&shell, &["registry.test/shell:a", "registry.test/shell:b"]),
        (&tiny, &["registry.test/tiny:1"]),
    ];
    let docker = Files::docker(&both).write_tar(&dir.join("docker.tar"));
    for archive in [oci, docker] {
        let refused = node.inro_image_fails(&["import", text(&archive), "--name", NAME]);
        assert!(refused.contains("2 images are in it"), "{refused}");
        assert_empty(&node, "refused");
        node.inro_image_ok(&["import", text(&archive)]);
        let shell_tags = ["registry.test/shell:a", "registry.test/shell:b"];
        assert_eq!(
            node.image("registry.test/shell:a").expect("shell").repo_tags,
            shell_tags
        );
        assert_eq!(node.image("registry.test/tiny:1").expect("tiny").id, tiny.id());
        node.inro_image_ok(&["rm", "registry.test/shell:b", "registry.test/tiny:1"]);
    }
}

#[test]
fn an_image_without_a_name_takes_the_one_it_is_given() {
    let node = Node::start();
    let image = Image::prepared("shell");
    let dir = node.dir();
    let tag_only = image.entry(&[(REF_NAME, "latest")]);
    for (what, files) in [
        ("no annotation", Files::oci(&[&image], &[image.entry(&[])])),
        ("a tag alone", Files::oci(&[&image], &[tag_only])),
        ("no RepoTags", Files::docker(&[(&image, &[])])),
    ] {
        let archive = files.write_tar(&dir.join("nameless.tar"));
        let refused = node.inro_image_fails(&["import", text(&archive)]);
        assert!(
            refused.contains("nameless.tar") && refused.contains("--name"),
            "{what}: {refused}"
        );
        assert_empty(&node, what);
        node.inro_image_ok(&["import", text(&archive), "--name", "given"]);
        let found = node.image("docker.io/library/given:latest").expect(what);
        assert_eq!(found.id, image.id(), "{what}");
        node.remove_image("given");
    }
}

#[test]
fn of_several_platforms_the_nodes_own_is_imported() {
    let node = Node::start();
    let (ours, other) = (Image::prepared("shell"), Image::prepared("tiny"));
    let own = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let on = |image: &Image, architecture: &str| {
        let mut entry = image.entry(&[]);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let entries = [on(&other, "s390x"), on(&ours, own)];
    // Flat, and as an index of the image's own.
    let flat = Files::oci(&[&ours, &other], &entries);
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let mut nested = Files::oci(
        &[&ours, &other],
        &[json!({
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": sha256(index.as_bytes()),
            "size": index.len(), "annotations": {REF_NAME: NAME},
        })],
    );
    nested.put(&blob_path(index.as_bytes()), index.as_bytes());
    for (files, digest) in [(flat, ours.digest()), (nested, sha256(index.as_bytes()))] {
        let archive = files.write_tar(&node.dir().join("platforms.tar"));
        node.inro_image_ok(&["import", text(&archive), "--name", NAME]);
        let found = node.image(NAME).expect("imported");
        assert_eq!(found.id, ours.id());
        assert_eq!(found.repo_digests, [format!("registry.test/imported@{digest}")]);
        node.remove_image(NAME);
    }
}

#[test]
fn older_archives_name_a_layer_by_a_link() {
    let node = Node::start();
    let image = Image::prepared("shell");
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).expect("an entry");
    };
    add("./real/layer.tar", &plain(&image.layers[0]));
    add("config.json", &image.config);
    let list = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["linked/layer.tar"]}]);
    add("manifest.json", list.to_string().as_bytes());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "linked/layer.tar", "../real/layer.tar")
        .expect("a link");
    let archive = node.dir().join("old.tar");
    fs::write(&archive, tar.into_inner().expect("an archive")).expect("an archive");
    node.inro_image_ok(&["import", text(&archive)]);
    runs(&node, NAME);
}

#[test]
fn a_broken_archive_is_named_with_what_is_wrong_and_nothing_is_left() {
    let node = Node::start();
    let image = Image::prepared("layered");
    let whole = Files::oci_of(&image, NAME);
    let last = image.layers.last().expect("a layer");
    let path = node.dir().join("broken.tar");
    let without = |name: &str| {
        let mut files = whole.clone();
        files.0.remove(name).expect(name);
        files.tar()
    };
    let with = |name: &str, bytes: &[u8]| {
        let mut files = whole.clone();
        files.put(name, bytes);
        files.tar()
    };
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let mut lying = image.clone();
    lying.layers.reverse();
    let swapped = Files::docker(&[(&lying, &[NAME])]);
    let bad_name = Files::docker(&[(&image, &["Not A Name"])]);
    let mut cut = whole.tar();
    cut.truncate(cut.len() / 2);
    let table: [(&str, Vec<u8>, &str); 12] = [
        ("text", b"#!/bin/sh\nexit 0\n".to_vec(), "tar archive"),
        ("nothing", Vec::new(), "neither index.json nor manifest.json"),
        ("half", cut, "it is cut off in blobs/sha256/"),
        ("half of gzip", vec![0x1f, 0x8b, 8, 0, 0, 0], "tar archive"),
        ("no JSON", with("index.json", b"{"), "index.json: "),
        (
            "no image",
            with("index.json", br#"{"schemaVersion": 2, "manifests": []}"#),
            "no image is in it",
        ),
        (
            "no config",
            without(&blob_path(&image.config)),
            &blob_path(&image.config),
        ),
        ("no layer", without(&blob_path(last)), "is missing"),
        (
            "a manifest changed",
            with(&blob_path(&image.manifest), &flipped(&image.manifest)),
            "its digest is",
        ),
        ("a layer changed", with(&blob_path(last), &flipped(last)), &sha256(last)),
        (
            "layers in another order",
            swapped.tar(),
            "an uncompressed layer has digest",
        ),
        ("a name that is none", bad_name.tar(), "Not A Name"),
    ];
    for (what, bytes, told) in table {
        fs::write(&path, bytes).expect("an archive");
        let refused = node.inro_image_fails(&["import", text(&path)]);
        assert!(
            refused.contains("broken.tar") && refused.contains(told),
            "{what}: {refused}"
        );
        assert_empty(&node, what);
    }
    let absent = node.inro_image_fails(&["import", text(&node.dir().join("absent.tar"))]);
    assert!(absent.contains("absent.tar"), "{absent}");
    let fifo = node.dir().join("fifo.tar");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).expect("a fifo");
    let refused = node.inro_image_fails(&["import", text(&fifo)]);
    assert!(refused.contains("neither a file nor a folder"), "{refused}");
    // And one that is whole beside one that is not.
    let good = whole.write_tar(&node.dir().join("good.tar"));
    node.inro_image_fails(&["import", text(&path), text(&good)]);
    assert_eq!(node.image(NAME).expect("the good one").id, image.id());
}

#[test]
fn an_import_killed_half_way_leaves_nothing_that_is_served() {
    let mut node = Node::start();
    let image = Image::prepared("large");
    let archive = Files::docker(&[(&image, &[NAME])]).write_gz(&node.dir().join("large.tar.gz"));
    for delay in [5, 50, 150, 400, 800] {
        let import = Command::new(inro())
            .args(["image", "--endpoint", &node.daemon.endpoint(), "import", text(&archive)])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        std::thread::sleep(Duration::from_millis(delay));
        node.daemon.kill9();
        import.expect("inro image").wait().expect("its end");
        node.daemon.restart();
        // It may have come through; then it has to be whole.
        if node.image(NAME).is_some() {
            node.inro_image_ok(&["verify"]);
            node.remove_image(NAME);
        }
        assert_eq!(list(&node), [], "after {delay} ms");
    }
    node.inro_image_ok(&["import", text(&archive)]);
    let container = node
        .pod(|_| {})
        .run_container(NAME, &["sh", "-c", "wc -c < /data/noise"]);
    container.wait();
    container.wait_logged("25165824\n");
    images::nothing_is_left(&node);
}

#[test]
fn imports_and_pulls_of_the_same_layers_meet() {
    let node = Node::start();
    node.registry();
    let image = Image::prepared("shell");
    let archive = Files::oci_of(&image, NAME).write_tar(&node.dir().join("shell.tar"));
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (node, archive) = (&node, &archive);
            scope.spawn(move || match number % 2 {
                0 => node.inro_image_ok(&["import", text(archive)]),
                _ => node.inro_image_ok(&["pull", "shell"]),
            });
        }
    });
    let found = node.image(NAME).expect("imported");
    assert_eq!(found.repo_tags, ["docker.io/library/shell:latest", NAME]);
    assert!(node.inro_image_ok(&["verify"]).contains("1 layers"));
    runs(&node, NAME);
}

#[test]
fn archives_of_skopeo_are_imported() {
    let root = tools().join("skopeo");
    if !root.exists() {
        return skipped(
            "archives_of_skopeo_are_imported",
            "no skopeo: tests/tools.sh fetches it",
        );
    }
    let node = Node::start();
    let from = format!("docker://127.0.0.1:{}/library/layered", node.registry().port);
    let libraries = fs::read_dir(root.join("usr/lib")).expect("libraries").flatten();
    let libraries: Vec<String> = libraries.map(|entry| text(&entry.path()).to_owned()).collect();
    let id = Image::prepared("layered").id();
    for (kind, path, is_named) in [
        ("docker-archive", "docker.tar", true),
        ("oci-archive", "oci.tar", true),
        ("oci", "layout", true),
        ("docker-archive", "nameless.tar", false),
    ] {
        let path = node.dir().join(path);
        let name = if is_named { format!(":{NAME}") } else { String::new() };
        let copied = Command::new(root.join("usr/bin/skopeo"))
            .env("LD_LIBRARY_PATH", libraries.join(":"))
            .args([
                "--insecure-policy",
                "--tmpdir",
                text(node.dir()),
                "copy",
                "--quiet",
                "--src-tls-verify=false",
            ])
            .arg(&from)
            .arg(format!("{kind}:{}{name}", path.display()))
            .output()
            .expect("skopeo");
        assert!(
            copied.status.success(),
            "{kind}: {}",
            String::from_utf8_lossy(&copied.stderr)
        );
        match is_named {
            true => node.inro_image_ok(&["import", text(&path)]),
            false => node.inro_image_ok(&["import", text(&path), "--name", NAME]),
        };
        assert_eq!(node.image(NAME).expect(kind).id, id, "{kind}");
        runs(&node, NAME);
        node.inro_image_ok(&["rm", NAME]);
    }
}

#[test]
fn the_preload_folder_is_imported_once_and_what_is_broken_in_it_is_passed_over() {
    let mut node = Node::start();
    let folder = node.dir().join("preload");
    fs::create_dir(&folder).expect("a folder");
    let config = node.dir().join("config.toml");
    let lines = fs::read_to_string(&config).expect("config.toml");
    let wanted = format!("[image]\npreload_dir = \"{}\"\n", folder.display());
    fs::write(&config, lines.replacen("[image]\n", &wanted, 1)).expect("config.toml");
    let (shell, tiny) = (Image::prepared("shell"), Image::prepared("tiny"));
    Files::oci_of(&shell, "registry.test/app:1").write_gz(&folder.join("a.tar.gz"));
    Files::oci_of(&tiny, "registry.test/tiny:1").write_folder(&folder.join("layout"));
    fs::write(folder.join("broken.tar"), "not an archive").expect("a file");
    fs::write(folder.join("README"), "of no interest").expect("a file");
    let imported = |node: &Node| {
        let log = fs::read_to_string(node.dir().join("inro.log")).expect("the log");
        log.lines().filter(|line| line.contains("imported archive=")).count()
    };
    let restart = |node: &mut Node| {
        node.daemon.terminate();
        node.daemon.restart();
        imported(node)
    };

    assert_eq!(restart(&mut node), 2);
    assert_eq!(node.image("registry.test/app:1").expect("app").id, shell.id());
    assert_eq!(node.image("registry.test/tiny:1").expect("tiny").id, tiny.id());
    let log = node.daemon.log_tail();
    assert!(log.contains("broken.tar") && log.contains("not a tar archive"), "{log}");
    assert_eq!(restart(&mut node), 2, "again");

    // A name that went to another image stays there; one that is gone comes back.
    let other = Files::oci_of(&tiny, "registry.test/app:1").write_tar(&node.dir().join("other.tar"));
    node.inro_image_ok(&["import", text(&other)]);
    node.inro_image_ok(&["rm", "registry.test/tiny:1"]);
    node.inro_image_ok(&["import", text(&other)]);
    assert_eq!(restart(&mut node), 3);
    assert_eq!(node.image("registry.test/app:1").expect("app").id, tiny.id());
    assert_eq!(node.image("registry.test/tiny:1").expect("tiny").id, tiny.id());

    // A new file has its say.
    Files::oci_of(&shell, "registry.test/app:1").write_gz(&folder.join("a.tar.gz"));
    assert_eq!(restart(&mut node), 4);
    assert_eq!(node.image("registry.test/app:1").expect("app").id, shell.id());

    fs::remove_dir_all(&folder).expect("remove the folder");
    assert_eq!(restart(&mut node), 4);
    assert!(node.daemon.log_tail().contains("image.preload_dir"));
}
