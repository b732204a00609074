//! Limits changed in place: what the kernel has, what the status tells, and what a refusal leaves.

use std::{
    collections::HashMap,
    fs, thread,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::harness::{Container, Node, hierarchies, own_network, patience, skipped, v1};

/// A file of the container's cgroup, in whichever hierarchy has it.
fn limit(container: &Container, file: &str) -> Option<String> {
    let pid = container.pid();
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroups");
    let path = cgroups
        .lines()
        .filter_map(|line| line.rsplit_once(':'))
        .map(|(_, path)| path)
        .find(|path| path.contains(&container.id))?
        .trim_start_matches('/')
        .to_owned();
    let mut files = hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(&path).join(file));
    let text = files.find_map(|file| fs::read_to_string(file).ok())?;
    Some(text.trim().to_owned())
}

pub fn update(node: &Node, container: &Container, linux: v1::LinuxContainerResources) -> Result<(), tonic::Status> {
    node.cri
        .update_container_resources(v1::UpdateContainerResourcesRequest {
            container_id: container.id.clone(),
            linux: Some(linux),
            ..Default::default()
        })
        .map(drop)
}

fn told(container: &Container) -> v1::LinuxContainerResources {
    let resources = container.status().resources.expect("resources");
    resources.linux.expect("linux")
}

fn limited(config: &mut v1::ContainerConfig) {
    config.linux.as_mut().expect("linux").resources = Some(v1::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        oom_score_adj: 300,
        ..Default::default()
    });
}

fn has_memory(container: &Container) -> bool {
    limit(container, "memory.max").is_some() || limit(container, "memory.limit_in_bytes").is_some()
}

fn memory_limit(container: &Container) -> Option<String> {
    limit(container, "memory.max").or_else(|| limit(container, "memory.limit_in_bytes"))
}

#[test]
fn limits_change_in_place_and_survive_the_daemon() {
    let mut node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    for started in [false, true] {
        let container = pod.container("shell", &["sleep", "1000"], limited);
        if started {
            container.start();
        }
        let grown = v1::LinuxContainerResources {
            cpu_quota: 80_000,
            cpu_period: 200_000,
            memory_limit_in_bytes: 128 << 20,
            memory_swap_limit_in_bytes: 128 << 20,
            ..Default::default()
        };
        update(&node, &container, grown).expect("grow");
        let after = v1::LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 80_000,
            cpu_period: 200_000,
            memory_limit_in_bytes: 128 << 20,
            memory_swap_limit_in_bytes: 128 << 20,
            oom_score_adj: 300,
            ..Default::default()
        };
        assert_eq!(told(&container), after, "what was left out stays");
        if let Some(quota) = limit(&container, "cpu.cfs_quota_us") {
            assert_eq!(quota, "80000");
            assert_eq!(limit(&container, "cpu.cfs_period_us").as_deref(), Some("200000"));
            assert_eq!(limit(&container, "cpu.shares").as_deref(), Some("512"));
        }
        if let Some(max) = limit(&container, "cpu.max") {
            assert_eq!(max, "80000 200000");
        }
        assert_eq!(memory_limit(&container), Some((128 << 20).to_string()));
        let shrunk = v1::LinuxContainerResources {
            cpu_shares: 2,
            cpu_period: 50_000,
            cpu_quota: -1,
            memory_limit_in_bytes: 32 << 20,
            memory_swap_limit_in_bytes: 40 << 20,
            ..Default::default()
        };
        update(&node, &container, shrunk.clone()).expect("shrink");
        node.daemon.kill9();
        node.daemon.restart();
        let after = v1::LinuxContainerResources {
            oom_score_adj: 300,
            ..shrunk
        };
        assert_eq!(told(&container), after, "with the next daemon");
        assert_eq!(memory_limit(&container), Some((32 << 20).to_string()));
        // The same request again creates nothing: what was asked for at first is what it is known by.
        if !started {
            container.start();
        }
        assert_eq!(container.sh("echo alive"), "alive");
    }
}

#[test]
fn memory_does_not_shrink_below_what_is_used() {
    let node = Node::start();
    node.pull("shell");
    // What is in /dev/shm cannot be given back where there is no swap.
    let script = "head -c 30000000 /dev/zero > /dev/shm/held; echo held; exec sleep 1000";
    let container = node.pod(|_| {}).container("shell", &["sh", "-c", script], limited);
    container.start();
    container.wait_logged("held");
    if !has_memory(&container) {
        return skipped("memory_does_not_shrink_below_what_is_used", "no memory controller here");
    }
    let before = (told(&container), memory_limit(&container));
    let small = v1::LinuxContainerResources {
        cpu_shares: 2,
        memory_limit_in_bytes: 8 << 20,
        memory_swap_limit_in_bytes: 8 << 20,
        ..Default::default()
    };
    let refused = update(&node, &container, small).expect_err("less than it uses");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("memory_limit_in_bytes"), "{refused:?}");
    assert_eq!((told(&container), memory_limit(&container)), before);
    if let Some(shares) = limit(&container, "cpu.shares") {
        assert_eq!(shares, "512", "all of it or none");
    }
    assert_eq!(container.status().state, v1::ContainerState::ContainerRunning as i32);
    // What has been only read or written to files can go.
    container.sh("rm /dev/shm/held");
    let small = v1::LinuxContainerResources {
        memory_limit_in_bytes: 8 << 20,
        memory_swap_limit_in_bytes: 8 << 20,
        ..Default::default()
    };
    update(&node, &container, small).expect("it fits now");
}

