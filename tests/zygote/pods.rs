//! What containers of a pod share.

use super::*;

#[test]
fn volumes_and_pod_namespaces_are_given_by_descriptor() {
    let Some(ground) = Ground::new() else { return };
    let volume = ground.base.join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "from the volume").unwrap();
    block(async {
        let sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "77".to_owned())]);
        let request = NamespacesRequest {
            user: None,
            net: true,
            ipc: true,
            uts: true,
            hostname: "pod-1".into(),
            sysctls,
            // One that is not there is left out, and what a pod asks for comes after them.
            defaults: ["net.ipv4.ip_unprivileged_port_start", "net.ipv4.no_such_switch"]
                .map(|name| (name.to_owned(), "78".to_owned()))
                .into(),
        };
        let pod = ground.zygote.namespaces(request).await.unwrap();
        let net_inode = fs::metadata(format!("/proc/self/fd/{}", pod.net.as_ref().unwrap().as_raw_fd()))
            .unwrap()
            .ino();

        let script = "cat /data/file /volume-file; echo; cat /proc/sys/kernel/hostname \
                      /proc/sys/net/ipv4/ip_unprivileged_port_start; readlink /proc/self/ns/net";
        let mut c = Box_::new(&ground, &["sh", "-c", script]);
        c.mounts = vec![tree(&volume), tree(&volume.join("file"))];
        for (index, target) in ["/data", "/volume-file"].into_iter().enumerate() {
            let bind = json!({"destination": target, "type": "bind", "source": Place::small().mount(index), "options": ["rbind", "ro"]});
            c.spec["mounts"].as_array_mut().unwrap().push(bind);
        }
        // The pod's own, set when its namespace was made.
        c.spec.as_object_mut().unwrap().remove("hostname");
        c.spec["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "pid"},
        ]);
        c.namespaces = NamespaceFds {
            net: pod.net,
            ipc: pod.ipc,
            uts: pod.uts,
            ..NamespaceFds::default()
        };
        let log = c.run(&ground).await;
        assert_eq!(log.matches("from the volume").count(), 2, "{log}");
        for part in ["pod-1", "77", &format!("net:[{net_inode}]")] {
            assert!(log.contains(part), "{part} in {log}");
        }
    });
}

#[test]
fn a_pods_user_namespace_owns_its_other_namespaces() {
    let Some(ground) = Ground::new() else { return };
    let range = |host| IdRange { host, size: 65536 };
    block(async {
        let request = NamespacesRequest {
            user: Some(UserNamespace {
                uids: range(100_000),
                gids: range(200_000),
            }),
            net: true,
            ipc: true,
            uts: true,
            hostname: "pod-2".into(),
            sysctls: BTreeMap::from([("kernel.shm_rmid_forced".to_owned(), "1".to_owned())]),
            defaults: Default::default(),
        };
        let pod = ground.zygote.namespaces(request).await.unwrap();
        // What only the root of the owning user namespace may change.
        let script = "cat /proc/self/uid_map /proc/self/gid_map /proc/sys/kernel/hostname /proc/sys/kernel/shm_rmid_forced \
                      && busybox hostname mine && cat /proc/sys/kernel/hostname \
                      && echo 0 > /proc/sys/kernel/shm_rmid_forced && cat /proc/sys/kernel/shm_rmid_forced \
                      && echo 78 > /proc/sys/net/ipv4/ip_unprivileged_port_start && id -u && exec sleep 1000";
        let mut c = Box_::new(&ground, &["sh", "-c", script]);
        for set in ["bounding", "effective", "permitted"] {
            let names = c.spec["process"]["capabilities"][set].as_array_mut().unwrap();
            names.push("CAP_NET_ADMIN".into());
        }
        let more = SYS_ADMIN | NET_ADMIN;
        let sets = &mut c.capabilities;
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            *set |= more;
        }
        c.spec["linux"]["readonlyPaths"] = json!([]);
        c.spec.as_object_mut().unwrap().remove("hostname");
        c.spec["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "pid"},
            {"type": "user", "path": namespace_path(NamespaceKind::User).to_str().unwrap()},
        ]);
        c.namespaces = NamespaceFds {
            user: pod.user,
            net: pod.net,
            ipc: pod.ipc,
            uts: pod.uts,
            ..NamespaceFds::default()
        };
        let mut request = c.request(&ground);
        request.1.owner = (100_000, 200_000);
        let init = create(&ground.zygote, request).await.unwrap().init_pid;
        c.start().unwrap();
        eventually("the user's id", || c.log().ends_with("mine\n0\n0"));
        let log = c.log();
        let words: Vec<&str> = log.split_whitespace().collect();
        let maps = ["0", "100000", "65536", "0", "200000", "65536"];
        assert_eq!(words[..6], maps, "{log}");
        assert_eq!(words[6..], ["pod-2", "1", "mine", "0", "0"], "{log}");
        assert_eq!(fs::metadata(format!("/proc/{init}")).unwrap().uid(), 100_000);

        // The terminal of an exec is its user's, who can open it again.
        let script = "test $(id -u) = 0 && echo reopened > $(tty)";
        let terminal = ExecStdio::Terminal { columns: 80, rows: 25 };
        let exec = ground
            .zygote
            .exec(c.exec_request(init, &["sh", "-c", script], terminal))
            .await
            .unwrap();
        let mut text = Vec::new();
        let _ = File::from(exec.terminal.as_ref().unwrap().try_clone().unwrap()).read_to_end(&mut text);
        assert_eq!(exec.wait().await.unwrap(), 0);
        assert_eq!(String::from_utf8_lossy(&text), "reopened\r\n");
    });
}

