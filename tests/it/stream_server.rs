//! The streaming server's HTTP: tokens, refusals, TLS.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
};

use crate::harness::{Container, Node, v1};

const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";

fn container(node: &Node) -> Container {
    node.pull("shell");
    node.pod(|_| {}).run_container("shell", &["sleep", "100000"])
}

fn exec_url(node: &Node, container: &Container) -> String {
    let request = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    node.cri.exec(request).expect("exec").url
}

/// Asks and reads the head of the answer; the connection, which lives on after a 101.
fn ask(method: &str, url: &str, headers: &str) -> (String, TcpStream) {
    let (address, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .expect("a URL");
    let mut connection = TcpStream::connect(address).expect("the server");
    let head = format!("{method} /{path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    connection.write_all(head.as_bytes()).expect("asked");
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") && connection.read(&mut byte).expect("an answer") == 1 {
        answer.push(byte[0]);
    }
    (String::from_utf8(answer).expect("text").to_lowercase(), connection)
}

fn code(method: &str, url: &str, headers: &str) -> u16 {
    let (answer, _) = ask(method, url, headers);
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn a_url_is_good_once_and_only_for_its_call() {
    let node = Node::start();
    let container = container(&node);
    let url = exec_url(&node, &container);
    let token = url.rsplit('/').next().expect("a token");
    assert_eq!(token.len(), 32, "128 bits: {url}");
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    assert_eq!(code("POST", &url.replace("/exec/", "/attach/"), SPDY), 404);
    let (answer, _connection) = ask("POST", &url, SPDY);
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(
        answer.contains("x-stream-protocol-version: v4.channel.k8s.io"),
        "{answer}"
    );
    assert_eq!(code("POST", &url, SPDY), 404, "a second time");
    assert_eq!(code("POST", &url.replace(token, &"0".repeat(32)), SPDY), 404);
    assert_eq!(code("POST", &url.replace(token, "%00"), SPDY), 404);
}

#[test]
fn requests_that_are_refused_do_not_use_a_url_up() {
    let node = Node::start();
    let container = container(&node);
    let url = exec_url(&node, &container);
    let versions = |value: &str| format!("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n{value}");
    assert_eq!(code("PUT", &url, SPDY), 405);
    assert_eq!(code("GET", &url, ""), 400);
    assert_eq!(code("GET", &url, &versions("")), 400);
    let (answer, _) = ask("GET", &url, &versions("X-Stream-Protocol-Version: v9\r\n"));
    assert!(answer.starts_with("http/1.1 403"), "{answer}");
    assert!(
        answer.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"),
        "{answer}"
    );
    assert_eq!(code("GET", &url, SPDY), 101);
}

#[test]
fn a_request_of_a_dashboard_is_handed_on_and_taken() {
    let node = Node::start();
    let container = container(&node);
    let page = format!("{SPDY}Origin: http://a.page\r\n");
    assert_eq!(code("GET", &exec_url(&node, &container), &page), 101);
    // Nobody handed it on: a page that guesses.
    let guessed = exec_url(&node, &container);
    let guessed = format!("{}/guessed", guessed.rsplit_once('/').expect("a token").0);
    assert_eq!(code("GET", &guessed, &page), 404);
}

#[test]
fn noise_and_silence_are_survived() {
    let node = Node::start();
    let container = container(&node);
    let url = exec_url(&node, &container);
    let address = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .expect("an address");
    for noise in [
        &b"\0\x01\x02\r\n\r\n"[..],
        b"GET /exec/x HTTP/9.9\r\n\r\n",
        &[b'a'; 1 << 20],
    ] {
        let mut connection = TcpStream::connect(address).expect("the server");
        // It may be closed before all is said.
        let _ = connection.write_all(noise);
        let _ = connection.read_to_end(&mut Vec::new());
    }
    // More than are let wait: the oldest of them go.
    let _silent: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(address).expect("the server"))
        .collect();
    // Upgraded, and then no SPDY at all.
    let (answer, mut connection) = ask("POST", &url, SPDY);
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    connection.write_all(&[0xff; 4096]).expect("said");
    let _ = connection.read_to_end(&mut Vec::new());
    assert_eq!(node.crictl_ok(&["exec", &container.id, "echo", "alive"]), "alive");
}

/// Writes a self-signed certificate for `name`.
fn certify(dir: &Path, name: &str) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).expect("key.pem");
    fs::write(dir.join("cert.pem"), made.cert.pem()).expect("cert.pem");
}

/// The names in the certificate that the server shows.
fn shown(address: &str) -> String {
    let output = Command::new("sh")
        .args([
            "-c",
            "openssl s_client -connect $0 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName",
        ])
        .arg(address)
        .stdin(Stdio::null())
        .output()
        .expect("openssl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn tls_with_a_certificate_that_may_change() {
    let dir = tempfile::tempdir().expect("a folder");
    certify(dir.path(), "one.example");
    let path = dir.path().display();
    let node = Node::with_config(&format!(
        "[stream.tls]\ncert = \"{path}/cert.pem\"\nkey = \"{path}/key.pem\"\n"
    ));
    let container = container(&node);
    for transport in ["spdy", "websocket"] {
        let said = node.crictl_ok(&["exec", "-r", transport, &container.id, "echo", "secret"]);
        assert_eq!(said, "secret", "{transport}");
    }
    let url = exec_url(&node, &container);
    let address = url
        .strip_prefix("https://")
        .and_then(|rest| rest.split('/').next())
        .expect("an https URL");
    assert!(shown(address).contains("one.example"), "{}", shown(address));
    certify(dir.path(), "two.example");
    assert!(shown(address).contains("two.example"), "{}", shown(address));
    fs::write(dir.path().join("cert.pem"), "nonsense").expect("cert.pem");
    assert!(shown(address).contains("two.example"), "{}", shown(address));
}
