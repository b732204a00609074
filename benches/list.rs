//! How long the list calls take with many containers: alone, while one is being stopped slowly and an image is being
//! pulled, and while others come and go as well.
//!
//! ```text
//! cargo bench --bench list                  # STOPPED=500 RUNNING=100 CALLS=500
//! ```
//! Needs root and what `tests/run` prepares. Prints p50, p99 and the daemon's CPU time for each call. The times are those
//! until the whole answer has arrived; to decode it is left out, for that is the client's.

#[allow(dead_code, unused_imports)]
#[path = "../tests/it/harness/mod.rs"]
mod harness;

use std::{
    env, fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use harness::{Driver, Node, Pod, http, own_network};
use hyper_util::rt::TokioIo;
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

fn main() {
    let (stopped, running, calls) = (number("STOPPED", 500), number("RUNNING", 100), number("CALLS", 500));
    let node = Node::start();
    node.pull("shell");
    let pods: Vec<_> = (0..running).map(|number| pod(&node, number)).collect();
    for number in 0..stopped + running {
        let container = pods[number % running].container("shell", &["sleep", "100000"], |config| {
            decorate(&mut config.labels, &mut config.annotations);
        });
        if number < running {
            container.start();
        } else {
            container.stop(0);
        }
    }
    let stubborn = pods[0].run_container("shell", &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    let silent = http::Server::start(0, |_, _| {
        thread::sleep(SLOW);
        http::Answer::Say("404 Not Found", String::new(), String::new())
    });
    println!("{stopped} stopped and {running} running containers, {calls} calls each");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut client = Client {
        channel: Grpc::new(runtime.block_on(connect(&node))).max_decoding_message_size(64 << 20),
        daemon: node.daemon.pid(),
        runtime,
        calls,
    };
    client.measure_all("alone");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| stubborn.stop(SLOW.as_secs().cast_signed()));
        scope.spawn(|| node.try_pull(&format!("127.0.0.1:{}/never", silent.port)).err());
        client.measure_all("beside a slow stop and a hanging pull");
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                pods[0].run_container("shell", &["true"]).remove();
                thread::sleep(Duration::from_millis(20));
            }
        });
        client.measure_all("and beside starts and removals");
        over.store(true, Ordering::Relaxed);
    });
    for (number, pod) in pods.iter().enumerate() {
        pod.remove();
        // The pods' cgroups are the kubelet's, here ours.
        Driver::of_tests().remove(&node.pod_parent(number));
    }
}

/// How long the stop and the pull take.
const SLOW: Duration = Duration::from_secs(30);

fn number(variable: &str, default: usize) -> usize {
    let value = env::var(variable).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// As the kubelet makes one: with a cgroup of its own, a network, labels and annotations.
fn pod(node: &Node, number: usize) -> Pod {
    node.pod(|config| {
        own_network(config);
        config.linux.as_mut().expect("linux").cgroup_parent = node.pod_parent(number);
        decorate(&mut config.labels, &mut config.annotations);
    })
}

type Map = std::collections::HashMap<String, String>;

fn decorate(labels: &mut Map, annotations: &mut Map) {
    for key in 0..6 {
        labels.insert(format!("example.test/label-{key}"), "some-value".into());
        annotations.insert(format!("example.test/annotation-{key}"), "x".repeat(60));
    }
}

async fn connect(node: &Node) -> Channel {
    let socket = node.daemon.socket();
    let channel = Endpoint::from_static("http://inro.invalid")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await;
    channel.expect("connect")
}

/// A client that stays connected, as the kubelet does.
struct Client {
    channel: Grpc<Channel>,
    runtime: tokio::runtime::Runtime,
    daemon: u32,
    calls: usize,
}

impl Client {
    fn measure_all(&mut self, when: &str) {
        println!("{when}:");
        let few = self.calls.min(100);
        self.measure("ListContainers", self.calls);
        self.measure("ListPodSandbox", self.calls);
        self.measure("ListContainerStats", few);
        self.measure("ListPodSandboxStats", few);
        self.measure("ListPodSandboxMetrics", few);
    }

    fn measure(&mut self, call: &str, count: usize) {
        let (before, mut size) = (cpu_ms(self.daemon), 0);
        let mut times: Vec<Duration> = (0..count)
            .map(|_| {
                let begin = Instant::now();
                size = self.call(call).len();
                begin.elapsed()
            })
            .collect();
        let cpu = (cpu_ms(self.daemon) - before) / count as f64;
        times.sort();
        let (half, most) = (times[count / 2], times[count * 99 / 100]);
        println!(
            "  {call:22} p50 {half:9.2?}  p99 {most:9.2?}  daemon {cpu:5.2} ms CPU  {} KiB",
            size >> 10
        );
    }

    /// All requests are empty ones: everything is asked for.
    fn call(&mut self, call: &str) -> Bytes {
        let path = format!("/runtime.v1.RuntimeService/{call}").parse().expect("a path");
        let answer = self.runtime.block_on(async {
            self.channel.ready().await.expect("connected");
            self.channel.unary(tonic::Request::new(()), path, Raw).await
        });
        answer.expect(call).into_inner()
    }
}

/// Messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = ();
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// CPU time of a process, in milliseconds, to the clock tick. Source: proc_pid_stat(5), fields 14 and 15.
fn cpu_ms(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks as f64 * 10.0
}
