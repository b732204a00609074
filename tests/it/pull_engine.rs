//! Pulls as they go on: taken up after a kill, given up when nothing moves, bounded, shared, and told of.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tonic::Code;

use crate::{
    harness::{
        Driver, Node, eventually, hierarchies,
        http::{Answer, Request, Server},
        inro, patience,
        registry::{digest_of, free_port, write_hosts},
        skipped,
    },
    hostile::workers,
    metrics::page,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Bytes of the one large layer of the image `large`.
const LARGE: usize = 24 << 20;
const IMAGE: &str = "paced.example/library/large";

/// A node for which `paced.example` is a proxy before the registry; `answer` is for what the large layer is asked for.
fn node(extra: &str, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Node, Server) {
    let node = Node::with_config(extra);
    let proxy = Server::start(node.registry().port, move |request, _| {
        match request.target.contains("/blobs/") && request.target.contains("library/large") {
            true => answer(request),
            false => Answer::Pass { cut: None },
        }
    });
    write_hosts(&node.dir().join("hosts"), "paced.example", &[proxy.port]);
    (node, proxy)
}

fn paced(rate: usize) -> Answer {
    Answer::Pace { rate, stall: None }
}

/// What is kept of layers, and how much.
fn kept(node: &Node) -> Vec<(PathBuf, u64)> {
    let files = fs::read_dir(node.dir().join("root/partial")).expect("partial");
    files
        .flatten()
        .map(|file| (file.path(), file.metadata().map_or(0, |metadata| metadata.len())))
        .collect()
}

/// Kills the daemon when a part of the large layer is there, and starts it again; how much was kept of it, and where.
fn kill_half_way(node: &mut Node) -> (PathBuf, u64) {
    let mut client = pull(node, &[]);
    eventually("half of the layer is there", Duration::from_secs(20), || {
        kept(node).into_iter().find(|(_, len)| *len > LARGE as u64 / 3)
    });
    node.daemon.kill9();
    client.wait().expect("the client");
    let found = kept(node).pop().expect("what was kept");
    node.daemon.restart();
    found
}

/// A client that waits for [`IMAGE`].
fn pull(node: &Node, arguments: &[&str]) -> Child {
    Command::new(inro())
        .args(["image", "--endpoint", &node.daemon.endpoint(), "pull", IMAGE])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("inro image pull")
}

fn run_it(node: &Node) {
    let container = node
        .pod(|_| {})
        .run_container(IMAGE, &["sh", "-c", "wc -c < /data/noise"]);
    container.wait();
    container.wait_logged(&format!("{LARGE}\n"));
}

fn ranges(proxy: &Server) -> Vec<String> {
    let seen = proxy.seen();
    seen.iter()
        .filter_map(|request| request.header("range").map(str::to_owned))
        .collect()
}

#[test]
fn a_killed_daemon_has_the_rest_of_a_layer_sent_and_no_more() {
    let (mut node, proxy) = node("", |request| match request.header("range") {
        None => paced(LARGE / 2),
        Some(_) => Answer::Pass { cut: None },
    });
    let (path, len) = kill_half_way(&mut node);
    assert!(path.exists(), "it was removed by the start");
    node.try_pull(IMAGE).expect("the rest");
    assert_eq!(ranges(&proxy), [format!("bytes={len}-")]);
    assert_eq!(kept(&node), []);
    run_it(&node);
}

#[test]
fn what_was_kept_and_is_damaged_is_fetched_anew() {
    let (mut node, proxy) = node("", |request| match request.header("range") {
        None => paced(LARGE),
        Some(_) => Answer::Pass { cut: None },
    });
    let (path, len) = kill_half_way(&mut node);
    let hole = vec![0; usize::try_from(len).expect("a length")];
    fs::write(path, hole).expect("a hole");
    node.try_pull(IMAGE).expect("the whole");
    assert_eq!(ranges(&proxy).len(), 1, "only the hole was gone on from");
    assert_eq!(kept(&node), []);
    run_it(&node);
}

#[test]
fn a_server_that_cannot_go_on_sends_the_whole_again() {
    let (node, proxy) = node("", |request| match request.header("range") {
        None => Answer::Pass { cut: Some(LARGE / 2) },
        Some(_) => Answer::PassWhole,
    });
    node.try_pull(IMAGE).expect("in two goes");
    let [range] = &ranges(&proxy)[..] else {
        panic!("{:?}", ranges(&proxy))
    };
    assert!(range.starts_with("bytes=") && *range != "bytes=0-", "{range}");
    let resumed = proxy
        .seen()
        .into_iter()
        .find(|request| request.header("range").is_some());
    // The registry has a strong validator, which is its own digest.
    assert!(
        resumed
            .and_then(|request| request.header("if-range").map(str::to_owned))
            .is_some()
    );
    run_it(&node);
}

#[test]
fn a_registry_that_stalls_is_given_up_and_a_slow_worker_is_not() {
    let (node, _proxy) = node("progress_timeout_s = 1\n", |_| Answer::Pace {
        rate: LARGE,
        stall: Some(1 << 20),
    });
    let begin = Instant::now();
    let error = node.try_pull(IMAGE).expect_err("it stalls");
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    assert!(error.message().contains("nothing has moved for 1s: "), "{error:?}");
    assert!(
        begin.elapsed() < patience(Duration::from_secs(10)),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(workers(node.daemon.pid()), [0; 0]);
    let (zeros, _) = zeros(&[16 << 20]);
    let quick = pull_zeros(&node, &zeros);
    drop(node);
    if !are_confined() {
        return;
    }
    // All is sent in a moment, and then the worker has next to no CPU to unpack it with.
    let cpus = (quick.as_secs_f64() / 12.0).clamp(0.01, 0.5);
    let node = Node::with_config(&format!("progress_timeout_s = 1\nworkers.cpus = {cpus}\n"));
    let slow = pull_zeros(&node, &zeros);
    assert!(
        slow > Duration::from_millis(1200),
        "{slow:?} is not slow; {quick:?} with a whole CPU"
    );
}

/// A registry of one image: layers of some KiB with a file of so many bytes each, and their digests.
fn zeros(sizes: &[u64]) -> (Server, Vec<String>) {
    let tars: Vec<_> = sizes.iter().map(|size| tar_of_zeros(*size)).collect();
    let layers: Vec<_> = tars.iter().map(|tar| compressed(tar)).collect();
    let diff_ids: Vec<_> = tars.iter().map(|tar| digest_of(tar)).collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {}}).to_string();
    let of = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest_of(bytes), "size": bytes.len(),
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": of("config.v1+json", config.as_bytes()),
        "layers": layers.iter().map(|layer| of("layer.v1.tar+gzip", layer)).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let digests = layers.iter().map(|layer| digest_of(layer)).collect();
    let blobs = layers.into_iter().chain([config.into_bytes()]);
    let blobs: Vec<_> = blobs.map(|bytes| (digest_of(&bytes), bytes)).collect();
    let server = Server::start(0, move |request, _| {
        let blob = blobs
            .iter()
            .find(|(digest, _)| request.target.contains(digest.as_str()));
        match blob {
            Some((_, bytes)) => Answer::Give("application/octet-stream".into(), bytes.clone()),
            None => Answer::Give(MANIFEST.into(), manifest.clone()),
        }
    });
    (server, digests)
}

