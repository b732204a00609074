//! Artifacts: files that are distributed as images are, mounted into containers, and no images.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{
    Container, Node, Pod,
    registry::{Registry, Setup, Storage, digest_of},
    v1,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A node, and a registry whose content a test makes.
struct Scene {
    storage: Storage,
    /// Ends before the node, which looks at what is left.
    _registry: Registry,
    node: Node,
}

impl Scene {
    fn start(extra: &str) -> Scene {
        let node = Node::with_config(extra);
        node.pull("shell");
        let storage = Storage::copy();
        let setup = Setup {
            storage: Some(&storage),
            ..Default::default()
        };
        let registry = Registry::start_with(&node.dir().join("artifacts"), setup);
        registry.serve_as("files.example", &node.dir().join("hosts"));
        Scene {
            storage,
            _registry: registry,
            node,
        }
    }

    /// Serves files as `files.example/<name>`, each with its title; the manifest's digest.
    fn serve(&self, name: &str, files: &[(&str, &[u8])]) -> String {
        let layers = files.iter().map(|(title, bytes)| {
            let digest = self.storage.put_blob(name, bytes);
            json!({
                "mediaType": "application/octet-stream", "digest": digest, "size": bytes.len(),
                "annotations": {"org.opencontainers.image.title": title},
            })
        });
        self.serve_layers(name, layers.collect())
    }

    fn serve_layers(&self, name: &str, layers: Vec<Value>) -> String {
        let empty = self.storage.put_blob(name, b"{}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x-model", "layers": layers,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        });
        let bytes = manifest.to_string();
        self.storage.put_manifest(name, "latest", bytes.as_bytes());
        digest_of(bytes.as_bytes())
    }

    fn root(&self) -> PathBuf {
        self.node.dir().join("root")
    }

    fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.root().join(folder))
            .expect("a folder of the store")
            .count()
    }
}

fn show(pod: &Pod, image: &str, sub_path: &str) -> Result<Container, tonic::Status> {
    let mount = v1::Mount {
        container_path: "/mnt/files".into(),
        readonly: true,
        image: Some(v1::ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    };
    let container = pod.try_container("shell", &["sleep", "1000"], |config| config.mounts = vec![mount])?;
    container.start();
    Ok(container)
}

#[test]
fn an_artifact_is_pulled_listed_mounted_verified_and_removed() {
    let scene = Scene::start("");
    let node = &scene.node;
    let before = (scene.count("layers"), scene.count("blobs/sha256"));
    let weights = vec![7; 3 << 20];
    let files: [(&str, &[u8]); 3] = [
        ("weights.bin", &weights),
        ("config/model.json", b"{}"),
        ("README", b"read me\n"),
    ];
    let digest = scene.serve("model", &files);
    let id = node.pull("files.example/model");
    assert_eq!(id, digest);
    let image = node.image("files.example/model").expect("the artifact");
    assert_eq!(image.repo_tags, ["files.example/model:latest"]);
    assert_eq!(image.repo_digests, [format!("files.example/model@{digest}")]);
    assert_eq!(image.size, (weights.len() + 2 + 8) as u64);
    let told = node.inro_image_ok(&["inspect", "files.example/model"]);
    assert!(told.contains("application/x-model"), "{told}");
    assert!(node.inro_image_ok(&["ls"]).contains("files.example/model:latest"));
    assert!(node.crictl_ok(&["images"]).contains("files.example/model"));

    let pod = node.pod(|_| {});
    let container = show(&pod, "files.example/model", "").expect("a container");
    assert_eq!(
        container.sh("cd /mnt/files; find . -type f | sort; cat README config/model.json; wc -c < weights.bin"),
        "./README\n./config/model.json\n./weights.bin\nread me\n{}3145728"
    );
    assert_eq!(
        container.sh("stat -c '%a %u:%g %Y' /mnt/files/README /mnt/files/config"),
        "644 0:0 0\n755 0:0 0"
    );
    let written = container.exec(&["touch", "/mnt/files/new"]);
    assert!(String::from_utf8_lossy(&written.stderr).contains("Read-only file system"));
    let part = show(&pod, &id, "config/model.json").expect("a container");
    assert_eq!(part.sh("cat /mnt/files"), "{}");
    let in_users = node.pod(crate::harness::own_users);
    let mapped = show(&in_users, "files.example/model", "").expect("a container in a user namespace");
    assert_eq!(mapped.sh("stat -c %u:%g /mnt/files/README"), "0:0");

    // Nothing of it can be run.
    let refused = pod
        .try_container("files.example/model", &["sh"], |_| {})
        .err()
        .expect("an error");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let expected = "config.image.image: files.example/model is an artifact of type \"application/x-model\"";
    assert!(refused.message().starts_with(expected), "{refused:?}");

    // What is damaged is found, and had again.
    assert!(node.inro_image_ok(&["verify"]).starts_with("looked at 2 images"));
    [container, part, mapped].iter().for_each(Container::remove);
    let readme = fs::read_dir(scene.root().join("layers"))
        .expect("layers")
        .map(|entry| entry.expect("a layer").path().join("fs/README"))
        .find(|path| path.exists())
        .expect("the file's layer");
    fs::write(&readme, "read it\n").expect("the file");
    assert!(node.inro_image(&["verify"]).status.code() == Some(1));
    node.inro_image_ok(&["verify", "--repair"]);
    assert_eq!(fs::read_to_string(&readme).expect("the file"), "read me\n");

    node.remove_image("files.example/model");
    assert_eq!(node.image(&id), None);
    assert_eq!((scene.count("layers"), scene.count("blobs/sha256")), before);
    assert_eq!(scene.count("tmp"), 0);
}

#[test]
fn artifacts_share_files_and_archives_in_them_are_unpacked() {
    let scene = Scene::start("");
    let node = &scene.node;
    let weights = vec![1; 1 << 20];
    scene.serve("one", &[("weights", &weights), ("version", b"1")]);
    scene.serve("two", &[("weights", &weights), ("version", b"2")]);
    let before = scene.count("layers");
    node.pull("files.example/one");
    node.pull("files.example/two");
    assert_eq!(scene.count("layers"), before + 3, "the weights are there once");
    node.remove_image("files.example/one");
    assert_eq!(scene.count("layers"), before + 2);

    // As Helm and the model tools write them.
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in [("chart/Chart.yaml", &b"name: chart"[..]), ("chart/values.yaml", b"")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).expect("an entry");
    }
    let bytes = tar.into_inner().expect("an archive");
    let digest = scene.storage.put_blob("chart", &bytes);
    let media_type = "application/vnd.cncf.helm.chart.content.v1.tar";
    let nameless = scene.storage.put_blob("chart", b"signed");
    scene.serve_layers(
        "chart",
        vec![
            json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}),
            json!({"mediaType": "application/x-provenance", "digest": nameless, "size": 6}),
        ],
    );
    node.pull("files.example/chart");
    let container = show(&node.pod(|_| {}), "files.example/chart", "").expect("a container");
    let by_digest = nameless.replace(':', "-");
    assert_eq!(
        container.sh(&format!(
            "cd /mnt/files; cat chart/Chart.yaml {by_digest}; find . -type f | wc -l"
        )),
        "name: chartsigned3"
    );
}

