//! The README's session: what a newcomer does with an unmodified `crictl`, and the daemon killed in the middle.

use std::{fs, path::Path};

use crate::harness::Node;

#[test]
fn pull_run_log_exec_and_survive_a_kill() {
    let mut node = Node::start();
    node.registry();
    let (pod, container) = write_configs(&node);

    node.crictl_ok(&["pull", "shell"]);
    assert!(node.crictl_ok(&["images"]).contains("docker.io/library/shell"));
    let sandbox = node.crictl_ok(&["runp", &pod]);
    let id = node.crictl_ok(&["create", &sandbox, &container, &pod]);
    node.crictl_ok(&["start", &id]);
    assert!(node.crictl_ok(&["ps", "-q"]).contains(&id));
    assert_eq!(
        node.crictl_ok(&["exec", "-s", &id, "echo", "from", "exec"]),
        "from exec"
    );

    node.daemon.kill9();
    node.daemon.restart();
    assert!(
        node.crictl_ok(&["ps", "-q"]).contains(&id),
        "still running after kill -9"
    );
    assert_eq!(
        node.crictl_ok(&["exec", "-s", &id, "cat", "/proc/sys/kernel/hostname"]),
        "session"
    );
    assert!(node.crictl_ok(&["logs", &id]).contains("started"));

    node.crictl_ok(&["stop", "--timeout", "5", &id]);
    let status = node.crictl_ok(&["inspect", &id]);
    assert!(status.contains("CONTAINER_EXITED"), "{status}");
    assert!(node.crictl_ok(&["logs", &id]).contains("told to stop"));
    node.crictl_ok(&["rm", &id]);
    node.crictl_ok(&["stopp", &sandbox]);
    node.crictl_ok(&["rmp", &sandbox]);
    assert_eq!(node.crictl_ok(&["pods", "-q"]), "");
    node.crictl_ok(&["rmi", "shell"]);
    assert_eq!(node.crictl_ok(&["images", "-q"]), "");
}

#[test]
fn info_says_ready() {
    let node = Node::start();
    let info = node.crictl_ok(&["info"]);
    let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    for condition in info["status"]["conditions"].as_array().expect("conditions") {
        assert_eq!(condition["status"], true, "{condition}");
    }
    assert!(node.crictl_ok(&["version"]).contains("inro"));
}

fn write_configs(node: &Node) -> (String, String) {
    let write = |name: &str, value: serde_json::Value| {
        let path = node.dir().join(name);
        fs::write(&path, value.to_string()).expect("a config file");
        path.display().to_string()
    };
    let logs = node.dir().join("logs/session");
    fs::create_dir_all(&logs).expect("log folder");
    let pod = serde_json::json!({
        "metadata": {"name": "session", "uid": "session", "namespace": "it"},
        "hostname": "session",
        "log_directory": Path::new(&logs),
        "linux": {"cgroup_parent": node.cgroup_parent()},
    });
    let script = "trap 'echo told to stop; exit 3' TERM; echo started; while :; do sleep 0.1; done";
    let container = serde_json::json!({
        "metadata": {"name": "shell"},
        "image": {"image": "shell"},
        "command": ["sh", "-c", script],
        "log_path": "shell.log",
        "linux": {},
    });
    (write("pod.json", pod), write("container.json", container))
}
