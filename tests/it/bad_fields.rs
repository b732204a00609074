//! A malformed value in every field of every call: INVALID_ARGUMENT, and the field's name.

use tonic::{Code, Status};

use crate::harness::{Driver, Node, v1};

/// What is wrong, and the answer to it.
type Row<'a> = (&'a str, Result<(), Status>);

fn check(rows: Vec<Row>) {
    for (field, answer) in rows {
        let status = answer.err().unwrap_or_else(|| panic!("{field}: accepted"));
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        assert!(status.message().contains(field), "should name {field}: {status:?}");
    }
}

/// Limits with one malformed value, by its field.
fn bad_resources() -> Vec<(&'static str, v1::LinuxContainerResources)> {
    let with = |edit: fn(&mut v1::LinuxContainerResources)| {
        let mut resources = v1::LinuxContainerResources::default();
        edit(&mut resources);
        resources
    };
    let page = |page_size: &str| v1::HugepageLimit {
        page_size: page_size.into(),
        limit: 1,
    };
    let unified = |key: &str| v1::LinuxContainerResources {
        unified: [(key.to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    vec![
        ("cpu_period", with(|r| r.cpu_period = -1)),
        ("cpu_shares", with(|r| r.cpu_shares = -2)),
        ("memory_limit_in_bytes", with(|r| r.memory_limit_in_bytes = -2)),
        (
            "memory_swap_limit_in_bytes",
            with(|r| r.memory_swap_limit_in_bytes = -9),
        ),
        (
            "memory_swap_limit_in_bytes",
            with(|r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (2 << 20, 1 << 20)),
        ),
        ("oom_score_adj", with(|r| r.oom_score_adj = 1001)),
        ("oom_score_adj", with(|r| r.oom_score_adj = i64::MIN)),
        ("cpuset_cpus", with(|r| r.cpuset_cpus = "0\n1".into())),
        ("cpuset_mems", with(|r| r.cpuset_mems = "all".into())),
        (
            "hugepage_limits",
            v1::LinuxContainerResources {
                hugepage_limits: vec![page("../2MB")],
                ..Default::default()
            },
        ),
        (
            "hugepage_limits",
            v1::LinuxContainerResources {
                hugepage_limits: vec![page("")],
                ..Default::default()
            },
        ),
        ("unified", unified("../cgroup.procs")),
        ("unified", unified("")),
        ("unified", unified("..")),
        ("unified", unified("Memory.max")),
        ("unified", unified("memory/max")),
    ]
}

#[test]
fn calls_with_an_id_want_one() {
    let node = Node::start();
    let cri = &node.cri;
    check(vec![
        ("pod_sandbox_id", cri.stop_pod_sandbox(Default::default()).map(drop)),
        ("pod_sandbox_id", cri.remove_pod_sandbox(Default::default()).map(drop)),
        ("pod_sandbox_id", cri.pod_sandbox_status(Default::default()).map(drop)),
        ("pod_sandbox_id", cri.create_container(Default::default()).map(drop)),
        (
            "pod_sandbox_id",
            cri.update_pod_sandbox_resources(Default::default()).map(drop),
        ),
        ("container_id", cri.start_container(Default::default()).map(drop)),
        ("container_id", cri.stop_container(Default::default()).map(drop)),
        ("container_id", cri.remove_container(Default::default()).map(drop)),
        ("container_id", cri.container_status(Default::default()).map(drop)),
        ("container_id", cri.exec_sync(Default::default()).map(drop)),
        ("container_id", cri.reopen_container_log(Default::default()).map(drop)),
        (
            "container_id",
            cri.update_container_resources(Default::default()).map(drop),
        ),
        ("container_id", cri.checkpoint_container(Default::default()).map(drop)),
        ("config", cri.run_pod_sandbox(Default::default()).map(drop)),
        ("image", cri.pull_image(Default::default()).map(drop)),
        ("image", cri.image_status(Default::default()).map(drop)),
        ("image", cri.remove_image(Default::default()).map(drop)),
    ]);
}

#[test]
fn images_name_what_is_no_reference() {
    let node = Node::start();
    let cri = &node.cri;
    let bad = ["UPPER/case", "a b", "x:", "x@sha256:short", "-/x", "x/../y", "x:\0"];
    for name in bad {
        let image = || {
            Some(v1::ImageSpec {
                image: name.into(),
                ..Default::default()
            })
        };
        let status = v1::ImageStatusRequest {
            image: image(),
            verbose: false,
        };
        let pull = v1::PullImageRequest {
            image: image(),
            ..Default::default()
        };
        check(vec![
            ("image", cri.image_status(status).map(drop)),
            (
                "image",
                cri.remove_image(v1::RemoveImageRequest { image: image() }).map(drop),
            ),
            ("image", cri.pull_image(pull).map(drop)),
        ]);
    }
    for auth in ["no base64!", "bm8gY29sb24="] {
        let request = v1::PullImageRequest {
            image: Some(v1::ImageSpec {
                image: "localhost:1/x:1".into(),
                ..Default::default()
            }),
            auth: Some(v1::AuthConfig {
                auth: auth.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        check(vec![("auth.auth", cri.pull_image(request).map(drop))]);
    }
}

#[test]
fn sandboxes_name_every_field() {
    let node = Node::start();
    let try_with = |edit: &dyn Fn(&mut v1::PodSandboxConfig)| node.try_pod(edit).map(drop);
    let linux =
        |edit: &dyn Fn(&mut v1::LinuxPodSandboxConfig)| try_with(&|config| edit(config.linux.as_mut().expect("linux")));
    let security = |edit: &dyn Fn(&mut v1::LinuxSandboxSecurityContext)| {
        linux(&|linux| edit(linux.security_context.as_mut().expect("security")))
    };
    let namespaces = |edit: &dyn Fn(&mut v1::NamespaceOption)| {
        security(&|context| edit(context.namespace_options.as_mut().expect("options")))
    };
    let port = |mapping: v1::PortMapping| {
        try_with(&|config| {
            crate::harness::own_network(config);
            config.port_mappings = vec![mapping.clone()];
        })
    };
    let mapping = |edit: &dyn Fn(&mut v1::PortMapping)| {
        let mut mapping = v1::PortMapping {
            container_port: 80,
            host_port: 38_473,
            ..Default::default()
        };
        edit(&mut mapping);
        mapping
    };
    let id = |value| Some(v1::Int64Value { value });
    check(vec![
        ("metadata", try_with(&|config| config.metadata = None)),
        (
            "metadata.name",
            try_with(&|config| config.metadata.as_mut().expect("metadata").name.clear()),
        ),
        (
            "log_directory",
            try_with(&|config| config.log_directory = "/a/../b".into()),
        ),
        ("hostname", try_with(&|config| config.hostname = "x".repeat(65))),
        (
            "dns_config",
            try_with(&|config| {
                config.dns_config = Some(v1::DnsConfig {
                    servers: vec!["192.0.2.1\noptions x".into()],
                    ..Default::default()
                });
            }),
        ),
        ("port_mappings[0].host_port", port(mapping(&|m| m.host_port = 65_536))),
        ("port_mappings[0].host_port", port(mapping(&|m| m.host_port = -1))),
        (
            "port_mappings[0].container_port",
            port(mapping(&|m| m.container_port = 70_000)),
        ),
        (
            "port_mappings[0].container_port",
            port(mapping(&|m| m.container_port = 0)),
        ),
        ("port_mappings[0].protocol", port(mapping(&|m| m.protocol = 7))),
        (
            "port_mappings[0].host_ip",
            port(mapping(&|m| m.host_ip = "example.org".into())),
        ),
        ("port_mappings[0].host_ip", port(mapping(&|m| m.host_ip = "::1".into()))),
        ("cgroup_parent", linux(&|linux| linux.cgroup_parent = "/a/../b".into())),
        (
            "cgroup_parent",
            linux(&|linux| {
                // Of the other driver's kind.
                linux.cgroup_parent = match Driver::of_tests() {
                    Driver::Cgroupfs => "kube.slice".into(),
                    Driver::Systemd => "/kube".into(),
                }
            }),
        ),
        (
            "sysctls",
            linux(&|linux| drop(linux.sysctls.insert("kernel.panic".into(), "1".into()))),
        ),
        (
            "sysctls",
            linux(&|linux| drop(linux.sysctls.insert("net.ipv4.ip_forward".into(), "1".into()))),
        ),
        ("namespace_options.network", namespaces(&|options| options.network = 1)),
        ("namespace_options.network", namespaces(&|options| options.network = 9)),
        ("namespace_options.ipc", namespaces(&|options| options.ipc = 1)),
        (
            "namespace_options.pid",
            namespaces(&|options| (options.pid, options.target_id) = (3, "0123456789abcdef".repeat(4))),
        ),
        ("namespace_options.pid", namespaces(&|options| options.pid = 9)),
        ("run_as_user", security(&|context| context.run_as_user = id(-1))),
        ("run_as_group", security(&|context| context.run_as_group = id(1))),
        (
            "run_as_group",
            security(&|context| (context.run_as_user, context.run_as_group) = (id(1), id(-1))),
        ),
        (
            "supplemental_groups",
            security(&|context| context.supplemental_groups = vec![1, -1]),
        ),
    ]);
    for part in ["overhead", "resources"] {
        for (field, bad) in bad_resources() {
            let answer = linux(&|linux| {
                let place = if part == "overhead" {
                    &mut linux.overhead
                } else {
                    &mut linux.resources
                };
                *place = Some(bad.clone());
            });
            check(vec![(&format!("{part}.{field}"), answer)]);
        }
    }
    let listed = node.cri.list_pod_sandbox(Default::default()).expect("list").items;
    assert!(listed.is_empty(), "{listed:?}");
}

#[test]
fn containers_name_every_field() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let try_with = |edit: &dyn Fn(&mut v1::ContainerConfig)| pod.try_container("shell", &["true"], edit).map(drop);
    let security = |edit: &dyn Fn(&mut v1::LinuxContainerSecurityContext)| {
        try_with(&|config| {
            let linux = config.linux.as_mut().expect("linux");
            edit(linux.security_context.as_mut().expect("security"));
        })
    };
    let mount = |edit: &dyn Fn(&mut v1::Mount)| {
        let mut mount = v1::Mount {
            container_path: "/x".into(),
            host_path: "/tmp".into(),
            ..Default::default()
        };
        edit(&mut mount);
        try_with(&|config| config.mounts.push(mount.clone()))
    };
    let device = |edit: &dyn Fn(&mut v1::Device)| {
        let mut device = v1::Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/null".into(),
            permissions: "r".into(),
        };
        edit(&mut device);
        try_with(&|config| config.devices.push(device.clone()))
    };
    let variable = |key: &str, value: &[u8]| {
        let variable = v1::KeyValue {
            key: key.into(),
            value: value.into(),
        };
        try_with(&|config| config.envs.push(variable.clone()))
    };
    let profile = |profile_type, localhost_ref: &str| {
        Some(v1::SecurityProfile {
            profile_type,
            localhost_ref: localhost_ref.into(),
        })
    };
    let id = |value| Some(v1::Int64Value { value });
    check(vec![
        ("metadata", try_with(&|config| config.metadata = None)),
        (
            "metadata.name",
            try_with(&|config| config.metadata.as_mut().expect("metadata").name.clear()),
        ),
        ("image", try_with(&|config| config.image = None)),
        (
            "image",
            try_with(&|config| config.image.as_mut().expect("image").image.clear()),
        ),
        ("command", try_with(&|config| config.command = vec!["a\0".into()])),
        ("command", try_with(&|config| config.args = vec!["a\0".into()])),
        (
            "working_dir",
            try_with(&|config| config.working_dir = "relative".into()),
        ),
        ("envs[0]", variable("", b"")),
        ("envs[0]", variable("A=B", b"")),
        ("envs[0]", variable("A", b"x\0y")),
        ("mounts[0].container_path", mount(&|mount| mount.container_path.clear())),
        (
            "mounts[0].container_path",
            mount(&|mount| mount.container_path = "/a/../b".into()),
        ),
        (
            "mounts[0].host_path",
            mount(&|mount| mount.host_path = "relative".into()),
        ),
        ("mounts[0].propagation", mount(&|mount| mount.propagation = 5)),
        (
            "mounts[0].recursive_read_only",
            mount(&|mount| mount.recursive_read_only = true),
        ),
        (
            "mounts[0].mount_options",
            mount(&|mount| mount.mount_options = vec!["exec".into()]),
        ),
        (
            "devices[0].container_path",
            device(&|device| device.container_path = "dev/x".into()),
        ),
        ("devices[0].host_path", device(&|device| device.host_path.clear())),
        (
            "devices[0].permissions",
            device(&|device| device.permissions = "rx".into()),
        ),
        ("log_path", try_with(&|config| config.log_path = "/etc/passwd".into())),
        ("log_path", try_with(&|config| config.log_path = "../x".into())),
        ("stop_signal", try_with(&|config| config.stop_signal = 4000)),
        ("run_as_user", security(&|context| context.run_as_user = id(1 << 40))),
        (
            "run_as_username",
            security(&|context| context.run_as_username = "a:b".into()),
        ),
        ("run_as_group", security(&|context| context.run_as_group = id(1))),
        (
            "supplemental_groups",
            security(&|context| context.supplemental_groups = vec![-5]),
        ),
        (
            "supplemental_groups_policy",
            security(&|context| context.supplemental_groups_policy = 9),
        ),
        (
            "masked_paths",
            security(&|context| context.masked_paths = vec!["proc".into()]),
        ),
        (
            "readonly_paths",
            security(&|context| context.readonly_paths = vec!["/../x".into()]),
        ),
        (
            "seccomp.profile_type",
            security(&|context| context.seccomp = profile(9, "")),
        ),
        (
            "seccomp.localhost_ref",
            security(&|context| context.seccomp = profile(2, "")),
        ),
        (
            "apparmor.profile_type",
            security(&|context| context.apparmor = profile(9, "")),
        ),
        (
            "apparmor.localhost_ref",
            security(&|context| context.apparmor = profile(2, "")),
        ),
        (
            "namespace_options.target_id",
            security(&|context| {
                context.namespace_options = Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Target.into(),
                    target_id: "../x".into(),
                    ..Default::default()
                });
            }),
        ),
        (
            "capabilities",
            security(&|context| {
                context.capabilities = Some(v1::Capability {
                    add_capabilities: vec!["NO_SUCH".into()],
                    ..Default::default()
                });
            }),
        ),
    ]);
    for (field, bad) in bad_resources() {
        let answer = try_with(&|config| config.linux.as_mut().expect("linux").resources = Some(bad.clone()));
        check(vec![(&format!("resources.{field}"), answer)]);
    }
    let listed = node.cri.list_containers(Default::default()).expect("list").containers;
    assert!(listed.is_empty(), "{listed:?}");
}

#[test]
fn the_other_calls_name_every_field() {
    let node = Node::start();
    node.pull("shell");
    let cri = &node.cri;
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "1000"]);
    let exec = |cmd: &[&str], timeout| {
        cri.exec_sync(v1::ExecSyncRequest {
            container_id: container.id.clone(),
            cmd: cmd.iter().map(|&word| word.into()).collect(),
            timeout,
        })
        .map(drop)
    };
    let stop = v1::StopContainerRequest {
        container_id: container.id.clone(),
        timeout: -1,
    };
    let checkpoint = |location: &str, timeout| {
        cri.checkpoint_container(v1::CheckpointContainerRequest {
            container_id: container.id.clone(),
            location: location.into(),
            timeout,
        })
        .map(drop)
    };
    let pods_by_state = v1::PodSandboxFilter {
        state: Some(v1::PodSandboxStateValue { state: 9 }),
        ..Default::default()
    };
    let containers_by_state = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue { state: 9 }),
        ..Default::default()
    };
    let filter = Some(pods_by_state);
    let windows = v1::UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        windows: Some(Default::default()),
        ..Default::default()
    };
    check(vec![
        ("cmd", exec(&[], 1)),
        ("cmd", exec(&[""], 1)),
        ("cmd", exec(&["echo", "a\0b"], 1)),
        ("timeout", exec(&["true"], -1)),
        ("timeout", cri.stop_container(stop).map(drop)),
        ("location", checkpoint("", 0)),
        ("location", checkpoint("relative.tar", 0)),
        ("location", checkpoint("/a/../b.tar", 0)),
        ("location", checkpoint("/", 0)),
        ("timeout", checkpoint("/tmp/x.tar", -1)),
        (
            "filter.state",
            cri.list_pod_sandbox(v1::ListPodSandboxRequest { filter }).map(drop),
        ),
        (
            "filter.state",
            cri.list_containers(v1::ListContainersRequest {
                filter: Some(containers_by_state),
            })
            .map(drop),
        ),
        ("windows", cri.update_container_resources(windows).map(drop)),
    ]);
    for (field, bad) in bad_resources() {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: container.id.clone(),
            linux: Some(bad.clone()),
            ..Default::default()
        };
        let overhead = v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.id.clone(),
            overhead: Some(bad.clone()),
            ..Default::default()
        };
        let resources = v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.id.clone(),
            resources: Some(bad),
            ..Default::default()
        };
        check(vec![
            (
                &format!("linux.{field}"),
                cri.update_container_resources(request).map(drop),
            ),
            (
                &format!("overhead.{field}"),
                cri.update_pod_sandbox_resources(overhead).map(drop),
            ),
            (
                &format!("resources.{field}"),
                cri.update_pod_sandbox_resources(resources).map(drop),
            ),
        ]);
    }
    assert_eq!(container.status().state, v1::ContainerState::ContainerRunning as i32);
}