fn tar_of_zeros(size: u64) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    tar.append_data(&mut header, "zeros", std::io::repeat(0).take(size))
        .expect("in memory");
    tar.into_inner().expect("in memory")
}

fn compressed(tar: &[u8]) -> Vec<u8> {
    let mut layer = GzEncoder::new(Vec::new(), Compression::default());
    layer.write_all(tar).expect("in memory");
    layer.finish().expect("in memory")
}

fn pull_zeros(node: &Node, zeros: &Server) -> Duration {
    write_hosts(&node.dir().join("hosts"), "zeros.example", &[zeros.port]);
    let begin = Instant::now();
    node.try_pull("zeros.example/zeros").expect("zeros");
    begin.elapsed()
}

/// Whether workers have the cgroup of this test: with systemd they do not.
fn are_confined() -> bool {
    Driver::of_tests() == Driver::Cgroupfs
}

#[test]
fn the_largest_layer_is_the_first() {
    // By their chain ids they come in another order.
    let (registry, digests) = zeros(&[1, 6, 2, 5, 4, 3].map(|size| size << 20));
    let node = Node::with_config("concurrent_layers = 1\n");
    pull_zeros(&node, &registry);
    let of_layer = |request: &Request| {
        digests
            .iter()
            .position(|digest| request.target.contains(digest.as_str()))
    };
    let asked: Vec<_> = registry.seen().iter().filter_map(of_layer).collect();
    assert_eq!(asked, [1, 3, 4, 5, 2, 0]);
}

