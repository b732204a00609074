//! Registries as they are in the world: TLS with a private CA, token servers, mirrors that fail, connections that break.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use tonic::{Code, Status};

use crate::harness::{
    Node,
    http::{Answer, Request, Server},
    registry::{Registry, Setup, free_port, write_hosts, write_server},
    v1,
};

/// User `tester`, password `open sesame`.
pub const HTPASSWD: &str = "tester:$2y$05$inroinroinroinroinroi.VsUrpJQ1kgjm59ZDmOBBU7DtUmtFVzK\n";
const IMAGE: &str = "private.example/library/shell";

#[test]
fn a_private_ca_is_trusted_where_the_file_says_so_and_nowhere_else() {
    let node = Node::start();
    let hosts = node.dir().join("hosts");
    let certificate = certificate(node.dir());
    let registry = Registry::start_with(
        &node.dir().join("tls"),
        Setup {
            tls: Some((certificate.clone(), node.dir().join("key.pem"))),
            ..Setup::default()
        },
    );
    let server = format!("server = \"https://127.0.0.1:{}\"\n", registry.port);

    write_server(&hosts, "private.example", &server);
    let refused = pull(&node, None).expect_err("nobody vouches for it");
    assert_eq!(refused.code(), Code::Unknown, "{refused:?}");
    assert!(refused.message().starts_with("RegistryUnavailable: "), "{refused:?}");
    assert!(refused.message().contains("certificate"), "{refused:?}");

    write_server(
        &hosts,
        "private.example",
        &format!("{server}ca = \"{}\"\n", certificate.display()),
    );
    pull(&node, None).expect("with its CA");
    node.remove_image(IMAGE);

    write_server(&hosts, "private.example", &format!("{server}skip_verify = true\n"));
    pull(&node, None).expect("without any check");
    node.remove_image(IMAGE);

    write_server(&hosts, "private.example", &format!("{server}ca = \"/no/such.pem\"\n"));
    let absent = pull(&node, None).expect_err("no such file");
    assert!(absent.message().contains("/no/such.pem"), "{absent:?}");
}

#[test]
fn a_token_server_is_asked_as_the_credentials_say() {
    let node = Node::start();
    let signer = Arc::new(Signer::new());
    let bundle = node.dir().join("token.pem");
    fs::write(&bundle, signer.certified.cert.pem()).expect("token.pem");
    let tokens = token_server(signer.clone());
    let registry = Registry::start_with(
        &node.dir().join("token"),
        Setup {
            auth: Some(format!(
                "{{token: {{realm: \"http://127.0.0.1:{}/token\", service: registry, issuer: tests, rootcertbundle: \
                 \"{}\"}}}}",
                tokens.port,
                bundle.display()
            )),
            ..Setup::default()
        },
    );
    registry.be("private.example", &node.dir().join("hosts"));
    let auth = |edit: fn(&mut v1::AuthConfig)| {
        let mut auth = v1::AuthConfig::default();
        edit(&mut auth);
        auth
    };

    let anonymous = pull(&node, None).expect_err("anonymous");
    assert_eq!(anonymous.code(), Code::Unauthenticated, "{anonymous:?}");
    let wrong = auth(|auth| (auth.username, auth.password) = ("tester".into(), "wrong sesame".into()));
    let wrong = pull(&node, Some(wrong)).expect_err("a wrong password");
    assert_eq!(wrong.code(), Code::Unauthenticated, "{wrong:?}");
    assert!(!wrong.message().contains("sesame"), "a secret in {wrong:?}");

    let password = auth(|auth| (auth.username, auth.password) = ("tester".into(), "open sesame".into()));
    pull(&node, Some(password)).expect("a password");
    node.remove_image(IMAGE);
    let both = auth(|auth| auth.auth = "dGVzdGVyOm9wZW4gc2VzYW1l".into());
    pull(&node, Some(both)).expect("user and password in one field");
    node.remove_image(IMAGE);
    let identity = auth(|auth| auth.identity_token = "refresh sesame".into());
    pull(&node, Some(identity)).expect("an identity token");
    node.remove_image(IMAGE);
    let ready = v1::AuthConfig {
        registry_token: signer.token("library/shell"),
        ..Default::default()
    };
    pull(&node, Some(ready)).expect("a registry token");
    node.remove_image(IMAGE);
    let elsewhere = v1::AuthConfig {
        username: "tester".into(),
        password: "open sesame".into(),
        server_address: "https://other.example".into(),
        ..Default::default()
    };
    let elsewhere = pull(&node, Some(elsewhere)).expect_err("credentials of another host");
    assert_eq!(elsewhere.code(), Code::Unauthenticated, "{elsewhere:?}");
    assert!(!node.daemon.log_tail().contains("sesame"));
}

