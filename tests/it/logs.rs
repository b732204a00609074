//! The CRI log: its format, long lines, and a file replaced while it is written.

use std::fs;

use crate::harness::{Container, Node, v1};

#[test]
fn lines_carry_time_stream_and_tag() {
    let node = Node::start();
    node.pull("shell");
    let container = node
        .pod(|_| {})
        .run_container("shell", &["sh", "-c", "echo out; echo err >&2; printf end"]);
    container.wait();
    container.wait_logged("end");
    let log = fs::read_to_string(&container.log_path).expect("the log");
    let mut streams = Vec::new();
    for line in log.lines() {
        let fields: Vec<_> = line.splitn(4, ' ').collect();
        let [time, stream, tag, text] = fields[..] else {
            panic!("{line:?}")
        };
        // 2026-01-02T03:04:05.123456789Z, or with an offset.
        assert_eq!((&time[10..11], &time[19..20]), ("T", "."), "{time}");
        assert!(
            time[20..29].bytes().all(|byte| byte.is_ascii_digit()),
            "nanoseconds in {time}"
        );
        streams.push((stream, tag, text));
    }
    streams.sort();
    let end = streams.iter().position(|line| line.2 == "end").expect("the last words");
    assert_eq!(streams.remove(end).1, "P", "no newline was written");
    assert_eq!(streams, [("stderr", "F", "err"), ("stdout", "F", "out")]);
}

#[test]
fn a_long_line_is_cut_into_pieces_of_16_kib() {
    let node = Node::start();
    node.pull("tiny");
    let size = 100_000;
    let container = node
        .pod(|_| {})
        .run_container("tiny", &["/bin/probe", "flood", &size.to_string()]);
    container.wait();
    let log = complete(&container, size);
    let pieces: Vec<_> = log
        .lines()
        .map(|line| line.splitn(4, ' ').collect::<Vec<_>>())
        .collect();
    for piece in &pieces {
        assert!(piece[3].len() <= 16 << 10, "{} bytes in a piece", piece[3].len());
        assert!(piece[3].bytes().all(|byte| byte == b'x'));
    }
    for piece in &pieces[..pieces.len() - 1] {
        assert_eq!(piece[2], "P");
    }
}

#[test]
fn reopening_loses_and_tears_nothing() {
    let node = Node::start();
    node.pull("tiny");
    let lines = 200_000;
    let container = node
        .pod(|_| {})
        .run_container("tiny", &["/bin/probe", "lines", &lines.to_string()]);
    let mut parts = Vec::new();
    for number in 0..20 {
        let rotated = container.log_path.with_extension(number.to_string());
        fs::rename(&container.log_path, &rotated).expect("rotate");
        let request = v1::ReopenContainerLogRequest {
            container_id: container.id.clone(),
        };
        match node.cri.reopen_container_log(request) {
            Ok(_) => {}
            // The writer may have ended before the last rotation.
            Err(_) if container.status().state == v1::ContainerState::ContainerExited as i32 => {
                parts.push(rotated);
                break;
            }
            Err(status) => panic!("reopen: {status:?}"),
        }
        assert!(container.log_path.exists(), "there when the call answers");
        parts.push(rotated);
    }
    assert_eq!(container.wait().exit_code, 7);
    container_log_settles(&container, &parts, lines);
}

fn container_log_settles(container: &Container, parts: &[std::path::PathBuf], lines: usize) {
    let read = || {
        let mut all = String::new();
        for part in parts.iter().chain([&container.log_path]) {
            let part = fs::read_to_string(part).unwrap_or_default();
            assert!(part.is_empty() || part.ends_with('\n'), "a torn line");
            all += &part;
        }
        all
    };
    let last = format!("line {}\n", lines - 1);
    let all = crate::harness::eventually("the last line", std::time::Duration::from_secs(20), || {
        Some(read()).filter(|all| all.ends_with(&last))
    });
    for (number, line) in all.lines().enumerate() {
        assert_eq!(
            line.splitn(4, ' ').nth(3),
            Some(format!("line {number}").as_str()),
            "line {number}"
        );
    }
    assert_eq!(all.lines().count(), lines);
}

#[test]
fn without_a_log_path_nothing_is_written_and_nothing_blocks() {
    let node = Node::start();
    node.pull("tiny");
    let pod = node.pod(|_| {});
    let container = pod.container("tiny", &["/bin/probe", "flood", "1000000"], |config| {
        config.log_path.clear()
    });
    container.start();
    assert_eq!(container.wait().exit_code, 0);
    assert_eq!(fs::read_dir(&pod.config.log_directory).expect("log folder").count(), 0);
}

#[test]
fn reopening_the_log_of_a_stopped_container_is_refused() {
    let node = Node::start();
    node.pull("shell");
    let container = node.pod(|_| {}).run_container("shell", &["true"]);
    container.wait();
    let request = v1::ReopenContainerLogRequest {
        container_id: container.id.clone(),
    };
    assert!(node.cri.reopen_container_log(request).is_err());
}

/// The log once it holds all `size` bytes.
fn complete(container: &Container, size: usize) -> String {
    crate::harness::eventually("all bytes are in the log", std::time::Duration::from_secs(10), || {
        let log = fs::read_to_string(&container.log_path).ok()?;
        let bytes: usize = log
            .lines()
            .filter_map(|line| line.splitn(4, ' ').nth(3))
            .map(str::len)
            .sum();
        (bytes == size).then_some(log)
    })
}