#[test]
fn pulls_of_one_image_are_one_and_end_with_the_last_who_waits() {
    let (node, proxy) = node("", |_| paced(LARGE / 4));
    let rows = || {
        let table = node.inro_image_ok(&["pulls"]);
        let rows = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        rows.collect::<Vec<_>>()
    };
    let waiting = || rows().iter().map(|row| row[2].clone()).collect::<Vec<_>>();
    let until = |what: &[&str]| {
        eventually("the pulls are these", Duration::from_secs(5), || {
            (waiting() == what).then_some(())
        });
    };
    let (mut first, mut second) = (pull(&node, &[]), pull(&node, &[]));
    until(&["2"]);
    eventually("a worker unpacks", Duration::from_secs(5), || {
        (!workers(node.daemon.pid()).is_empty()).then_some(())
    });
    if are_confined() {
        let own = format!("{}/unpack\n", node.cgroup_parent());
        // It moves itself, a moment after it is there.
        eventually("a worker is in its cgroup", Duration::from_secs(5), || {
            let pid = workers(node.daemon.pid()).pop()?;
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
            cgroup.contains(&own).then_some(())
        });
    }
    let mut other = pull(&node, &["--creds", "somebody:else"]);
    until(&["2", "1"]);
    other.kill().expect("kill");
    other.wait().expect("reap");
    first.kill().expect("kill");
    first.wait().expect("reap");
    until(&["1"]);
    assert!(second.wait().expect("the second").success());
    assert_eq!(rows(), [[""; 0]; 0]);
    let seen = proxy.seen();
    let mut blobs: Vec<_> = seen
        .iter()
        .filter(|request| request.header("range").is_none())
        .map(|request| &request.target)
        .filter(|target| target.contains("/blobs/"))
        .collect();
    let all = blobs.len();
    blobs.sort();
    blobs.dedup();
    // The configuration was asked for by both who are not the same.
    assert!(all - blobs.len() <= 1, "a layer was sent twice: {seen:#?}");

    node.remove_image(IMAGE);
    let mut last = pull(&node, &[]);
    eventually("a worker unpacks", Duration::from_secs(5), || {
        (!workers(node.daemon.pid()).is_empty()).then_some(())
    });
    last.kill().expect("kill");
    last.wait().expect("reap");
    eventually("nothing goes on", Duration::from_secs(5), || {
        (waiting().is_empty() && workers(node.daemon.pid()).is_empty()).then_some(())
    });
}

#[test]
fn a_pull_tells_how_far_it_is() {
    let port = free_port();
    let (node, _proxy) = node(&format!("\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n"), |_| {
        paced(LARGE)
    });
    let output = node.inro_image(&["pull", IMAGE]);
    let told = String::from_utf8_lossy(&output.stderr);
    let id = node.image(IMAGE).expect("an image").id;
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{id}\n"));
    let layers: Vec<_> = told
        .lines()
        .filter(|line| line.contains(" from http://127.0.0.1:"))
        .collect();
    assert!(layers.len() > 1, "{told}");
    assert!(layers.iter().any(|line| line.contains(" 25.2 MB from ")), "{told}");
    let log = node.daemon.log_tail();
    let line = log
        .lines()
        .find(|line| line.contains("pulled"))
        .expect("a line of the log");
    for part in [
        "paced.example",
        "fetched_bytes",
        "unpacked_bytes",
        "elapsed_ms",
        "http://127.0.0.1:",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let page = page(([127, 0, 0, 1], port).into());
    let number = |name: &str| {
        let line = page
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in {page}"));
        line.rsplit_once(' ')
            .expect("a value")
            .1
            .parse::<f64>()
            .expect("a number")
    };
    assert!(number("inro_pull_fetched_bytes_total ") > LARGE as f64);
    assert!(number("inro_pull_unpacked_bytes_total ") > LARGE as f64);
    assert_eq!(number("inro_pull_duration_seconds_count{outcome=\"succeeded\"}"), 1.0);
    assert_eq!(number("inro_pulls "), 0.0);
    // What is here is told to be here.
    let again = node.inro_image(&["pull", IMAGE]);
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(told.contains(" is here\n") && told.contains(" 0 B fetched"), "{told}");
}

#[test]
fn all_pulls_together_have_the_bandwidth_of_the_configuration() {
    let (node, _proxy) = node(&format!("bandwidth = {LARGE}\n"), |_| Answer::Pass { cut: None });
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| node.try_pull(IMAGE).expect("one"));
        scope.spawn(|| node.pull("zstd"));
    });
    assert!(begin.elapsed() > Duration::from_millis(900), "{:?}", begin.elapsed());
}

