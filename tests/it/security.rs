//! What a container may do, seen from inside it. The traps are those of earlier runtimes; each test is named after one.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use tonic::Code;

use crate::harness::{Container, Node, inro, patience, v1};

/// A running shell whose security context `edit` changed.
fn shell(node: &Node, edit: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Container {
    node.pull("shell");
    let container = create(node, edit).unwrap_or_else(|status| panic!("create: {status:?}"));
    container.start();
    container
}

fn create(node: &Node, edit: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Result<Container, tonic::Status> {
    node.pod(|_| {})
        .try_container("shell", &["sleep", "1000"], |config| security(config, edit))
}

/// Edits a container's security context.
pub fn security(config: &mut v1::ContainerConfig, edit: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) {
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    edit(context.expect("made by try_container"));
}

/// One field of init's and of an exec's `/proc/*/status`, which have to agree.
fn status_field(container: &Container, field: &str) -> String {
    let read = |process: &str| container.sh(&format!("sed -n 's/^{field}:[[:space:]]*//p' /proc/{process}/status"));
    let init = read("1");
    assert_eq!(init, read("self"), "{field} of init and exec");
    init
}

#[test]
fn default_capabilities_are_bounded_and_never_inheritable() {
    let node = Node::start();
    let container = shell(&node, |_| {});
    // CVE-2022-24769 and its like: a set that survives an exec by an unprivileged user.
    assert_eq!(u64::from_str_radix(&status_field(&container, "CapInh"), 16), Ok(0));
    assert_eq!(u64::from_str_radix(&status_field(&container, "CapAmb"), 16), Ok(0));
    // The fourteen that every runtime gives.
    assert_eq!(status_field(&container, "CapBnd"), "00000000a80425fb");
    assert_eq!(status_field(&container, "CapEff"), "00000000a80425fb");
}

#[test]
fn capabilities_are_added_and_dropped() {
    let node = Node::start();
    let changes = |add: &[&str], drop: &[&str]| v1::Capability {
        add_capabilities: add.iter().map(|&name| name.into()).collect(),
        drop_capabilities: drop.iter().map(|&name| name.into()).collect(),
        ..Default::default()
    };
    let only_chown = shell(&node, |context| {
        context.capabilities = Some(changes(&["CHOWN"], &["ALL"]))
    });
    for set in ["CapBnd", "CapPrm", "CapEff"] {
        assert_eq!(u64::from_str_radix(&status_field(&only_chown, set), 16), Ok(1), "{set}");
    }
    let none = shell(&node, |context| context.capabilities = Some(changes(&[], &["ALL"])));
    assert_eq!(u64::from_str_radix(&status_field(&none, "CapBnd"), 16), Ok(0));
    let unknown = create(&node, |context| context.capabilities = Some(changes(&["NO_SUCH"], &[])));
    let unknown = unknown.err().expect("an error");
    assert_eq!(unknown.code(), Code::InvalidArgument);
    assert!(unknown.message().contains("NO_SUCH"), "{unknown:?}");
}

#[test]
fn an_unprivileged_user_has_no_effective_capability() {
    let node = Node::start();
    let container = shell(&node, |context| {
        context.run_as_user = Some(v1::Int64Value { value: 1000 })
    });
    assert_eq!(u64::from_str_radix(&status_field(&container, "CapEff"), 16), Ok(0));
    assert_eq!(container.sh("id -u; id -g"), "1000\n1000");
}

#[test]
fn no_groups_of_the_daemon_reach_a_container() {
    let node = Node::start();
    // CVE-2022-2995: the caller's supplementary groups.
    assert_eq!(shell(&node, |_| {}).sh("id -G"), "0");
    let asked = shell(&node, |context| {
        context.run_as_user = Some(v1::Int64Value { value: 1000 });
        context.run_as_group = Some(v1::Int64Value { value: 2000 });
        context.supplemental_groups = vec![3000];
    });
    assert_eq!(asked.sh("id -u; id -g"), "1000\n2000");
    let mut groups: Vec<u32> = asked
        .sh("id -G")
        .split(' ')
        .map(|group| group.parse().expect("a group"))
        .collect();
    groups.sort_unstable();
    assert_eq!(groups, [2000, 3000, 50000], "the image's /etc/group joins in");
    let strict = shell(&node, |context| {
        context.run_as_user = Some(v1::Int64Value { value: 1000 });
        context.supplemental_groups = vec![3000];
        context.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict.into();
    });
    assert!(!strict.sh("id -G").contains("50000"));
}

#[test]
fn users_by_name_come_from_the_image() {
    let node = Node::start();
    let named = shell(&node, |context| context.run_as_username = "default-user".into());
    assert_eq!(named.sh("id -u; echo $HOME"), "1000\n/home/default-user");
    let absent = create(&node, |context| context.run_as_username = "nobody-knows".into())
        .err()
        .expect("an error");
    assert!(absent.message().contains("nobody-knows"), "{absent:?}");
    let group_alone = create(&node, |context| {
        context.run_as_group = Some(v1::Int64Value { value: 5 })
    });
    assert_eq!(group_alone.err().expect("an error").code(), Code::InvalidArgument);
}

#[test]
fn home_is_always_set() {
    let node = Node::start();
    // Without it libcontainer would call getpwuid in the image, and with it the image's NSS modules.
    assert_eq!(
        shell(&node, |_| {}).sh("tr '\\0' '\\n' < /proc/1/environ | grep ^HOME="),
        "HOME=/root"
    );
    let unknown = shell(&node, |context| {
        context.run_as_user = Some(v1::Int64Value { value: 54321 })
    });
    assert_eq!(unknown.sh("tr '\\0' '\\n' < /proc/1/environ | grep ^HOME="), "HOME=/");
}

#[test]
fn a_passwd_that_is_a_fifo_does_not_hang_a_create() {
    let node = Node::start();
    node.pull("fifo-passwd");
    let pod = node.pod(|_| {});
    let start = std::time::Instant::now();
    // Either answer is fine; waiting for a writer is not.
    let _ = pod.try_container("fifo-passwd", &["true"], |_| {});
    assert!(start.elapsed() < patience(std::time::Duration::from_secs(5)));
}

#[test]
fn seccomp_default_with_privilege_escalation_allowed() {
    let node = Node::start();
    // Kubernetes' default pod; libcontainer alone cannot start it.
    let container = shell(&node, |context| {
        context.seccomp = Some(profile(v1::security_profile::ProfileType::RuntimeDefault, ""));
    });
    assert_eq!(status_field(&container, "Seccomp"), "2");
    assert_eq!(status_field(&container, "NoNewPrivs"), "0");
    // unshare(2) of a user namespace needs CAP_SYS_ADMIN in the profile.
    assert_ne!(container.exec(&["unshare", "-U", "true"]).exit_code, 0);
}

#[test]
fn seccomp_unconfined_localhost_and_what_cannot_be_applied() {
    let node = Node::start();
    use v1::security_profile::ProfileType;
    let unconfined = shell(&node, |context| {
        context.seccomp = Some(profile(ProfileType::Unconfined, ""))
    });
    assert_eq!(status_field(&unconfined, "Seccomp"), "0");

    let path = node.dir().join("no-chmod.json");
    let json =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    fs::write(&path, json).expect("a profile");
    let path = path.display().to_string();
    let local = shell(&node, |context| {
        context.seccomp = Some(profile(ProfileType::Localhost, &path))
    });
    let denied = local.exec(&["chmod", "700", "/tmp"]);
    assert!(
        String::from_utf8_lossy(&denied.stderr).contains("Operation not permitted"),
        "{denied:?}"
    );

    let refused = |context: &dyn Fn(&mut v1::LinuxContainerSecurityContext)| {
        create(&node, context)
            .err()
            .expect("an option that cannot be applied is an error")
    };
    let missing = refused(&|context| context.seccomp = Some(profile(ProfileType::Localhost, "/no/such/profile")));
    assert!(missing.message().contains("/no/such/profile"), "{missing:?}");
}

#[test]
fn selinux_labels_are_refused_where_they_would_be_enforced_and_only_there() {
    let node = Node::start();
    node.pull("shell");
    let labelled = create(&node, |context| {
        context.selinux_options = Some(v1::SeLinuxOption {
            level: "s0:c1,c2".into(),
            ..Default::default()
        });
    });
    match labelled {
        Ok(container) => {
            assert!(!Path::new("/sys/fs/selinux/enforce").exists(), "a label was ignored");
            container.start();
        }
        Err(error) => {
            assert!(Path::new("/sys/fs/selinux/enforce").exists(), "{error:?}");
            assert!(error.message().contains("selinux_options"), "{error:?}");
        }
    }
}

pub fn profile(kind: v1::security_profile::ProfileType, reference: &str) -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: reference.into(),
    }
}

