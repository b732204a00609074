//! `inro bench` against a real daemon: what it shows, what it leaves, and what it says when something fails.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Daemon, Node, eventually, hierarchies, inro, signal, v1};

#[test]
fn everything_is_measured_shown_and_removed() {
    let before = traces();
    let node = Node::start();
    node.registry();
    // Somebody else's.
    let stranger = node.pod(|_| {});
    let file = |name: &str| node.dir().join(name).display().to_string();
    let (json, report) = (file("study.json"), file("study.html"));
    let small = "--rounds 8 --warm-up 1 --pause-ms 5 --pods 2 --concurrency 2";
    // The same daemon twice is a comparison, too: of what the measuring itself makes different.
    let output = bench(
        &node,
        "all",
        &[("a", &node), ("b", &node)],
        &format!("{small} --json {json} --report {report}"),
    );
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "",
        "no bars where nobody sees them"
    );
    check_table(&table);
    let study: Value = serde_json::from_str(&fs::read_to_string(&json).expect("JSON")).expect("JSON");
    check_study(&study);
    check_report(&fs::read_to_string(&report).expect("report"), &study);

    let pods = node
        .cri
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .expect("list")
        .items;
    assert_eq!(pods.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&stranger.id]);
    assert_eq!(pods[0].state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(node.image("shell"), None, "it was not there before");
    assert_eq!(traces(), before);
}

fn check_table(table: &str) {
    for told in [
        "a: inro ",
        "pod, host network",
        "pod, pod network",
        "RunPodSandbox, ms",
        "pod-up, ms",
        "pod-down, ms",
        "exec ",
        "ExecSync, 2 at once, 1/s",
        "burst, pod network, 2 at once",
        "2 pods up, ms",
        "each pod up, ms",
        "ListPodSandboxStats, ms",
        "PullImage, ms",
        "memory, 2 pods",
        "per pod, MiB",
        "processes per pod",
        "    a: ",
        "a had 1 pods of others",
    ] {
        assert!(table.contains(told), "no {told:?} in\n{table}");
    }
}

fn check_study(study: &Value) {
    assert_eq!(study["endpoints"][1]["endpoint"], "b");
    assert_eq!(study["endpoints"][1]["name"], "inro");
    assert!(study["machine"]["kernel"].is_string() && study["machine"]["cgroup"].is_string());
    assert_eq!(study["command"][1], "bench");
    let find = |subject: &str, setting: &str, name: &str| {
        let measurements = study["measurements"].as_array().expect("measurements");
        let wanted = json!([subject, setting, name]);
        let mut found = measurements
            .iter()
            .filter(|each| json!([each["subject"], each["setting"], each["name"]]) == wanted);
        found.next().unwrap_or_else(|| panic!("no {wanted}"))
    };
    for (subject, setting, name, unit, rounds) in [
        ("pod", "host network", "first instruction", "ms", 8),
        ("pod", "pod network", "ExecSync", "ms", 8),
        ("exec", "", "ExecSync", "ms", 8),
        ("list", "2 pods", "Version", "ms", 8),
        ("burst", "host network, 2 at once", "each pod up", "ms", 2),
        ("pull", "", "PullImage", "ms", 1),
        ("memory", "2 pods", "no pods", "MiB", 1),
    ] {
        let measurement = find(subject, setting, name);
        assert_eq!(measurement["unit"], unit);
        for (row, endpoint) in measurement["rows"].as_array().expect("rows").iter().zip(["a", "b"]) {
            assert_eq!(row["endpoint"], endpoint);
            let values = row["values"].as_array().expect("values");
            assert_eq!(values.len(), rounds, "{measurement}");
            assert!(values.iter().all(|value| value.as_f64() > Some(0.0)), "{measurement}");
            assert_eq!(row["busy"].as_array().expect("busy").len(), rounds);
            assert_eq!(row["summary"]["p50_interval"].is_array(), rounds >= 6);
        }
    }
    // The daemon's own stages, and the shim's share of a pod.
    let stage = find("pod", "host network", "hand-over");
    assert_eq!(stage["part_of"], "CreateContainer");
    assert_eq!(stage["rows"][0]["values"].as_array().expect("values").len(), 8);
    assert_eq!(find("pod", "host network", "release")["part_of"], "StartContainer");
    assert_eq!(
        find("memory", "2 pods", "processes per pod")["rows"][0]["values"][0],
        1.0,
        "one shim"
    );
    let up = |name: &str| {
        find("pod", "host network", name)["rows"][0]["summary"]["p50"]
            .as_f64()
            .expect("p50")
    };
    assert!(up("pod-up") > up("container-up") && up("container-up") > up("first instruction"));
}

