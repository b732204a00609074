//! Where signatures by GPG are found: in storages beside the registry, and by an API of the registry.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{
    super::{IMAGE, REPOSITORY, refused},
    scene::{Scene, by_path, payload, store_in},
};
use crate::harness::{
    http::{Answer, Server},
    registry::write_server,
};

#[test]
fn signatures_are_had_from_the_storage_that_registries_d_names_without_credentials() {
    let scene = Scene::new();
    let gpg = &scene.gpg;
    let key = gpg.key("signer");
    scene.write_policy("signed.example", &by_path(&gpg.export("keyring.gpg", &[&key])));
    let digest = scene.stage.digest();
    let header = "server = \"http://127.0.0.1:PORT\"\n[header]\nx-secret = \"for the registry\"\n";
    let header = header.replace("PORT", &scene.port.to_string());
    write_server(&scene.stage.node.dir().join("hosts"), "signed.example", &header);
    let root = scene.lookaside.clone();
    let web = Server::start(0, move |request, _| {
        match fs::read(root.join(request.target.trim_start_matches("/web/"))) {
            Ok(bytes) => Answer::Give("application/octet-stream".into(), bytes),
            Err(_) => Answer::Say("404 Not Found", String::new(), String::new()),
        }
    });
    let url = format!("http://127.0.0.1:{}/web", web.port);
    let elsewhere = format!("file://{}", scene.stage.dir.path().join("elsewhere").display());
    scene.write_storage("a.yaml", &format!("default-docker: {{lookaside: {elsewhere:?}}}\n"));
    refused(scene.stage.pull(""), "there is none");
    let bad = gpg.sign(&payload(&digest, "other.example/x:1"), &key, &[]);
    let good = gpg.sign(&payload(&digest, IMAGE), &key, &[]);
    scene.store(REPOSITORY, &digest, &[bad, good]);
    for storage in [
        format!("docker: {{signed.example: {{lookaside: {url:?}}}}}\n"),
        format!(
            "docker: {{signed.example/library: {{sigstore: {url:?}}}, signed.example: {{lookaside: {elsewhere:?}}}}}\n"
        ),
    ] {
        scene.write_storage("b.yaml", &storage);
        scene.stage.pull("").expect("it is there");
        scene.stage.node.remove_image(IMAGE);
    }
    let seen = web.seen();
    let folder = format!("/web/{REPOSITORY}@{}", digest.replace(':', "="));
    let targets: Vec<&str> = seen.iter().map(|request| request.target.as_str()).collect();
    let expected: Vec<String> = (1..=3).map(|number| format!("{folder}/signature-{number}")).collect();
    assert_eq!(targets, [&expected[..], &expected].concat());
    for request in &seen {
        assert_eq!(
            (request.header("authorization"), request.header("x-secret")),
            (None, None)
        );
    }
    // A storage that cannot be asked is no storage without signatures.
    scene.write_storage(
        "b.yaml",
        "docker: {signed.example: {lookaside: \"http://127.0.0.1:1/\"}}\n",
    );
    let silent = scene.stage.pull("").expect_err("nobody answers");
    assert!(
        silent.message().starts_with("RegistryUnavailable: http://127.0.0.1:1/"),
        "{silent:?}"
    );
    scene.write_storage("b.yaml", "docker: [\n");
    let broken = scene.stage.pull("").expect_err("a file with a fault");
    assert!(broken.message().contains("b.yaml"), "{broken:?}");
    scene.write_policy("other.example", &json!({"type": "reject"}));
    scene.stage.pull("").expect("nobody needs the file");
}

#[test]
fn signatures_are_had_by_the_name_that_a_copy_has_as_well() {
    let scene = Scene::new();
    let gpg = &scene.gpg;
    let key = gpg.key("signer");
    let digest = scene.stage.digest();
    let conf = format!(
        "[[registry]]\nprefix = \"vendor.example\"\nlocation = \"127.0.0.1:{}/library\"\ninsecure = true\n",
        scene.port
    );
    fs::write(scene.stage.node.dir().join("registries.conf"), conf).expect("registries.conf");
    let image = "vendor.example/shell:latest";
    scene.write_policy("vendor.example", &by_path(&gpg.export("keyring.gpg", &[&key])));
    let elsewhere = scene.stage.dir.path().join("elsewhere");
    let (here, there) = (scene.lookaside.display(), elsewhere.display());
    let local = format!("127.0.0.1:{}", scene.port);
    scene.write_storage(
        "a.yaml",
        &format!("docker: {{vendor.example: {{lookaside: \"file://{there}\"}}, {local:?}: {{lookaside: \"file://{here}\"}}}}\n"),
    );
    refused(scene.stage.pull_name(image, ""), "there is none");
    let signature = [gpg.sign(&payload(&digest, image), &key, &[])];
    scene.store(REPOSITORY, &digest, &signature);
    scene.stage.pull_name(image, "").expect("by the copy's name");
    scene.store(REPOSITORY, &digest, &[]);
    refused(scene.stage.pull_name(image, ""), "there is none");
    store_in(&elsewhere, "shell", &digest, &signature);
    scene.stage.pull_name(image, "").expect("by its own name");
}

#[test]
fn signatures_are_had_from_a_registry_that_has_an_api_for_them() {
    let scene = Scene::new();
    let gpg = &scene.gpg;
    let key = gpg.key("signer");
    scene.write_policy("signed.example", &by_path(&gpg.export("keyring.gpg", &[&key])));
    let digest = scene.stage.digest();
    let good = STANDARD.encode(gpg.sign(&payload(&digest, IMAGE), &key, &[]));
    let listed = |kind: &str| {
        let name = format!("{digest}@name");
        json!({"signatures": [{"schemaVersion": 2, "name": name, "type": kind, "content": good}]}).to_string()
    };
    for (supports, list, why) in [
        ("1", listed("atomic"), ""),
        ("1", listed("other"), "there is none"),
        ("1", r#"{"signatures": []}"#.to_owned(), "there is none"),
        ("0", listed("atomic"), "there is none"),
    ] {
        let proxy = scene.with_api(supports, &list);
        match why {
            "" => drop(scene.stage.pull("").expect("the registry has it")),
            why => drop(refused(scene.stage.pull(""), why)),
        }
        let seen = proxy.seen();
        let asked = seen
            .iter()
            .find_map(|request| request.target.strip_prefix("/extensions/v2/"));
        let asked = asked.and_then(|target| target.split('?').next()).unwrap_or_default();
        let wanted = match supports {
            "1" => format!("{REPOSITORY}/signatures/{digest}"),
            _ => String::new(),
        };
        assert_eq!(asked, wanted, "{list}");
    }
    // What it lists is no list: nobody knows what it has.
    let _proxy = scene.with_api("1", "<html>");
    let failed = scene.stage.pull("").expect_err("it is no list");
    assert!(failed.message().contains("/extensions/v2/"), "{failed:?}");
}
