use serde_json::json;

use super::*;

fn digest(n: u8) -> String {
    format!("sha256:{}", format!("{n:02x}").repeat(32))
}

#[test]
fn documents_are_what_they_are_served_as() {
    let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(1), "size": 1});
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(2), "size": 1});
    let image = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
    assert!(matches!(
        parse(image.as_bytes(), OCI_MANIFEST),
        Ok(Document::Image { .. })
    ));
    assert!(parse(image.as_bytes(), OCI_INDEX).is_err());
    let both = json!({"schemaVersion": 2, "config": config, "layers": [layer], "manifests": []}).to_string();
    assert_eq!(parse(both.as_bytes(), OCI_MANIFEST), Err(ManifestError::Ambiguous));
    assert_eq!(parse(br#"{"schemaVersion": 1}"#, ""), Err(ManifestError::Schema1));
    let foreign = image.replace("layer.v1.tar+gzip", "layer.nondistributable.v1.tar+gzip");
    assert!(matches!(
        parse(foreign.as_bytes(), OCI_MANIFEST),
        Err(ManifestError::Foreign(_))
    ));
    let climbing = image.replace(&digest(1), "sha256:../../../x");
    assert!(matches!(
        parse(climbing.as_bytes(), OCI_MANIFEST),
        Err(ManifestError::Digest(_))
    ));
}

/// A manifest of files with these titles.
fn artifact_of(titles: &[&str]) -> Result<Document, ManifestError> {
    let layers = titles.iter().zip(1..).map(
        |(title, n)| json!({"mediaType": "text/plain", "digest": digest(n), "size": 1, "annotations": {TITLE: title}}),
    );
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x-of-ours",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(0), "size": 2},
        "layers": layers.collect::<Vec<_>>(),
    });
    parse(manifest.to_string().as_bytes(), OCI_MANIFEST)
}

#[test]
fn what_is_no_image_is_files() {
    let Ok(Document::Artifact(artifact)) = artifact_of(&["model.bin", "folder/of it/README"]) else {
        panic!()
    };
    assert_eq!(artifact.kind, "application/x-of-ours");
    let titles: Vec<_> = artifact.parts.iter().map(|part| part.title.clone().unwrap()).collect();
    assert_eq!(titles, [Path::new("model.bin"), Path::new("folder/of it/README")]);

    let config = json!({"mediaType": "application/vnd.x.config+json", "digest": digest(0), "size": 2});
    let layers = json!([
        {"mediaType": "application/vnd.x.chart.v1.tar+gzip", "digest": digest(1), "size": 1},
        {"mediaType": "text/plain", "digest": digest(2), "size": 1},
    ]);
    let text = json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
    let Ok(Document::Artifact(artifact)) = parse(text.as_bytes(), OCI_MANIFEST) else {
        panic!()
    };
    assert_eq!(artifact.kind, "application/vnd.x.config+json");
    assert_eq!(artifact.parts[0].title, None);
    let by_digest = digest(2).replace(':', "-");
    assert_eq!(artifact.parts[1].title, Some(by_digest.into()));
}

#[test]
fn a_title_is_a_plain_path_of_its_own() {
    let long = "a/".repeat(1024) + "a";
    for titles in [
        &["../up"][..],
        &["a/../../up"],
        &["/etc/passwd"],
        &["."],
        &[".."],
        &[""],
        &["a//b"],
        &["a/"],
        &["./a"],
        &["nul\0"],
        &["line\nline"],
        &["same", "same"],
        &["folder", "folder/file"],
        &["folder/file", "folder"],
        &[&"a".repeat(256)],
        &[&long],
    ] {
        let refused = artifact_of(titles);
        assert!(
            matches!(refused, Err(ManifestError::Title { .. })),
            "{titles:?}: {refused:?}"
        );
    }
    for titles in [&["a", "ab", "b/a", "b/b"][..], &[".hidden"], &["..."], &["ä ö"]] {
        assert!(artifact_of(titles).is_ok(), "{titles:?}");
    }
}

#[test]
fn the_host_platform_is_chosen() {
    let entry = |arch: &str, variant: &str, n| json!({"digest": digest(n), "size": 1, "platform": {"os": "linux", "architecture": arch, "variant": variant}});
    let arch = architecture();
    let index = json!({"schemaVersion": 2, "manifests": [entry("s390x", "", 1), entry(arch, "v3", 2), entry(arch, "", 3), entry("unknown", "", 4)]});
    let Ok(Document::Index(list)) = parse(index.to_string().as_bytes(), OCI_INDEX) else {
        panic!()
    };
    assert_eq!(select(&list).unwrap().digest, digest(3));
    assert!(matches!(
        select(&[list[0].clone(), list[0].clone()]),
        Err(ManifestError::NoPlatform(_))
    ));
}

#[test]
fn signals_have_numbers_and_names() {
    let table = [
        ("SIGTERM", Some(15)),
        ("quit", Some(3)),
        ("9", Some(9)),
        ("SIGRTMIN+3", Some(37)),
        ("RTMAX-1", Some(63)),
        ("0", None),
        ("SIGX", None),
        ("99", None),
    ];
    for (text, number) in table {
        assert_eq!(signal(text), number, "{text}");
    }
}
