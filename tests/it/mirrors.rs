//! Where images come from and as whom: `registries.conf` beside `hosts.toml`, files of credentials, and what
//! `inro image resolve` tells of both.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use crate::{
    harness::{
        Node,
        http::{Answer, Server},
        inro,
        registry::{Registry, Setup, free_port, write_server},
        v1,
    },
    registries::{HTPASSWD, certificate},
};

#[test]
fn a_registries_conf_is_read_at_each_pull() {
    let node = Node::start();
    let port = node.registry().port;
    let image = "mirrored.example/library/shell";
    node.try_pull(image).expect_err("nobody knows this registry");

    let table = format!(
        "[[registry]]\nlocation = \"mirrored.example\"\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:{}\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:{port}\"\ninsecure = true\n",
        free_port()
    );
    conf(&node, &table);
    node.pull(image);
    let pulled = node.image(image).expect("an image");
    assert_eq!(pulled.repo_tags, ["mirrored.example/library/shell:latest"]);

    let drop_in = node.dir().join("registries.conf.d/10-blocked.conf");
    fs::create_dir_all(drop_in.parent().expect("a folder")).expect("registries.conf.d");
    fs::write(
        &drop_in,
        "[[registry]]\nlocation = \"mirrored.example\"\nblocked = true\n",
    )
    .expect("a drop-in");
    let blocked = node.try_pull(image).expect_err("blocked");
    assert_eq!(blocked.code(), Code::PermissionDenied, "{blocked:?}");
    let told = blocked.message();
    assert!(
        told.contains("10-blocked.conf") && told.contains("\"mirrored.example\""),
        "{told}"
    );

    fs::write(
        &drop_in,
        "[[registry]]\nlocation = \"mirrored.example\"\nblocked = \"no\"\n",
    )
    .expect("a drop-in");
    let broken = node.try_pull(image).expect_err("a file with a fault");
    assert_eq!(broken.code(), Code::FailedPrecondition, "{broken:?}");
    let told = broken.message();
    assert!(
        told.contains("10-blocked.conf") && told.contains("blocked = \"no\""),
        "{told}"
    );
    fs::remove_file(&drop_in).expect("remove the drop-in");
    node.pull(image);
    fs::remove_file(node.dir().join("registries.conf")).expect("remove the file");
    let absent = node.try_pull(image).expect_err("the configuration names it");
    assert!(absent.message().contains("registries.conf"), "{absent:?}");
}

#[test]
fn registries_conf_says_which_repository_and_hosts_toml_how_to_reach_it() {
    let node = Node::start();
    let hosts = node.dir().join("hosts");
    node.registry().be("real.example", &hosts);
    conf(
        &node,
        "[[registry]]\nprefix = \"*.names.example/\"\nlocation = \"real.example/library\"\n",
    );
    node.pull("some.names.example/shell");
    let digest = |node: &Node, name: &str| {
        let image = node.image(name).expect("an image");
        image.repo_digests[0].split('@').nth(1).expect("a digest").to_owned()
    };
    let shell = digest(&node, "some.names.example/shell");
    node.pull("other.names.example/private");
    let private = digest(&node, "other.names.example/private");
    node.pull(&format!("other.names.example/shell@{shell}"));
    // A rule may give a tag another name, but no digest other content.
    let pinned = format!("pinned.example/shell@{shell}");
    conf(
        &node,
        &format!("[[registry]]\nprefix = \"{pinned}\"\nlocation = \"real.example/library/private@{private}\"\n"),
    );
    let refused = node.try_pull(&pinned).expect_err("other content");
    assert!(refused.message().contains(&private), "{refused:?}");

    let certificate = certificate(node.dir());
    let tls = Registry::start_with(
        &node.dir().join("tls"),
        Setup {
            tls: Some((certificate.clone(), node.dir().join("key.pem"))),
            ..Setup::default()
        },
    );
    let table = |insecure: bool| {
        let port = tls.port;
        format!("[[registry]]\nprefix = \"tls.example\"\nlocation = \"127.0.0.1:{port}\"\ninsecure = {insecure}\n")
    };
    conf(&node, &table(false));
    let refused = node
        .try_pull("tls.example/library/shell")
        .expect_err("nobody vouches for it");
    assert!(refused.message().contains("certificate"), "{refused:?}");
    conf(&node, &table(true));
    node.pull("tls.example/library/shell");
    node.remove_image("tls.example/library/shell");
    // What hosts.toml says of the host counts, and `insecure` beside it does not.
    let file = format!("127.0.0.1:{}", tls.port);
    let server = format!("server = \"https://127.0.0.1:{}\"\n", tls.port);
    write_server(&hosts, &file, &server);
    node.try_pull("tls.example/library/shell")
        .expect_err("hosts.toml has no CA");
    write_server(&hosts, &file, &format!("{server}ca = \"{}\"\n", certificate.display()));
    conf(&node, &table(false));
    node.pull("tls.example/library/shell");
}

