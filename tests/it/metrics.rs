//! The Prometheus endpoint: who has one, what it tells, and how a node without one is spared. And where the time of a start
//! goes, which the status tells as well.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
    time::Duration,
};

use crate::harness::{Container, Node, eventually, inro, patience, v1};

/// An address that nobody has; somebody could take it before the daemon does, which fails the test with the reason.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
}

fn start() -> (Node, SocketAddr) {
    let address = free();
    (
        Node::with_config(&format!("[metrics]\nlisten = \"{address}\"\n")),
        address,
    )
}

/// Asks as curl does; the head in lower case, and the body.
fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut connection = TcpStream::connect(address).expect("the endpoint");
    connection
        .write_all(format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n\r\n").as_bytes())
        .expect("asked");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), body.to_owned())
}

pub fn page(address: SocketAddr) -> String {
    let (head, body) = ask(address, "GET", "/metrics");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
    body
}

/// The value of a series, by everything before the space; 0 when it is not there.
fn value(page: &str, series: &str) -> f64 {
    let mut found = page
        .lines()
        .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.next().map_or(0.0, |value| value.parse().expect("a number"))
}

fn calls(page: &str, method: &str, code: &str) -> f64 {
    let series = format!("inro_cri_request_duration_seconds_count{{method=\"{method}\",code=\"{code}\"}}");
    value(page, &series)
}

/// How often each stage of an operation was counted, by name.
fn stages(page: &str, operation: &str) -> Vec<(String, f64)> {
    let begin = format!("inro_stage_duration_seconds_count{{operation=\"{operation}\",stage=\"");
    let mut stages: Vec<(String, f64)> = page
        .lines()
        .filter_map(|line| line.strip_prefix(&begin)?.split_once("\"} "))
        .map(|(name, count)| (name.to_owned(), count.parse().expect("a number")))
        .collect();
    stages.sort_by(|one, other| one.0.cmp(&other.0));
    stages
}

/// The stages that the verbose status tells under `key`.
fn told(node: &Node, container: &Container, key: &str) -> Vec<(String, f64)> {
    let request = v1::ContainerStatusRequest {
        container_id: container.id.clone(),
        verbose: true,
    };
    let info = &node.cri.container_status(request).expect("status").info["info"];
    let info: serde_json::Value = serde_json::from_str(info).expect("JSON");
    serde_json::from_value(info[key].clone()).expect("stages")
}

/// TCP sockets on which a process listens, as /proc/net/tcp has them.
fn listening(pid: u32) -> Vec<String> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let sockets: Vec<String> = files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .filter_map(|link| {
            Some(
                link.to_str()?
                    .strip_prefix("socket:[")?
                    .trim_end_matches(']')
                    .to_owned(),
            )
        })
        .collect();
    let table = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default());
    let lines = table.iter().flat_map(|table| table.lines().skip(1));
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    // 0A: TCP_LISTEN; the tenth field is the inode.
    fields
        .filter(|fields| fields[3] == "0A" && sockets.iter().any(|socket| socket == fields[9]))
        .map(|fields| fields[1].to_owned())
        .collect()
}

#[test]
fn nothing_listens_unless_it_is_asked_for() {
    let node = Node::start();
    let without = listening(node.daemon.pid());
    assert_eq!(without.len(), 1, "the streaming server's alone: {without:?}");
    drop(node);
    let (node, address) = start();
    let with = listening(node.daemon.pid());
    assert_eq!(with.len(), 2, "{with:?}");
    let port = format!("0100007F:{:04X}", address.port());
    assert!(with.contains(&port), "{port} is not in {with:?}");
}

