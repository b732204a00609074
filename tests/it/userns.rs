//! Pods with a user namespace of their own: their root is nobody outside, and everything they have fits to it.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use tonic::Code;

use crate::harness::{Container, FIRST_ID, Node, Pod, mapped, namespaces, own_network, own_users, v1};

fn mapping(container_id: u32, host_id: u32, length: u32) -> Vec<v1::IdMapping> {
    vec![v1::IdMapping {
        container_id,
        host_id,
        length,
    }]
}

/// A pod with a user namespace and its own network.
fn pod(node: &Node, edit: impl FnOnce(&mut v1::PodSandboxConfig)) -> Pod {
    node.pull("shell");
    node.pod(|config| {
        own_network(config);
        own_users(config);
        edit(config);
    })
}

fn run(pod: &Pod, image: &str, edit: impl FnOnce(&mut v1::ContainerConfig)) -> Container {
    let container = pod.container(image, &["sleep", "1000"], edit);
    container.start();
    container
}

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    context.expect("made by try_container")
}

fn bind(host: &Path, container: &str) -> v1::Mount {
    v1::Mount {
        host_path: host.display().to_string(),
        container_path: container.into(),
        ..Default::default()
    }
}

#[test]
fn root_of_a_pod_is_nobody_on_the_host() {
    let node = Node::start();
    let pod = pod(&node, |config| {
        config.hostname = "mapped".into();
        let sysctls = &mut config.linux.as_mut().expect("made by Pod::run").sysctls;
        sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
        sysctls.insert("fs.mqueue.msg_max".into(), "11".into());
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "77".into());
    });
    let container = run(&pod, "shell", |_| {});
    let sysctls = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max \
                   /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(container.sh(sysctls), "1\n11\n77");
    let map = "sed 's/  */ /g' /proc/self/uid_map /proc/1/uid_map /proc/self/gid_map";
    assert_eq!(
        container.sh(map),
        [format!(" 0 {FIRST_ID} 65536").as_str(); 3].join("\n")
    );
    assert_eq!(container.sh("id -u; id -g; hostname"), "0\n0\nmapped");
    let init = fs::metadata(format!("/proc/{}", container.pid())).expect("init");
    assert_eq!((init.uid(), init.gid()), (FIRST_ID, FIRST_ID));
    // The exec is in the very namespaces of init, its network's owner among them.
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts"] {
        let both = container.sh(&format!("readlink /proc/1/ns/{kind}; readlink /proc/self/ns/{kind}"));
        let both: Vec<&str> = both.lines().collect();
        assert_eq!(both[0], both[1], "{kind}");
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
        assert_ne!(Path::new(both[0]), host, "{kind}");
    }

    // What it finds and makes is its own; on the disk it belongs to the mapped ids.
    assert_eq!(
        container.sh("stat -c %u:%g / /bin/sh /etc /dev /dev/shm /etc/hosts"),
        ["0:0"; 6].join("\n")
    );
    assert_eq!(container.sh("stat -c %u:%g /home/default-user"), "1000:1000");
    container
        .sh("echo new > /file; chown 33:34 /file; echo more >> /etc/passwd; echo x > /dev/shm/x; echo >> /etc/hosts");
    let upper = node.dir().join("root/snapshots").join(&container.id).join("upper");
    let file = fs::metadata(upper.join("file")).expect("file");
    assert_eq!((file.uid(), file.gid()), (FIRST_ID + 33, FIRST_ID + 34));
    assert_eq!(
        fs::metadata(upper.join("etc/passwd")).expect("copied up").uid(),
        FIRST_ID
    );
    assert!(
        container.exec(&["chown", "65536", "/file"]).exit_code != 0,
        "an id that is not mapped"
    );
}

#[test]
fn a_pods_user_can_open_its_own_standard_streams() {
    let node = Node::start();
    let pod = pod(&node, |_| {});
    for uid in [0, 1000] {
        let line = "echo to-stdout > /dev/stdout; echo to-stderr > /dev/stderr; sleep 1000";
        let container = pod.container("shell", &["sh", "-c", line], |config| {
            security(config).run_as_user = Some(v1::Int64Value { value: uid });
        });
        container.start();
        container.wait_logged("to-stdout");
        container.wait_logged("to-stderr");
        assert_eq!(container.sh("echo again > /dev/stdout; id -u"), format!("again\n{uid}"));
    }
    let terminal = pod.container(
        "shell",
        &["sh", "-c", "tty; stat -c %u:%g /dev/pts/0; sleep 1000"],
        |config| {
            config.tty = true;
        },
    );
    terminal.start();
    terminal.wait_logged("/dev/pts/0");
    terminal.wait_logged("0:5");
}

