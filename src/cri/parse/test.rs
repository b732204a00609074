//! Each malformed request names its field.

use inro_proto as wire;

use super::*;
use crate::model::*;

fn sandbox_config() -> wire::PodSandboxConfig {
    wire::PodSandboxConfig {
        metadata: Some(wire::PodSandboxMetadata {
            name: "p".into(),
            uid: "u".into(),
            namespace: "n".into(),
            attempt: 0,
        }),
        ..Default::default()
    }
}

fn container_config() -> wire::ContainerConfig {
    wire::ContainerConfig {
        metadata: Some(wire::ContainerMetadata {
            name: "c".into(),
            attempt: 0,
        }),
        image: Some(wire::ImageSpec {
            image: "i".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn with_linux(change: impl FnOnce(&mut wire::LinuxPodSandboxConfig)) -> wire::PodSandboxConfig {
    let mut linux = wire::LinuxPodSandboxConfig::default();
    change(&mut linux);
    wire::PodSandboxConfig {
        linux: Some(linux),
        ..sandbox_config()
    }
}

#[test]
fn faults_of_a_sandbox_name_their_field() {
    let sysctl = |name: &str| {
        with_linux(|linux| {
            linux.sysctls.insert(name.into(), "1".into());
        })
    };
    let table = [
        (None, "config"),
        (Some(wire::PodSandboxConfig::default()), "config.metadata"),
        (
            Some(wire::PodSandboxConfig {
                log_directory: "logs".into(),
                ..sandbox_config()
            }),
            "config.log_directory",
        ),
        (
            Some(wire::PodSandboxConfig {
                log_directory: "/a/../b".into(),
                ..sandbox_config()
            }),
            "config.log_directory",
        ),
        (
            Some(wire::PodSandboxConfig {
                hostname: "a/b".into(),
                ..sandbox_config()
            }),
            "config.hostname",
        ),
        (
            Some(with_linux(|linux| linux.cgroup_parent = "/a/../../b".into())),
            "config.linux.cgroup_parent",
        ),
        (
            Some(with_userns(|user| user.uids.clear())),
            "config.linux.security_context.namespace_options.userns_options.uids",
        ),
        (
            Some(with_userns(|user| user.gids[0].container_id = 1)),
            "config.linux.security_context.namespace_options.userns_options.gids",
        ),
        (
            Some(with_userns(|user| user.gids[0].length = u32::MAX)),
            "config.linux.security_context.namespace_options.userns_options.gids",
        ),
        (
            Some(with_userns(|user| user.mode = wire::NamespaceMode::Target.into())),
            "config.linux.security_context.namespace_options.userns_options.mode",
        ),
        (Some(sysctl("kernel.panic")), "config.linux.sysctls[\"kernel.panic\"]"),
        (Some(sysctl("net.ipv4/../../kernel.x")), "config.linux.sysctls"),
        (
            Some(wire::PodSandboxConfig {
                port_mappings: vec![wire::PortMapping {
                    host_port: 70_000,
                    ..Default::default()
                }],
                ..sandbox_config()
            }),
            "config.port_mappings[0].host_port",
        ),
    ];
    for (config, field) in table {
        let fault = sandbox(config, String::new()).unwrap_err();
        assert!(fault.field.starts_with(field), "{fault:?} should name {field}");
    }
    assert!(sandbox(Some(sysctl("net.core.somaxconn")), String::new()).is_ok());
}

/// A pod with a user namespace of its own, changed.
fn with_userns(change: fn(&mut wire::UserNamespace)) -> wire::PodSandboxConfig {
    let ids = vec![wire::IdMapping {
        container_id: 0,
        host_id: 1000,
        length: 1000,
    }];
    let mut user = wire::UserNamespace {
        mode: wire::NamespaceMode::Pod.into(),
        uids: ids.clone(),
        gids: ids,
    };
    change(&mut user);
    let options = wire::NamespaceOption {
        userns_options: Some(user),
        ..Default::default()
    };
    wire::PodSandboxConfig {
        linux: Some(wire::LinuxPodSandboxConfig {
            security_context: Some(wire::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..sandbox_config()
    }
}

#[test]
fn a_user_namespace_is_one_range_from_zero() {
    let parsed = sandbox(Some(with_userns(|_| {})), String::new()).unwrap();
    let range = IdRange { host: 1000, size: 1000 };
    let user = UserNamespace {
        uids: range,
        gids: range,
    };
    assert_eq!(parsed.namespaces.user, Some(user));
    let node = |user: &mut wire::UserNamespace| {
        *user = wire::UserNamespace {
            mode: wire::NamespaceMode::Node.into(),
            ..Default::default()
        };
    };
    assert_eq!(
        sandbox(Some(with_userns(node)), String::new()).unwrap().namespaces.user,
        None
    );
}

#[test]
#[expect(deprecated, reason = "the old AppArmor field is a part of the wire")]
fn faults_of_a_container_name_their_field() {
    let mount = |change: fn(&mut wire::Mount)| {
        let mut mount = wire::Mount {
            container_path: "/c".into(),
            host_path: "/h".into(),
            ..Default::default()
        };
        change(&mut mount);
        wire::ContainerConfig {
            mounts: vec![mount],
            ..container_config()
        }
    };
    let security = |change: fn(&mut wire::LinuxContainerSecurityContext)| {
        let mut context = wire::LinuxContainerSecurityContext::default();
        change(&mut context);
        let linux = wire::LinuxContainerConfig {
            security_context: Some(context),
            ..Default::default()
        };
        wire::ContainerConfig {
            linux: Some(linux),
            ..container_config()
        }
    };
    let table = [
        (wire::ContainerConfig::default(), "config.metadata"),
        (
            wire::ContainerConfig {
                image: None,
                ..container_config()
            },
            "config.image",
        ),
        (
            wire::ContainerConfig {
                log_path: "../x".into(),
                ..container_config()
            },
            "config.log_path",
        ),
        (
            wire::ContainerConfig {
                log_path: "/x".into(),
                ..container_config()
            },
            "config.log_path",
        ),
        (
            wire::ContainerConfig {
                working_dir: "x".into(),
                ..container_config()
            },
            "config.working_dir",
        ),
        (
            wire::ContainerConfig {
                stop_signal: 999,
                ..container_config()
            },
            "config.stop_signal",
        ),
        (
            mount(|m| m.container_path = "x".into()),
            "config.mounts[0].container_path",
        ),
        (
            mount(|m| m.recursive_read_only = true),
            "config.mounts[0].recursive_read_only",
        ),
        (
            mount(|m| m.mount_options = vec!["suid".into()]),
            "config.mounts[0].mount_options",
        ),
        (mount(|m| m.propagation = 9), "config.mounts[0].propagation"),
        (
            mount(|m| m.image = Some(Default::default())),
            "config.mounts[0].host_path",
        ),
        (
            mount(|m| {
                m.image = Some(Default::default());
                m.host_path.clear();
            }),
            "config.mounts[0].readonly",
        ),
        (
            mount(|m| {
                m.image = Some(Default::default());
                m.readonly = true;
                m.host_path.clear();
            }),
            "config.mounts[0].image.image",
        ),
        (
            mount(|m| m.image_sub_path = "x".into()),
            "config.mounts[0].image_sub_path",
        ),
        (
            mount(|m| m.uid_mappings = vec![Default::default()]),
            "config.mounts[0].uid_mappings",
        ),
        (
            wire::ContainerConfig {
                cdi_devices: vec![Default::default()],
                ..container_config()
            },
            "config.CDI_devices[0].name",
        ),
        (
            security(|s| s.run_as_group = Some(wire::Int64Value { value: 1 })),
            "config.linux.security_context.run_as_group",
        ),
        (
            security(|s| s.run_as_user = Some(wire::Int64Value { value: -1 })),
            "config.linux.security_context.run_as_user",
        ),
        (
            security(|s| {
                s.run_as_user = Some(wire::Int64Value { value: 1 });
                s.run_as_username = "one".into();
            }),
            "config.linux.security_context.run_as_username",
        ),
        (
            security(|s| s.masked_paths = vec!["proc".into()]),
            "config.linux.security_context.masked_paths",
        ),
        (
            security(|s| {
                s.seccomp = Some(wire::SecurityProfile {
                    profile_type: 2,
                    ..Default::default()
                })
            }),
            "config.linux.security_context.seccomp.localhost_ref",
        ),
        (
            security(|s| s.apparmor_profile = "x".into()),
            "config.linux.security_context.apparmor_profile",
        ),
    ];
    for (config, field) in table {
        let fault = container(Some(config)).unwrap_err();
        assert!(fault.field.starts_with(field), "{fault:?} should name {field}");
    }
}

#[test]
fn an_empty_seccomp_profile_is_the_default_and_none_is_unconfined() {
    let of = |seccomp| {
        let context = wire::LinuxContainerSecurityContext {
            seccomp,
            ..Default::default()
        };
        let linux = wire::LinuxContainerConfig {
            security_context: Some(context),
            ..Default::default()
        };
        container(Some(wire::ContainerConfig {
            linux: Some(linux),
            ..container_config()
        }))
        .unwrap()
        .security
        .seccomp
    };
    assert_eq!(of(None), Profile::Unconfined);
    assert_eq!(of(Some(wire::SecurityProfile::default())), Profile::RuntimeDefault);
}

#[test]
fn signals_have_their_numbers() {
    let of = |signal: wire::Signal| {
        container(Some(wire::ContainerConfig {
            stop_signal: signal.into(),
            ..container_config()
        }))
        .unwrap()
        .stop_signal
    };
    assert_eq!(of(wire::Signal::RuntimeDefault), None);
    assert_eq!(of(wire::Signal::Sigterm), Some(15));
    assert_eq!(of(wire::Signal::Sigquit), Some(3));
    assert_eq!(of(wire::Signal::Sigrtmin), Some(34));
    for number in 1.. {
        let Ok(signal) = wire::Signal::try_from(number) else {
            break;
        };
        assert!(of(signal).is_some(), "{signal:?}");
    }
}

#[test]
fn streaming_calls_name_their_field() {
    let forward = |sandbox: &str, port: Vec<i32>| {
        let parsed = port_forward(wire::PortForwardRequest {
            pod_sandbox_id: sandbox.into(),
            port,
        });
        parsed.map_err(|fault| fault.field)
    };
    assert_eq!(forward("s", vec![]), Ok(("s".into(), vec![])));
    assert_eq!(forward("s", vec![1, 65535]), Ok(("s".into(), vec![1, 65535])));
    assert_eq!(forward("", vec![]).unwrap_err(), "pod_sandbox_id");
    for port in [0, -1, 65536, i32::MAX] {
        assert_eq!(forward("s", vec![80, port]).unwrap_err(), "port[1]");
    }
    assert_eq!(exec(wire::ExecRequest::default()).unwrap_err().field, "container_id");
    assert_eq!(
        attach(wire::AttachRequest::default()).unwrap_err().field,
        "container_id"
    );
}