#[test]
fn calls_and_stages_are_counted() {
    let (node, address) = start();
    node.pull("shell");
    let before = page(address);
    assert_eq!(calls(&before, "RunPodSandbox", "OK"), 0.0, "{before}");
    assert_eq!(calls(&before, "PullImage", "OK"), 1.0, "{before}");
    assert_eq!(stages(&before, "RunPodSandbox"), []);

    let pod = node.pod(|_| {});
    let containers: Vec<_> = (0..2)
        .map(|_| pod.run_container("shell", &["sleep", "100000"]))
        .collect();
    pod.container("shell", &["sleep", "100000"], |_| {});
    let refused = pod.try_container("no-such-image", &["true"], |_| {});
    assert!(refused.is_err(), "there is no such image");
    let mut events = node.cri.events();
    containers[0].stop(0);
    events.next(patience(Duration::from_secs(10))).expect("an event");
    drop(events);

    let after = page(address);
    for (method, code, count) in [
        ("RunPodSandbox", "OK", 1.0),
        ("CreateContainer", "OK", 3.0),
        ("CreateContainer", "NOT_FOUND", 1.0),
        ("StartContainer", "OK", 2.0),
        ("StopContainer", "OK", 1.0),
    ] {
        assert_eq!(calls(&after, method, code), count, "{method} {code}\n{after}");
    }
    let seconds = "inro_cri_request_duration_seconds_sum{method=\"CreateContainer\",code=\"OK\"}";
    assert!((0.001..60.0).contains(&value(&after, seconds)), "{after}");
    assert!(
        !after.contains("GetContainerEvents"),
        "a stream has no length to speak of:\n{after}"
    );

    // What the status tells of one is counted of all.
    let create: Vec<_> = told(&node, &containers[1], "stagesMs")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for name in [
        "decode",
        "reserve",
        "snapshot",
        "spec",
        "cgroup",
        "fork",
        "join cgroup",
        "mounts",
        "init",
    ] {
        assert!(create.iter().any(|told| told == name), "{name} in {create:?}");
        assert!(
            stages(&after, "CreateContainer").contains(&(name.to_owned(), 3.0)),
            "{name} in\n{after}"
        );
    }
    let mut start = told(&node, &containers[1], "startStagesMs");
    let names: Vec<_> = start.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["decode", "turn", "release", "exec", "hand-over", "record", "hooks"]
    );
    start.iter_mut().for_each(|stage| stage.1 = 2.0);
    start.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(stages(&after, "StartContainer"), start, "{after}");
    assert!(
        stages(&after, "RunPodSandbox").iter().all(|(_, count)| *count == 1.0),
        "{after}"
    );
    assert!(stages(&after, "RunPodSandbox").len() >= 3, "{after}");
}

#[test]
fn a_status_tells_where_the_time_of_a_start_went() {
    // Nobody has to measure for that.
    let node = Node::start();
    node.pull("shell");
    let container = node.pod(|_| {}).container("shell", &["sleep", "100000"], |_| {});
    assert_eq!(told(&node, &container, "startStagesMs"), []);
    let began = std::time::Instant::now();
    container.start();
    let whole = began.elapsed().as_secs_f64() * 1000.0;
    let start = told(&node, &container, "startStagesMs");
    let sum: f64 = start.iter().map(|(_, time)| time).sum();
    assert!(sum > 0.0 && sum <= whole, "{start:?} of {whole}");
    let exec = start.iter().find(|(name, _)| name == "exec").expect("exec").1;
    assert!(exec > 0.0, "{start:?}");
    // Asked twice, started once.
    container.start();
    assert_eq!(told(&node, &container, "startStagesMs"), start);
}

