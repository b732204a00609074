//! Real cgroups, made and removed here.

use std::process::{Child, Command};

use super::*;

fn cgroupfs() -> Result<Cgroups, CgroupError> {
    Cgroups::open(&Config {
        driver: Choice::Cgroupfs,
    })
}

/// A cgroup of this test alone.
struct Guard {
    cgroups: Cgroups,
    path: String,
}

impl Guard {
    fn new(name: &str, resources: &Resources, rules: &[DeviceRule]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let path = format!("/inro-unit-{name}-{}", std::process::id());
        let cgroups = cgroupfs().unwrap();
        cgroups.begin(&path, resources, None).unwrap().finish(rules).unwrap();
        Some(Self { cgroups, path })
    }

    /// Runs a shell command that moves itself into the cgroup first.
    fn run(&self, script: &str) -> Child {
        let joins: String = match self.cgroups.is_v2() {
            true => self
                .cgroups
                .hierarchy
                .folders(&self.path)
                .iter()
                .map(|f| format!("echo 0 > {}/cgroup.procs;", f.display()))
                .collect(),
            false => self
                .cgroups
                .hierarchy
                .folders(&self.path)
                .iter()
                .map(|f| format!("echo 0 > {}/tasks;", f.display()))
                .collect(),
        };
        Command::new("sh")
            .arg("-c")
            .arg(format!("{joins} {script}"))
            .spawn()
            .unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.cgroups.remove(&self.path).unwrap();
    }
}

#[test]
fn a_memory_limit_kills_and_the_kill_is_counted() {
    let resources = Resources {
        memory_limit_bytes: Some(16 << 20),
        memory_swap_limit_bytes: Some(16 << 20),
        ..Resources::default()
    };
    let Some(guard) = Guard::new("oom", &resources, &[]) else {
        return;
    };
    let status = guard
        .run("head -c 100000000 /dev/zero | tail -n 1 >/dev/null")
        .wait()
        .unwrap();
    assert!(!status.success());
    assert!(guard.cgroups.oom_kills(&guard.path).unwrap() >= 1);
}

#[test]
fn removing_a_cgroup_kills_what_runs_in_it() {
    let Some(guard) = Guard::new("kill", &Resources::default(), &[]) else {
        return;
    };
    let mut child = guard.run("sleep 1000 & sleep 1000");
    let deadline = Instant::now() + Duration::from_secs(10);
    while guard.cgroups.processes(&guard.path).unwrap().len() < 3 {
        assert!(Instant::now() < deadline, "the processes do not show up");
        thread::yield_now();
    }
    guard.cgroups.remove(&guard.path).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(guard.cgroups.processes(&guard.path).unwrap().is_empty());
    guard.cgroups.remove(&guard.path).unwrap();
}

#[test]
fn device_rules_deny_what_they_do_not_allow() {
    let rule = |allow, kind, major, minor| DeviceRule {
        allow,
        kind,
        major,
        minor,
        access: "rwm".into(),
    };
    let rules = [rule(false, 'a', None, None), rule(true, 'c', Some(1), Some(3))];
    let Some(guard) = Guard::new("devices", &Resources::default(), &rules) else {
        return;
    };
    assert!(guard.run("cat /dev/null").wait().unwrap().success());
    assert!(
        !guard
            .run("head -c 1 /dev/zero > /dev/null 2>&1")
            .wait()
            .unwrap()
            .success()
    );
}

#[test]
fn a_pids_limit_holds() {
    let resources = Resources {
        pids_limit: Some(3),
        ..Resources::default()
    };
    let Some(guard) = Guard::new("pids", &resources, &[]) else {
        return;
    };
    assert!(
        !guard
            .run("(sleep 2 & sleep 2 & sleep 2 & sleep 2 & wait) 2>/dev/null")
            .wait()
            .unwrap()
            .success()
    );
}

