//! `signedBy`: signatures by GPG, made by gpg and skopeo, in storages beside the registry. Where both can be asked, skopeo
//! judges by the same files what inro judges.

mod places;
mod scene;

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{IMAGE, REPOSITORY, for_scope, path, refused};
use scene::{Scene, by_path, payload};

#[test]
fn an_image_signed_by_a_key_of_the_keyring_is_pulled_and_runs() {
    let mut scene = Scene::new();
    let key = scene.gpg.key("signer");
    let keyring = scene.gpg.export("keyring.gpg", &[&key]);
    scene.write_policy("signed.example", &by_path(&keyring));
    let digest = scene.stage.digest();
    scene.store(
        REPOSITORY,
        &digest,
        &[scene.gpg.skopeo_sign(&scene.manifest(), IMAGE, &key)],
    );
    let id = scene.stage.pull("").expect("signed");
    let pod = scene.stage.pod("default");
    assert_eq!(pod.run_container(&id, &["true"]).wait().exit_code, 0);
    let [verdict] = &scene.stage.verdicts()[..] else {
        panic!("{:?}", scene.stage.verdicts())
    };
    assert_eq!(verdict["scope"], "signed.example");
    assert_eq!(
        verdict["keys"],
        json!([format!("keyPath {} ({key})", keyring.display())])
    );
    // It is on record: neither the registry, nor the storage, nor this life of the daemon is needed.
    scene.stage.registry = None;
    fs::remove_dir_all(&scene.lookaside).expect("the storage");
    scene.stage.node.daemon.kill9();
    scene.stage.node.daemon.restart();
    assert_eq!(pod.run_container(&id, &["true"]).wait().exit_code, 0);
    // It is judged anew each time, by the keyring of the moment.
    scene.gpg.revoke(&key);
    scene.gpg.export("keyring.gpg", &[&key]);
    let made = pod.try_container(&id, &["true"], |_| {});
    refused(made.map(|container| container.id), "which was revoked");
}