#[test]
fn a_blocked_registry_is_not_asked_but_its_mirrors_are() {
    let node = Node::start();
    let port = node.registry().port;
    let upstream = Server::start(port, |_, _| Answer::Pass { cut: None });
    let server = format!("server = \"http://127.0.0.1:{}\"\n", upstream.port);
    write_server(&node.dir().join("hosts"), "upstream.example", &server);
    let table = |mirror: u16| {
        format!(
            "[[registry]]\nlocation = \"upstream.example\"\nblocked = true\n\
             [[registry.mirror]]\nlocation = \"127.0.0.1:{mirror}\"\ninsecure = true\n"
        )
    };
    let image = "upstream.example/library/shell";
    conf(&node, &table(port));
    node.pull(image);
    node.remove_image(image);
    let explained = resolve(&node, &["--explain", image]);
    let text = String::from_utf8_lossy(&explained.stdout);
    assert!(
        text.contains("not asked   upstream.example/library/shell:latest: blocked by"),
        "{text}"
    );

    conf(&node, &table(free_port()));
    node.try_pull(image).expect_err("its mirror is away");
    // A mirror that is blocked by its own name is not asked, either.
    conf(
        &node,
        "[[registry]]\nlocation = \"named.example\"\nblocked = true\n\
         [[registry.mirror]]\nlocation = \"upstream.example\"\n\
         [[registry]]\nlocation = \"upstream.example\"\nblocked = true\n",
    );
    let refused = node
        .try_pull("named.example/library/shell")
        .expect_err("all are blocked");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
}

#[test]
fn what_is_not_insecure_is_asked_over_tls_only() {
    let node = Node::start();
    let plain = Server::start(node.registry().port, |_, _| Answer::Pass { cut: None });
    let table = |insecure| {
        format!(
            "[[registry]]\nlocation = \"127.0.0.1:{}\"\ninsecure = {insecure}\n",
            plain.port
        )
    };
    conf(&node, &table(false));
    let image = format!("127.0.0.1:{}/library/shell", plain.port);
    let refused = node.try_pull(&image).expect_err("it speaks no TLS");
    assert!(refused.message().starts_with("RegistryUnavailable: "), "{refused:?}");
    assert!(plain.seen().is_empty(), "{:?}", plain.seen());
    conf(&node, &table(true));
    node.pull(&image);
}

#[test]
fn short_names_mean_what_the_file_says() {
    let node = Node::start();
    let hosts = node.dir().join("hosts");
    node.registry().be("two.example", &hosts);
    write_server(
        &hosts,
        "one.example",
        &format!("server = \"http://127.0.0.1:{}\"\n", free_port()),
    );
    conf(&node, "[aliases]\n\"sh\" = \"two.example/library/shell\"\n");
    node.pull("sh:latest");
    assert_eq!(
        node.image("sh").expect("by its short name").repo_tags,
        ["two.example/library/shell:latest"]
    );
    node.remove_image("sh");
    assert!(node.image("two.example/library/shell").is_none());

    let search = "unqualified-search-registries = [\"one.example\", \"two.example\"]\n";
    conf(&node, search);
    node.pull("library/shell");
    assert_eq!(
        node.image("library/shell").expect("an image").repo_tags,
        ["two.example/library/shell:latest"]
    );
    conf(&node, &format!("{search}short-name-mode = \"enforcing\"\n"));
    let refused = node.try_pull("library/shell").expect_err("there is a choice");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(
        refused.message().contains("unqualified-search-registries"),
        "{refused:?}"
    );
}