#[test]
fn no_new_privs_decides_about_setuid_programs() {
    let node = Node::start();
    node.pull("setuid");
    for (no_new_privs, uid) in [(false, 0), (true, 1000)] {
        let container = node.pod(|_| {}).container("setuid", &["/nnp"], |config| {
            security(config, |context| {
                context.no_new_privs = no_new_privs;
                context.run_as_user = Some(v1::Int64Value { value: 1000 });
            });
        });
        container.start();
        assert_eq!(container.wait().exit_code, 0);
        container.wait_logged(&format!("Effective uid: {uid}\n"));
    }
}

#[test]
fn paths_are_masked_and_read_only() {
    let node = Node::start();
    let container = shell(&node, |context| {
        context.masked_paths = ["/proc/cpuinfo", "/proc/acpi", "/bin/ls"].map(Into::into).to_vec();
        context.readonly_paths = ["/proc/sys", "/tmp"].map(Into::into).to_vec();
    });
    assert_eq!(container.sh("wc -c < /proc/cpuinfo"), "0");
    let masked = container.exec(&["sh", "-c", "/bin/ls"]);
    assert_ne!(masked.exit_code, 0);
    let read_only = container.exec(&["touch", "/tmp/x"]);
    assert!(
        String::from_utf8_lossy(&read_only.stderr).contains("Read-only file system"),
        "{read_only:?}"
    );
    assert_ne!(
        container
            .exec(&["sh", "-c", "echo 1 > /proc/sys/kernel/panic"])
            .exit_code,
        0
    );
}

