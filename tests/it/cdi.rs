//! CDI devices: what a vendor's file says is in the container, and what is in no file is an error.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tonic::Code;

use crate::harness::{Container, Node, Pod, own_users, v1};

/// A daemon that looks for CDI files in a folder of the test's.
fn node() -> (Node, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let node = Node::with_config(&format!("[pod]\ncdi_spec_dirs = [\"{}\"]\n", dir.path().display()));
    node.pull("shell");
    (node, dir)
}

/// A file with one device, `example.com/thing=zero`, and an edit for all devices of it.
fn write(dir: &Path) {
    let library = dir.join("library.so");
    fs::write(&library, "a library").expect("library");
    fs::set_permissions(&library, fs::Permissions::from_mode(0o644)).expect("its mode");
    let text = format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "example.com/thing",
            "containerEdits": {{"env": ["FROM=vendor", "VENDOR=yes"], "additionalGids": [4711],
                "mounts": [{{"hostPath": "{}", "containerPath": "/usr/lib/library.so", "options": ["ro", "nosuid", "bind"]}}]}},
            "devices": [{{"name": "zero", "containerEdits": {{"deviceNodes":
                [{{"path": "/dev/things/zero", "hostPath": "/dev/zero", "permissions": "r"}}]}}}}]}}"#,
        library.display()
    );
    fs::write(dir.join("thing.json"), text).expect("thing.json");
}

fn create(pod: &Pod, device: &str) -> Result<Container, tonic::Status> {
    pod.try_container("shell", &["sleep", "1000"], |config| {
        config.cdi_devices = vec![v1::CdiDevice { name: device.into() }];
        config.envs = vec![v1::KeyValue {
            key: "FROM".into(),
            value: "request".into(),
        }];
    })
}

#[test]
fn a_container_gets_what_the_vendors_file_says() {
    let (node, dir) = node();
    write(dir.path());
    let edits: [fn(&mut v1::PodSandboxConfig); 2] = [|_| {}, own_users];
    for edit in edits {
        let pod = node.pod(edit);
        let container = create(&pod, "example.com/thing=zero").unwrap_or_else(|status| panic!("create: {status:?}"));
        container.start();
        assert_eq!(container.sh("head -c 3 /dev/things/zero | wc -c"), "3");
        assert_eq!(
            container.sh("echo $FROM $VENDOR; cat /usr/lib/library.so"),
            "vendor yes\na library"
        );
        assert!(container.sh("id -G").split(' ').any(|group| group == "4711"));
        assert_ne!(
            container.exec(&["sh", "-c", "echo > /usr/lib/library.so"]).exit_code,
            0,
            "read-only"
        );
    }
}

#[test]
fn a_device_that_cannot_be_given_is_named() {
    let (node, dir) = node();
    write(dir.path());
    let hooked = r#"{"cdiVersion": "0.6.0", "kind": "example.com/hooked", "devices": [{"name": "0", "containerEdits":
        {"hooks": [{"hookName": "createContainer", "path": "true"}]}}]}"#;
    fs::write(dir.path().join("hooked.json"), hooked).expect("hooked.json");
    let pod = node.pod(|_| {});
    for (device, part) in [
        ("example.com/thing=one", "no CDI device \"example.com/thing=one\""),
        ("nonsense", "no CDI device \"nonsense\""),
        ("example.com/hooked=0", "hooks: true: true is not an absolute path"),
    ] {
        let status = create(&pod, device).err().expect("an error");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(
            status.message().contains("config.CDI_devices") && status.message().contains(part),
            "{status:?}"
        );
    }
    // The files are read anew: a device may come while the daemon runs.
    let yaml = "cdiVersion: 1.0.0\nkind: example.com/thing\ndevices:\n- name: one\n  containerEdits: {env: [ONE=1]}\n";
    fs::write(dir.path().join("more.yaml"), yaml).expect("more.yaml");
    assert!(create(&pod, "example.com/thing=one").is_ok());
}