#[test]
fn each_place_gets_the_credentials_of_its_own_host() {
    let node = Node::start();
    // They ask who is there, and have nothing.
    let ask = || {
        Server::start(0, |request, _| match request.header("authorization") {
            None => Answer::Say(
                "401 Unauthorized",
                "WWW-Authenticate: Basic realm=\"x\"\r\n".into(),
                String::new(),
            ),
            Some(_) => Answer::Say("404 Not Found", String::new(), String::new()),
        })
    };
    let (mirror, stranger, upstream, hosts_mirror) = (ask(), ask(), ask(), ask());
    conf(
        &node,
        &format!(
            "[[registry]]\nlocation = \"private.example\"\n\
             [[registry.mirror]]\nlocation = \"127.0.0.1:{}/mirrored\"\ninsecure = true\n\
             [[registry.mirror]]\nlocation = \"127.0.0.1:{}\"\ninsecure = true\n",
            mirror.port, stranger.port
        ),
    );
    write_server(
        &node.dir().join("hosts"),
        "private.example",
        &format!(
            "server = \"http://127.0.0.1:{}\"\n[host.\"http://127.0.0.1:{}\"]\n",
            upstream.port, hosts_mirror.port
        ),
    );
    auth_file(
        &node.dir().join("auth.json"),
        &[
            (
                format!("127.0.0.1:{}/mirrored/library", mirror.port),
                "mirror:one sesame",
            ),
            (format!("127.0.0.1:{}", mirror.port), "mirror:wrong sesame"),
            (format!("127.0.0.1:{}", hosts_mirror.port), "hosts:two sesame"),
            ("private.example".into(), "private:file sesame"),
        ],
    );
    let sent = |server: &Server| -> Vec<String> {
        let seen = server.seen();
        let sent = seen.iter().filter_map(|request| request.header("authorization"));
        sent.map(str::to_owned).collect()
    };
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let auth = v1::AuthConfig {
        username: "private".into(),
        password: "cri sesame".into(),
        ..Default::default()
    };
    pull(&node, "private.example/library/shell", Some(auth), "").expect_err("nobody has it");
    assert_eq!(sent(&mirror), [basic("mirror:one sesame")]);
    assert_eq!(sent(&stranger), Vec::<String>::new());
    assert!(!stranger.seen().is_empty(), "it was not asked");
    assert_eq!(sent(&hosts_mirror), [basic("hosts:two sesame")]);
    assert_eq!(sent(&upstream), [basic("private:cri sesame")]);
    // Without any from the client, those of the file.
    pull(&node, "private.example/library/shell", None, "").expect_err("nobody has it");
    assert_eq!(sent(&upstream)[1..], [basic("private:file sesame")]);
    // With an address, those of the client are for that host.
    let auth = v1::AuthConfig {
        username: "stranger".into(),
        password: "cri sesame".into(),
        server_address: format!("http://127.0.0.1:{}/", stranger.port),
        ..Default::default()
    };
    pull(&node, "private.example/library/shell", Some(auth), "").expect_err("nobody has it");
    assert_eq!(sent(&stranger), [basic("stranger:cri sesame")]);
    assert_eq!(sent(&upstream)[2..], [basic("private:file sesame")]);
    assert!(!node.daemon.log_tail().contains("sesame"));
}

#[test]
fn a_namespaces_credentials_are_for_one_pull_of_its_own() {
    let node = Node::start();
    let private = private(&node);
    private.be("private.example", &node.dir().join("hosts"));
    let image = "private.example/library/private";
    let digest: String = Sha256::digest(image).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = node.dir().join(format!("auth.d/team-{digest}.json"));
    fs::create_dir(node.dir().join("auth.d")).expect("auth.d");
    auth_file(&file, &[("private.example".into(), "tester:open sesame")]);

    let refused = pull(&node, image, None, "other").expect_err("another namespace");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    pull(&node, image, None, "").expect_err("no namespace");
    pull(&node, &format!("{image}:latest"), None, "team").expect("its own");
    assert!(!file.exists(), "the credentials stay");
    node.remove_image(image);
    pull(&node, image, None, "team").expect_err("they were for one pull");

    // The node's own are for every namespace; a file with a fault is named, not its content.
    let own = node.dir().join("auth.json");
    auth_file(&own, &[("private.example/library".into(), "tester:open sesame")]);
    pull(&node, image, None, "team").expect("with the node's credentials");
    fs::write(&own, "{\"auths\": {\"private.example\": {\"auth\": \"open sesame\"}}}").expect("auth.json");
    let broken = pull(&node, image, None, "").expect_err("no base64");
    assert!(
        broken.message().contains("auth.json: auths.\"private.example\""),
        "{broken:?}"
    );
    assert!(!broken.message().contains("sesame") && !node.daemon.log_tail().contains("sesame"));
}