#[test]
fn a_read_only_root_is_read_only_but_for_mounts() {
    let node = Node::start();
    let container = shell(&node, |context| context.readonly_rootfs = true);
    let refused = container.exec(&["touch", "/x"]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("Read-only file system"),
        "{refused:?}"
    );
    container.sh("touch /dev/shm/x");
}

#[test]
fn volumes_of_the_image_stay_writable_and_keep_its_content() {
    let node = Node::start();
    node.pull("volumes");
    let pod = node.pod(|_| {});
    let read_only = |config: &mut v1::ContainerConfig| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().readonly_rootfs = true;
    };
    let container = pod.container("volumes", &["sleep", "1000"], read_only);
    container.start();
    assert_eq!(container.sh("cat /data/seed"), "from the image");
    container.sh("echo more >/data/more && echo new >/made/anew/file");
    assert_ne!(container.exec(&["touch", "/made/beside"]).exit_code, 0);
    // CVE-2022-23648: a volume's path that climbs, or goes over a link, stays in the image.
    container.sh("touch /up/and/out/file /tmp/deep/file");
    assert!(!Path::new("/up").exists() && !Path::new("/tmp/deep").exists());
    container.remove();

    // Nothing outlives the container, and the client's mount wins.
    let host = node.dir().join("volume");
    fs::create_dir(&host).unwrap();
    let container = pod.container("volumes", &["sleep", "1000"], |config| {
        config.mounts.push(v1::Mount {
            container_path: "/data".into(),
            host_path: host.display().to_string(),
            ..Default::default()
        });
    });
    container.start();
    assert_eq!(container.sh("ls /data /made/anew").trim(), "/data:\n\n/made/anew:");
}

#[test]
fn a_volume_over_proc_is_refused() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let host = node.dir().join("fake");
    fs::create_dir(&host).unwrap();
    for (target, allowed) in [("/proc", false), ("/proc/self/attr", false), ("/proc/uptime", true)] {
        let created = pod.try_container("shell", &["sleep", "1000"], |config| {
            let source = if allowed {
                "/etc/passwd".into()
            } else {
                host.display().to_string()
            };
            config.mounts.push(v1::Mount {
                container_path: target.into(),
                host_path: source,
                ..Default::default()
            });
        });
        match created {
            Ok(container) => {
                assert!(allowed, "{target}");
                container.start();
                assert!(container.sh("cat /proc/uptime").contains("root:"));
            }
            Err(status) => {
                assert!(!allowed, "{target}: {status}");
                assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
                assert!(status.message().contains("mounts.container_path"), "{status}");
            }
        }
    }
}