const IN_RANGES: &str = "parallel_ranges_from = 1048576\n";

#[test]
fn slow_connections_are_many_at_once() {
    let (node, proxy) = node(IN_RANGES, |_| paced(LARGE / 8));
    let begin = Instant::now();
    node.try_pull(IMAGE).expect("in pieces");
    let took = begin.elapsed();
    assert!(
        took < patience(Duration::from_millis(6500)),
        "{took:?} for what takes one connection 8 s"
    );
    let ranges = ranges(&proxy);
    assert!(
        ranges.len() >= 3 && ranges.iter().all(|range| !range.ends_with('-')),
        "{ranges:?}"
    );
    run_it(&node);
}

#[test]
fn a_server_without_ranges_and_one_that_breaks_them_off_lose_nothing() {
    let answers: [fn() -> Answer; 2] = [|| Answer::PassWhole, || Answer::Pass { cut: Some(1 << 20) }];
    for answer in answers {
        let (node, proxy) = node(IN_RANGES, move |request| match request.header("range") {
            Some(range) if !range.ends_with('-') => answer(),
            _ => paced(LARGE / 8),
        });
        node.try_pull(IMAGE).expect("as one body");
        assert!(!ranges(&proxy).is_empty(), "nothing was tried");
        run_it(&node);
    }
}

#[test]
fn a_server_that_lies_about_a_range_is_found_out() {
    let (node, _proxy) = node(IN_RANGES, |request| {
        match request
            .header("range")
            .map(|range| range["bytes=".len()..].split_once('-'))
        {
            Some(Some((begin, last))) if !last.is_empty() => {
                let (begin, last): (usize, usize) = (begin.parse().expect("a number"), last.parse().expect("a number"));
                Answer::Say(
                    "206 Partial Content",
                    format!("Content-Range: bytes {begin}-{last}/*\r\n"),
                    "x".repeat(last + 1 - begin),
                )
            }
            _ => paced(LARGE / 8),
        }
    });
    let error = node.try_pull(IMAGE).expect_err("other bytes");
    assert_eq!(error.code(), Code::FailedPrecondition, "{error:?}");
    assert_eq!(node.image(IMAGE), None);
    assert_eq!(kept(&node), [], "of no use to anybody");
}

#[test]
fn a_mirror_that_does_not_answer_is_asked_once() {
    let node = Node::start();
    let dead = Server::start(0, |_, _| {
        Answer::Say("503 Service Unavailable", String::new(), String::new())
    });
    write_hosts(
        &node.dir().join("hosts"),
        "mirrored.example",
        &[dead.port, node.registry().port],
    );
    let image = "mirrored.example/library/many-layers";
    node.try_pull(image).expect("from the other");
    let paths: BTreeSet<_> = dead.seen().into_iter().map(|request| request.target).collect();
    assert_eq!(paths.len(), 1, "{paths:?}");
    // Nor is it for the next image, a moment later.
    node.remove_image(image);
    node.try_pull("mirrored.example/library/shell").expect("from the other");
    let again: BTreeSet<_> = dead.seen().into_iter().map(|request| request.target).collect();
    assert_eq!(again, paths);
}

#[test]
fn workers_have_little_weight_and_their_cgroup_goes_with_the_daemon() {
    if !are_confined() {
        return skipped("workers_have_little_weight", "the folder would be in systemd's slice");
    }
    let mut node = Node::start();
    let folder = format!("{}/unpack", node.cgroup_parent().trim_start_matches('/'));
    let found: Vec<_> = hierarchies()
        .into_iter()
        .map(|root| root.join(&folder))
        .filter(|path| path.exists())
        .collect();
    let weight = found.iter().find_map(|path| {
        let shares = fs::read_to_string(path.join("cpu.shares"));
        shares.or_else(|_| fs::read_to_string(path.join("cpu.weight"))).ok()
    });
    assert!(
        weight.is_some_and(|weight| ["128", "5"].contains(&weight.trim())),
        "{found:?}"
    );
    node.daemon.terminate();
    assert!(found.iter().all(|path| !path.exists()));
    node.daemon.restart();
    node.pull("shell");
}