#[test]
fn volumes_have_the_owners_that_they_have_on_the_host() {
    let node = Node::start();
    let pod = pod(&node, |_| {});
    let folder = node.dir().join("volume");
    fs::create_dir(&folder).expect("a folder");
    for (name, id) in [("of-root", 0), ("of-1000", 1000)] {
        fs::write(folder.join(name), name).expect("a file");
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).expect("its mode");
        chown(folder.join(name), Some(id), Some(id)).expect("its owner");
    }
    let container = run(&pod, "shell", |config| {
        config.mounts = vec![
            bind(&folder, "/data"),
            v1::Mount {
                readonly: true,
                uid_mappings: mapping(0, FIRST_ID, 65536),
                gid_mappings: mapping(0, FIRST_ID, 65536),
                ..bind(&folder.join("of-1000"), "/etc/file")
            },
        ];
    });
    assert_eq!(
        container.sh("stat -c %u:%g /data/of-root /data/of-1000 /etc/file"),
        "0:0\n1000:1000\n1000:1000"
    );
    assert_eq!(
        container.sh("cat /data/of-root; echo x > /data/new; chown 5:6 /data/new"),
        "of-root"
    );
    let new = fs::metadata(folder.join("new")).expect("new");
    assert_eq!((new.uid(), new.gid()), (5, 6));

    let create = |mount: v1::Mount| {
        let made = pod.try_container("shell", &["true"], |config| config.mounts = vec![mount]);
        made.err().expect("an error")
    };
    // procfs cannot be id-mapped.
    let refused = create(bind(Path::new("/proc/sys"), "/host-proc"));
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("/host-proc") && refused.message().contains("id-mapped"),
        "{refused:?}"
    );
    let shared = create(v1::Mount {
        propagation: v1::MountPropagation::PropagationBidirectional.into(),
        ..bind(&folder, "/data")
    });
    assert!(shared.message().starts_with("config.mounts.propagation"), "{shared:?}");
    let other = create(v1::Mount {
        uid_mappings: mapping(0, 5, 10),
        ..bind(&folder, "/data")
    });
    assert!(
        other.message().starts_with("config.mounts[0].uid_mappings"),
        "{other:?}"
    );
}

#[test]
fn images_are_mapped_with_all_their_layers() {
    map_images(&Node::start());
}

/// For a node with either snapshotter.
pub fn map_images(node: &Node) {
    let pod = pod(node, |_| {});
    node.pull("many-layers");
    node.pull("layered");
    node.pull("volumes");
    let container = run(&pod, "many-layers", |config| {
        config.mounts = vec![v1::Mount {
            container_path: "/mnt".into(),
            readonly: true,
            image: Some(v1::ImageSpec {
                image: "layered".into(),
                ..Default::default()
            }),
            ..Default::default()
        }];
        config.working_dir = "/made/for/me".into();
    });
    assert_eq!(
        container.sh("cat /layer-59; stat -c %u:%g /layer-0 /made/for/me"),
        "590:0\n0:0"
    );
    assert_eq!(container.sh("stat -c %u:%g /mnt /mnt/owned"), "0:0\n1000:50000");
    let declared = run(&pod, "volumes", |config| security(config).readonly_rootfs = true);
    assert_eq!(
        declared.sh("echo x > /data/x; echo x > /made/anew/x; stat -c %u:%g /made/anew"),
        "0:0"
    );
}

#[test]
fn processes_of_a_pod_may_share_their_pid_namespace() {
    let node = Node::start();
    let pod = pod(&node, |config| namespaces(config).pid = v1::NamespaceMode::Pod.into());
    let first = run(&pod, "shell", |_| {});
    let second = run(&pod, "shell", |_| {});
    let status = fs::read_to_string(format!("/proc/{}/status", first.pid())).expect("status");
    let pids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .expect("NSpid");
    let pid_of_first = pids.split_whitespace().last().expect("a pid");
    assert_eq!(second.sh(&format!("readlink /proc/{pid_of_first}/exe")), "/bin/sleep");
    let reaper = second.sh("stat -c %u /proc/1");
    assert_eq!(reaper, "65535", "known to the pod, so of its user namespace");
}

#[test]
fn privilege_in_a_pod_ends_at_its_user_namespace() {
    let node = Node::start();
    let pod = pod(&node, |config| {
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        context.expect("made by Pod::run").privileged = true;
    });
    let container = run(&pod, "shell", |config| security(config).privileged = true);
    assert_eq!(container.sh("mkdir /t; mount -t tmpfs t /t; stat -f -c %T /t"), "tmpfs");
    container.sh("hostname changed");
    // The host's devices are there, but they are nobody's.
    for line in [
        "dd if=/dev/vda of=/dev/null count=1",
        "mknod /made c 1 3",
        "echo 1 > /proc/sys/kernel/panic",
        "echo h > /proc/sysrq-trigger",
        "mkdir /sys/fs/cgroup/pids/x",
    ] {
        assert_ne!(container.exec(&["sh", "-c", line]).exit_code, 0, "{line}");
    }
}

