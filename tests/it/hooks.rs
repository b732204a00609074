//! Hooks of CDI devices: programs of the host, a shell with its libraries and loader, that record where they run.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Container, Node, Pod, eventually, own_network, own_users, signal, v1};

/// A daemon whose CDI files are in a folder of the test's, and that folder, where hooks leave what they saw.
struct Ground {
    node: Node,
    dir: tempfile::TempDir,
}

/// Records what it is told and where it is as `<folder>/<name>.*`.
const RECORD: &str = r#"#!/bin/sh
out=$1/$2
cat > "$out.state"
echo "$2" >> "$1/order"
for kind in mnt pid net ipc uts user; do echo "$kind $(readlink /proc/self/ns/$kind)"; done > "$out.ns"
pwd > "$out.cwd"
env > "$out.env"
"#;

/// What NVIDIA's hooks do: find the root from the bundle, make links in it, mount, and have the host's ldconfig work on it.
const FURNISH: &str = r#"
bundle=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/' "$out.state")
root=$(sed 's/.*"root":{"path":"\([^"]*\)".*/\1/' "$bundle/config.json")
case $root in /*) ;; *) root=$bundle/$root ;; esac
ls "$root" > "$out.root"
ls "$root/proc/self/" > /dev/null || exit 9
ln -s /etc/hostname "$root/made-by-a-hook" || exit 8
mkdir "$root/mounted-by-a-hook" && mount -t tmpfs hook "$root/mounted-by-a-hook" || exit 7
echo inside > "$root/mounted-by-a-hook/file"
[ ! -x /sbin/ldconfig ] || /sbin/ldconfig -r "$root" || exit 6
"#;

/// Never ends; tells its pid as the node has it, which is another in the container.
const HANG: &str = "#!/bin/sh
read pid rest < /proc/self/stat
echo $pid > $1/$2.new
mv $1/$2.new $1/$2
echo waiting >&2
exec sleep 1000
";

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        // A hook in a user namespace is nobody here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
        let node = Node::with_config(&format!("[pod]\ncdi_spec_dirs = [\"{}/cdi\"]\n", dir.path().display()));
        fs::set_permissions(node.dir(), fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::create_dir(dir.path().join("cdi")).expect("cdi");
        node.pull("shell");
        let ground = Self { node, dir };
        ground.script("record", RECORD);
        ground.script("furnish", &[RECORD, FURNISH].concat());
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a script");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    /// A hook that runs the script `script` and leaves its records under `name`.
    fn hook(&self, moment: &str, script: &str, name: &str) -> Value {
        json!({"hookName": moment, "path": self.path(script), "args": [script, self.dir.path(), name], "env": ["FROM=vendor"]})
    }

    /// Makes `example.com/hooked=0` a device with these edits.
    fn device(&self, edits: &Value) {
        let file = json!({"cdiVersion": "1.1.0", "kind": "example.com/hooked",
            "devices": [{"name": "0", "containerEdits": edits}]});
        fs::write(self.path("cdi/hooked.json"), file.to_string()).expect("hooked.json");
    }

    fn read(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        text.trim().to_owned()
    }

    fn state(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(&format!("{name}.state"))).expect("a state")
    }

    /// The namespace of a kind that a hook was in.
    fn namespace(&self, name: &str, kind: &str) -> String {
        let all = self.read(&format!("{name}.ns"));
        let line = all.lines().find_map(|line| line.strip_prefix(&format!("{kind} ")));
        line.unwrap_or_else(|| panic!("{kind} in {all}")).to_owned()
    }

    fn create(&self, pod: &Pod) -> Result<Container, tonic::Status> {
        pod.try_container("shell", &["sleep", "1000"], |config| {
            config.cdi_devices = vec![v1::CdiDevice {
                name: "example.com/hooked=0".into(),
            }];
        })
    }

    /// Waits until the hook `name` has told its pid; it.
    fn pid_of(&self, name: &str) -> u32 {
        eventually("the hook runs", Duration::from_secs(20), || {
            fs::read_to_string(self.path(name)).ok()?.trim().parse().ok()
        })
    }
}

fn namespace_of(pid: &str, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
    link.display().to_string()
}

fn gone(pid: u32) {
    eventually("the hook is gone", Duration::from_secs(10), || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}

#[test]
fn each_hook_runs_in_its_moment_and_place() {
    let ground = Ground::new();
    let start = "cat > /start.state; grep -E 'CapEff|Seccomp:' /proc/self/status > /start.status; id -u > /start.id; \
                 test \"$FROM\" = image || echo $HOME > /start.home; ls /made-by-a-hook > /start.link";
    let hooks = [
        ground.hook("poststop", "record", "poststop"),
        ground.hook("createContainer", "furnish", "createContainer"),
        ground.hook("createRuntime", "record", "createRuntime"),
        ground.hook("prestart", "record", "prestart"),
        ground.hook("poststart", "record", "poststart"),
        json!({"hookName": "startContainer", "path": "/bin/sh", "args": ["sh", "-c", start]}),
    ];
    ground.device(&json!({"hooks": hooks}));
    let pod = ground.node.pod(own_network);
    let container = ground
        .create(&pod)
        .unwrap_or_else(|status| panic!("create: {status:?}"));
    let init = container.pid().to_string();
    assert_eq!(ground.read("order"), "prestart\ncreateRuntime\ncreateContainer");

    // On the node: its namespaces, init's pid as it has it, and a bundle whose root it can reach.
    for name in ["prestart", "createRuntime"] {
        for kind in ["mnt", "pid", "net", "uts", "ipc"] {
            assert_eq!(
                ground.namespace(name, kind),
                namespace_of("self", kind),
                "{name} {kind}"
            );
        }
        let state = ground.state(name);
        assert_eq!(
            (&state["status"], &state["id"]),
            (&json!("creating"), &json!(container.id))
        );
        assert_eq!(state["pid"].to_string(), init);
        assert_eq!(state["annotations"]["io.kubernetes.cri.sandbox-namespace"], "it");
        assert!(
            state["ociVersion"]
                .as_str()
                .is_some_and(|version| version.starts_with("1."))
        );
    }
    // In the container's namespaces, where init is the first process.
    for kind in ["mnt", "pid", "net", "uts", "ipc"] {
        assert_eq!(
            ground.namespace("createContainer", kind),
            namespace_of(&init, kind),
            "{kind}"
        );
    }
    let state = ground.state("createContainer");
    assert_eq!((&state["status"], &state["pid"]), (&json!("creating"), &json!(1)));
    assert!(ground.read("createContainer.env").contains("FROM=vendor"));
    assert!(ground.read("createContainer.root").lines().any(|name| name == "bin"));
    assert!(ground.read("createContainer.cwd").ends_with("/rootfs"));

    container.start();
    assert_eq!(
        ground.read("order"),
        "prestart\ncreateRuntime\ncreateContainer\npoststart"
    );
    let state = ground.state("poststart");
    assert_eq!((&state["status"], state["pid"].to_string()), (&json!("running"), init));
    assert_eq!(container.sh("cat /made-by-a-hook"), container.sh("cat /etc/hostname"));
    assert_eq!(container.sh("cat /mounted-by-a-hook/file"), "inside");
    if Path::new("/sbin/ldconfig").exists() {
        container.sh("test -s /etc/ld.so.cache");
    }
    // Nothing of the host is left in the container, and no end of a socket.
    assert!(!container.sh("cat /proc/mounts").contains("/stage"));
    assert_eq!(container.sh("ls /proc/1/fd | wc -l"), "3");

    // In the container, as confined as its program.
    let state: Value = serde_json::from_str(&container.sh("cat /start.state")).expect("a state");
    assert_eq!((&state["status"], &state["pid"]), (&json!("created"), &json!(1)));
    let confined = container.sh("grep -E 'CapEff|Seccomp:' /proc/1/status");
    assert_eq!(container.sh("cat /start.status"), confined);
    assert_eq!(container.sh("cat /start.link"), "/made-by-a-hook");
    assert_eq!(container.sh("cat /start.home"), container.sh("echo $HOME"));

    container.stop(0);
    assert!(
        !ground.path("poststop.state").exists(),
        "it is there until it is removed"
    );
    container.remove();
    let state = ground.state("poststop");
    assert_eq!((&state["status"], state.get("pid")), (&json!("stopped"), None));
    assert_eq!(ground.namespace("poststop", "mnt"), namespace_of("self", "mnt"));
}

#[test]
fn hooks_work_in_a_user_namespace() {
    let ground = Ground::new();
    ground.device(&json!({"hooks": [ground.hook("createContainer", "furnish", "createContainer")]}));
    let pod = ground.node.pod(|config| {
        own_network(config);
        own_users(config);
    });
    let container = ground
        .create(&pod)
        .unwrap_or_else(|status| panic!("create: {status:?}"));
    let init = container.pid().to_string();
    assert_eq!(ground.namespace("createContainer", "user"), namespace_of(&init, "user"));
    container.start();
    assert_eq!(container.sh("cat /mounted-by-a-hook/file"), "inside");
    assert_eq!(
        container.sh("stat -c %u /mounted-by-a-hook/file"),
        "0",
        "the pod's root made it"
    );
}

#[test]
fn a_hook_that_fails_fails_the_create_and_says_why() {
    let ground = Ground::new();
    ground.script("fail", "#!/bin/sh\necho 'no driver is loaded' >&2\nexit 3\n");
    ground.script("hang", HANG);
    let pod = ground.node.pod(|_| {});
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let stop = ground.hook("poststop", "record", &format!("stop-{moment}"));
        let mut hang = ground.hook(moment, "hang", &format!("hang-{moment}"));
        hang["timeout"] = json!(1);
        let absent = json!({"hookName": moment, "path": "/no/such/program"});
        for (hook, parts) in [
            (
                ground.hook(moment, "fail", "x"),
                vec!["/fail ", "exited with 3: no driver is loaded"],
            ),
            (hang, vec!["/hang ", "did not end within 1s: waiting"]),
            (absent, vec!["/no/such/program", "No such file or directory"]),
        ] {
            ground.device(&json!({"hooks": [stop, hook]}));
            let begun = Instant::now();
            let status = ground.create(&pod).err().expect("an error");
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            let start = format!("config.CDI_devices: example.com/hooked=0: {moment} hook ");
            assert!(status.message().starts_with(&start), "{status:?}");
            for part in parts {
                assert!(status.message().contains(part), "{status:?} should say {part}");
            }
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        gone(ground.pid_of(&format!("hang-{moment}")));
        assert!(
            ground.path(&format!("stop-{moment}.state")).exists(),
            "what was begun is ended"
        );
    }
    // What fails where nothing can be undone is logged only.
    ground.device(&json!({"hooks": [ground.hook("poststart", "fail", "x"), ground.hook("poststop", "fail", "x")]}));
    let container = ground.create(&pod).expect("create");
    container.start();
    container.remove();
    let log = ground.node.daemon.log_tail();
    assert!(log.contains("poststart hook") && log.contains("poststop hook"), "{log}");
}

#[test]
fn a_start_hook_that_fails_fails_the_start() {
    let ground = Ground::new();
    let pod = ground.node.pod(|_| {});
    let shell =
        |line: &str| json!({"hookName": "startContainer", "path": "/bin/sh", "args": ["sh", "-c", line], "timeout": 1});
    for (line, part) in [
        ("echo not here >&2; exit 4", "exited with 4: not here"),
        ("sleep 1000", "did not end within 1s"),
    ] {
        ground.device(&json!({"hooks": [shell(line)]}));
        let container = ground.create(&pod).expect("create");
        let status = container.try_start().expect_err("a failure");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        let start = "config.CDI_devices: example.com/hooked=0: startContainer hook /bin/sh";
        assert!(
            status.message().contains(start) && status.message().contains(part),
            "{status:?}"
        );
        assert_ne!(container.wait().exit_code, 0);
    }
    // One that takes longer than a start usually may is waited for.
    ground.device(&json!({"hooks": [{"hookName": "startContainer", "path": "/bin/sh", "args": ["sh", "-c", "sleep 11; exit 5"]}]}));
    let container = ground.create(&pod).expect("create");
    assert!(
        container
            .try_start()
            .expect_err("a failure")
            .message()
            .contains("exited with 5")
    );
}

#[test]
fn a_daemon_killed_in_a_hook_leaves_nothing() {
    let mut ground = Ground::new();
    ground.script("hang", HANG);
    let pod = ground.node.pod(|_| {});
    for moment in ["createRuntime", "createContainer"] {
        let stop = ground.hook("poststop", "record", &format!("stop-{moment}"));
        ground.device(&json!({"hooks": [ground.hook(moment, "hang", moment), stop]}));
        thread::scope(|scope| {
            let create = scope.spawn(|| ground.create(&pod).map(drop));
            ground.pid_of(moment);
            signal(ground.node.daemon.pid(), rustix::process::Signal::KILL);
            assert!(create.join().expect("no panic").is_err());
        });
        ground.node.daemon.kill9();
        ground.node.daemon.restart();
        gone(ground.pid_of(moment));
        let all = ground.node.cri.list_containers(v1::ListContainersRequest::default());
        assert!(all.expect("list").containers.is_empty());
        assert!(
            ground.path(&format!("stop-{moment}.state")).exists(),
            "what was begun is ended"
        );
    }
}

#[test]
fn poststop_hooks_run_at_removal_after_the_daemon_was_killed() {
    let mut ground = Ground::new();
    ground.device(&json!({"hooks": [ground.hook("poststop", "record", "poststop")]}));
    let pod = ground.node.pod(|_| {});
    let container = ground.create(&pod).expect("create");
    container.start();
    ground.node.daemon.kill9();
    // What the vendor changes meanwhile is for new containers.
    fs::remove_file(ground.path("cdi/hooked.json")).expect("remove");
    ground.node.daemon.restart();
    assert!(!ground.path("poststop.state").exists());
    container.remove();
    assert_eq!(ground.state("poststop")["id"], json!(container.id));
    assert_eq!(ground.read("order"), "poststop", "once");
}
