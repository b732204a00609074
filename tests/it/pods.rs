//! Sandboxes: the namespaces and files that a pod's containers share.

use std::{fs, net::TcpStream, time::Duration};

use rustix::process::Signal;

use crate::harness::{Node, eventually, own_network, signal, v1};

fn options(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    let linux = config.linux.as_mut().expect("linux");
    linux
        .security_context
        .as_mut()
        .and_then(|context| context.namespace_options.as_mut())
        .expect("options")
}

#[test]
fn hostname_dns_and_shm_are_the_pods() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|config| {
        own_network(config);
        config.hostname = "the-pod".into();
        config.dns_config = Some(v1::DnsConfig {
            servers: vec!["192.0.2.53".into()],
            searches: vec!["example.test".into()],
            options: vec!["ndots:7".into()],
        });
    });
    let one = pod.run_container("shell", &["sleep", "1000"]);
    let two = pod.run_container("shell", &["sleep", "1000"]);
    assert_eq!(one.sh("hostname; cat /etc/hostname"), "the-pod\nthe-pod");
    assert_eq!(
        one.sh("cat /etc/resolv.conf"),
        "search example.test\nnameserver 192.0.2.53\noptions ndots:7"
    );
    one.sh("echo shared > /dev/shm/x");
    assert_eq!(two.sh("cat /dev/shm/x"), "shared");
    for namespace in ["net", "ipc", "uts"] {
        let link = format!("readlink /proc/self/ns/{namespace}");
        let host = fs::read_link(format!("/proc/self/ns/{namespace}")).expect("a namespace");
        assert_eq!(one.sh(&link), two.sh(&link));
        assert_ne!(one.sh(&link), host.display().to_string());
    }
    assert_ne!(
        one.sh("readlink /proc/self/ns/pid"),
        two.sh("readlink /proc/self/ns/pid")
    );
    assert_ne!(
        one.sh("readlink /proc/self/ns/mnt"),
        two.sh("readlink /proc/self/ns/mnt")
    );
}

#[test]
fn sysctls_are_set_in_the_pod_only() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|config| {
        own_network(config);
        let linux = config.linux.as_mut().expect("linux");
        linux.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
        linux
            .sysctls
            .insert("net.ipv4.ip_unprivileged_port_start".into(), "80".into());
    });
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("sysctl");
    let container = pod.run_container("shell", &["sleep", "1000"]);
    let read = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(container.sh(read), "1\n80");
    assert_eq!(
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("sysctl"),
        before
    );
}

#[test]
fn a_shared_pid_namespace_has_a_first_process_that_reaps() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|config| options(config).pid = v1::NamespaceMode::Pod.into());
    let one = pod.run_container("shell", &["sleep", "1111"]);
    let two = pod.run_container("shell", &["sleep", "2222"]);
    assert_eq!(
        one.sh("readlink /proc/self/ns/pid"),
        two.sh("readlink /proc/self/ns/pid")
    );
    assert_eq!(two.sh("ps -o args | grep -c 'sleep 1111$'"), "1");
    one.sh("(sleep 0.1 & exec sleep 0.05) & wait");
    eventually("orphans are reaped", Duration::from_secs(3), || {
        one.sh("grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l")
            .eq("0")
            .then_some(())
    });
    two.stop(0);
    assert_eq!(one.status().state, v1::ContainerState::ContainerRunning as i32);
}

/// What a machine that switches off waits for is what ignores being told so.
#[test]
fn a_shared_pid_namespace_ends_when_told_from_outside_and_not_from_inside() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|config| options(config).pid = v1::NamespaceMode::Pod.into());
    let container = pod.run_container("shell", &["sleep", "1000"]);
    container.sh("kill -TERM 1; kill -INT 1; sleep 0.2");
    assert_eq!(container.status().state(), v1::ContainerState::ContainerRunning);
    let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let shared = namespace(container.pid());
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let first = pids.find(|&pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        namespace(pid) == shared
            && status
                .lines()
                .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    });
    signal(first.expect("a first process"), Signal::TERM);
    eventually("the container has ended", Duration::from_secs(5), || {
        (container.status().state() == v1::ContainerState::ContainerExited).then_some(())
    });
}

#[test]
fn node_namespaces_are_the_hosts() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|config| {
        options(config).pid = v1::NamespaceMode::Node.into();
        options(config).ipc = v1::NamespaceMode::Node.into();
    });
    let container = pod.run_container("shell", &["sleep", "1000"]);
    for namespace in ["net", "ipc", "pid"] {
        let host = fs::read_link(format!("/proc/self/ns/{namespace}")).expect("a namespace");
        assert_eq!(
            container.sh(&format!("readlink /proc/self/ns/{namespace}")),
            host.display().to_string()
        );
    }
    assert!(
        pod.status().network.is_none_or(|network| network.ip.is_empty()),
        "no address of its own"
    );
}

