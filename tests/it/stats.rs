//! Stats and metrics of real containers that use what they are told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tonic::Code;

use crate::harness::{Container, Node, Pod, eventually, own_network, time_factor, v1};

const MIB: u64 = 1 << 20;

pub fn value(value: &Option<v1::UInt64Value>) -> u64 {
    value.expect("a value").value
}

pub fn stats(node: &Node, container: &Container) -> v1::ContainerStats {
    let request = v1::ContainerStatsRequest {
        container_id: container.id.clone(),
    };
    node.cri.container_stats(request).expect("stats").stats.expect("stats")
}

fn pod_stats(node: &Node, pod: &Pod) -> v1::LinuxPodSandboxStats {
    let request = v1::PodSandboxStatsRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    let stats = node.cri.pod_sandbox_stats(request).expect("stats").stats;
    stats.and_then(|stats| stats.linux).expect("stats")
}

/// A running shell line, with limits.
pub fn limited(pod: &Pod, line: &str, resources: v1::LinuxContainerResources) -> Container {
    let container = pod.container("shell", &["sh", "-c", line], |config| {
        config.linux.as_mut().expect("linux").resources = Some(resources);
    });
    container.start();
    container
}

#[test]
fn a_cpu_burner_runs_near_its_quota() {
    let node = Node::start();
    node.pull("shell");
    let resources = v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        ..Default::default()
    };
    let pod = node.pod(|_| {});
    let container = limited(&pod, "while :; do :; done", resources);
    // Already the first answer has a rate; it is over the little time that it has lived.
    let first = stats(&node, &container).cpu.expect("cpu");
    assert!(first.usage_nano_cores.is_some());
    let near = |nano_cores: u64| (150_000_000..230_000_000).contains(&nano_cores);
    let cpu = eventually("0.2 cores", Duration::from_secs(30), || {
        thread::sleep(Duration::from_millis(1200));
        let cpu = stats(&node, &container).cpu.expect("cpu");
        near(value(&cpu.usage_nano_cores)).then_some(cpu)
    });
    assert!(cpu.timestamp > first.timestamp);
    assert!(value(&cpu.usage_core_nano_seconds) > value(&first.usage_core_nano_seconds));
    // The rate of the pod, whose cgroup parent is its own here, is its container's.
    pod_stats(&node, &pod);
    eventually("0.2 cores of the pod", Duration::from_secs(30), || {
        thread::sleep(Duration::from_millis(1200));
        near(value(&pod_stats(&node, &pod).cpu?.usage_nano_cores)).then_some(())
    });
}

#[test]
fn memory_and_processes_are_told() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    // Its buffer is touched in full before it waits for a reader.
    let line = "dd if=/dev/zero bs=64M | sleep 1000";
    let resources = v1::LinuxContainerResources {
        memory_limit_in_bytes: 128 << 20,
        ..Default::default()
    };
    let container = limited(&pod, line, resources);
    let memory = eventually("64 MiB are used", Duration::from_secs(20), || {
        let memory = stats(&node, &container).memory.expect("memory");
        (value(&memory.rss_bytes) >= 64 * MIB).then_some(memory)
    });
    let (used, working_set) = (value(&memory.usage_bytes), value(&memory.working_set_bytes));
    assert!((64 * MIB..80 * MIB).contains(&working_set), "{memory:?}");
    assert!(used >= working_set, "{memory:?}");
    assert_eq!(value(&memory.available_bytes), 128 * MIB - working_set);
    assert!(value(&memory.page_faults) > 0);
    // sh, dd, sleep
    let of_pod = pod_stats(&node, &pod);
    assert_eq!(value(&of_pod.process.expect("processes").process_count), 3);
    assert!(value(&of_pod.memory.expect("memory").working_set_bytes) >= 64 * MIB);
    assert_eq!(of_pod.containers.len(), 1);
    // Without a limit nothing is "available".
    let unlimited = pod.run_container("shell", &["sleep", "1000"]);
    assert_eq!(stats(&node, &unlimited).memory.expect("memory").available_bytes, None);
}

