//! The shapes of specs, one file per scenario.

use std::path::{Path, PathBuf};

use super::*;
use crate::model::*;

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: "pod".into(),
            uid: "u-1".into(),
            namespace: "ns".into(),
            attempt: 0,
        },
        runtime_handler: String::new(),
        hostname: "host-of-pod".into(),
        log_directory: None,
        dns: Dns::default(),
        port_mappings: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        cgroup_parent: "/p".into(),
        sysctls: Default::default(),
        namespaces: test_security().namespaces,
        privileged: false,
        overhead: None,
        resources: None,
    }
}

fn container() -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata {
            name: "main".into(),
            attempt: 0,
        },
        image: "example.test/app:1".into(),
        user_specified_image: String::new(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        envs: vec![("A".into(), "request".into())],
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        log_path: None,
        stdio: Stdio {
            stdin: false,
            stdin_once: false,
            tty: false,
        },
        resources: Resources::default(),
        security: test_security(),
        stop_signal: None,
    }
}

/// As where libcontainer has all to do.
fn spec_of(config: &ContainerConfig, staged: &[StagedMount]) -> serde_json::Value {
    let left = Left {
        proc: true,
        paths: true,
    };
    spec_with(config, staged, left)
}

fn spec_with(config: &ContainerConfig, staged: &[StagedMount], left: Left) -> serde_json::Value {
    let image = ImageConfig {
        env: vec!["A=image".into(), "B=image".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["cmd".into()],
        working_dir: "work".into(),
        ..ImageConfig::default()
    };
    let user = User {
        uid: 7,
        gid: 8,
        groups: vec![8, 9],
        home: "/home/seven".into(),
    };
    let input = SpecInput {
        config,
        sandbox: &sandbox(),
        image: &image,
        user: &user,
        capabilities: CapabilitySets {
            bounding: 1,
            effective: 1,
            permitted: 1,
            ..CapabilitySets::default()
        },
        capability_names: |mask| match mask {
            0x20_0101 => vec!["CAP_CHOWN".into(), "CAP_SETPCAP".into(), "CAP_SYS_ADMIN".into()],
            other => panic!("unexpected mask {other:#x}"),
        },
        rootfs: "/stage/rootfs".into(),
        staged,
        left,
        namespaces: vec![
            ("mount", None),
            ("pid", None),
            ("network", Some("/proc/self/fd/900".into())),
        ],
        hostname: "host-of-pod",
        halt: None,
    };
    sorted(serde_json::to_value(generate(&input).unwrap()).unwrap())
}

/// Annotations and capabilities come in no order.
fn sorted(mut spec: serde_json::Value) -> serde_json::Value {
    let annotations = spec["annotations"].take();
    let ordered: std::collections::BTreeMap<String, String> = serde_json::from_value(annotations).unwrap();
    spec["annotations"] = serde_json::to_value(ordered).unwrap();
    for set in ["bounding", "effective", "permitted"] {
        let names = spec["process"]["capabilities"][set].as_array_mut().unwrap();
        names.sort_by_key(|name| name.to_string());
    }
    spec
}

#[test]
fn the_image_and_the_request_merge() {
    let spec = spec_of(&container(), &[]);
    let process = &spec["process"];
    assert_eq!(process["args"], serde_json::json!(["/entry", "cmd"]));
    assert_eq!(process["cwd"], "/work");
    let env: Vec<_> = process["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e.as_str().unwrap())
        .collect();
    assert!(
        env.contains(&"A=request") && env.contains(&"B=image") && env.contains(&"HOME=/home/seven"),
        "{env:?}"
    );
    assert!(
        process.get("noNewPrivileges").is_none(),
        "libcontainer takes false for true"
    );
    let args = ContainerConfig {
        args: vec!["x".into()],
        ..container()
    };
    assert_eq!(
        spec_of(&args, &[])["process"]["args"],
        serde_json::json!(["/entry", "x"])
    );
    let command = ContainerConfig {
        command: vec!["/c".into()],
        ..container()
    };
    assert_eq!(spec_of(&command, &[])["process"]["args"], serde_json::json!(["/c"]));
}

#[test]
fn what_the_helper_does_is_not_in_the_spec() {
    let left = Left {
        proc: false,
        paths: false,
    };
    let spec = spec_with(&container(), &[], left);
    assert_eq!(spec["mounts"], serde_json::json!([]));
    assert!(spec["linux"].get("maskedPaths").is_none() && spec["linux"].get("readonlyPaths").is_none());
    let base = base_mounts(&test_security(), None, &[], true);
    assert_eq!(base[0].place, Path::new("/proc"));
}

#[test]
fn plain() {
    insta::assert_json_snapshot!(spec_of(&container(), &[]));
}

#[test]
fn privileged_with_volumes() {
    let mut config = container();
    config.security.privileged = true;
    config.stdio.tty = true;
    let mount = |path: &str, access, propagation| StagedMount {
        mount: Mount {
            container_path: path.into(),
            source: MountSource::Host("/h".into()),
            access,
            propagation,
            options: vec!["noexec".into()],
        },
        source: PathBuf::from(format!("/stage{path}")),
    };
    let staged = [
        mount("/data", Access::RecursiveReadOnly, Propagation::Private),
        mount("/data/inner", Access::ReadOnly, Propagation::Bidirectional),
        mount("/etc/resolv.conf", Access::ReadWrite, Propagation::HostToContainer),
    ];
    config.mounts = staged.iter().map(|staged| staged.mount.clone()).collect();
    insta::assert_json_snapshot!(spec_of(&config, &staged));
}

#[test]
fn resolv_conf_comes_from_the_request_or_the_host() {
    let dns = Dns {
        servers: vec!["10.0.0.1".into()],
        searches: vec!["a.test".into(), "b".into()],
        options: vec!["ndots:5".into()],
    };
    assert_eq!(
        resolv_conf(&dns, "host"),
        "search a.test b\nnameserver 10.0.0.1\noptions ndots:5\n"
    );
    assert_eq!(resolv_conf(&Dns::default(), "host"), "host");
}

#[test]
fn the_base_of_every_container() {
    insta::assert_json_snapshot!(base_mounts(&test_security(), None, &[], false));
}

#[test]
fn the_base_belongs_to_the_root_of_a_user_namespace() {
    let options = |size| {
        let uids = IdRange { host: 100_000, size };
        let gids = IdRange { host: 200_000, size };
        let all = base_mounts(&test_security(), Some(&UserNamespace { uids, gids }), &[], false);
        let of = |place: &str| {
            all.iter()
                .find(|base| base.place == Path::new(place))
                .unwrap()
                .options
                .clone()
        };
        (of("/dev"), of("/dev/pts"))
    };
    let has =
        |options: &[(String, String)], key: &str, value: &str| options.contains(&(key.to_owned(), value.to_owned()));
    let (dev, pts) = options(1000);
    assert!(has(&dev, "uid", "100000") && has(&dev, "gid", "200000"), "{dev:?}");
    assert!(has(&pts, "gid", "200005"), "{pts:?}");
    let (_, pts) = options(5);
    assert!(
        !pts.iter().any(|(key, _)| key == "gid"),
        "no group of terminals: {pts:?}"
    );
}

#[test]
fn volumes_take_the_place_of_the_base_but_not_of_proc() {
    let volume = |path: &str, host: &str| Mount {
        container_path: path.into(),
        source: MountSource::Host(host.into()),
        access: Access::ReadWrite,
        propagation: Propagation::Private,
        options: Vec::new(),
    };
    let places: Vec<_> = base_mounts(&test_security(), None, &[volume("/sys/", "/h")], true)
        .into_iter()
        .map(|base| base.place)
        .collect();
    let expected: Vec<PathBuf> = ["/proc", "/dev", "/dev/pts", "/dev/mqueue"].map(PathBuf::from).into();
    assert_eq!(places, expected);

    for (path, host, allowed) in [
        ("/proc", "/h", false),
        ("/proc/", "/proc", true),
        ("/proc/self/attr", "/h", false),
        ("/proc/meminfo", "/h", true),
        ("/procedure", "/h", true),
    ] {
        let volumes = [volume(path, host)];
        let ordered = in_order(&volumes);
        assert_eq!(ordered.is_ok(), allowed, "{path} from {host}: {ordered:?}");
    }
}

#[test]
fn volumes_are_attached_after_what_they_lie_in() {
    let volume = |path: &str| Mount {
        container_path: path.into(),
        source: MountSource::Host("/h".into()),
        access: Access::ReadWrite,
        propagation: Propagation::Private,
        options: Vec::new(),
    };
    let volumes = ["/data/inner/most", "/b", "/data", "/a"].map(volume);
    let places: Vec<_> = in_order(&volumes)
        .unwrap()
        .into_iter()
        .map(|mount| mount.container_path.to_str().unwrap())
        .collect();
    assert_eq!(places, ["/b", "/data", "/a", "/data/inner/most"]);
}