#[test]
fn a_pod_has_an_address_and_reaches_others() {
    let node = Node::start();
    node.pull("shell");
    let serving = node.pod(own_network);
    let asking = node.pod(own_network);
    let server = serving.run_container(
        "shell",
        &[
            "sh",
            "-c",
            "mkdir /www; echo page > /www/index.html; exec httpd -f -p 8080 -h /www",
        ],
    );
    let client = asking.run_container("shell", &["sleep", "1000"]);
    let ip = serving.status().network.expect("a network").ip;
    assert_ne!(ip, asking.status().network.expect("a network").ip);
    assert!(server.sh("ip -o -4 addr show eth0").contains(&ip));
    assert!(server.sh("ip -o addr show lo").contains("127.0.0.1"));
    eventually("the node reaches the pod", Duration::from_secs(5), || {
        TcpStream::connect((ip.as_str(), 8080)).ok()
    });
    assert_eq!(client.sh(&format!("wget -q -O - http://{ip}:8080/")), "page");
}

#[test]
fn addresses_come_back() {
    let mut node = Node::start();
    let first = node.pod(own_network).status().network.expect("a network").ip;
    node.daemon.kill9();
    node.daemon.restart();
    let pods = node
        .cri
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .expect("list")
        .items;
    let status = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pods[0].id.clone(),
        verbose: false,
    };
    let status = node
        .cri
        .pod_sandbox_status(status)
        .expect("status")
        .status
        .expect("a status");
    assert_eq!(status.network.expect("a network").ip, first, "kept over a restart");
    let second = node.pod(own_network).status().network.expect("a network").ip;
    assert_ne!(first, second);
}

#[test]
fn mounts_are_bound_as_asked() {
    let node = Node::start();
    node.pull("shell");
    let source = node.dir().join("volume");
    fs::create_dir(&source).expect("a volume");
    fs::write(source.join("file"), "from the host").expect("a file");
    let mount = |path: &str, readonly: bool| v1::Mount {
        container_path: path.into(),
        host_path: source.display().to_string(),
        readonly,
        ..Default::default()
    };
    let single = v1::Mount {
        host_path: source.join("file").display().to_string(),
        ..mount("/etc/one-file", false)
    };
    let container = node.pod(|_| {}).container("shell", &["sleep", "1000"], |config| {
        config.mounts = vec![mount("/new/deep/path", false), mount("/read-only", true), single];
    });
    container.start();
    assert_eq!(
        container.sh("cat /new/deep/path/file /read-only/file /etc/one-file"),
        "from the host".repeat(3)
    );
    container.sh("echo changed > /new/deep/path/file");
    assert_eq!(fs::read_to_string(source.join("file")).expect("the file"), "changed\n");
    assert_ne!(container.exec(&["touch", "/read-only/x"]).exit_code, 0);
    assert_eq!(container.status().mounts.len(), 3);
}

#[test]
fn limits_are_in_the_cgroup_and_nothing_of_ours_is() {
    let node = Node::start();
    node.pull("shell");
    let container = node.pod(|_| {}).container("shell", &["sleep", "1000"], |config| {
        config.linux.as_mut().expect("linux").resources = Some(v1::LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            oom_score_adj: 500,
            ..Default::default()
        });
    });
    container.start();
    assert_eq!(container.sh("cat /proc/1/oom_score_adj"), "500");
    let pid = container.pid();
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
    assert!(
        cgroups.lines().filter(|line| line.contains(&container.id)).count() > 0,
        "{cgroups}"
    );
    for hierarchy in crate::harness::hierarchies() {
        let Some(path) = cgroups.lines().find_map(|line| {
            line.rsplit_once(':')
                .map(|(_, path)| path)
                .filter(|path| path.contains(&container.id))
        }) else {
            continue;
        };
        let dir = hierarchy.join(path.trim_start_matches('/'));
        if let Ok(quota) = fs::read_to_string(dir.join("cpu.cfs_quota_us")) {
            assert_eq!(quota.trim(), "50000");
            assert_eq!(
                fs::read_to_string(dir.join("cpu.shares")).expect("shares").trim(),
                "512"
            );
        }
        if let Ok(max) = fs::read_to_string(dir.join("cpu.max")) {
            assert_eq!(max.trim(), "50000 100000");
        }
        if let Ok(members) = fs::read_to_string(dir.join("cgroup.procs")) {
            assert!(
                members.lines().all(|member| member == pid.to_string()),
                "only the container: {members}"
            );
        }
    }
}
