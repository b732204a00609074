//! Deaths in between, leftovers, and what it all costs.

use super::*;

#[test]
fn a_killed_zygote_is_replaced_and_its_containers_live() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let kill = |pid: u32| kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        let mut made = Vec::new();
        let mut lost = 0;
        for round in 0..12u64 {
            let mut c = Box_::new(&ground, &["sleep", "1000"]);
            let request = c.request(&ground);
            let zygote = ground.zygote.clone();
            let task = tokio::spawn(async move { create(&zygote, request).await });
            tokio::time::sleep(Duration::from_micros(round * 700)).await;
            kill(ground.zygote.pid());
            match tokio::time::timeout(Duration::from_secs(10), task)
                .await
                .expect("an answer")
                .unwrap()
            {
                Ok(created) => {
                    c.start().unwrap();
                    eventually("only init in the cgroup", || c.processes() == [created.init_pid as i32]);
                    made.push(c);
                }
                Err(ZygoteError::Lost | ZygoteError::Send(_)) => lost += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        eprintln!("{} made, {lost} lost", made.len());
        let mut c = Box_::new(&ground, &["true"]);
        c.run(&ground).await;
    });
}

#[test]
fn a_killed_helper_is_noticed_and_killing_the_cgroup_ends_the_rest() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut lost = 0;
        for _ in 0..12 {
            let mut c = Box_::new(&ground, &["sleep", "1000"]);
            let request = c.request(&ground);
            let zygote = ground.zygote.clone();
            let task = tokio::spawn(async move { create(&zygote, request).await });
            // The helper is the first to enter the cgroup.
            while !task.is_finished() {
                if let Some(&pid) = c.processes().first() {
                    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
                    break;
                }
                tokio::task::yield_now().await;
            }
            match tokio::time::timeout(Duration::from_secs(10), task)
                .await
                .expect("an answer")
                .unwrap()
            {
                Ok(_) => {}
                Err(ZygoteError::Lost | ZygoteError::Failed(_)) => {
                    lost += 1;
                    assert!(!c.dir.join("shim.sock").exists() && !c.dir.join("notify.sock").exists());
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        eprintln!("{lost} of 12 lost");
    });
}

#[test]
fn a_shim_whose_folder_is_gone_ends_with_its_container() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(&ground, &["sleep", "1000"]);
        let init = create(&ground.zygote, c.request(&ground)).await.unwrap().init_pid;
        c.start().unwrap();
        let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
        let shim = PathBuf::from("/proc").join(parent);
        fs::remove_dir_all(&c.dir).unwrap();
        kill_process(Pid::from_raw(init as i32).unwrap(), Signal::KILL).unwrap();
        eventually("the shim ends", || !shim.exists());
    });
}

#[test]
fn nothing_of_ours_lingers_in_the_zygote() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        for _ in 0..3 {
            let mut c = Box_::new(&ground, &["true"]);
            c.run(&ground).await;
        }
        let proc = PathBuf::from(format!("/proc/{}", ground.zygote.pid()));
        let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 5, "{mounts}");
        assert!(mounts.contains(ground.state.to_str().unwrap()), "{mounts}");
        let fds = fs::read_dir(proc.join("fd")).unwrap().count();
        assert_eq!(
            fds, 6,
            "three standard ones, the socket, the shim, libcontainer's /proc"
        );
        let status = fs::read_to_string(proc.join("status")).unwrap();
        assert!(
            status.contains("Threads:\t1") && status.contains("Umask:\t0000"),
            "{status}"
        );
        assert_eq!(fs::read(proc.join("environ")).unwrap(), b"");
        // Only reading its executable is possible, as root and through any link.
        assert!(File::options().append(true).open(proc.join("exe")).is_err());
        let flags = rustix::fs::statvfs(proc.join("exe")).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{flags:?}");
        let pid = ground.zygote.pid().to_string();
        let children = fs::read_to_string(proc.join("task").join(pid).join("children")).unwrap();
        assert_eq!(children, "");
    });
}

/// Not a test of behaviour: prints what a create and a start cost. Run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn latency_of_create_and_start() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let (mut creates, mut starts, mut execs) = (Vec::new(), Vec::new(), Vec::new());
        let mut stages: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
        for _ in 0..100 {
            let mut c = Box_::new(&ground, &["sleep", "1000"]);
            c.seccomp = Some(allow_all());
            let request = c.request(&ground);
            let before = Instant::now();
            let created = create(&ground.zygote, request).await.unwrap();
            creates.push(before.elapsed());
            let before = Instant::now();
            c.start().unwrap();
            starts.push(before.elapsed());
            for (name, took) in created.stages {
                stages.entry(name).or_default().push(took);
            }
            let before = Instant::now();
            let (exec, _read) = c.exec(&ground, created.init_pid, &["true"]).await.unwrap();
            assert_eq!(exec.wait().await.unwrap(), 0);
            execs.push(before.elapsed());
            drop(c);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        report("create", &mut creates);
        report("start", &mut starts);
        report("exec", &mut execs);
        for (name, mut times) in stages {
            report(&format!("create: {name}"), &mut times);
        }
    });
}