#[test]
fn an_image_that_gpg_has_not_signed_is_refused_and_nothing_of_it_is_fetched() {
    let scene = Scene::new();
    let key = scene.gpg.key("signer");
    scene.write_policy("signed.example", &by_path(&scene.gpg.export("keyring.gpg", &[&key])));
    let proxy = scene.stage.watch();
    let told = refused(scene.stage.pull(""), "a signature is demanded, and there is none");
    let policy = scene.stage.policy.display().to_string();
    assert!(told.contains(&policy) && told.contains(r#""signed.example""#), "{told}");
    let asked: Vec<String> = proxy.seen().iter().map(|request| request.target.clone()).collect();
    assert!(asked.iter().all(|target| !target.contains("/blobs/")), "{asked:?}");
    // What cosign attaches is not even looked for.
    assert!(
        asked
            .iter()
            .all(|target| !target.contains(".sig") && !target.contains("referrers")),
        "{asked:?}"
    );
    assert_eq!(scene.stage.node.image(IMAGE), None);
}

#[test]
fn gpgs_signatures_are_taken_and_refused_as_skopeo_does() {
    let scene = Scene::new();
    let gpg = &scene.gpg;
    let (image, digest) = (scene.image("shell:latest"), scene.stage.digest());
    let [key, other, gone] = ["signer", "other", "gone"].map(|name| gpg.key(name));
    let brief = gpg.key_with(
        "brief",
        &["--faked-system-time", "20250101T000000"],
        "sign",
        "2025-03-01",
    );
    let parent = gpg.key_with("parent", &[], "cert", "never");
    let subkey = gpg.subkey(&parent);
    let signed = payload(&digest, &image);
    let good = gpg.sign(&signed, &key, &[]);
    let of_gone = gpg.sign(&signed, &gone, &[]);
    gpg.revoke(&gone);
    let all = [&key, &gone, &brief, &parent].map(String::as_str);
    let keyring = gpg.export("keyring.gpg", &all);
    scene.write_policy(&format!("127.0.0.1:{}", scene.port), &by_path(&keyring));
    let of_other = gpg.sign(&signed, &other, &[]);
    let past = ["--faked-system-time", "20250201T000000"];
    let tiny = scene.stage.storage.digest("library/tiny", "latest");
    let table: &[(&str, Vec<Vec<u8>>, &str)] = &[
        ("good", vec![good.clone()], ""),
        (
            "uncompressed",
            vec![gpg.sign(&signed, &key, &["--compress-algo", "none"])],
            "",
        ),
        ("by skopeo", vec![gpg.skopeo_sign(&scene.manifest(), &image, &key)], ""),
        ("none", vec![], "there is none"),
        (
            "payload changed",
            vec![torn(&gpg.sign(&signed, &key, &["--compress-algo", "none"]), b"library")],
            "none of the keys",
        ),
        ("signature changed", vec![torn_at(&good, good.len() - 3)], ""),
        ("other key", vec![of_other.clone()], "none of the keys"),
        (
            "other tag",
            vec![gpg.sign(&payload(&digest, &scene.image("shell:v1")), &key, &[])],
            "not for this name",
        ),
        (
            "other repository",
            vec![gpg.sign(&payload(&digest, &scene.image("tiny:latest")), &key, &[])],
            "not for this name",
        ),
        (
            "no tag",
            vec![gpg.sign(&payload(&digest, &scene.image("shell")), &key, &[])],
            "not for this name",
        ),
        (
            "other image",
            vec![gpg.sign(&payload(&tiny, &image), &key, &[])],
            "which is not this image",
        ),
        (
            "cosign's payload",
            vec![gpg.sign(&super::payload(&digest, &image), &key, &[])],
            "malformed",
        ),
        (
            "expired key",
            vec![gpg.sign(&signed, &brief, &past)],
            "which has expired",
        ),
        (
            "expired signature",
            vec![gpg.sign(&signed, &key, &["--default-sig-expire", "seconds=1"])],
            "has expired",
        ),
        ("revoked key", vec![of_gone.clone()], "which was revoked"),
        (
            "two signatures",
            vec![gpg.sign(&signed, &key, &["-u", &parent])],
            "not a message with one signature",
        ),
        ("not OpenPGP", vec![b"\x88signature".to_vec()], "GPG signature"),
        ("one good among bad", vec![of_other, of_gone, good.clone()], ""),
    ];
    std::thread::sleep(std::time::Duration::from_secs(2));
    for (name, signatures, why) in table {
        scene.store(REPOSITORY, &digest, signatures);
        let by_skopeo = scene.skopeo_takes(&image);
        let by_inro = scene.stage.pull_name(&image, "");
        assert_eq!(by_inro.is_ok(), by_skopeo.is_ok(), "{name}: {by_inro:?}, {by_skopeo:?}");
        // The end of the good one is its signature: whichever byte it was, both refuse.
        match *name {
            "signature changed" => drop(refused(by_inro, "signature")),
            _ if why.is_empty() => drop(by_inro.expect(name)),
            _ => drop(refused(by_inro, why)),
        }
    }
    // Which skopeo takes since containers/image 5.37; the one of the tests is older.
    scene.store(REPOSITORY, &digest, &[gpg.sign(&signed, &subkey, &[])]);
    scene.stage.pull_name(&image, "").expect("by a subkey");
}

#[test]
fn a_gpg_signature_counts_for_the_names_that_the_policy_takes() {
    let scene = Scene::new();
    let gpg = &scene.gpg;
    let key = gpg.key("signer");
    let digest = scene.stage.digest();
    let (image, by_digest) = (scene.image("shell:latest"), scene.image(&format!("shell@{digest}")));
    let copy = scene.image("shell:latest").replace("/library/", "/stranger/");
    scene.stage.storage.copy_repository(REPOSITORY, "stranger/shell");
    let keyring = gpg.export("keyring.gpg", &[&key]);
    for repository in [REPOSITORY, "stranger/shell"] {
        scene.store(
            repository,
            &digest,
            &[gpg.sign(&payload(&digest, &scene.image("shell:v1")), &key, &[])],
        );
    }
    let exact = json!({"type": "exactReference", "dockerReference": scene.image("shell:v1")});
    let copies = json!({
        "type": "remapIdentity",
        "prefix": format!("127.0.0.1:{}/stranger", scene.port),
        "signedPrefix": format!("127.0.0.1:{}/library", scene.port),
    });
    for (identity, asked, is_taken) in [
        (json!(null), &by_digest, true),
        (json!(null), &image, false),
        (json!({"type": "matchRepository"}), &image, true),
        (json!({"type": "matchRepository"}), &copy, false),
        (json!({"type": "matchExact"}), &by_digest, false),
        (exact.clone(), &image, true),
        (exact, &copy, true),
        (copies, &copy, false),
    ] {
        let mut requirement = by_path(&keyring);
        if !identity.is_null() {
            requirement["signedIdentity"] = identity;
        }
        scene.write_policy(&format!("127.0.0.1:{}", scene.port), &requirement);
        let by_skopeo = scene.skopeo_takes(asked);
        let by_inro = scene.stage.pull_name(asked, "");
        assert_eq!(by_skopeo.is_ok(), is_taken, "{requirement} {asked}: {by_skopeo:?}");
        match is_taken {
            true => drop(by_inro.expect("as skopeo")),
            false => drop(refused(by_inro, "not for this name")),
        }
    }
}

#[test]
fn keyrings_may_be_several_armored_and_in_the_policy_itself() {
    let scene = Scene::new();
    let gpg = &scene.gpg;
    let [key, other] = ["signer", "other"].map(|name| gpg.key(name));
    let (image, digest) = (scene.image("shell:latest"), scene.stage.digest());
    scene.store(REPOSITORY, &digest, &[gpg.sign(&payload(&digest, &image), &key, &[])]);
    let [one, two] = [("one.gpg", &key), ("two.gpg", &other)].map(|(file, key)| gpg.export(file, &[key]));
    let armored = gpg.run(&["--export", "--armor", &key], b"");
    let both = [&gpg.run(&["--export", "--armor", &other], b"")[..], b"\n", &armored].concat();
    let file = scene.stage.dir.path().join("both.asc");
    fs::write(&file, both).expect("a keyring");
    let gpg_keys = |rest: Value| {
        let mut requirement = json!({"type": "signedBy", "keyType": "GPGKeys"});
        requirement
            .as_object_mut()
            .expect("an object")
            .extend(rest.as_object().expect("keys").clone());
        requirement
    };
    for (requirement, why) in [
        (gpg_keys(json!({"keyPaths": [two, one]})), ""),
        (gpg_keys(json!({"keyPaths": [two]})), "made by none of the keys"),
        (gpg_keys(json!({"keyPath": file})), ""),
        (gpg_keys(json!({"keyData": STANDARD.encode(&armored)})), ""),
        (
            gpg_keys(json!({"keyData": STANDARD.encode(fs::read(&two).expect("a keyring"))})),
            "made by none of the keys",
        ),
    ] {
        scene.write_policy(&format!("127.0.0.1:{}", scene.port), &requirement);
        match why {
            "" => drop(
                scene
                    .stage
                    .pull_name(&image, "")
                    .unwrap_or_else(|status| panic!("{requirement}: {status:?}")),
            ),
            why => drop(refused(scene.stage.pull_name(&image, ""), why)),
        }
    }
    // The keyring at fault is named, and it is no verdict on the image.
    let absent = scene.stage.dir.path().join("absent.gpg");
    for (requirement, part) in [
        (gpg_keys(json!({"keyPath": absent})), path(&absent)),
        (
            gpg_keys(json!({"keyPath": scene.stage.policy})),
            "no PGP PUBLIC KEY BLOCK",
        ),
    ] {
        scene.write_policy(&format!("127.0.0.1:{}", scene.port), &requirement);
        let failed = scene.stage.pull_name(&image, "").expect_err(part);
        assert!(
            failed.message().contains("keyPath") && failed.message().contains(part),
            "{failed:?}"
        );
    }
}

#[test]
fn who_signs_an_index_by_gpg_signs_what_it_names_and_both_tools_may_be_demanded() {
    let scene = Scene::new();
    let gpg = &scene.gpg;
    let key = gpg.key("signer");
    let keyring = gpg.export("keyring.gpg", &[&key]);
    let (repository, image) = ("library/platforms", "signed.example/library/platforms:latest");
    let index = scene.stage.storage.digest(repository, "latest");
    let both = json!([by_path(&keyring), super::by_path(&scene.stage.key, None)]);
    scene.stage.write_policy(&for_scope("signed.example", &both));
    scene.store(repository, &index, &[gpg.sign(&payload(&index, image), &key, &[])]);
    refused(scene.stage.pull_name(image, ""), "there is none");
    let of_cosign = super::payload(&index, image);
    let signature = scene.stage.key.sign(&of_cosign);
    scene.stage.attach_to(repository, &index, &[(of_cosign, signature)]);
    scene.stage.pull_name(image, "").expect("signed by both");
    scene.store(repository, &index, &[]);
    refused(scene.stage.pull_name(image, ""), "there is none");
}

/// With another byte where a text begins.
fn torn(message: &[u8], text: &[u8]) -> Vec<u8> {
    let at = message.windows(text.len()).position(|bytes| bytes == text);
    torn_at(message, at.expect("the text"))
}

fn torn_at(message: &[u8], at: usize) -> Vec<u8> {
    let mut torn = message.to_vec();
    torn[at] ^= 1;
    torn
}