const SYS_ADMIN: u64 = 1 << 21;
const NET_ADMIN: u64 = 1 << 12;

#[test]
fn sysctls_of_the_node_are_refused() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let sysctls = BTreeMap::from([("kernel.core_pattern".to_owned(), "|/evil".to_owned())]);
        let request = NamespacesRequest {
            net: true,
            sysctls,
            ..NamespacesRequest::default()
        };
        let Err(ZygoteError::Failed(failure)) = ground.zygote.namespaces(request).await else {
            panic!("made")
        };
        assert_eq!(failure.stage, Stage::Sysctl);
        assert!(failure.message.contains("kernel.core_pattern"), "{failure}");
    });
}

#[test]
fn containers_share_the_pid_namespace_of_a_pods_first_process() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let mut c = Box_::new(
            &ground,
            &["sh", "-c", "cat /proc/1/status; readlink /proc/1/root; echo done"],
        );
        let request = PodInitRequest {
            cgroup: c.join(),
            user: None,
            net: None,
            ipc: None,
            uts: None,
        };
        let pod = ground.zygote.pod_init(request).await.unwrap();
        assert_eq!(c.processes(), [pod.pid as i32]);
        c.spec["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"},
            {"type": "pid", "path": namespace_path(NamespaceKind::Pid).to_str().unwrap()},
        ]);
        c.namespaces.pid = Some(pod.pid_ns.try_clone().unwrap());
        kill_process(Pid::from_raw(ground.zygote.pid() as i32).unwrap(), Signal::KILL).unwrap();
        let log = c.run(&ground).await;
        assert!(
            log.contains("Uid:\t65535") && log.contains("CapPrm:\t0000000000000000"),
            "{log}"
        );
        assert!(
            log.ends_with("done") && !log.contains("\n/\n"),
            "the reaper's root is not readable: {log}"
        );
        assert_eq!(c.processes(), [pod.pid as i32], "it survives zygote and container");
        rustix::process::pidfd_send_signal(&pod.pidfd, Signal::KILL).unwrap();
    });
}

#[test]
fn a_held_cgroups_process_lives_as_long_as_its_line() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let hold = ground.zygote.hold().await.unwrap();
        let pid = hold.pid;
        drop(hold.line.try_clone().unwrap());
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(name, "inro-hold\n", "one of two is closed");
        drop(hold);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(std::time::Instant::now() < deadline, "it stays");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
}