#[test]
fn network_is_told_for_each_interface() {
    let node = Node::start();
    node.pull("shell");
    let (one, two) = (node.pod(own_network), node.pod(own_network));
    let script = "mkdir /www; dd if=/dev/zero of=/www/file bs=1M count=8; exec httpd -f -p 8080 -h /www";
    one.run_container("shell", &["sh", "-c", script]);
    let client = two.run_container("shell", &["sleep", "1000"]);
    let address = one.status().network.expect("network").ip;
    let default = |pod: &Pod| {
        let network = pod_stats(&node, pod).network.expect("network");
        assert_eq!(network.interfaces.len(), 1);
        network.default_interface.expect("eth0")
    };
    let before = value(&default(&two).rx_bytes);
    eventually("8 MiB are received", Duration::from_secs(20), || {
        let received = client.sh(&format!("wget -q -O - http://{address}:8080/file | wc -c"));
        (received == (8 * MIB).to_string()).then_some(())
    });
    let (sent, received) = (default(&one), default(&two));
    assert_eq!((sent.name.as_str(), received.name.as_str()), ("eth0", "eth0"));
    let (tx, rx) = (value(&sent.tx_bytes), value(&received.rx_bytes) - before);
    assert!((8 * MIB..10 * MIB).contains(&rx), "{rx} received");
    assert!((8 * MIB..10 * MIB).contains(&tx), "{tx} sent");
    assert_eq!((value(&received.rx_errors), value(&sent.tx_errors)), (0, 0));
    // On the host's network there is nothing that is the pod's.
    let host = node.pod(|_| {});
    assert_eq!(pod_stats(&node, &host).network, None);
}

#[test]
fn the_writable_layer_is_counted_in_the_background() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "1000"]);
    assert!(stats(&node, &container).writable_layer.is_some());
    container.sh("dd if=/dev/zero of=/file bs=1M count=10 2>/dev/null; ln /file /again");
    let written = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos() as i64;
    let counted = |container: &Container, least: u64| {
        eventually("the layer is counted", Duration::from_secs(30), || {
            let layer = stats(&node, container).writable_layer.expect("a layer");
            (value(&layer.used_bytes) >= least).then_some(layer)
        })
    };
    let layer = counted(&container, 10 * MIB);
    assert!(value(&layer.used_bytes) < 11 * MIB, "{layer:?}");
    assert!(
        value(&layer.inodes_used) >= 2 && layer.timestamp > written - 30_000_000_000,
        "{layer:?}"
    );
    // And once more after the end, when there is nothing else to tell.
    let line = "dd if=/dev/zero of=/file bs=1M count=5 2>/dev/null";
    let ended = pod.run_container("shell", &["sh", "-c", line]);
    ended.wait();
    counted(&ended, 5 * MIB);
    let told = stats(&node, &ended);
    assert_eq!((told.cpu, told.memory), (None, None));
    // A daemon that has just started tells nothing rather than zero.
    let mut node = node;
    node.daemon.kill9();
    node.daemon.restart();
    let request = v1::ContainerStatsRequest {
        container_id: container.id.clone(),
    };
    eventually("it is counted again", Duration::from_secs(30), || {
        let told = node
            .cri
            .container_stats(request.clone())
            .expect("stats")
            .stats
            .expect("stats");
        let used = value(&told.writable_layer?.used_bytes);
        assert!(used >= 10 * MIB, "{used}");
        Some(())
    });
}

