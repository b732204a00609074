//! Requests that make no sense: the answer names the field, and nothing is left behind.

use tonic::{Code, Status};

use crate::harness::{Node, Pod, v1};

fn refuse(pod: &Pod, field: &str, edit: impl FnOnce(&mut v1::ContainerConfig)) {
    let status = pod
        .try_container("shell", &["true"], edit)
        .err()
        .unwrap_or_else(|| panic!("{field}: accepted"));
    names(&status, Code::InvalidArgument, field);
}

fn names(status: &Status, code: Code, field: &str) {
    assert_eq!(status.code(), code, "{field}: {status:?}");
    assert!(status.message().contains(field), "{field}: {status:?}");
}

#[test]
fn containers_name_the_wrong_field() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    refuse(&pod, "metadata", |config| config.metadata = None);
    refuse(&pod, "metadata.name", |config| {
        config.metadata.as_mut().expect("metadata").name.clear()
    });
    refuse(&pod, "image", |config| config.image = None);
    refuse(&pod, "mounts", |config| config.mounts.push(mount("relative", "/tmp")));
    refuse(&pod, "mounts", |config| config.mounts.push(mount("/x", "")));
    refuse(&pod, "log_path", |config| config.log_path = "../outside.log".into());
    refuse(&pod, "envs", |config| {
        config.envs.push(v1::KeyValue {
            key: "A=B".into(),
            value: Vec::new(),
        });
    });
    refuse(&pod, "working_dir", |config| config.working_dir = "nul\0byte".into());
    refuse(&pod, "command", |config| config.command = vec!["a\0b".into()]);
    refuse(&pod, "recursive_read_only", |config| {
        config.mounts.push(v1::Mount {
            recursive_read_only: true,
            ..mount("/x", "/tmp")
        });
    });
    refuse(&pod, "unified", |config| {
        let linux = config.linux.as_mut().expect("linux");
        let unified = [("../cgroup.procs".into(), "1".into())].into();
        linux.resources = Some(v1::LinuxContainerResources {
            unified,
            ..Default::default()
        });
    });
    assert!(
        node.cri
            .list_containers(v1::ListContainersRequest::default())
            .expect("list")
            .containers
            .is_empty()
    );
}

fn mount(container: &str, host: &str) -> v1::Mount {
    v1::Mount {
        container_path: container.into(),
        host_path: host.into(),
        ..Default::default()
    }
}

#[test]
fn sandboxes_name_the_wrong_field() {
    let node = Node::start();
    let refuse = |field: &str, edit: &dyn Fn(&mut v1::PodSandboxConfig)| {
        let status = node.try_pod(edit).err().unwrap_or_else(|| panic!("{field}: accepted"));
        names(&status, Code::InvalidArgument, field);
    };
    refuse("metadata", &|config| config.metadata = None);
    refuse("metadata.name", &|config| {
        config.metadata.as_mut().expect("metadata").name.clear()
    });
    refuse("hostname", &|config| config.hostname = "a/b".into());
    refuse("hostname", &|config| config.hostname = "x".repeat(65));
    refuse("cgroup_parent", &|config| {
        config.linux.as_mut().expect("linux").cgroup_parent = "/a/../../b".into()
    });
    refuse("sysctls", &|config| {
        config
            .linux
            .as_mut()
            .expect("linux")
            .sysctls
            .insert("../../etc/passwd".into(), "1".into());
    });
    assert!(
        node.cri
            .list_pod_sandbox(v1::ListPodSandboxRequest::default())
            .expect("list")
            .items
            .is_empty()
    );
}

#[test]
fn empty_requests_are_answered() {
    let node = Node::start();
    let code = |result: Result<(), Status>| result.expect_err("an error").code();
    let cri = &node.cri;
    assert_eq!(
        code(cri.run_pod_sandbox(Default::default()).map(|_| ())),
        Code::InvalidArgument
    );
    assert_eq!(
        code(cri.create_container(Default::default()).map(|_| ())),
        Code::InvalidArgument
    );
    assert_eq!(
        code(cri.start_container(Default::default()).map(|_| ())),
        Code::InvalidArgument
    );
    assert_eq!(
        code(cri.exec_sync(Default::default()).map(|_| ())),
        Code::InvalidArgument
    );
    assert_eq!(
        code(cri.pull_image(Default::default()).map(|_| ())),
        Code::InvalidArgument
    );
    assert_eq!(
        code(cri.container_status(Default::default()).map(|_| ())),
        Code::InvalidArgument
    );
}

#[test]
fn unknown_ids_are_not_found() {
    let node = Node::start();
    let id = || "0123456789abcdef".repeat(4);
    let code = |result: Result<(), Status>| result.expect_err("an error").code();
    let cri = &node.cri;
    assert_eq!(
        code(
            cri.start_container(v1::StartContainerRequest { container_id: id() })
                .map(|_| ())
        ),
        Code::NotFound
    );
    let status = v1::ContainerStatusRequest {
        container_id: id(),
        verbose: false,
    };
    assert_eq!(code(cri.container_status(status).map(|_| ())), Code::NotFound);
    let status = v1::PodSandboxStatusRequest {
        pod_sandbox_id: id(),
        verbose: false,
    };
    assert_eq!(code(cri.pod_sandbox_status(status).map(|_| ())), Code::NotFound);
    let exec = v1::ExecSyncRequest {
        container_id: id(),
        cmd: vec!["true".into()],
        timeout: 1,
    };
    assert_eq!(code(cri.exec_sync(exec).map(|_| ())), Code::NotFound);
    let reopen = v1::ReopenContainerLogRequest { container_id: id() };
    assert_eq!(code(cri.reopen_container_log(reopen).map(|_| ())), Code::NotFound);
    // An id is a name of ours: it is looked up, never used as a path.
    for path in ["../..", "/etc", "a/../b", ".", "\0"] {
        let status = v1::ContainerStatusRequest {
            container_id: path.into(),
            verbose: false,
        };
        let code = code(cri.container_status(status).map(|_| ()));
        assert!(
            matches!(code, Code::NotFound | Code::InvalidArgument),
            "{path:?}: {code:?}"
        );
    }
}

#[test]
fn an_image_that_was_not_pulled_is_not_found() {
    let node = Node::start();
    let pod = node.pod(|_| {});
    let status = pod
        .try_container("never-pulled", &["true"], |_| {})
        .err()
        .expect("an error");
    names(&status, Code::NotFound, "never-pulled");
}

#[test]
fn a_mount_source_that_is_not_there_fails_with_its_path() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let created = pod.try_container("shell", &["true"], |config| {
        config.mounts.push(mount("/x", "/no/such/source"))
    });
    // Made as a folder, as other runtimes do, or refused with its name.
    match created {
        Ok(_) => drop(std::fs::remove_dir_all("/no")),
        Err(status) => assert!(status.message().contains("/no/such/source"), "{status:?}"),
    }
}

#[test]
fn a_call_that_is_not_built_says_so() {
    let node = Node::start();
    assert_eq!(
        node.cri
            .checkpoint_pod(Default::default())
            .expect_err("an error")
            .code(),
        Code::Unimplemented
    );
    assert_eq!(
        node.cri.restore_pod(Default::default()).expect_err("an error").code(),
        Code::Unimplemented
    );
}