#[test]
fn paths_that_climb_are_refused() {
    let Ok(cgroups) = cgroupfs() else { return };
    for path in ["relative", "/a/../b", "/", ""] {
        assert!(
            matches!(
                cgroups.begin(path, &Resources::default(), None),
                Err(CgroupError::BadPath(_))
            ),
            "{path}"
        );
    }
}

#[test]
fn a_parent_is_of_the_drivers_kind() {
    let cgroups = |driver| Cgroups {
        hierarchy: Arc::new(Hierarchy::V2 { root: "/c".into() }),
        driver,
        systemd: None,
    };
    let path = |driver, parent: &str| {
        let cgroups = cgroups(driver);
        cgroups.parent(parent).map(|parent| cgroups.path(&parent, "abc")).ok()
    };
    for (parent, folder, scope) in [
        ("", Some("/inro/abc"), Some("/system.slice/inro-abc.scope")),
        ("/", Some("/abc"), None),
        ("/a/b", Some("/a/b/abc"), None),
        ("a/b/", Some("/a/b/abc"), None),
        ("a-b.slice", None, Some("/a.slice/a-b.slice/inro-abc.scope")),
        ("/a.slice/a-b.slice", None, Some("/a.slice/a-b.slice/inro-abc.scope")),
        ("-.slice", None, Some("/inro-abc.scope")),
    ] {
        assert_eq!(path(Driver::Cgroupfs, parent).as_deref(), folder, "{parent}");
        assert_eq!(path(Driver::Systemd, parent).as_deref(), scope, "{parent}");
    }
    for (driver, parent) in [(Driver::Cgroupfs, "a.slice"), (Driver::Systemd, "/a/b")] {
        let error = cgroups(driver).parent(parent).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("the driver here is"), "{error}");
    }
}

#[test]
fn scopes_come_change_and_go() {
    let systemd = Config {
        driver: Choice::Systemd,
    };
    let cgroups = match Cgroups::open(&systemd) {
        Ok(cgroups) if rustix::process::geteuid().is_root() => cgroups,
        Ok(_) => return eprintln!("skipped: needs root"),
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let limits = |shares| Resources {
        cpu_shares: Some(shares),
        ..Resources::default()
    };
    let weight = |path: &str| fs::read_to_string(format!("/sys/fs/cgroup{path}/cpu.weight")).unwrap();
    let mut times = [Duration::ZERO; 3];
    const ROUNDS: u32 = 20;
    for round in 0..ROUNDS {
        let mut first = Command::new("sleep").arg("1000").spawn().unwrap();
        let path = cgroups.path("/inro_unit.slice", &format!("unit{}x{round}", std::process::id()));
        let mut clock = Instant::now();
        let mut lap = |at: usize| {
            times[at] += clock.elapsed();
            clock = Instant::now();
        };
        let making = cgroups.begin(&path, &limits(1024), Some(first.id())).unwrap();
        making.finish(&[]).unwrap();
        lap(0);
        assert_eq!(cgroups.processes(&path).unwrap(), [first.id()]);
        assert_eq!(weight(&path), "39\n");
        lap(1);
        cgroups.update(&path, &limits(2)).unwrap();
        lap(1);
        assert_eq!(weight(&path), "1\n");
        cgroups.remove(&path).unwrap();
        lap(2);
        assert!(!first.wait().unwrap().success());
        assert!(!below(Path::new("/sys/fs/cgroup"), &path).exists());
        // Gone is no error; without a process there is none.
        cgroups.remove(&path).unwrap();
        let dead = cgroups.begin(&path, &limits(2), Some(first.id())).unwrap().finish(&[]);
        let error = crate::model::chain(&dead.unwrap_err());
        assert!(
            error.contains(".scope: ") && error.contains("org.freedesktop"),
            "{error}"
        );
    }
    let [made, changed, removed] = times.map(|time| time / ROUNDS);
    eprintln!("a scope: made in {made:?}, changed in {changed:?}, removed in {removed:?}");
    let _ = Command::new("systemctl").args(["stop", "inro_unit.slice"]).status();
}