#[test]
fn a_volume_swapped_for_a_link_never_reaches_the_host() {
    // CVE-2021-30465, CVE-2024-45310: the place of one mount lies in another one that somebody changes meanwhile.
    let node = Node::start();
    node.pull("shell");
    let (shared, outside, other) = (
        node.dir().join("shared"),
        node.dir().join("outside"),
        node.dir().join("other"),
    );
    for dir in [&shared, &outside, &other] {
        fs::create_dir(dir).unwrap();
    }
    let pod = node.pod(|_| {});
    let mount = |container_path: &str, host: &Path| v1::Mount {
        container_path: container_path.into(),
        host_path: host.display().to_string(),
        ..Default::default()
    };
    let swap = format!(
        "while :; do ln -s {} /shared/x; rm /shared/x; mkdir /shared/x; rmdir /shared/x; done",
        outside.display()
    );
    let swapper = pod.container("shell", &["sh", "-c", &swap], |config| {
        config.mounts.push(mount("/shared", &shared))
    });
    swapper.start();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (mut made, mut refused) = (0, 0);
    for _ in 0..60 {
        let created = pod.try_container("shell", &["sleep", "1000"], |config| {
            config
                .mounts
                .extend([mount("/shared", &shared), mount("/shared/x/target", &other)]);
        });
        match created {
            Ok(container) => {
                made += 1;
                container.remove();
            }
            Err(_) => refused += 1,
        }
    }
    assert_eq!(made + refused, 60);
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "{made} made, {refused} refused"
    );
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    swapper.stop(0);
}

#[test]
fn a_console_that_is_a_link_is_not_followed() {
    // CVE-2025-52565: the terminal is attached over the image's /dev/console.
    let node = Node::start();
    node.pull("linked-console");
    let target = Path::new("/run/inro-test-console");
    fs::write(target, "mine").unwrap();
    let pod = node.pod(|_| {});
    let container = pod.container("linked-console", &["sh", "-c", "echo hello; sleep 1000"], |config| {
        config.tty = true
    });
    container.start();
    assert_eq!(container.sh("ls -l /dev/console | cut -c1"), "c");
    assert_eq!(fs::read(target).unwrap(), b"mine");
    container.stop(0);
    fs::remove_file(target).unwrap();
}