#[test]
fn a_body_that_breaks_off_is_taken_up_where_it_ended() {
    let node = Node::start();
    let registry = node.registry().port;
    // The 24 MiB layer comes in pieces of 8 MiB.
    let proxy = Server::start(registry, |request, _| Answer::Pass {
        cut: request.target.contains("/blobs/").then_some(8 << 20),
    });
    let hosts = node.dir().join("hosts");
    write_hosts(&hosts, "flaky.example", &[proxy.port]);
    node.pull("flaky.example/library/large");
    let ranges: Vec<_> = proxy
        .seen()
        .iter()
        .filter_map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert!(ranges.len() >= 2, "{ranges:?}");
    assert!(ranges.iter().all(|range| !range.starts_with("bytes=0-")), "{ranges:?}");
}

#[test]
fn a_registry_that_asks_for_patience_gets_it() {
    let node = Node::start();
    let registry = node.registry().port;
    let proxy = Server::start(registry, |_, before| match before {
        0 => Answer::Say("429 Too Many Requests", "Retry-After: 1\r\n".into(), String::new()),
        1 => Answer::Say("503 Service Unavailable", String::new(), String::new()),
        _ => Answer::Pass { cut: None },
    });
    write_hosts(&node.dir().join("hosts"), "busy.example", &[proxy.port]);
    let begin = std::time::Instant::now();
    node.pull("busy.example/library/shell");
    assert!(begin.elapsed().as_secs() >= 1, "it did not wait");
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    let node = Node::start();
    let storage = Registry::start(&node.dir().join("storage"));
    let elsewhere = Server::start(storage.port, |_, _| Answer::Pass { cut: None });
    let private = Registry::start_with(
        &node.dir().join("private"),
        Setup {
            htpasswd: Some(HTPASSWD),
            ..Setup::default()
        },
    );
    let to = elsewhere.port;
    let front = Server::start(private.port, move |request, _| {
        if request.target.contains("/blobs/") && request.header("authorization").is_some() {
            let location = format!("Location: http://localhost:{to}{}\r\n", request.target);
            Answer::Say("307 Temporary Redirect", location, String::new())
        } else {
            Answer::Pass { cut: None }
        }
    });
    let server = format!("server = \"http://127.0.0.1:{}\"\n", front.port);
    write_server(&node.dir().join("hosts"), "private.example", &server);
    let auth = v1::AuthConfig {
        username: "tester".into(),
        password: "open sesame".into(),
        ..Default::default()
    };
    pull(&node, Some(auth)).expect("over the redirect");
    let seen = elsewhere.seen();
    assert!(!seen.is_empty(), "nothing was redirected");
    assert!(
        seen.iter().all(|request| request.header("authorization").is_none()),
        "{seen:?}"
    );
}

#[test]
fn a_manifest_without_an_end_and_a_redirect_in_circles_are_refused() {
    let node = Node::start();
    let hosts = node.dir().join("hosts");
    let endless = Server::start(0, |_, _| {
        let header = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n".into();
        Answer::Say("200 OK", header, "x".repeat(5 << 20))
    });
    write_hosts(&hosts, "endless.example", &[endless.port]);
    let refused = node
        .try_pull("endless.example/library/shell")
        .expect_err("5 MiB of manifest");
    assert!(refused.message().contains("4 MiB"), "{refused:?}");

    let circle = Server::start(0, |request, _| {
        Answer::Say("302 Found", format!("Location: {}\r\n", request.target), String::new())
    });
    write_hosts(&hosts, "circle.example", &[circle.port]);
    node.try_pull("circle.example/library/shell").expect_err("a circle");
    assert!(circle.seen().len() < 50, "{} requests", circle.seen().len());
}

