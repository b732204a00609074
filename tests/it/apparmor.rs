//! AppArmor profiles: which one a container's processes have, and that the kernel enforces it.

use std::{
    fs,
    process::{Command, Stdio},
};

use tonic::Code;
use v1::security_profile::ProfileType;

use crate::harness::{Container, Node, own_network, own_users, skipped, v1};

const DEFAULT: &str = "inro-default (enforce)";

/// A profile as an administrator loads it: everything is allowed but to write.
const NO_WRITES: &str = "profile inro-it-no-writes flags=(attach_disconnected) { file, signal, ptrace, deny /** w, }";

fn enabled() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// Whether the test `name` can be run; says why when it cannot.
fn possible(name: &str) -> bool {
    if !enabled() {
        skipped(name, "the kernel has no AppArmor, or it is off");
    }
    enabled()
}

fn profile(kind: ProfileType, reference: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: reference.into(),
    })
}

fn create(node: &Node, edit: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Result<Container, tonic::Status> {
    node.pull("shell");
    node.pod(|_| {}).try_container("shell", &["sleep", "1000"], |config| {
        edit(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
    })
}

/// A running container whose security context `edit` changed.
fn shell(node: &Node, edit: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Container {
    let container = create(node, edit).unwrap_or_else(|status| panic!("create: {status:?}"));
    container.start();
    container
}

/// The profile of init, and that of an exec, which has to be the same.
fn label(container: &Container) -> String {
    let init = fs::read_to_string(format!("/proc/{}/attr/apparmor/current", container.pid())).expect("init's profile");
    let exec = container.sh("cat /proc/self/attr/apparmor/current");
    assert_eq!(init.trim_end(), exec, "init and exec");
    exec
}

fn admin(context: &mut v1::LinuxContainerSecurityContext) {
    context.capabilities = Some(v1::Capability {
        add_capabilities: vec!["SYS_ADMIN".into()],
        ..Default::default()
    });
}

#[test]
fn who_asks_for_nothing_has_the_default_profile_and_cannot_mount() {
    if !possible("who_asks_for_nothing_has_the_default_profile_and_cannot_mount") {
        return;
    }
    let node = Node::start();
    let confined = shell(&node, admin);
    assert_eq!(label(&confined), DEFAULT);
    let mount = "mount -t tmpfs none /mnt 2>&1 && echo mounted";
    let told = confined.exec(&[
        "sh",
        "-c",
        &format!("mkdir -p /mnt; {mount}; echo x > /proc/sysrq-trigger"),
    ]);
    let errors = String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).to_lowercase();
    assert_eq!(errors.matches("permission denied").count(), 2, "{errors}");
    // What it may do all the same: signals among its own, and files.
    assert_eq!(confined.sh("sleep 100 & kill $!; wait $!; echo $?"), "143");
    assert_eq!(
        confined.sh("echo x > /tmp/file && cat /tmp/file && ls /proc/1/fd > /dev/null && echo seen"),
        "x\nseen"
    );

    let free = shell(&node, |context| {
        admin(context);
        context.apparmor = profile(ProfileType::Unconfined, "");
    });
    assert_eq!(label(&free), "unconfined");
    assert_eq!(free.sh(&format!("mkdir -p /mnt; {mount}")), "mounted");
    // The daemon's signals reach both.
    for container in [confined, free] {
        container.stop(0);
    }
}

#[test]
#[expect(deprecated, reason = "the old field is a part of the wire")]
fn every_way_to_ask_gives_the_profile_asked_for() {
    if !possible("every_way_to_ask_gives_the_profile_asked_for") {
        return;
    }
    let node = Node::start();
    type Edit = fn(&mut v1::LinuxContainerSecurityContext);
    let table: [(&str, &str, Edit); 7] = [
        ("the default by name", DEFAULT, |c| {
            c.apparmor = profile(ProfileType::RuntimeDefault, "")
        }),
        ("the default by the old field", DEFAULT, |c| {
            c.apparmor_profile = "runtime/default".into()
        }),
        ("a user without privileges to gain", DEFAULT, |c| {
            c.run_as_user = Some(v1::Int64Value { value: 1000 });
            c.no_new_privs = true;
        }),
        ("none by the old field", "unconfined", |c| {
            c.apparmor_profile = "unconfined".into()
        }),
        ("a privileged container", "unconfined", |c| c.privileged = true),
        ("a privileged one that asks", "unconfined", |c| {
            c.privileged = true;
            c.apparmor = profile(ProfileType::RuntimeDefault, "");
        }),
        ("the new field wins", "unconfined", |c| {
            c.apparmor_profile = "runtime/default".into();
            c.apparmor = profile(ProfileType::Unconfined, "");
        }),
    ];
    for (name, wanted, edit) in table {
        assert_eq!(label(&shell(&node, edit)), wanted, "{name}");
    }
    let info = node
        .cri
        .status(v1::StatusRequest { verbose: true })
        .expect("status")
        .info;
    assert_eq!(info["apparmor"], "inro-default");
}

#[test]
#[expect(deprecated, reason = "the old field is a part of the wire")]
fn a_profile_of_the_node_is_applied_and_one_that_is_not_loaded_is_named() {
    let name = "a_profile_of_the_node_is_applied_and_one_that_is_not_loaded_is_named";
    if !possible(name) {
        return;
    }
    let node = Node::start();
    for reference in ["inro-it-not-there", "localhost/inro-it-not-there"] {
        let refused = create(&node, |context| {
            context.apparmor = profile(ProfileType::Localhost, reference)
        });
        let refused = refused.err().expect("an error");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        for part in [
            "linux.security_context.apparmor.localhost_ref",
            "\"inro-it-not-there\"",
            "not loaded",
        ] {
            assert!(refused.message().contains(part), "{refused:?}");
        }
    }
    let Some(_loaded) = Loaded::new("inro-it-no-writes", NO_WRITES) else {
        return skipped(name, "no apparmor_parser to load a profile with");
    };
    let by_field = shell(&node, |context| {
        context.apparmor = profile(ProfileType::Localhost, "inro-it-no-writes")
    });
    let by_old_field = shell(&node, |context| {
        context.apparmor_profile = "localhost/inro-it-no-writes".into()
    });
    for container in [by_field, by_old_field] {
        assert_eq!(label(&container), "inro-it-no-writes (enforce)");
        assert_ne!(container.exec(&["touch", "/tmp/file"]).exit_code, 0);
    }
    // Privileged says nothing about a profile asked for by name.
    let privileged = shell(&node, |context| {
        context.privileged = true;
        context.apparmor = profile(ProfileType::Localhost, "inro-it-no-writes");
    });
    assert_eq!(label(&privileged), "inro-it-no-writes (enforce)");
}

#[test]
fn the_default_profile_comes_back_when_somebody_removed_it() {
    if !possible("the_default_profile_comes_back_when_somebody_removed_it") {
        return;
    }
    let node = Node::start();
    fs::write("/sys/kernel/security/apparmor/.remove", "inro-default\0").expect("remove the profile");
    assert_eq!(label(&shell(&node, |_| {})), DEFAULT);
}

#[test]
fn a_pod_in_a_user_namespace_has_the_default_profile() {
    let name = "a_pod_in_a_user_namespace_has_the_default_profile";
    if !possible(name) {
        return;
    }
    let node = Node::start();
    node.pull("shell");
    let pod = node.try_pod(|config| {
        own_network(config);
        own_users(config);
    });
    let pod = match pod {
        Err(status) if status.message().contains("no user namespaces here") => return skipped(name, status.message()),
        pod => pod.expect("run sandbox"),
    };
    assert_eq!(label(&pod.run_container("shell", &["sleep", "1000"])), DEFAULT);
}

#[test]
fn a_node_without_apparmor_refuses_a_name_and_gives_nothing() {
    if enabled() {
        return skipped(
            "a_node_without_apparmor_refuses_a_name_and_gives_nothing",
            "this one has it",
        );
    }
    let node = Node::start();
    let refused = create(&node, |context| {
        context.apparmor = profile(ProfileType::Localhost, "some-profile")
    });
    let refused = refused.err().expect("an error");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("apparmor.localhost_ref"), "{refused:?}");
    shell(&node, |context| {
        context.apparmor = profile(ProfileType::RuntimeDefault, "")
    });
}

/// A profile in the kernel as long as this value lives.
struct Loaded(&'static str);

impl Loaded {
    fn new(name: &'static str, text: &str) -> Option<Self> {
        let mut parser = Command::new("apparmor_parser")
            .args(["--replace", "--skip-cache"])
            .stdin(Stdio::piped())
            .spawn()
            .ok()?;
        std::io::Write::write_all(&mut parser.stdin.take().expect("a pipe"), text.as_bytes()).expect("the profile");
        assert!(parser.wait().expect("apparmor_parser").success());
        Some(Self(name))
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = fs::write("/sys/kernel/security/apparmor/.remove", format!("{}\0", self.0));
    }
}