#[test]
fn hostile_artifacts_are_refused_and_nothing_of_them_stays() {
    let scene = Scene::start("");
    let node = &scene.node;
    let before = (scene.count("layers"), scene.count("images"));
    let long = "a".repeat(300);
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let table: [(&str, Files<'_>); 8] = [
        ("climbs", &[("../../../../tmp/inro-escaped", b"x")]),
        ("absolute", &[("/tmp/inro-escaped", b"x")]),
        ("twice", &[("same", b"1"), ("same", b"2")]),
        ("below-a-file", &[("file", b"1"), ("file/below", b"2")]),
        ("long", &[(&long, b"x")]),
        ("nameless", &[("", b"x")]),
        ("dot", &[(".", b"x")]),
        ("line", &[("a\nb", b"x")]),
    ];
    for (name, files) in table {
        scene.serve(name, files);
        let refused = node.try_pull(&format!("files.example/{name}")).expect_err(name);
        assert_eq!(refused.code(), Code::FailedPrecondition, "{name}: {refused:?}");
        assert!(refused.message().contains("of the artifact: "), "{name}: {refused:?}");
    }
    // A blob that is not what its manifest says.
    let digest = scene.storage.put_blob("lies", b"what it says");
    scene.storage.overwrite_blob(&digest, b"what it is..");
    let file = json!({
        "mediaType": "text/plain", "digest": digest, "size": 12,
        "annotations": {"org.opencontainers.image.title": "file"},
    });
    scene.serve_layers("lies", vec![file]);
    let refused = node.try_pull("files.example/lies").expect_err("a lie");
    assert!(refused.message().contains("digest"), "{refused:?}");
    assert!(!std::path::Path::new("/tmp/inro-escaped").exists());
    assert_eq!(
        (scene.count("layers"), scene.count("images"), scene.count("tmp")),
        (before.0, before.1, 0)
    );
}

#[test]
fn a_policy_counts_for_artifacts_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let policy = dir.path().join("policy.json");
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    let write = |files: Value| {
        let scopes = json!({"docker": {"files.example": files}});
        let text = json!({"default": accept, "transports": scopes});
        fs::write(&policy, text.to_string()).expect("a policy");
    };
    write(accept.clone());
    let scene = Scene::start(&format!("policy = \"{}\"\n", policy.display()));
    scene.serve("model", &[("file", b"x")]);
    scene.node.pull("files.example/model");
    let pod = scene.node.pod(|_| {});
    show(&pod, "files.example/model", "").expect("a container").remove();
    write(json!([{"type": "reject"}]));
    let refused = scene.node.try_pull("files.example/model").expect_err("a policy");
    assert!(refused.message().contains("SignatureValidationFailed"), "{refused:?}");
    let refused = show(&pod, "files.example/model", "").err().expect("a policy");
    assert!(refused.message().contains("SignatureValidationFailed"), "{refused:?}");
}
