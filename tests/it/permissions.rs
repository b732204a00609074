//! What a security context and mounts allow beyond the defaults, as the container and its status see it.

use std::{fs, path::Path, time::Duration};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::harness::{Container, Node, v1};

fn shell(node: &Node, edit: impl FnOnce(&mut v1::ContainerConfig)) -> Container {
    node.pull("shell");
    let container = node.pod(|_| {}).container("shell", &["sleep", "1000"], edit);
    container.start();
    container
}

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    context.expect("made by try_container")
}

#[test]
fn ambient_capabilities_reach_a_user_who_is_not_root() {
    let node = Node::start();
    let container = shell(&node, |config| {
        let context = security(config);
        context.run_as_user = Some(v1::Int64Value { value: 1000 });
        context.capabilities = Some(v1::Capability {
            add_ambient_capabilities: vec!["NET_BIND_SERVICE".into()],
            ..Default::default()
        });
    });
    for process in ["1", "self"] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let value = container.sh(&format!("sed -n 's/^{set}:[[:space:]]*//p' /proc/{process}/status"));
            assert_eq!(u64::from_str_radix(&value, 16), Ok(1 << 10), "{set} of {process}");
        }
    }
}

#[test]
fn the_status_tells_the_user_that_runs() {
    let node = Node::start();
    for policy in [
        v1::SupplementalGroupsPolicy::Merge,
        v1::SupplementalGroupsPolicy::Strict,
    ] {
        let container = shell(&node, |config| {
            let context = security(config);
            context.run_as_username = "default-user".into();
            context.run_as_group = Some(v1::Int64Value { value: 77 });
            context.supplemental_groups = vec![3000];
            context.supplemental_groups_policy = policy.into();
        });
        let told = container.status().user.and_then(|user| user.linux).expect("a user");
        assert_eq!((told.uid, told.gid), (1000, 77));
        let mut groups: Vec<i64> = container
            .sh("id -G")
            .split(' ')
            .map(|gid| gid.parse().expect("a gid"))
            .collect();
        groups.sort_unstable();
        assert_eq!(told.supplemental_groups, groups, "{policy:?}");
        assert_eq!(groups.contains(&50000), policy == v1::SupplementalGroupsPolicy::Merge);
    }
}

#[test]
fn a_mount_can_forbid_programs_devices_and_setuid() {
    let node = Node::start();
    let folder = node.dir().join("volume");
    fs::create_dir(&folder).expect("a folder");
    mknodat(
        CWD,
        folder.join("null"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(1, 3),
    )
    .expect("a node");
    let container = shell(&node, |config| {
        let mount = |place: &str, options: &[&str]| v1::Mount {
            container_path: place.into(),
            host_path: folder.display().to_string(),
            mount_options: options.iter().map(|&option| option.into()).collect(),
            ..Default::default()
        };
        config.mounts = vec![mount("/free", &[]), mount("/tight", &["noexec", "nodev", "nosuid"])];
    });
    container.sh("cp /bin/true /free/program; /free/program; : > /free/null");
    for line in ["/tight/program", ": > /tight/null"] {
        let refused = container.exec(&["sh", "-c", line]);
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("ermission denied"),
            "{line}: {refused:?}"
        );
    }
    let flags = container.sh("grep ' /tight ' /proc/self/mountinfo");
    for flag in ["nosuid", "nodev", "noexec"] {
        assert!(flags.contains(flag), "{flags}");
    }
    assert_eq!(
        container.status().mounts[1].mount_options,
        ["noexec", "nodev", "nosuid"]
    );
}

#[test]
fn a_folder_of_devices_is_a_folder_of_devices() {
    let node = Node::start();
    let folder = node.dir().join("devices");
    fs::create_dir_all(folder.join("below")).expect("a folder");
    for (name, minor) in [("zero", 5), ("below/null", 3)] {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            CWD,
            folder.join(name),
            FileType::CharacterDevice,
            mode,
            makedev(1, minor),
        )
        .expect("a node");
    }
    let device = |host: &Path, container: &str, permissions: &str| v1::Device {
        host_path: host.display().to_string(),
        container_path: container.into(),
        permissions: permissions.into(),
    };
    let container = shell(&node, |config| {
        config.devices = vec![
            device(&folder, "/dev/set", "rw"),
            device(Path::new("/dev/loop-control"), "/dev/loops", "r"),
        ];
    });
    assert_eq!(
        container.sh("head -c 3 /dev/set/zero | wc -c; echo x > /dev/set/below/null; ls -l /dev/set/zero | cut -c1"),
        "3\nc"
    );
    container.sh("exec 3< /dev/loops");
    let write = container.exec(&["sh", "-c", "echo x > /dev/loops"]);
    assert!(
        String::from_utf8_lossy(&write.stderr).contains("not permitted"),
        "only reading is: {write:?}"
    );
}

#[test]
fn proc_is_shown_whole_when_nothing_is_masked() {
    let node = Node::start();
    let container = shell(&node, |_| {});
    // The kubelet sends both lists, and empty ones for `procMount: Unmasked`.
    assert_eq!(container.sh("grep -c ' /proc/' /proc/self/mountinfo || true"), "0");
}

#[test]
fn a_real_time_signal_can_be_the_one_that_stops() {
    let node = Node::start();
    node.pull("shell");
    let script = "trap 'exit 5' RTMIN+3 2>/dev/null || trap 'exit 5' 37; echo ready; while :; do sleep 0.1; done";
    let container = node.pod(|_| {}).container("shell", &["sh", "-c", script], |config| {
        config.stop_signal = v1::Signal::Sigrtminplus3.into();
    });
    container.start();
    container.wait_logged("ready");
    assert_eq!(container.status().stop_signal(), v1::Signal::Sigrtminplus3);
    let before = std::time::Instant::now();
    container.stop(20);
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(container.status().exit_code, 5);
}