fn check_report(page: &str, study: &Value) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    for told in [
        "The life of a pod",
        "What a does in a pod",
        "by process",
        "prefers-color-scheme",
    ] {
        assert!(page.contains(told), "{told}");
    }
    let (_, data) = page.split_once("id=\"study\">").expect("the samples");
    let (data, _) = data.split_once("</script>").expect("their end");
    assert_eq!(&serde_json::from_str::<Value>(data).expect("JSON"), study);
}

#[test]
fn pods_that_come_and_go_are_told_in_ten_parts() {
    let node = Node::start();
    node.registry();
    let output = bench(
        &node,
        "churn",
        &[("a", &node)],
        "--rounds 20 --warm-up 0 --pause-ms 0 --concurrency 2 --network host --json -",
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let study: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let measurements = study["measurements"].as_array().expect("measurements");
    let count = |name: &str| {
        let found = measurements.iter().find(|each| each["name"] == name);
        let values = found.and_then(|found| found["rows"][0]["values"].as_array());
        values.map(Vec::len)
    };
    for part in 1..=10 {
        assert_eq!(count(&format!("pod-up, part {part}")), Some(2));
        assert_eq!(count(&format!("pod-down, part {part}")), Some(2));
    }
    assert_eq!(count("cycles"), Some(10));
    let left = node.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default());
    assert_eq!(left.expect("list").items, [], "all of them went");
}

#[test]
fn a_call_that_fails_is_named_with_its_endpoint_and_nothing_stays() {
    let before = traces();
    let node = Node::start();
    node.registry();
    let one = [("one", &node)];
    for (arguments, told) in [
        (
            "--image docker.io/library/absent",
            "endpoint one: PullImage: NotFound: ",
        ),
        (
            "--image docker.io/library/shell --runtime-handler other",
            "endpoint one: RunPodSandbox: ",
        ),
        // It has no shell: the pod is there already when that is noticed.
        ("--image docker.io/library/tiny", "endpoint one: CreateContainer: "),
    ] {
        let output = bench(&node, "pod", &one, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(told), "{arguments}: {error}");
        let pods = node
            .cri
            .list_pod_sandbox(v1::ListPodSandboxRequest::default())
            .expect("list");
        assert_eq!(pods.items, [], "{arguments}");
        let images = node.cri.list_images(v1::ListImagesRequest::default()).expect("list");
        assert_eq!(images.images, [], "{arguments}");
    }
    let nobody = Command::new(inro())
        .args(["bench", "exec", "--endpoint", "one=/no/such/socket"])
        .output()
        .expect("inro");
    let error = String::from_utf8_lossy(&nobody.stderr);
    assert!(error.contains("endpoint one: connect to /no/such/socket"), "{error}");
    assert_eq!(traces(), before);
}

#[test]
fn an_image_with_other_names_is_not_removed_for_a_pull() {
    let node = Node::start();
    let id = node.pull("shell");
    node.pull("shell:v1");
    let output = bench(
        &node,
        "pull",
        &[("one", &node)],
        "--rounds 1 --image docker.io/library/shell",
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("endpoint one: docker.io/library/shell has other names"),
        "{error}"
    );
    assert_eq!(node.image("shell:v1").map(|image| image.id), Some(id));
}

