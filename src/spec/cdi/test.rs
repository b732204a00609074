use super::*;

const ROOT: CdiOwner<'_> = CdiOwner {
    user: (0, 0),
    namespace: None,
};

struct Dirs(tempfile::TempDir);

impl Dirs {
    fn with(files: &[(&str, &str)]) -> Self {
        let dirs = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = dirs.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dirs
    }

    fn resolve(&self, names: &[&str], owner: CdiOwner<'_>) -> Result<(CdiEdits, Devices), SpecError> {
        let dirs = ["etc", "run"].map(|name| self.0.path().join(name));
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let mut devices = Devices::default();
        resolve(&dirs, &names, owner, &mut devices).map(|edits| (edits, devices))
    }

    fn refused(&self, name: &str) -> String {
        let error = self.resolve(&[name], ROOT).unwrap_err();
        assert_eq!(error.kind(), crate::model::ErrorKind::InvalidArgument);
        error.to_string()
    }
}

fn file(devices: &str, edits: &str) -> String {
    format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "example.com/gpu", "devices": [{devices}], "containerEdits": {edits}}}"#
    )
}

fn named(name: &str, edits: &str) -> String {
    format!(r#"{{"name": "{name}", "containerEdits": {edits}}}"#)
}

#[test]
fn edits_of_a_file_come_once_and_those_of_each_device_too() {
    let devices = [
        named("0", r#"{"env": ["ZERO=1"]}"#),
        named("1", r#"{"env": ["ONE=1"]}"#),
    ]
    .join(",");
    let all = r#"{"env": ["ALL=x=y"], "additionalGids": [0, 44], "mounts":
        [{"hostPath": "/etc/passwd", "containerPath": "/lib/it", "options": ["ro", "nosuid", "bind"]}]}"#;
    let dirs = Dirs::with(&[("etc/a.json", &file(&devices, all))]);
    let names = ["example.com/gpu=0", "example.com/gpu=1", "example.com/gpu=0"];
    let (edits, _) = dirs.resolve(&names, ROOT).unwrap();
    let env: Vec<_> = edits.env.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    assert_eq!(env, ["ALL:x=y", "ZERO:1", "ONE:1"]);
    assert_eq!(edits.gids, [44]);
    assert_eq!(edits.mounts.len(), 1);
    assert_eq!(
        (edits.mounts[0].access, &*edits.mounts[0].options),
        (Access::ReadOnly, &["nosuid".to_owned()][..])
    );
}

#[test]
fn nodes_are_as_on_the_host_unless_the_file_says_otherwise() {
    let nodes = r#"{"deviceNodes": [{"path": "/dev/mine", "hostPath": "/dev/zero", "permissions": "r"},
        {"path": "/dev/other", "type": "c", "major": 240, "minor": 7, "fileMode": 432, "gid": 44}]}"#;
    let dirs = Dirs::with(&[("etc/a.json", &file(&named("0", nodes), "{}"))]);
    let (_, devices) = dirs.resolve(&["example.com/gpu=0"], ROOT).unwrap();
    let [mine, other] = &devices.nodes[..] else {
        panic!("{devices:?}")
    };
    assert_eq!((mine.major, mine.minor, mine.uid), (1, 5, 0));
    assert_eq!((other.major, other.minor, other.mode, other.gid), (240, 7, 0o660, 44));
    assert_eq!(devices.rules[0].access, "r");

    let range = crate::model::IdRange { host: 1000, size: 100 };
    let namespace = UserNamespace {
        uids: range,
        gids: range,
    };
    let mapped = CdiOwner {
        user: (7, 8),
        namespace: Some(&namespace),
    };
    let (_, devices) = dirs.resolve(&["example.com/gpu=0"], mapped).unwrap();
    assert_eq!(
        (devices.nodes[0].uid, devices.nodes[0].gid),
        (1007, 1008),
        "the container's user"
    );
    assert_eq!(devices.nodes[1].gid, 1044);
}

