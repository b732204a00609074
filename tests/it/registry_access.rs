//! How a registry is reached: with a certificate of the node's, and through a proxy.

use std::{fs, path::Path};

use rcgen::generate_simple_self_signed;
use tonic::Code;

use crate::{
    harness::{
        Node,
        http::{Answer, Server},
        registry::{Registry, Setup, write_server},
    },
    registries::certificate,
    service::Managed,
};

/// A registry over TLS as `secured.example`, and the first line of its `hosts.toml`.
fn secured(node: &Node, clients: Option<&Path>) -> (Registry, String) {
    let certificate = certificate(node.dir());
    let setup = Setup {
        tls: Some((certificate.clone(), node.dir().join("key.pem"))),
        clients: clients.map(Path::to_owned),
        ..Setup::default()
    };
    let registry = Registry::start_with(&node.dir().join("tls"), setup);
    let line = format!(
        "server = \"https://127.0.0.1:{}\"\nca = \"{}\"\n",
        registry.port,
        certificate.display()
    );
    (registry, line)
}

#[test]
fn a_client_certificate_is_shown_where_the_file_names_one() {
    let node = Node::start();
    let (folder, hosts) = (node.dir().join("hosts/secured.example"), node.dir().join("hosts"));
    fs::create_dir_all(&folder).expect("the folder of hosts.toml");
    let own = generate_simple_self_signed(["node".to_owned()]).expect("a certificate");
    let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    fs::write(folder.join("node.cert"), &certificate).expect("node.cert");
    fs::write(folder.join("node.key"), &key).expect("node.key");
    fs::write(folder.join("node.pem"), certificate + &key).expect("node.pem");
    let (_registry, line) = secured(&node, Some(&folder.join("node.cert")));
    let image = "secured.example/library/shell";

    write_server(&hosts, "secured.example", &line);
    let refused = node.try_pull(image).expect_err("it wants a certificate");
    assert!(refused.message().starts_with("RegistryUnavailable: "), "{refused:?}");
    for client in [
        r#"[["node.cert", "node.key"]]"#.to_owned(),
        r#""node.pem""#.to_owned(),
        format!("[{:?}]", folder.join("node.pem")),
    ] {
        write_server(&hosts, "secured.example", &format!("{line}client = {client}\n"));
        node.try_pull(image)
            .unwrap_or_else(|status| panic!("client = {client}: {status:?}"));
        node.remove_image(image);
    }
    for (client, told) in [
        (r#"[["node.cert", "none.key"]]"#, "none.key"),
        (r#""node.cert""#, "node.cert"),
        (r#"["node.pem", "node.cert"]"#, "one certificate"),
        ("1", "client"),
    ] {
        write_server(&hosts, "secured.example", &format!("{line}client = {client}\n"));
        let refused = node.try_pull(image).expect_err(client);
        assert!(refused.message().contains(told), "{client}: {refused:?}");
    }
}

#[test]
fn a_proxy_of_the_environment_is_asked_for_what_is_not_excepted() {
    let mut node = Node::start();
    let hosts = node.dir().join("hosts");
    // Names that lead nowhere: only a proxy can know them.
    let (secured, line) = secured(&node, None);
    let line = line.replace(&format!("127.0.0.1:{}", secured.port), "localhost:1");
    write_server(&hosts, "tls.example", &line);
    write_server(&hosts, "plain.example", "server = \"http://far.example\"\n");
    write_server(&hosts, "excepted.example", "server = \"http://near.example\"\n");
    let forward = Server::start(node.registry().port, |_, _| Answer::Pass { cut: None });
    let tunnel = Server::start(secured.port, |_, _| Answer::Tunnel);
    assert!(node.daemon.terminate().success());
    let environment = [
        ("HTTP_PROXY", format!("http://127.0.0.1:{}", forward.port)),
        ("HTTPS_PROXY", format!("http://127.0.0.1:{}", tunnel.port)),
        ("NO_PROXY", "near.example".to_owned()),
    ];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let daemon = Managed::start(&node, None, &environment);
    daemon.told("READY=1");

    node.pull("plain.example/library/shell");
    let asked = forward.seen();
    assert!(
        asked
            .iter()
            .all(|request| request.target.starts_with("http://far.example/v2/")),
        "{asked:?}"
    );
    assert!(!asked.is_empty());
    node.pull("tls.example/library/tiny");
    let asked = tunnel.seen();
    assert!(
        asked
            .iter()
            .all(|request| request.method == "CONNECT" && request.target == "localhost:1"),
        "{asked:?}"
    );
    assert!(!asked.is_empty());
    let before = forward.seen().len();
    let direct = node
        .try_pull("excepted.example/library/shell")
        .expect_err("there is no such host");
    assert_eq!(direct.code(), Code::Unknown, "{direct:?}");
    assert_eq!(forward.seen().len(), before, "the proxy was asked");
    daemon.end();
}
