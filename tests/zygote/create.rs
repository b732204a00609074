//! Making and starting containers.

use super::*;

#[test]
fn a_container_is_created_started_and_its_exit_recorded() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["sh", "-c", "echo hello; echo oops >&2; exit 7"]);
        let log = c.run(&ground).await;
        assert!(log.contains("hello") && log.contains("oops"), "{log}");
        let exit = fs::read(c.dir.join("exit")).unwrap();
        assert!(exit.contains(&b'7') || exit.contains(&7), "{exit:?}");
        assert!(matches!(c.start(), Err(ZygoteError::NotWaiting)));
    });
}

#[test]
fn the_process_ends_up_confined_and_sees_nothing_of_ours() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let script = "cat /proc/self/status; ls -l /proc/self/fd; cat /proc/self/oom_score_adj; readlink /proc/1/exe; \
                      umask; env; cat /proc/self/cgroup; if echo x >> /proc/1/exe; then echo WROTE; fi";
        let mut c = Box_::new(&ground, &["sh", "-c", script]);
        c.seccomp = Some(allow_all());
        let log = c.run(&ground).await;
        for line in [
            "CapEff:\t00000000a80425fb",
            "CapPrm:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "CapInh:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t0",
            "Seccomp:\t2",
            "Groups:\t",
            "SigIgn:\t0000000000000000",
            "SigBlk:\t0000000000000000",
            "0022",
            "500",
            "HOME=/root",
        ] {
            assert!(log.contains(line), "{line} in {log}");
        }
        let fds: Vec<&str> = log.lines().filter(|line| line.contains(" -> ")).collect();
        // 3 is the folder that ls itself opened.
        assert!(
            fds.len() <= 4 && fds.iter().any(|l| l.contains(" 0 -> /dev/null")),
            "{fds:?}"
        );
        let groups = log.lines().find(|line| line.starts_with("Groups:")).unwrap();
        assert!(
            groups.split_whitespace().all(|word| word == "Groups:" || word == "0"),
            "{groups}"
        );
        assert!(log.contains(&format!("/{}", name_of(&c.id))), "cgroup: {log}");
        assert!(!log.contains("WROTE"));
    });
}

#[test]
fn a_user_with_no_new_privileges_keeps_nothing() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(
            &ground,
            &["sh", "-c", "cat /proc/self/status; echo again > /dev/stdout; id"],
        );
        c.seccomp = Some(allow_all());
        c.spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [1001, 2000]});
        c.spec["process"]["noNewPrivileges"] = json!(true);
        c.capabilities = CapabilitySets {
            bounding: DEFAULT_CAPS,
            ..CapabilitySets::default()
        };
        let log = c.run(&ground).await;
        for line in [
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "again",
            "uid=1000 gid=1001 groups=1001,2000",
        ] {
            assert!(log.contains(line), "{line} in {log}");
        }
    });
}

#[test]
fn what_cannot_be_executed_is_named_and_leaves_nothing() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        for (program, errno) in [
            ("no-such", libc::ENOENT),
            ("/bin/no-such", libc::ENOENT),
            ("/etc/plain", libc::EACCES),
            ("/", libc::EACCES),
        ] {
            let mut c = Box_::new(&ground, &[program]);
            match c.create(&ground).await {
                Err(ZygoteError::Failed(failure)) => {
                    assert_eq!(
                        (failure.stage, failure.errno),
                        (Stage::Executable, Some(errno)),
                        "{failure}"
                    );
                    assert!(failure.to_string().contains(program), "{failure}");
                }
                other => panic!("{program}: {other:?}"),
            }
            eventually("no process in the cgroup", || c.processes().is_empty());
            let mut left: Vec<_> = fs::read_dir(&c.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            left.sort();
            assert_eq!(left, ["config.json", "log"], "{program}");
        }
    });
}