#[test]
fn oom_score_adj_reaches_every_process() {
    let node = Node::start();
    node.pull("shell");
    let script = "sleep 1111 & (sleep 2222 & exec sleep 3333) & echo ready; exec sleep 4444";
    let container = node.pod(|_| {}).container("shell", &["sh", "-c", script], limited);
    container.start();
    container.wait_logged("ready");
    let scores = || {
        container.sh("cd /proc; for p in $(ls | grep '^[0-9]*$'); do grep -q '^sleep' $p/cmdline 2>/dev/null && cat $p/oom_score_adj; done | sort | uniq -c | sed 's/^ *//'")
    };
    crate::harness::eventually("four of them", Duration::from_secs(5), || {
        (scores() == "4 300").then_some(())
    });
    let score = |oom_score_adj| v1::LinuxContainerResources {
        oom_score_adj,
        ..Default::default()
    };
    update(&node, &container, score(700)).expect("raise");
    assert_eq!(scores(), "4 700");
    assert_eq!(told(&container).oom_score_adj, 700);
    // Back to what it may go to, or as far as this node lets anyone.
    update(&node, &container, score(-500)).expect("lower");
    let lowest = scores();
    assert!(lowest == "4 -500" || lowest == "4 0", "{lowest}");
    assert_eq!(container.sh("cat /proc/self/oom_score_adj"), lowest[2..]);
}

#[test]
fn a_value_that_the_kernel_refuses_names_its_field_and_changes_nothing() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.container("shell", &["sleep", "1000"], limited);
    container.start();
    let before = told(&container);
    let with = |edit: &dyn Fn(&mut v1::LinuxContainerResources)| {
        let mut linux = v1::LinuxContainerResources {
            cpu_shares: 99,
            ..Default::default()
        };
        edit(&mut linux);
        linux
    };
    let table: [(&str, v1::LinuxContainerResources); 8] = [
        ("cpu_period", with(&|l| l.cpu_period = -1)),
        ("cpu_shares", with(&|l| l.cpu_shares = -1)),
        ("cpu_quota", with(&|l| l.cpu_quota = 1)),
        ("cpuset_cpus", with(&|l| l.cpuset_cpus = "9999".into())),
        ("cpuset_mems", with(&|l| l.cpuset_mems = "0;1".into())),
        ("memory_limit_in_bytes", with(&|l| l.memory_limit_in_bytes = -7)),
        ("oom_score_adj", with(&|l| l.oom_score_adj = 1001)),
        (
            "unified",
            with(&|l| l.unified = HashMap::from([("a/../b".into(), "1".into())])),
        ),
    ];
    for (field, linux) in table {
        let refused = update(&node, &container, linux).expect_err(field);
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused:?}");
        assert!(refused.message().contains(field), "{field}: {refused:?}");
        assert_eq!(told(&container), before, "{field}");
        if let Some(shares) = limit(&container, "cpu.shares") {
            assert_eq!(shares, "512", "{field}");
        }
    }
    container.stop(0);
    let late = update(&node, &container, with(&|_| {})).expect_err("it has exited");
    assert_eq!(late.code(), Code::FailedPrecondition, "{late:?}");
}