#[test]
fn later_folders_win_and_equals_hide_each_other() {
    let one = |value: &str| file(&named("0", &format!(r#"{{"env": ["WHO={value}"]}}"#)), "{}");
    let yaml = "cdiVersion: 1.0.0\nkind: example.com/gpu\ndevices: [{name: '0', containerEdits: {env: [WHO=run]}}]\n";
    let dirs = Dirs::with(&[
        ("etc/a.json", &one("etc")),
        ("run/a.yaml", yaml),
        ("run/readme.txt", "no"),
    ]);
    let (edits, _) = dirs.resolve(&["example.com/gpu=0"], ROOT).unwrap();
    assert_eq!(edits.env, [("WHO".to_owned(), "run".to_owned())]);

    let twice = Dirs::with(&[("etc/a.json", &one("a")), ("etc/b.json", &one("b"))]);
    assert!(twice.refused("example.com/gpu=0").contains("more than one file"));
}

#[test]
fn hooks_interfaces_and_classes_are_taken_as_the_file_has_them() {
    let all = r#"{"hooks": [
            {"hookName": "createContainer", "path": "/usr/bin/ctk", "args": ["ctk", "hook"], "env": ["A=b"], "timeout": 7},
            {"hookName": "poststop", "path": "/bin/true"}],
        "netDevices": [{"hostInterfaceName": "enp2s0", "name": "fast0"}],
        "intelRdt": {"closID": "gold", "l3CacheSchema": "L3:0=f\nMB:0=1", "memBwSchema": "MB:0=70",
            "schemata": ["L2:0=3"], "enableMonitoring": true}}"#;
    let dirs = Dirs::with(&[("etc/a.json", &file(&named("0", all), "{}"))]);
    let (edits, _) = dirs.resolve(&["example.com/gpu=0"], ROOT).unwrap();
    let [first, last] = &edits.hooks[..] else {
        panic!("{edits:?}")
    };
    assert_eq!(
        first.to_string(),
        "example.com/gpu=0: createContainer hook /usr/bin/ctk"
    );
    assert_eq!(
        (first.limit(), last.limit()),
        (Duration::from_secs(7), Duration::from_secs(120))
    );
    assert_eq!((first.args.len(), &*first.env), (2, &["A=b".to_owned()][..]));
    assert_eq!(last.moment, crate::model::Moment::Poststop);
    assert_eq!(edits.net_devices[0].host_name, "enp2s0");
    let rdt = edits.rdt.unwrap();
    assert_eq!(
        rdt.schemata,
        ["L3:0=f", "MB:0=70", "L2:0=3"],
        "bandwidth is the other field's"
    );
    assert!(rdt.class.as_deref() == Some("gold") && rdt.monitoring);
}

#[test]
fn what_cannot_be_given_is_named() {
    let device = |edits: &str| {
        let dirs = Dirs::with(&[("etc/a.json", &file(&named("0", edits), "{}"))]);
        dirs.refused("example.com/gpu=0")
    };
    for (edits, part) in [
        (
            r#"{"hooks": [{"hookName": "createContainer", "path": "x"}]}"#,
            "hooks: x: x is not an absolute path",
        ),
        (
            r#"{"hooks": [{"hookName": "poststop", "path": "/x", "timeout": 0}]}"#,
            "hooks: /x: timeout",
        ),
        (
            r#"{"hooks": [{"hookName": "poststop", "path": "/x", "env": ["X"]}]}"#,
            "hooks: /x: env: \"X\"",
        ),
        (
            r#"{"netDevices": [{"hostInterfaceName": "e0", "name": "a/b"}]}"#,
            "netDevices: \"e0\": \"a/b\" is no interface name",
        ),
        (
            r#"{"netDevices": [{"hostInterfaceName": "e0", "name": "x"}, {"hostInterfaceName": "e1", "name": "x"}]}"#,
            "netDevices: \"e1\": name: \"x\" is the name of \"e0\" already",
        ),
        (r#"{"intelRdt": {"closID": "../x"}}"#, "intelRdt: closID"),
        (r#"{"intelRdt": {"l3CacheSchema": "ffff"}}"#, "intelRdt: \"ffff\""),
        (r#"{"env": ["novalue"]}"#, "env: \"novalue\""),
        (
            r#"{"deviceNodes": [{"path": "/dev/absent-device"}]}"#,
            "/dev/absent-device",
        ),
        (
            r#"{"deviceNodes": [{"path": "/dev/null", "hostPath": "/dev/zero"}]}"#,
            "/dev/null",
        ),
        (
            r#"{"deviceNodes": [{"path": "/dev/../x", "hostPath": "/dev/zero"}]}"#,
            "`..`",
        ),
        (
            r#"{"mounts": [{"hostPath": "/absent", "containerPath": "/x"}]}"#,
            "/absent",
        ),
        (
            r#"{"mounts": [{"hostPath": "/etc", "containerPath": "/x", "options": ["sync"]}]}"#,
            "\"sync\"",
        ),
        (
            r#"{"mounts": [{"hostPath": "/etc", "containerPath": "/x", "type": "tmpfs"}]}"#,
            "tmpfs",
        ),
    ] {
        let error = device(edits);
        assert!(error.starts_with("config.CDI_devices: example.com/gpu=0: "), "{error}");
        assert!(error.contains(part), "{error} should say {part}");
    }
    let moment = named("0", r#"{"hooks": [{"hookName": "sometime", "path": "/x"}]}"#);
    let unknown = Dirs::with(&[("etc/a.json", &file(&moment, "{}"))]);
    assert!(unknown.refused("example.com/gpu=0").contains("sometime"));
    let broken = Dirs::with(&[
        ("etc/broken.json", "{"),
        ("etc/old.yaml", "cdiVersion: 7.0.0\nkind: a/b\n"),
    ]);
    let error = broken.refused("example.com/gpu=0");
    assert!(error.contains("no CDI device \"example.com/gpu=0\""), "{error}");
    assert!(
        error.contains("broken.json") && error.contains("old.yaml") && error.contains("7.0.0"),
        "{error}"
    );
    assert!(Dirs::with(&[]).refused("no-device").contains("no CDI device"));
}