#[test]
fn what_is_begun_and_given_up_leaves_nothing() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        for born_in_cgroup in [false, true] {
            for dropped in [false, true] {
                let c = Box_::new(&ground, &["sleep", "1000"]);
                let mut begin = c.begin();
                begin.born_in_cgroup = born_in_cgroup;
                let beginning = ground.zygote.begin(begin).await.unwrap();
                let shim = c.dir.join("shim.sock");
                eventually("its shim or who becomes it", || shim.exists());
                match dropped {
                    true => drop(beginning),
                    false => {
                        beginning.give_up().await;
                        let left: Vec<_> = fs::read_dir(&c.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
                        assert_eq!(left, ["log"], "born in its cgroup: {born_in_cgroup}");
                    }
                }
                eventually("nobody has its folder open", || !is_open(&c.dir));
            }
        }
    });
}

#[test]
fn a_program_that_fails_at_exec_is_an_error_of_start() {
    let Some(ground) = Ground::new() else { return };
    fs::write(ground.base.join("rootfs/bin/script"), "#!/no/interpreter\n").unwrap();
    fs::set_permissions(
        ground.base.join("rootfs/bin/script"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    block(async {
        let mut c = Box_::new(&ground, &["script"]);
        c.create(&ground).await.unwrap();
        match c.start() {
            Err(ZygoteError::Failed(failure)) => {
                assert_eq!(
                    (failure.stage, failure.errno),
                    (Stage::Executable, Some(libc::ENOENT)),
                    "{failure}"
                );
                assert!(failure.message.contains("/bin/script"), "{failure}");
            }
            other => panic!("{other:?}"),
        }
        eventually("the exit record", || c.dir.join("exit").exists());
    });
}

#[test]
fn errors_of_libcontainer_name_the_path() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["true"]);
        let extra = json!({"destination": "/data/x", "type": "bind", "source": "/stage/m7", "options": ["rbind"]});
        c.spec["mounts"].as_array_mut().unwrap().push(extra);
        let Err(ZygoteError::Failed(failure)) = c.create(&ground).await else {
            panic!("created")
        };
        assert_eq!(failure.stage, Stage::Build);
        assert!(failure.message.contains("/stage/m7"), "{failure}");
        eventually("no process in the cgroup", || c.processes().is_empty());
    });
}

#[test]
fn create_refuses_a_working_folder_outside() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        for number in (3..20).chain([100, 101, 200, 201, 202, 203, 204, 205, 206, 207, 208]) {
            let mut c = Box_::new(&ground, &["sh", "-c", "pwd"]);
            c.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
            assert!(c.create(&ground).await.is_err(), "cwd /proc/self/fd/{number}");
        }
        let mut c = Box_::new(&ground, &["sh", "-c", "pwd"]);
        c.spec["process"]["cwd"] = json!("/made/for/me");
        assert!(c.run(&ground).await.contains("/made/for/me"));
    });
}

#[test]
fn a_terminal_container_connects_to_the_console_listener() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["sh", "-c", "test -t 0 && test -t 1 && exit 5"]);
        c.stdio.terminal = true;
        c.spec["process"]["terminal"] = json!(true);
        c.run(&ground).await;
        let exit = fs::read(c.dir.join("exit")).unwrap();
        assert!(exit.contains(&b'5') || exit.contains(&5), "{exit:?}");
        assert!(!c.dir.join("console.sock").exists());
    });
}

#[test]
fn a_failure_of_the_last_step_is_told() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["/no/such/program"]);
        // What the last step attaches, it closes.
        let mut request = c.request(&ground);
        request.1.base = vec![BaseMount {
            kind: "sysfs".into(),
            place: "/sys".into(),
            options: Vec::new(),
            attributes: 0,
        }];
        request.1.cgroups = vec![("pids".into(), tree(&cgroup("pids", &c.id)))];
        let Err(ZygoteError::Failed(failure)) = create(&ground.zygote, request).await else {
            panic!("not told")
        };
        assert!(failure.message.contains("/no/such/program"), "{failure}");
    });
}

/// Whether any process has `path` open.
fn is_open(path: &Path) -> bool {
    let folders = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|process| process.path().join("fd"));
    // A process that ends meanwhile has nothing open.
    let open = folders
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    open.filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|target| target == path)
}