#[test]
fn limits_events_and_statuses_agree_by_their_times() {
    let node = Node::with_config("[pod]\ncontainers_in_status = true\n");
    node.pull("shell");
    let pod = node.pod(|_| {});
    let containers = ["first", "second"].map(|_| pod.container("shell", &["sleep", "1000"], limited));
    let [first, second] = &containers;
    let mut events = node.cri.events();
    // What one answer tells of both.
    let shares = |statuses: &[v1::ContainerStatus]| {
        let of = |container: &Container| {
            let status = statuses.iter().find(|status| status.id == container.id)?;
            Some(status.resources.as_ref()?.linux.as_ref()?.cpu_shares)
        };
        (of(first).expect("the first"), of(second).expect("the second"))
    };
    let until = Instant::now() + patience(Duration::from_secs(2));
    let (mut seen, lives) = thread::scope(|scope| {
        scope.spawn(|| {
            for cpu_shares in (1000..).take_while(|_| Instant::now() < until) {
                for container in &containers {
                    let change = v1::LinuxContainerResources {
                        cpu_shares,
                        ..Default::default()
                    };
                    update(&node, container, change).expect("update");
                }
            }
        });
        let statuses = scope.spawn(|| {
            let mut statuses = Vec::new();
            while Instant::now() < until {
                let request = v1::PodSandboxStatusRequest {
                    pod_sandbox_id: pod.id.clone(),
                    verbose: false,
                };
                let before = told(first).cpu_shares;
                let status = node.cri.pod_sandbox_status(request).expect("status");
                let after = told(first).cpu_shares;
                let both = shares(&status.containers_statuses);
                assert!((before..=after).contains(&both.0), "{before}, {both:?}, {after}");
                statuses.push((status.timestamp, both));
            }
            statuses
        });
        // Changes that are told: each brings the limits as they are then.
        let mut lives = 0;
        while Instant::now() < until {
            pod.run_container("shell", &["true"]).remove();
            lives += 1;
        }
        (statuses.join().expect("statuses"), lives)
    });
    for _ in 0..lives * 4 {
        let event = events
            .next(Duration::from_secs(20))
            .expect("an event")
            .expect("not the end");
        seen.push((event.created_at, shares(&event.containers_statuses)));
    }
    seen.sort_unstable();
    let in_order = |(first, second): (i64, i64)| (0..=1).contains(&(first - second)) || second == 512;
    assert!(seen.iter().all(|(_, both)| in_order(*both)), "{seen:?}");
    let only_grow = |earlier: (i64, i64), later: (i64, i64)| earlier.0 <= later.0 && earlier.1 <= later.1;
    assert!(seen.windows(2).all(|two| only_grow(two[0].1, two[1].1)), "{seen:?}");
    assert!(lives > 1 && seen.len() > 10, "{lives} lives, {} answers", seen.len());
}

#[test]
fn crictl_updates() {
    let node = Node::start();
    node.pull("shell");
    let container = node.pod(|_| {}).run_container("shell", &["sleep", "1000"]);
    node.crictl_ok(&["update", "--cpu-share", "333", "--memory", "67108864", &container.id]);
    assert_eq!(
        (told(&container).cpu_shares, told(&container).memory_limit_in_bytes),
        (333, 64 << 20)
    );
}

#[test]
fn a_pods_resources_are_kept_and_shown() {
    let mut node = Node::start();
    let pod = node.pod(|_| {});
    let shares = |cpu_shares| {
        Some(v1::LinuxContainerResources {
            cpu_shares,
            ..Default::default()
        })
    };
    let change = |node: &Node, overhead, resources| {
        node.cri
            .update_pod_sandbox_resources(v1::UpdatePodSandboxResourcesRequest {
                pod_sandbox_id: pod.id.clone(),
                overhead,
                resources,
            })
            .expect("update");
    };
    change(&node, shares(100), shares(200));
    change(&node, None, shares(300));
    let seen = |node: &Node| {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: true,
        };
        let info = node.cri.pod_sandbox_status(request).expect("status").info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).expect("JSON");
        let of = |part: &str| info["config"][part]["cpu_shares"].as_u64();
        (of("overhead"), of("resources"))
    };
    assert_eq!(seen(&node), (Some(100), Some(300)));
    node.daemon.kill9();
    node.daemon.restart();
    assert_eq!(seen(&node), (Some(100), Some(300)));
}

#[test]
fn the_kubelets_subnet_is_for_new_pods() {
    let mut node = Node::start();
    let set = |node: &Node, pod_cidr: &str| {
        let network_config = Some(v1::NetworkConfig {
            pod_cidr: pod_cidr.into(),
        });
        let runtime_config = Some(v1::RuntimeConfig { network_config });
        node.cri
            .update_runtime_config(v1::UpdateRuntimeConfigRequest { runtime_config })
            .map(drop)
    };
    let ip = |pod: &crate::harness::Pod| pod.status().network.expect("a network").ip;
    let old = node.pod(own_network);
    let before = ip(&old);
    set(&node, "10.86.3.0/24,fd00:86::/64").expect("a subnet");
    let new = node.pod(own_network);
    assert!(ip(&new).starts_with("10.86.3."), "{}", ip(&new));
    for bad in [
        "10.86.3.0",
        "nonsense",
        "10.86.3.0/64",
        "10.86.3.0/24,10.86.4.0/24",
        "fd00:86::/32",
    ] {
        let refused = set(&node, bad).expect_err(bad);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("pod_cidr"), "{refused:?}");
    }
    node.cri
        .update_runtime_config(Default::default())
        .expect("nothing named, nothing changed");
    node.daemon.kill9();
    node.daemon.restart();
    assert_eq!(ip(&old), before);
    let third = node.pod(own_network);
    assert!(ip(&third).starts_with("10.86.3."), "after a restart: {}", ip(&third));
    set(&node, "fd00:87::/64").expect("a cluster of IPv6 only");
    let sixth = node.pod(own_network);
    assert!(ip(&sixth).starts_with("fd00:87::"), "{}", ip(&sixth));
}
