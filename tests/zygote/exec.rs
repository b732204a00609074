//! Processes run in started containers.

use super::*;

#[test]
fn exec_reports_exit_codes_and_output_and_is_confined() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["sleep", "1000"]);
        c.seccomp = Some(allow_all());
        let init = c.create(&ground).await.unwrap().init_pid;
        c.start().unwrap();
        for (script, code, output) in [
            ("exit 3", 3, ""),
            ("echo out; echo err >&2", 0, "out\nerr\n"),
            ("kill -9 $$", 137, ""),
            ("cat /proc/1/comm; cat /proc/self/oom_score_adj", 0, "sleep\n500\n"),
        ] {
            let (exec, mut read) = c.exec(&ground, init, &["sh", "-c", script]).await.unwrap();
            assert_eq!(
                exec.wait_for(Duration::from_secs(5)).await.unwrap(),
                Some(code),
                "{script}"
            );
            let mut text = String::new();
            read.read_to_string(&mut text).unwrap();
            assert_eq!(text, output, "{script}");
        }
        let script = "cat /proc/self/status; ls -l /proc/self/fd; cat /proc/self/cgroup; for n in mnt pid net ipc uts; \
                      do test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo DIFFERS $n; done";
        let (exec, mut read) = c.exec(&ground, init, &["sh", "-c", script]).await.unwrap();
        assert_eq!(exec.wait().await.unwrap(), 0);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        for line in [
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "CapInh:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t0",
            "Seccomp:\t2",
            "SigIgn:\t0000000000000000",
            &name_of(&c.id),
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("DIFFERS"), "{text}");
        assert!(text.lines().filter(|line| line.contains(" -> ")).count() <= 4, "{text}");
    });
}

#[test]
fn exec_into_a_user_namespace_is_not_root_of_the_node() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["sleep", "1000"]);
        let range = IdRange {
            host: 100_000,
            size: 65536,
        };
        let request = NamespacesRequest {
            user: Some(UserNamespace {
                uids: range,
                gids: range,
            }),
            ..NamespacesRequest::default()
        };
        c.namespaces.user = ground.zygote.namespaces(request).await.unwrap().user;
        c.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user", "path": namespace_path(NamespaceKind::User)}));
        let init = c.create(&ground).await.unwrap().init_pid;
        c.start().unwrap();
        let script = "cat /proc/self/uid_map; id -u; cat /proc/self/status";
        let (exec, mut read) = c.exec(&ground, init, &["sh", "-c", script]).await.unwrap();
        assert_eq!(
            std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{init}")).unwrap()),
            100_000
        );
        assert_eq!(exec.wait().await.unwrap(), 0);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let map: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(map, ["0", "100000", "65536"], "{text}");
        assert!(
            text.contains("CapEff:\t00000000a80425fb") && text.contains("\n0\n"),
            "{text}"
        );
    });
}

#[test]
fn v2_containers_and_execs_are_cloned_into_their_cgroup() {
    let Some(ground) = Ground::new() else { return };
    let Some(root) = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.join("cgroup.controllers").exists())
    else {
        eprintln!("skipped: no cgroup v2");
        return;
    };
    block(async {
        let mut c = Box_::new(&ground, &["sh", "-c", "cat /proc/self/cgroup; sleep 1000"]);
        let dir = root.join(name_of(&c.id));
        fs::create_dir(&dir).unwrap();
        let join = || CgroupJoin::V2(File::open(&dir).unwrap().into());
        let mut request = c.request(&ground);
        request.0.born_in_cgroup = true;
        request.1.cgroup = join();
        let init = create(&ground.zygote, request).await.unwrap().init_pid;
        c.start().unwrap();
        let mut request = c.exec_request(
            init,
            &["sleep", "1000"],
            ExecStdio::Pipes {
                stdin: None,
                stdout: None,
                stderr: None,
            },
        );
        request.cgroup = join();
        let exec = ground.zygote.exec(request).await.unwrap();
        let wanted = format!("0::/{}", name_of(&c.id));
        for pid in [init, exec.pid] {
            let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            assert!(text.contains(&wanted), "{text}");
        }
        exec.kill_all();
        assert_eq!(exec.wait().await.unwrap(), 137);
        eventually("the log", || c.log().contains(&wanted));
        fs::write(dir.join("cgroup.kill"), "1").unwrap();
        eventually("an empty cgroup", || fs::remove_dir(&dir).is_ok());
    });
}

#[test]
fn exec_of_what_is_not_there_names_it() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["sleep", "1000"]);
        let init = c.create(&ground).await.unwrap().init_pid;
        c.start().unwrap();
        for (program, errno) in [("no-such", libc::ENOENT), ("/etc/plain", libc::EACCES)] {
            let Err(ZygoteError::Failed(failure)) = c.exec(&ground, init, &[program]).await else {
                panic!("{program}")
            };
            assert_eq!(
                (failure.stage, failure.errno),
                (Stage::Executable, Some(errno)),
                "{failure}"
            );
            assert!(failure.message.contains(program), "{failure}");
        }
        for number in 3..40 {
            let stdio = ExecStdio::Pipes {
                stdin: None,
                stdout: None,
                stderr: None,
            };
            let mut request = c.exec_request(init, &["true"], stdio);
            request.process.cwd = format!("/proc/self/fd/{number}").into();
            assert!(ground.zygote.exec(request).await.is_err(), "cwd /proc/self/fd/{number}");
        }
        eventually("only init in the cgroup", || c.processes() == [init as i32]);
    });
}

#[test]
fn exec_with_a_terminal_has_one() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["sleep", "1000"]);
        let init = c.create(&ground).await.unwrap().init_pid;
        c.start().unwrap();
        let request = c.exec_request(
            init,
            &["sh", "-c", "tty; stty size"],
            ExecStdio::Terminal { columns: 120, rows: 40 },
        );
        let exec = ground.zygote.exec(request).await.unwrap();
        let mut master = File::from(exec.terminal.as_ref().unwrap().try_clone().unwrap());
        let mut text = Vec::new();
        // The end of a terminal is EIO.
        let _ = master.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("/dev/pts/") && text.contains("40 120"), "{text}");
        assert_eq!(exec.wait().await.unwrap(), 0);
    });
}

#[test]
fn a_killed_or_dropped_exec_takes_its_children_along() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["sleep", "1000"]);
        let init = c.create(&ground).await.unwrap().init_pid;
        c.start().unwrap();
        let script = "sleep 901 & setsid sleep 902 & sh -c 'sleep 903; true' & echo go; sleep 904; true";
        for dropped in [false, true] {
            let (exec, mut read) = c.exec(&ground, init, &["sh", "-c", script]).await.unwrap();
            let mut go = [0; 2];
            read.read_exact(&mut go).unwrap();
            eventually("all of them", || c.processes().len() >= 7);
            if dropped {
                drop(exec);
            } else {
                assert_eq!(exec.wait_for(Duration::from_millis(20)).await.unwrap(), None);
                exec.kill_all();
                assert_eq!(exec.wait_for(Duration::from_secs(5)).await.unwrap(), Some(137));
            }
            eventually("only init in the cgroup", || c.processes() == [init as i32]);
        }
    });
}