#[test]
fn image_fs_info_tells_images_and_writable_layers_apart() {
    let node = Node::start();
    let told = || {
        let reply = node.cri.image_fs_info(Default::default()).expect("fs info");
        assert_eq!(
            (reply.image_filesystems.len(), reply.container_filesystems.len()),
            (1, 1),
            "{reply:?}"
        );
        (
            reply.image_filesystems[0].clone(),
            reply.container_filesystems[0].clone(),
        )
    };
    let used = |usage: &v1::FilesystemUsage| (value(&usage.used_bytes), value(&usage.inodes_used));
    assert_eq!((used(&told().0), used(&told().1)), ((0, 0), (0, 0)));
    node.pull("shell");
    let images = used(&told().0);
    assert!(images.0 > 0 && images.1 > 0, "{images:?}");
    assert_eq!(used(&told().1), (0, 0), "no container, no layer");
    let pod = node.pod(|_| {});
    let large = pod.run_container("shell", &["sleep", "1000"]);
    let many = pod.run_container("shell", &["sleep", "1000"]);
    large.sh("dd if=/dev/zero of=/file bs=1M count=10 2>/dev/null");
    many.sh("mkdir /folder; cd /folder; for n in $(seq 300); do echo $n > $n; done");
    let (images_now, layers) = eventually("both layers are counted", Duration::from_secs(40), || {
        let (images, layers) = told();
        (used(&layers).0 >= 10 * MIB && used(&layers).1 >= 300).then_some((images, layers))
    });
    assert_eq!(used(&images_now), images, "nothing of it is an image's");
    assert!(used(&layers).0 < 14 * MIB && used(&layers).1 < 330, "{layers:?}");
    assert_eq!(layers.fs_id, images_now.fs_id, "one file system, one name");
    let each = [&large, &many].map(|container| stats(&node, container).writable_layer.expect("a layer"));
    assert!(each.iter().all(|layer| layer.fs_id == layers.fs_id), "{each:?}");
    // As old as the oldest count in it.
    let age = images_now.timestamp - layers.timestamp;
    assert!(
        (0..60_000_000_000 * i64::from(time_factor())).contains(&age),
        "{age} ns"
    );
    large.remove();
    assert!(used(&told().1).0 < 4 * MIB, "{:?}", told().1);
    many.remove();
    assert_eq!(used(&told().1), (0, 0));
}

#[test]
fn filters_and_wrong_ids() {
    let node = Node::start();
    node.pull("shell");
    let (one, two) = (node.pod(|_| {}), node.pod(|_| {}));
    let labelled = one.container("shell", &["sleep", "1000"], |config| {
        config.labels.insert("color".into(), "red".into());
    });
    labelled.start();
    let other = two.run_container("shell", &["sleep", "1000"]);
    let ids = |filter: v1::ContainerStatsFilter| -> BTreeSet<String> {
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        let stats = node.cri.list_container_stats(request).expect("stats").stats;
        stats
            .into_iter()
            .map(|stats| stats.attributes.expect("attributes").id)
            .collect()
    };
    let filter = v1::ContainerStatsFilter::default;
    let only = |container: &Container| BTreeSet::from([container.id.clone()]);
    assert_eq!(ids(filter()), &only(&labelled) | &only(&other));
    assert_eq!(
        ids(v1::ContainerStatsFilter {
            id: other.id[..13].into(),
            ..filter()
        }),
        only(&other)
    );
    assert_eq!(
        ids(v1::ContainerStatsFilter {
            pod_sandbox_id: one.id.clone(),
            ..filter()
        }),
        only(&labelled)
    );
    let labels = [("color".to_owned(), "red".to_owned())].into();
    assert_eq!(
        ids(v1::ContainerStatsFilter {
            label_selector: labels,
            ..filter()
        }),
        only(&labelled)
    );
    let code = |result: Result<(), tonic::Status>| result.expect_err("an error").code();
    let container = |id: &str| {
        node.cri
            .container_stats(v1::ContainerStatsRequest {
                container_id: id.into(),
            })
            .map(drop)
    };
    let sandbox = |id: &str| {
        node.cri
            .pod_sandbox_stats(v1::PodSandboxStatsRequest {
                pod_sandbox_id: id.into(),
            })
            .map(drop)
    };
    assert_eq!(
        (code(container("")), code(container("no-such"))),
        (Code::InvalidArgument, Code::NotFound)
    );
    assert_eq!(
        (code(sandbox("")), code(sandbox("no-such"))),
        (Code::InvalidArgument, Code::NotFound)
    );
    one.stop();
    assert_eq!(code(sandbox(&one.id)), Code::FailedPrecondition);
    let list = node
        .cri
        .list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default())
        .expect("stats")
        .stats;
    assert_eq!(list.len(), 1);
}