#[test]
fn different_images_are_not_compared() {
    let node = Node::start();
    node.registry();
    let folder = node.dir().join("other");
    fs::create_dir_all(folder.join("preload")).expect("folders");
    fs::write(
        folder.join("preload/shell.tar"),
        another_image("docker.io/library/shell:latest"),
    )
    .expect("an archive");
    let config = format!(
        "[image]\nhosts_dir = \"{}/hosts\"\npreload_dir = \"{}/preload\"\n[net]\nmode = \"none\"\n",
        node.dir().display(),
        folder.display()
    );
    fs::write(folder.join("config.toml"), config).expect("config.toml");
    let mut other = Daemon::start(&folder);
    let output = Command::new(inro())
        .args(["bench", "exec", "--image", "docker.io/library/shell"])
        .args(["--endpoint", &format!("one={}", node.daemon.endpoint())])
        .args(["--endpoint", &format!("other={}", other.endpoint())])
        .output()
        .expect("inro");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "compared");
    assert!(
        error.contains("is not the same image everywhere: one has ") && error.contains(", other has "),
        "{error}"
    );
    assert_eq!(node.image("shell"), None, "it was not there before");
    other.terminate();
}

#[test]
fn an_interruption_removes_what_was_made() {
    let before = traces();
    let node = Node::start();
    node.pull("shell");
    let mut child = command(
        "pod",
        &[("one", &node)],
        "--rounds 100000 --network host --image docker.io/library/shell",
    )
    .stderr(Stdio::piped())
    .stdout(Stdio::null())
    .spawn()
    .expect("inro");
    let pods = || {
        node.cri
            .list_pod_sandbox(v1::ListPodSandboxRequest::default())
            .expect("list")
            .items
    };
    eventually("a pod is made", Duration::from_secs(20), || {
        (!pods().is_empty()).then_some(())
    });
    signal(child.id(), Signal::INT);
    eventually("it ends", Duration::from_secs(20), || child.try_wait().expect("wait"));
    let output = child.wait_with_output().expect("output");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.ends_with("inro: interrupted\n"), "{error}");
    assert_eq!(pods(), []);
    assert!(node.image("shell").is_some(), "it was there before");
    assert_eq!(traces(), before);
}

fn bench(node: &Node, subject: &str, endpoints: &[(&str, &Node)], arguments: &str) -> Output {
    let image = match arguments.contains("--image") {
        true => "",
        false => " --image docker.io/library/shell",
    };
    let output = command(subject, endpoints, &format!("{arguments}{image}"))
        .output()
        .expect("inro");
    assert!(node.daemon.socket().exists());
    output
}

fn command(subject: &str, endpoints: &[(&str, &Node)], arguments: &str) -> Command {
    let mut command = Command::new(inro());
    command.args(["bench", subject]).args(arguments.split_whitespace());
    for (name, node) in endpoints {
        command.args(["--endpoint", &format!("{name}={}", node.daemon.endpoint())]);
    }
    command
}

/// The folders and cgroups of benchmarks; others may have left some.
fn traces() -> BTreeSet<PathBuf> {
    let folders = hierarchies().into_iter().chain([std::env::temp_dir()]);
    let entries = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.display().to_string().contains("/inro-bench-"))
        .collect()
}

/// An OCI archive of an image without layers that nobody has: image-spec, "OCI Image Layout".
fn another_image(name: &str) -> Vec<u8> {
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
    })
    .to_string();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    let blob = |text: &str| format!("blobs/sha256/{}", sha256(text));
    for (path, text) in [
        ("oci-layout".to_owned(), "{\"imageLayoutVersion\": \"1.0.0\"}"),
        ("index.json".to_owned(), &index),
        (blob(&config), &config),
        (blob(&manifest), &manifest),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, Path::new(&path), text.as_bytes())
            .expect("an entry");
    }
    archive.into_inner().expect("an archive")
}

fn descriptor(media_type: &str, text: &str) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", sha256(text)), "size": text.len()})
}

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