#[test]
fn the_daemons_folders_are_closed_to_others() {
    // CVE-2021-41103: images' setuid programs must not be reachable by users of the node.
    let node = Node::start();
    node.pull("shell");
    let container = shell(&node, |_| {});
    for name in ["root", "state"] {
        let mode = node.dir().join(name).metadata().unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
    container.stop(0);
}

#[test]
fn descriptors_are_three_in_init_and_exec() {
    let node = Node::start();
    node.pull("tiny");
    let pod = node.pod(|_| {});
    // CVE-2024-21626: a descriptor of the runtime is a way to the host.
    let container = pod.run_container("tiny", &["/bin/probe", "fds"]);
    container.wait();
    container.wait_logged("0 1 2 \n");
    let container = pod.run_container("tiny", &["/bin/probe"]);
    assert_eq!(container.exec(&["/bin/probe", "fds"]).stdout, b"0 1 2 \n");
    for number in 3..40 {
        let cwd = format!("/proc/self/fd/{number}");
        let created = pod.try_container("tiny", &["/bin/probe", "once"], |config| {
            config.working_dir = cwd.clone()
        });
        let started = created.and_then(|container| container.try_start());
        assert!(started.is_err(), "cwd {cwd}");
    }
}

#[test]
fn the_runtime_cannot_be_written_through_proc() {
    let node = Node::start();
    let binary = inro();
    let before = fingerprint(&binary);
    node.pull("shell");
    let pod = node.pod(|_| {});
    // CVE-2019-5736: in the moment before the exec, init's executable is the runtime.
    let script = "for i in $(seq 400); do for exe in /proc/[0-9]*/exe; do (echo evil > $exe) 2>/dev/null && echo WROTE $exe; done; done; echo end";
    let attacker = pod.container("shell", &["sh", "-c", script], |config| {
        security(config, |context| {
            context.privileged = true;
            context.namespace_options = Some(v1::NamespaceOption {
                pid: v1::NamespaceMode::Container.into(),
                network: v1::NamespaceMode::Node.into(),
                ..Default::default()
            });
        });
    });
    attacker.start();
    for _ in 0..50 {
        let _ = attacker.try_exec(&["/proc/self/exe", "true"], 5);
    }
    attacker.wait();
    attacker.wait_logged("end");
    // Its own shell's binary is a file of its own image; nothing else may have opened.
    let wrote: Vec<String> = attacker
        .logged()
        .lines()
        .filter(|line| line.starts_with("WROTE"))
        .map(Into::into)
        .collect();
    assert!(wrote.is_empty(), "{wrote:?}");
    assert_eq!(fingerprint(&binary), before);
}

fn fingerprint(path: &Path) -> (u64, i64, Vec<u8>) {
    let about = path.metadata().expect("the binary");
    (about.size(), about.mtime_nsec(), fs::read(path).expect("the binary"))
}

#[test]
fn a_root_whose_dev_proc_or_sys_is_a_link_is_refused() {
    let node = Node::start();
    let target = Path::new("/tmp/inro-target");
    fs::create_dir_all(target).expect("the target");
    fs::write(target.join("ptmx"), "mine").expect("a file there");
    let pod = node.pod(|_| {});
    for name in ["dev", "proc", "sys"] {
        // CVE-2026-41579: the runtime's own mounts follow the image's link to the host.
        let image = format!("linked-{name}");
        node.pull(&image);
        let error = pod
            .try_container(&image, &["sleep", "1000"], |_| {})
            .err()
            .expect("refused");
        assert!(error.message().contains(&format!("/{name}")), "{error:?}");
    }
    let left: Vec<_> = fs::read_dir(target)
        .expect("the target")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, ["ptmx"]);
    assert_eq!(fs::read(target.join("ptmx")).expect("the file"), b"mine");
    fs::remove_dir_all(target).expect("clean");
}

#[test]
fn devices_are_denied_unless_listed() {
    let node = Node::start();
    let container = shell(&node, |_| {});
    // On cgroup v1 an empty device list would allow all of them.
    for (device, kind) in [("mem", "c 1 1"), ("disk", "b 254 0")] {
        let script = format!("mknod /{device} {kind} 2>/dev/null; dd if=/{device} of=/dev/null bs=1 count=1");
        let denied = container.exec(&["sh", "-c", &script]);
        assert_ne!(denied.exit_code, 0, "{device}");
        assert!(
            String::from_utf8_lossy(&denied.stderr).contains("not permitted"),
            "{device}: {denied:?}"
        );
    }
    container.sh("head -c 1 /dev/zero > /dev/null; : > /dev/full; head -c 1 /dev/urandom >/dev/null");
    assert_eq!(container.sh("ls -l /dev/null | cut -c1"), "c");
}

#[test]
fn privileged_means_it() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|config| {
        let linux = config
            .linux
            .as_mut()
            .and_then(|linux| linux.security_context.as_mut())
            .expect("context");
        linux.privileged = true;
    });
    let container = pod.container("shell", &["sleep", "1000"], |config| {
        security(config, |context| context.privileged = true)
    });
    container.start();
    container.sh("mount -t tmpfs none /mnt 2>/dev/null || { mkdir -p /mnt && mount -t tmpfs none /mnt; }; umount /mnt");
    assert_eq!(status_field(&container, "Seccomp"), "0");
    let host = fs::read_to_string("/proc/self/status").expect("status");
    let bounding = host
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .expect("CapBnd")
        .trim();
    assert_eq!(
        status_field(&container, "CapBnd"),
        bounding,
        "all that this machine gives"
    );
}

#[test]
fn our_sockets_are_for_root_only_and_none_is_abstract() {
    let node = Node::start();
    node.pull("shell");
    let container = shell(&node, |_| {});
    let mode = |path: &Path| path.metadata().expect("metadata").mode() & 0o7777;
    assert_eq!(mode(&node.daemon.socket()), 0o600);
    assert_eq!(mode(&node.dir().join("state")) & 0o077, 0);
    let unix = fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
    assert!(
        !unix
            .lines()
            .any(|line| line.contains("@inro") || line.contains("@shim")),
        "{unix}"
    );
    container.stop(0);
}
