use super::*;
use crate::model::Stages;

fn page(durations: &Durations) -> String {
    let census = || Census {
        pods_ready: 3,
        pods_not_ready: 1,
        containers_running: 4,
        containers_exited: 2,
        images: 7,
        tickets: 5,
        ..Census::default()
    };
    let response = answer(&request("GET", "/metrics"), &registry(durations, census));
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], OPEN_METRICS);
    response.into_body()
}

fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(path).body(()).unwrap()
}

fn has(page: &str, lines: &[&str]) {
    for line in lines {
        assert!(page.lines().any(|told| told == *line), "no {line:?} in\n{page}");
    }
}

#[test]
fn calls_are_counted_by_method_and_code() {
    let durations = Durations::default();
    durations.call("RunPodSandbox", "OK", Duration::from_micros(1500));
    durations.call("RunPodSandbox", "OK", Duration::from_secs(60));
    durations
        .clone()
        .call("RunPodSandbox", "NOT_FOUND", Duration::from_micros(500));
    let page = page(&durations);
    has(
        &page,
        &[
            "# TYPE inro_cri_request_duration_seconds histogram",
            "# UNIT inro_cri_request_duration_seconds seconds",
            "inro_cri_request_duration_seconds_bucket{le=\"0.001\",method=\"RunPodSandbox\",code=\"OK\"} 0",
            "inro_cri_request_duration_seconds_bucket{le=\"0.002\",method=\"RunPodSandbox\",code=\"OK\"} 1",
            "inro_cri_request_duration_seconds_bucket{le=\"10.0\",method=\"RunPodSandbox\",code=\"OK\"} 1",
            "inro_cri_request_duration_seconds_bucket{le=\"+Inf\",method=\"RunPodSandbox\",code=\"OK\"} 2",
            "inro_cri_request_duration_seconds_sum{method=\"RunPodSandbox\",code=\"OK\"} 60.0015",
            // What took as long as a bucket has room for is in it.
            "inro_cri_request_duration_seconds_bucket{le=\"0.0005\",method=\"RunPodSandbox\",code=\"NOT_FOUND\"} 1",
        ],
    );
    assert!(page.ends_with("# EOF\n"), "{page}");
}

#[test]
fn stages_are_counted_by_operation_and_name() {
    let durations = Durations::default();
    let stages = |times: &[(&str, u64)]| -> Stages {
        let stage = |(name, micros): &(&str, u64)| ((*name).to_owned(), Duration::from_micros(*micros));
        times.iter().map(stage).collect()
    };
    durations.stages("CreateContainer", &stages(&[("root and user", 70), ("record", 300)]));
    durations.stages("CreateContainer", &stages(&[("root and user", 130), ("record", 300)]));
    durations.stages("StartContainer", &stages(&[("record", 1)]));
    has(
        &page(&durations),
        &[
            "inro_stage_duration_seconds_bucket{le=\"0.00005\",operation=\"CreateContainer\",stage=\"root and user\"} 0",
            "inro_stage_duration_seconds_bucket{le=\"0.0001\",operation=\"CreateContainer\",stage=\"root and user\"} 1",
            "inro_stage_duration_seconds_bucket{le=\"0.0002\",operation=\"CreateContainer\",stage=\"root and user\"} 2",
            "inro_stage_duration_seconds_count{operation=\"CreateContainer\",stage=\"record\"} 2",
            "inro_stage_duration_seconds_count{operation=\"StartContainer\",stage=\"record\"} 1",
        ],
    );
}

#[test]
fn what_there_is_is_told_state_by_state() {
    has(
        &page(&Durations::default()),
        &[
            "# TYPE inro_pods gauge",
            "inro_pods{state=\"ready\"} 3",
            "inro_pods{state=\"not_ready\"} 1",
            "inro_containers{state=\"created\"} 0",
            "inro_containers{state=\"running\"} 4",
            "inro_containers{state=\"exited\"} 2",
            "inro_images 7",
            "inro_streaming_tickets 5",
            &format!("inro_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        ],
    );
}

#[test]
fn the_process_is_told_by_its_usual_names() {
    let page = page(&Durations::default());
    has(&page, &["# TYPE process_cpu_seconds counter"]);
    for name in [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        let told = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(told.is_some_and(|value| value >= 0.0), "{name} in\n{page}");
    }
}

#[test]
fn only_a_get_of_the_metrics_is_answered() {
    let registry = registry(&Durations::default(), Census::default);
    for path in ["/", "/metrics/", "/metric", "/debug/pprof"] {
        assert_eq!(
            answer(&request("GET", path), &registry).status(),
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    for method in ["POST", "PUT", "HEAD", "DELETE"] {
        let response = answer(&request(method, "/metrics"), &registry);
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(response.headers()[header::ALLOW], "GET");
    }
    assert_eq!(
        answer(&request("GET", "/metrics?x=1"), &registry).status(),
        StatusCode::OK
    );
}