#[test]
fn streams_equal_lists() {
    let node = Node::start();
    for image in ["shell", "tiny", "digest"] {
        // Whatever images there are: one is enough.
        let _ = node.try_pull(image);
    }
    node.pull("shell");
    let pods: Vec<_> = (0..3).map(|_| node.pod(|_| {})).collect();
    for pod in &pods {
        pod.run_container("shell", &["sleep", "1000"]);
        pod.container("shell", &["true"], |_| {});
    }
    let cri = &node.cri;
    let listed = cri.list_containers(Default::default()).expect("list").containers;
    let streamed = cri.stream_containers(Default::default()).expect("stream");
    assert!(streamed.iter().all(|message| !message.containers.is_empty()));
    let streamed: Vec<_> = streamed.into_iter().flat_map(|message| message.containers).collect();
    assert_eq!((streamed.len(), streamed), (6, listed));

    let listed = cri.list_pod_sandbox(Default::default()).expect("list").items;
    let streamed = cri.stream_pod_sandboxes(Default::default()).expect("stream");
    let streamed: Vec<_> = streamed.into_iter().flat_map(|message| message.pod_sandboxes).collect();
    assert_eq!((streamed.len(), streamed), (3, listed));

    let listed = cri.list_images(Default::default()).expect("list").images;
    let streamed = cri.stream_images(Default::default()).expect("stream");
    let streamed: Vec<_> = streamed.into_iter().flat_map(|message| message.images).collect();
    let by_id = |images: Vec<v1::Image>| -> BTreeMap<String, v1::Image> {
        images.into_iter().map(|image| (image.id.clone(), image)).collect()
    };
    assert_eq!(by_id(streamed), by_id(listed));

    // Figures change between two calls; what they are of does not.
    let listed = cri.list_container_stats(Default::default()).expect("list").stats;
    let streamed = cri.stream_container_stats(Default::default()).expect("stream");
    let streamed: Vec<_> = streamed
        .into_iter()
        .flat_map(|message| message.container_stats)
        .collect();
    let of = |stats: Vec<v1::ContainerStats>| stats.into_iter().map(|stats| stats.attributes).collect::<Vec<_>>();
    assert_eq!(of(streamed), of(listed));

    let listed = cri.list_pod_sandbox_stats(Default::default()).expect("list").stats;
    let streamed = cri.stream_pod_sandbox_stats(Default::default()).expect("stream");
    let streamed: Vec<_> = streamed
        .into_iter()
        .flat_map(|message| message.pod_sandbox_stats)
        .collect();
    let of = |stats: Vec<v1::PodSandboxStats>| stats.into_iter().map(|stats| stats.attributes).collect::<Vec<_>>();
    assert_eq!(of(streamed), of(listed));

    let listed = cri
        .list_pod_sandbox_metrics(Default::default())
        .expect("list")
        .pod_metrics;
    let streamed = cri.stream_pod_sandbox_metrics(Default::default()).expect("stream");
    let streamed: Vec<_> = streamed
        .into_iter()
        .flat_map(|message| message.pod_sandbox_metrics)
        .collect();
    let of = |pods: Vec<v1::PodSandboxMetrics>| pods.into_iter().map(|pod| pod.pod_sandbox_id).collect::<Vec<_>>();
    assert_eq!((streamed.len(), of(streamed)), (3, of(listed)));

    let filter = Some(v1::PodSandboxFilter {
        id: "no-such".into(),
        ..Default::default()
    });
    assert!(
        cri.stream_pod_sandboxes(v1::StreamPodSandboxesRequest { filter })
            .expect("stream")
            .is_empty()
    );
}