#[test]
fn gauges_follow_the_pods() {
    let (mut node, address) = start();
    let counts = || {
        let page = page(address);
        [
            "inro_pods{state=\"ready\"}",
            "inro_pods{state=\"not_ready\"}",
            "inro_containers{state=\"created\"}",
            "inro_containers{state=\"running\"}",
            "inro_containers{state=\"exited\"}",
            "inro_images",
            "inro_streaming_tickets",
        ]
        .map(|series| value(&page, series) as u32)
    };
    assert_eq!(counts(), [0, 0, 0, 0, 0, 0, 0]);
    node.pull("shell");
    let (pod, other) = (node.pod(|_| {}), node.pod(|_| {}));
    let running = pod.run_container("shell", &["sleep", "100000"]);
    let created = pod.container("shell", &["sleep", "100000"], |_| {});
    assert_eq!(counts(), [2, 0, 1, 1, 0, 1, 0]);
    let exec = v1::ExecRequest {
        container_id: running.id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    node.cri.exec(exec).expect("exec");
    other.stop();
    running.stop(0);
    assert_eq!(counts(), [1, 1, 1, 0, 1, 1, 1]);
    // The next daemon counts what it finds, and begins anew with what it did.
    node.daemon.kill9();
    node.daemon.restart();
    assert_eq!(counts(), [1, 1, 1, 0, 1, 1, 0]);
    assert_eq!(stages(&page(address), "CreateContainer"), []);
    created.remove();
    other.remove();
    assert_eq!(counts(), [1, 0, 0, 0, 1, 1, 0]);
}

#[test]
fn the_daemon_tells_what_it_takes() {
    let (node, address) = start();
    let first = page(address);
    let pid = node.daemon.pid();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count() as f64;
    assert!(
        (value(&first, "process_open_fds") - open).abs() <= 4.0,
        "{open}\n{first}"
    );
    assert!(
        value(&first, "process_resident_memory_bytes") > f64::from(1 << 20),
        "{first}"
    );
    let started = value(&first, "process_start_time_seconds");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time");
    assert!((now.as_secs_f64() - started).abs() < 600.0, "{started}");
    assert!(first.contains("inro_build_info{version=\""), "{first}");
    let cpu = |page: &str| value(page, "process_cpu_seconds_total");
    eventually("it has used more of a processor", Duration::from_secs(20), || {
        (cpu(&page(address)) > cpu(&first)).then_some(())
    });
}

#[test]
fn everything_else_is_refused_and_silence_keeps_nobody_out() {
    let (_node, address) = start();
    assert!(ask(address, "GET", "/").0.starts_with("http/1.1 404"));
    assert!(ask(address, "POST", "/exec/0").0.starts_with("http/1.1 404"));
    for method in ["POST", "PUT", "HEAD"] {
        let (head, _) = ask(address, method, "/metrics");
        assert!(
            head.starts_with("http/1.1 405") && head.contains("allow: get"),
            "{head}"
        );
    }
    // More than are let wait: the oldest of them go.
    let _silent: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(address).expect("the endpoint"))
        .collect();
    let asked = std::time::Instant::now();
    page(address);
    assert!(
        asked.elapsed() < patience(Duration::from_secs(3)),
        "{:?}",
        asked.elapsed()
    );
    let mut noise = TcpStream::connect(address).expect("the endpoint");
    let _ = noise.write_all(&[0; 1 << 16]);
    let _ = noise.read_to_end(&mut Vec::new());
    page(address);
}

/// Runs `inro serve` with this configuration where it is expected to end by itself.
fn serve(config: &str) -> Output {
    let dir = tempfile::tempdir().expect("a scratch folder");
    fs::write(dir.path().join("config.toml"), config).expect("config.toml");
    Command::new("timeout")
        .arg(patience(Duration::from_secs(5)).as_secs().to_string())
        .arg(inro())
        .arg("serve")
        .arg("--config")
        .arg(dir.path().join("config.toml"))
        .arg("--root")
        .arg(dir.path().join("root"))
        .arg("--state")
        .arg(dir.path().join("state"))
        .output()
        .expect("inro")
}

#[test]
fn an_address_that_cannot_be_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    for (listen, named) in [
        ("\"localhost\"".to_owned(), "listen = \"localhost\""),
        ("9750".to_owned(), "listen = 9750"),
        (format!("\"{address}\""), "metrics.listen: 127.0.0.1:"),
    ] {
        let output = serve(&format!("[metrics]\nlisten = {listen}\n"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(named), "{named} in {told}");
        assert!(told.contains("config.toml") != told.contains("in use"), "{told}");
    }
}