#[test]
fn resolve_tells_places_rules_and_credentials_and_no_secret() {
    let node = Node::start();
    let private = private(&node);
    let dead = free_port();
    conf(
        &node,
        &format!(
            "[[registry]]\nprefix = \"names.example\"\nlocation = \"helped.example/library\"\n\
             [[registry.mirror]]\nlocation = \"127.0.0.1:{dead}\"\ninsecure = true\n\
             [[registry]]\nlocation = \"blocked.example\"\nblocked = true\n\
             [aliases]\n\"sh\" = \"names.example/shell\"\n",
        ),
    );
    private.be("helped.example", &node.dir().join("hosts"));
    fs::write(
        node.dir().join("auth.json"),
        "{\"credHelpers\": {\"helped.example\": \"inro-it\"}}",
    )
    .expect("auth.json");
    let helper = |script: &str| {
        let path = node.dir().join("docker-credential-inro-it");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a helper");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    };
    helper(
        "test \"$1 $(cat)\" = 'get helped.example' && echo '{\"Username\": \"tester\", \"Secret\": \"open sesame\"}'",
    );
    let digest = resolve(&node, &["sh"]);
    let text = String::from_utf8_lossy(&digest.stdout);
    assert!(text.starts_with("names.example/shell@sha256:"), "{digest:?}");

    let tried = resolve(&node, &["--explain", "--try", "sh"]);
    let text = String::from_utf8_lossy(&tried.stdout);
    let at = node.dir().display();
    let places = [
        "names.example/shell:latest".to_owned(),
        format!("because     {at}/registries.conf: aliases.\"sh\""),
        format!("1. https://127.0.0.1:{dead}/v2/shell/manifests/latest"),
        format!("rule        {at}/registries.conf: [[registry]] \"names.example\", mirror 1"),
        "transport   insecure: TLS with any certificate, else plain HTTP".to_owned(),
        "credentials none".to_owned(),
        "fails       RegistryUnavailable".to_owned(),
        format!("2. http://127.0.0.1:{}/v2/library/shell/manifests/latest", private.port),
        format!("rule        {at}/registries.conf: [[registry]] \"names.example\"\n"),
        format!("rule        {at}/hosts/helped.example/hosts.toml: server"),
        "transport   insecure: plain HTTP".to_owned(),
        format!("credentials docker-credential-inro-it of {at}/auth.json: credHelpers.\"helped.example\""),
        "answers     sha256:".to_owned(),
    ];
    let mut rest = &text[..];
    for place in &places {
        let found = rest
            .find(place.as_str())
            .unwrap_or_else(|| panic!("no {place} in its place in\n{text}"));
        rest = &rest[found + place.len()..];
    }
    assert!(tried.status.success() && !text.contains("sesame"), "{text}");

    let blocked = resolve(&node, &["--explain", "blocked.example/x"]);
    let text = String::from_utf8_lossy(&blocked.stdout);
    assert!(!blocked.status.success() && text.contains("blocked by"), "{text}");

    // One that knows nothing is as good as none; what one that fails printed is nobody's business.
    helper("echo 'credentials not found in native keychain'; exit 1");
    let none = resolve(&node, &["sh"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("401"), "{none:?}");
    helper("echo 'open sesame'; echo no network >&2; exit 1");
    let failed = resolve(&node, &["sh"]);
    let told = String::from_utf8_lossy(&failed.stderr);
    assert!(
        told.contains("docker-credential-inro-it") && told.contains("no network") && !told.contains("sesame"),
        "{told}"
    );
}

/// Replaces the node's `registries.conf`.
fn conf(node: &Node, text: &str) {
    fs::write(node.dir().join("registries.conf"), text).expect("registries.conf");
}

/// A registry that wants the password of [`HTPASSWD`].
fn private(node: &Node) -> Registry {
    Registry::start_with(
        &node.dir().join("private"),
        Setup {
            htpasswd: Some(HTPASSWD),
            ..Setup::default()
        },
    )
}

/// Keys, and `user:password` of each.
fn auth_file(path: &Path, entries: &[(String, &str)]) {
    let entry = |(key, pair): &(String, &str)| (key.clone(), serde_json::json!({"auth": STANDARD.encode(pair)}));
    let auths: serde_json::Map<_, _> = entries.iter().map(entry).collect();
    fs::write(path, serde_json::json!({"auths": auths}).to_string()).expect("a file of credentials");
}

fn pull(node: &Node, image: &str, auth: Option<v1::AuthConfig>, namespace: &str) -> Result<String, Status> {
    let metadata = v1::PodSandboxMetadata {
        namespace: namespace.into(),
        ..Default::default()
    };
    let pulled = node.cri.pull_image(v1::PullImageRequest {
        image: Some(v1::ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        auth,
        sandbox_config: Some(v1::PodSandboxConfig {
            metadata: Some(metadata),
            ..Default::default()
        }),
    });
    pulled.map(|pulled| pulled.image_ref)
}

/// `inro image resolve` with the node's files, and its folder first in PATH.
fn resolve(node: &Node, arguments: &[&str]) -> Output {
    let path = std::env::var("PATH").expect("PATH");
    let mut command = Command::new(inro());
    command
        .args(["image", "resolve", "--config"])
        .arg(node.dir().join("config.toml"));
    command
        .args(arguments)
        .env("PATH", format!("{}:{path}", node.dir().display()))
        .output()
        .expect("inro image resolve")
}