#[test]
fn metrics_are_all_there_and_fit_their_descriptors() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(own_network);
    let resources = v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    let container = limited(
        &pod,
        "i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); done; sleep 1000",
        resources,
    );
    let descriptors = node
        .cri
        .list_metric_descriptors(Default::default())
        .expect("descriptors")
        .descriptors;
    assert_eq!(descriptors.len(), 58);
    let labels: BTreeMap<_, _> = descriptors
        .iter()
        .map(|d| (d.name.as_str(), d.label_keys.len()))
        .collect();
    let metrics = eventually("a second of CPU time", Duration::from_secs(60), || {
        let pods = node
            .cri
            .list_pod_sandbox_metrics(Default::default())
            .expect("metrics")
            .pod_metrics;
        let used = |m: &v1::Metric| m.name == "container_cpu_usage_seconds_total" && value(&m.value) >= 1;
        let mut all = pods
            .iter()
            .flat_map(|pod| &pod.container_metrics)
            .flat_map(|container| &container.metrics);
        all.any(used).then(|| pods.clone())
    });
    assert_eq!((metrics.len(), &metrics[0].pod_sandbox_id), (1, &pod.id));
    assert_eq!(metrics[0].container_metrics[0].container_id, container.id);
    let all: Vec<_> = metrics[0]
        .metrics
        .iter()
        .chain(&metrics[0].container_metrics[0].metrics)
        .collect();
    let mut seen = BTreeSet::new();
    for metric in &all {
        let name = metric.name.as_str();
        assert_eq!(labels.get(name), Some(&metric.label_values.len()), "{metric:?}");
        // Prometheus refuses what comes twice.
        assert!(seen.insert((name, &metric.label_values)), "twice: {metric:?}");
        assert_eq!(metric.timestamp, 0);
    }
    let names: BTreeSet<_> = all.iter().map(|metric| metric.name.as_str()).collect();
    let depends = ["pressure", "hugetlb", "blkio", "fs_reads", "fs_writes", "ulimits"];
    let missing: Vec<_> = labels
        .keys()
        .filter(|name| !names.contains(**name) && !depends.iter().any(|word| name.contains(word)))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let of = |name: &str| value(&all.iter().find(|metric| metric.name == name).expect(name).value);
    assert_eq!(
        (of("container_spec_cpu_quota"), of("container_spec_cpu_period")),
        (50_000, 100_000)
    );
    assert_eq!(of("container_spec_memory_limit_bytes"), 64 * MIB);
    assert!(of("container_processes") >= 1 && of("container_file_descriptors") >= 3);
    let metadata = pod.config.metadata.clone().expect("metadata");
    assert_eq!(all[0].label_values[..2], [metadata.name, metadata.namespace]);
}

#[test]
fn crictl_shows_stats_and_metrics() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(own_network);
    let container = pod.run_container("shell", &["sleep", "1000"]);
    let name = &container.config.metadata.as_ref().expect("metadata").name;
    let told = node.crictl_ok(&["stats"]);
    assert!(told.contains(name) && told.contains(&container.id[..13]), "{told}");
    let told = node.crictl_ok(&["statsp"]);
    assert!(told.contains(&pod.id[..13]), "{told}");
    let told = node.crictl_ok(&["metricsp"]);
    assert!(
        told.contains("container_memory_working_set_bytes") && told.contains(&pod.id),
        "{told}"
    );
    let told = node.crictl_ok(&["metricdescs"]);
    assert!(told.contains("container_pressure_io_waiting_seconds_total"), "{told}");
    let told = node.crictl_ok(&["stats", "-o", "json", &container.id]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert!(
        told["stats"][0]["memory"]["workingSetBytes"]["value"].is_string(),
        "{told}"
    );
}