#[test]
fn a_pod_may_keep_the_hosts_network() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(own_users);
    let container = run(&pod, "shell", |_| {});
    assert_eq!(
        container.sh("stat -c %u /proc/1; ls /sys/class/net | grep -c lo"),
        "0\n1"
    );
    let host = fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert_eq!(container.sh("readlink /proc/self/ns/net"), host.display().to_string());
}

#[test]
fn a_user_namespace_outlives_the_daemon() {
    let mut node = Node::start();
    let pod = pod(&node, |_| {});
    let before = run(&pod, "shell", |_| {});
    node.daemon.kill9();
    node.daemon.restart();
    let after = run(&pod, "shell", |_| {});
    let namespace = |container: &Container| container.sh("readlink /proc/self/ns/user");
    assert_eq!(namespace(&before), namespace(&after));
    let told = pod
        .status()
        .linux
        .and_then(|linux| linux.namespaces)
        .and_then(|all| all.options);
    assert_eq!(told.and_then(|options| options.userns_options), Some(mapped()));
}

#[test]
fn what_a_user_namespace_cannot_be_is_named() {
    let node = Node::start();
    node.pull("shell");
    let two = || [mapping(0, FIRST_ID, 10), mapping(10, FIRST_ID, 10)].concat();
    let mode = |mode: v1::NamespaceMode| v1::UserNamespace {
        mode: mode.into(),
        ..mapped()
    };
    let table = [
        (
            v1::UserNamespace {
                uids: two(),
                ..mapped()
            },
            "uids",
        ),
        (
            v1::UserNamespace {
                gids: Vec::new(),
                ..mapped()
            },
            "gids",
        ),
        (
            v1::UserNamespace {
                uids: mapping(1, FIRST_ID, 10),
                ..mapped()
            },
            "uids",
        ),
        (
            v1::UserNamespace {
                gids: mapping(0, FIRST_ID, 0),
                ..mapped()
            },
            "gids",
        ),
        (
            v1::UserNamespace {
                uids: mapping(0, u32::MAX, 2),
                ..mapped()
            },
            "uids",
        ),
        (mode(v1::NamespaceMode::Container), "mode"),
        (mode(v1::NamespaceMode::Target), "mode"),
        (mode(v1::NamespaceMode::Node), "uids"),
    ];
    for (user, field) in table {
        let status = node
            .try_pod(|config| namespaces(config).userns_options = Some(user))
            .err()
            .expect("an error");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let named = format!("config.linux.security_context.namespace_options.userns_options.{field}");
        assert!(status.message().starts_with(&named), "{status:?} should name {named}");
    }
    let node_pids = node.try_pod(|config| {
        own_users(config);
        namespaces(config).pid = v1::NamespaceMode::Node.into();
    });
    assert!(
        node_pids
            .err()
            .expect("an error")
            .message()
            .contains("namespace_options.pid")
    );

    let pod = pod(&node, |config| {
        namespaces(config).userns_options = Some(v1::UserNamespace {
            uids: mapping(0, FIRST_ID, 1000),
            gids: mapping(0, FIRST_ID, 1000),
            ..mapped()
        });
    });
    let create = |edit: fn(&mut v1::ContainerConfig)| {
        let status = pod.try_container("shell", &["true"], edit).err().expect("an error");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        status.message().to_owned()
    };
    let large = create(|config| security(config).run_as_user = Some(v1::Int64Value { value: 1000 }));
    assert!(
        large.contains("run_as_user") || large.contains("supplemental_groups"),
        "{large}"
    );
    let other = create(|config| {
        let options = security(config).namespace_options.as_mut().expect("options");
        options.userns_options = Some(mapped());
    });
    assert!(other.contains("userns_options"), "{other}");
}

#[test]
fn the_handlers_say_what_they_can() {
    let node = Node::start();
    let status = node.cri.status(v1::StatusRequest { verbose: true }).expect("status");
    assert!(!status.runtime_handlers.is_empty());
    for handler in &status.runtime_handlers {
        let features = handler.features.as_ref().expect("features");
        assert!(
            features.user_namespaces && features.recursive_read_only_mounts,
            "{handler:?}",
            handler = handler.name
        );
    }
    assert!(status.info["config"].contains("stateDir"), "{:?}", status.info);
}