#[test]
fn credentials_are_used_and_needed() {
    let node = Node::start();
    let private = Registry::start_with(
        &node.dir().join("private"),
        Setup {
            htpasswd: Some(HTPASSWD),
            ..Setup::default()
        },
    );
    private.be("private.example", &node.dir().join("hosts"));
    let pull = |auth: Option<v1::AuthConfig>| {
        let image = Some(v1::ImageSpec {
            image: "private.example/library/private".into(),
            ..Default::default()
        });
        node.cri.pull_image(v1::PullImageRequest {
            image,
            auth,
            ..Default::default()
        })
    };
    let auth = |password: &str| v1::AuthConfig {
        username: "tester".into(),
        password: password.into(),
        ..Default::default()
    };
    let refused = |result: Result<v1::PullImageResponse, Status>| {
        let status = result.expect_err("refused");
        assert!(
            matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied),
            "{status:?}"
        );
        assert!(!status.message().contains("sesame"), "a secret in {status:?}");
    };
    refused(pull(None));
    refused(pull(Some(auth("wrong sesame"))));
    pull(Some(auth("open sesame"))).expect("with the password");
    // One client's credentials are not another's.
    node.remove_image("private.example/library/private");
    refused(pull(None));
    let basic = v1::AuthConfig {
        auth: "dGVzdGVyOm9wZW4gc2VzYW1l".into(),
        ..Default::default()
    };
    pull(Some(basic)).expect("with user and password in one field");
    assert!(!node.daemon.log_tail().contains("sesame"));
}

#[test]
fn mirrors_are_tried_in_order_and_the_file_is_read_at_pull_time() {
    let node = Node::start();
    let registry = node.registry();
    let hosts = node.dir().join("hosts");
    let dead = free_port();
    write_hosts(&hosts, "mirrored.example", &[dead]);
    assert!(node.try_pull("mirrored.example/library/shell").is_err());
    write_hosts(&hosts, "mirrored.example", &[dead, registry.port]);
    node.pull("mirrored.example/library/shell");
    assert_eq!(
        node.image("mirrored.example/library/shell")
            .expect("an image")
            .repo_tags,
        ["mirrored.example/library/shell:latest"]
    );
}

fn pull(node: &Node, auth: Option<v1::AuthConfig>) -> Result<v1::PullImageResponse, Status> {
    let image = Some(v1::ImageSpec {
        image: IMAGE.into(),
        ..Default::default()
    });
    node.cri.pull_image(v1::PullImageRequest {
        image,
        auth,
        ..Default::default()
    })
}

/// Writes `cert.pem` and `key.pem` of a server on loopback.
pub fn certificate(dir: &Path) -> PathBuf {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("a certificate");
    fs::write(dir.join("key.pem"), signing_key.serialize_pem()).expect("key.pem");
    let path = dir.join("cert.pem");
    fs::write(&path, cert.pem()).expect("cert.pem");
    path
}

/// Signs tokens that the registry believes. Source: Distribution, "Token Authentication Implementation".
struct Signer {
    certified: CertifiedKey<KeyPair>,
}

impl Signer {
    fn new() -> Signer {
        let certified = generate_simple_self_signed(["tests".to_owned()]).expect("a certificate");
        Signer { certified }
    }

    /// Allows pulls from one repository for an hour.
    fn token(&self, repository: &str) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let chain = STANDARD.encode(self.certified.cert.der());
        let header = serde_json::json!({"typ": "JWT", "alg": "ES256", "x5c": [chain]});
        let claims = serde_json::json!({
            "iss": "tests", "sub": "tester", "aud": "registry", "jti": "1",
            "exp": now + 3600, "nbf": now - 60, "iat": now,
            "access": [{"type": "repository", "name": repository, "actions": ["pull"]}],
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let key = self.certified.signing_key.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random).expect("a key");
        let signature = key.sign(&random, signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Gives a token for the password or the refresh token, and none for anything else.
fn token_server(signer: Arc<Signer>) -> Server {
    let known = move |request: &Request| {
        let basic = format!("Basic {}", STANDARD.encode("tester:open sesame"));
        match request.method.as_str() {
            "GET" => request.header("authorization") == Some(&basic) && request.target.contains("service=registry"),
            _ => {
                request.body.contains("grant_type=refresh_token")
                    && request.body.contains("refresh_token=refresh+sesame")
                    && request.body.contains("service=registry")
            }
        }
    };
    Server::start(0, move |request, _| {
        if !known(request) {
            return Answer::Say("401 Unauthorized", String::new(), "{}".into());
        }
        let field = if request.method == "GET" {
            "token"
        } else {
            "access_token"
        };
        let body = serde_json::json!({field: signer.token("library/shell"), "expires_in": 3600});
        Answer::Say("200 OK", "Content-Type: application/json\r\n".into(), body.to_string())
    })
}
