//! Checkpoints of running containers. What criu cannot do on this machine is skipped, and says why.

use std::{fs, path::Path, process::Command};

use tonic::Code;

use crate::harness::{Container, Node, own_network, skipped, v1};

/// Where criu is: `INRO_CRIU`, or where Debian's package has it.
fn criu() -> String {
    std::env::var("INRO_CRIU").unwrap_or_else(|_| "/usr/sbin/criu".into())
}

fn node(criu: &str) -> Node {
    Node::with_config(&format!("[pod]\ncriu = {criu:?}\n"))
}

fn checkpoint(node: &Node, container: &Container, location: &Path, timeout: i64) -> Result<(), tonic::Status> {
    node.cri
        .checkpoint_container(v1::CheckpointContainerRequest {
            container_id: container.id.clone(),
            location: location.display().to_string(),
            timeout,
        })
        .map(drop)
}

/// Counts in its log, has a file of its own, and has deleted one of the image's.
const SCRIPT: &str = "echo mine > /made; rm /etc/os-release 2>/dev/null; rm -f /etc/group; i=0; \
                      while :; do i=$((i+1)); echo tick $i; sleep 0.05; done";

#[test]
fn what_is_missing_is_named_and_the_container_goes_on() {
    let node = node("/nonexistent/criu");
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "1000"]);
    let location = node.dir().join("checkpoint.tar");
    let refused = checkpoint(&node, &container, &location, 0).expect_err("no criu");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("/nonexistent/criu"), "{refused:?}");
    assert!(!location.exists());
    let created = pod.container("shell", &["true"], |_| {});
    let refused = checkpoint(&node, &created, &location, 0).expect_err("it does not run");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(container.sh("echo alive"), "alive");
}

#[test]
fn a_criu_that_does_not_work_here_says_what_this_kernel_lacks() {
    let criu = criu();
    let checked = Command::new(&criu).arg("check").output();
    if !checked.is_ok_and(|output| !output.status.success()) {
        let why = "criu is not here, or works";
        return skipped("a_criu_that_does_not_work_here_says_what_this_kernel_lacks", why);
    }
    let node = node(&criu);
    node.pull("shell");
    let container = node.pod(|_| {}).run_container("shell", &["sleep", "1000"]);
    let location = node.dir().join("checkpoint.tar");
    let refused = checkpoint(&node, &container, &location, 0).expect_err("criu check fails");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let told = refused.message().rsplit(": ").next().unwrap_or_default();
    assert!(!told.is_empty() && !told.contains("does not say"), "{refused:?}");
    assert_eq!(container.sh("echo alive"), "alive");
}

#[test]
fn a_checkpoint_is_whole_and_the_container_goes_on() {
    let criu = criu();
    let checked = Command::new(&criu).arg("check").output();
    if !checked.is_ok_and(|output| output.status.success()) {
        let why = "criu is not here, or does not work on this kernel";
        return skipped("a_checkpoint_is_whole_and_the_container_goes_on", why);
    }
    let node = node(&criu);
    node.pull("shell");
    let volume = node.dir().join("volume");
    fs::create_dir(&volume).expect("a volume");
    for shared in [false, true] {
        let pod = node.pod(|config| {
            own_network(config);
            let linux = config.linux.as_mut().expect("linux");
            let options = linux
                .security_context
                .as_mut()
                .and_then(|s| s.namespace_options.as_mut());
            if shared {
                options.expect("options").pid = v1::NamespaceMode::Pod.into();
            }
        });
        let container = pod.container("shell", &["sh", "-c", SCRIPT], |config| {
            config.mounts.push(v1::Mount {
                container_path: "/volume".into(),
                host_path: volume.display().to_string(),
                ..Default::default()
            });
        });
        container.start();
        container.wait_logged("tick 3");
        let pid = container.pid();
        let location = node.dir().join(format!("checkpoint-{shared}.tar"));
        checkpoint(&node, &container, &location, 60).expect("a checkpoint");
        let before = container.logged().lines().count();
        container.wait_logged(&format!("tick {}", before + 5));
        assert_eq!(container.pid(), pid);
        let list = |archive: &Path| {
            let output = Command::new("tar").arg("-tf").arg(archive).output().expect("tar");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let names = list(&location);
        for name in [
            "checkpoint/inventory.img",
            "checkpoint/pstree.img",
            "config.dump",
            "spec.dump",
            "dump.log",
            "stats-dump",
            "rootfs-diff.tar",
        ] {
            assert!(names.lines().any(|line| line == name), "no {name} in {names}");
        }
        let content = |name: &str| {
            let output = Command::new("tar")
                .arg("-xOf")
                .arg(&location)
                .arg(name)
                .output()
                .expect("tar");
            output.stdout
        };
        let config: serde_json::Value = serde_json::from_slice(&content("config.dump")).expect("JSON");
        assert_eq!(config["id"], container.id.as_str());
        assert!(
            config["rootfsImageName"]
                .as_str()
                .is_some_and(|name| name.contains("shell")),
            "{config}"
        );
        let spec: serde_json::Value = serde_json::from_slice(&content("spec.dump")).expect("JSON");
        assert!(spec["ociVersion"].is_string(), "{spec}");
        let difference = node.dir().join("difference.tar");
        fs::write(&difference, content("rootfs-diff.tar")).expect("a file");
        assert!(
            list(&difference).lines().any(|line| line == "made"),
            "{}",
            list(&difference)
        );
        let left = fs::read_dir(node.dir()).expect("a folder").flatten();
        assert!(
            !left
                .into_iter()
                .any(|entry| entry.path().extension().is_some_and(|e| e == "making"))
        );
        // Nothing is left in it that would hinder a second one.
        checkpoint(&node, &container, &location, 0).expect("a second checkpoint");
        container.stop(0);
    }
}

#[test]
fn a_checkpoint_that_takes_too_long_leaves_nothing() {
    let node_dir = tempfile::tempdir().expect("a folder");
    // Not criu: a program that answers nothing at all, which is what an endless dump looks like from here.
    let slow = node_dir.path().join("slow");
    fs::write(&slow, "#!/bin/sh\nexec sleep 1000\n").expect("a script");
    fs::set_permissions(&slow, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let node = node(&slow.display().to_string());
    node.pull("shell");
    let container = node.pod(|_| {}).run_container("shell", &["sleep", "1000"]);
    let location = node.dir().join("checkpoint.tar");
    let late = checkpoint(&node, &container, &location, 1).expect_err("too slow");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    assert!(!location.exists());
    assert_eq!(container.sh("echo alive"), "alive");
}
