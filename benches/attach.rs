//! How long a pod takes to be attached to its network and to be let go: by inro's built-in network, by a chain of
//! plugins with the same result (bridge with masquerading, host-local, portmap), which is executed for each pod, and
//! by a bare program that makes the netlink calls and nothing else (`attach.c`), in alternating rounds. Then many pods
//! at once.
//!
//! ```text
//! cargo bench --bench attach                  # ROUNDS=200 REPEATS=20; MASQUERADE=0 for a chain without
//! ```
//! Needs root, gcc, `ip`, `nft`, `iptables`, and the plugins that `tests/tools.sh` has unpacked: without those they
//! are left out. Each subject has a network namespace that plays its host, and all have a mount namespace: the
//! machine's own stay as they are. What the subjects keep is on a tmpfs. Pods' namespaces are made and pinned, and
//! given a route socket, before a clock runs: the daemon has them from its zygote. What the clocks cover:
//!
//! | clock | inro and plugins, through [`Network`] | bare |
//! |---|---|---|
//! | attach | `way`, `reserve` and `attach` | its messages |
//! | detach, returned | `release`, the namespace unpinned, `detach` | the namespace unpinned, the host port closed |
//! | detach, gone | and until the interface is gone and the address free | and until the interface is gone |
//!
//! "Both" is the sum of a round.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::UdpSocket,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use inro::{
    model::{Dns, NamespaceMode, Namespaces, PortMapping, Protocol, SandboxConfig, SandboxId, SandboxMetadata},
    net::{self, Inside, Mode, Network},
    sys::{
        fork,
        thread::{in_network_namespace, in_own_mount_namespace},
    },
};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use serde_json::json;

/// The daemon's.
#[global_allocator]
static ALLOCATOR: inro::sys::arena::Allocator = inro::sys::arena::Allocator;

/// Before each measured attachment and detachment: the kernel is done with the namespace before then.
const PAUSE: Duration = Duration::from_millis(60);
/// Rounds that warm caches and are not counted.
const WARMING: usize = 3;
/// How many pods are attached at once.
const CROWDS: [usize; 4] = [1, 10, 50, 200];
/// The most that plugins are asked for at once.
const MOST_OF_PLUGINS: usize = 50;
/// The first host port of pods that have one.
const PORT: u16 = 20_000;
/// How long removals may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("inro-bench-").tempdir()?;
    in_own_mount_namespace(|| Ok(measure(dir.path())))?
}

fn measure(dir: &Path) -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("none", dir, "tmpfs", MountFlags::empty(), None)?;
    let mut subjects: Subjects = vec![Box::new(Networked::builtin(dir)?), Box::new(Bare::start(dir)?)];
    match Networked::plugins(dir)? {
        Some(plugins) => subjects.push(Box::new(plugins)),
        None => eprintln!("skipped: plugins: there are none in {}", plugins().display()),
    }
    let rounds = number("ROUNDS", 200);
    for (title, port) in [("no host port", None), ("one host port", Some(PORT))] {
        let samples = alternate(&mut subjects, rounds, port)?;
        println!("{title}, {rounds} rounds");
        print_times(&subjects, &samples);
        print_ratios(&subjects, &samples);
    }
    print_crowds(&mut subjects, number("REPEATS", 20))?;
    subjects.iter().try_for_each(|subject| subject.host().is_clean())
}

fn number(variable: &str, default: usize) -> usize {
    let value = env::var(variable).ok();
    value.and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Who attaches pods, on a host of its own.
trait Subject {
    fn name(&self) -> &'static str;

    fn host(&self) -> &Host;

    /// Attaches new pods, all at once, with host ports from `port` on.
    fn attach(&mut self, count: usize, port: Option<u16>) -> Result<Attached>;

    /// Lets all of them go.
    fn detach(&mut self) -> Result<Detached>;
}

type Subjects = Vec<Box<dyn Subject>>;

struct Attached {
    /// From the first one's begin to the last one's end.
    all: Duration,
    each: Vec<Duration>,
}

struct Detached {
    returned: Duration,
    gone: Duration,
}

/// What a round measures of a subject, in milliseconds.
type Sample = [f64; 5];
const MEASURES: [&str; 5] = [
    "attach",
    "detach, returned",
    "detach, gone",
    "both, returned",
    "both, gone",
];

/// One pod at a time, of each subject in turn; the samples of each subject.
fn alternate(subjects: &mut Subjects, rounds: usize, port: Option<u16>) -> Result<Vec<Vec<Sample>>> {
    let mut samples = vec![Vec::new(); subjects.len()];
    for round in 0..rounds + WARMING {
        for turn in 0..subjects.len() {
            let at = (round + turn) % subjects.len();
            let sample = come_and_go(&mut *subjects[at], port)?;
            if round >= WARMING {
                samples[at].push(sample);
            }
        }
    }
    Ok(samples)
}

/// One pod, from nothing to nothing.
fn come_and_go(subject: &mut dyn Subject, port: Option<u16>) -> Result<Sample> {
    subject.host().enter()?;
    thread::sleep(PAUSE);
    let attached = subject.attach(1, port)?;
    subject.host().check_pods()?;
    thread::sleep(PAUSE);
    let Detached { returned, gone } = subject.detach()?;
    let [attached, returned, gone] = [attached.all, returned, gone].map(milliseconds);
    Ok([attached, returned, gone, attached + returned, attached + gone])
}

/// What a number of pods at once take, in milliseconds.
#[derive(Default)]
struct Crowd {
    all: Vec<f64>,
    each: Vec<f64>,
}

/// `count` pods at once, of each subject in turn. A subject that is not asked for so many has no values.
fn crowds(subjects: &mut Subjects, count: usize, repeats: usize) -> Result<Vec<Crowd>> {
    let mut crowds: Vec<Crowd> = subjects.iter().map(|_| Crowd::default()).collect();
    for repeat in 0..repeats + 1 {
        for (subject, crowd) in subjects.iter_mut().zip(&mut crowds) {
            if subject.name() == "plugins" && count > MOST_OF_PLUGINS {
                continue;
            }
            subject.host().enter()?;
            thread::sleep(PAUSE);
            let Attached { all, each } = subject.attach(count, None)?;
            subject.host().check_pods()?;
            subject.detach()?;
            // The first warms.
            if repeat > 0 {
                crowd.all.push(milliseconds(all));
                crowd.each.extend(each.into_iter().map(milliseconds));
            }
        }
    }
    Ok(crowds)
}

/// inro's network, of its own or of plugins: the daemon's calls in the daemon's order.
struct Networked {
    name: &'static str,
    host: Host,
    network: Network,
    ids: Vec<SandboxId>,
}

impl Networked {
    fn builtin(dir: &Path) -> Result<Self> {
        let config = net::Config {
            mode: Mode::Builtin,
            subnet: "10.87.0.0/16".into(),
            ..net::Config::default()
        };
        Self::open("inro", &config, dir)
    }

    /// The chain of `benches/peers`; `None` where there are no plugins.
    fn plugins(dir: &Path) -> Result<Option<Self>> {
        if !plugins().exists() {
            return Ok(None);
        }
        let conf_dir = dir.join("net.d");
        let addresses = json!({"type": "host-local", "dataDir": dir.join("addresses"),
            "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]});
        let chain = json!({"cniVersion": "1.0.0", "name": "bench", "plugins": [
            {"type": "bridge", "bridge": "plugged0", "isGateway": true, "ipMasq": number("MASQUERADE", 1) != 0,
                "hairpinMode": true, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]});
        fs::create_dir(&conf_dir)?;
        fs::write(conf_dir.join("bench.conflist"), chain.to_string())?;
        let mut config = net::Config {
            mode: Mode::Cni,
            ..net::Config::default()
        };
        config.cni.conf_dir = conf_dir;
        config.cni.bin_dirs = vec![plugins()];
        Self::open("plugins", &config, dir).map(Some)
    }

    fn open(name: &'static str, config: &net::Config, dir: &Path) -> Result<Self> {
        let dir = dir.join(name);
        Ok(Self {
            name,
            host: Host::new(dir.join("pods"), "")?,
            network: Network::open(config, &dir.join("root"))?,
            ids: Vec::new(),
        })
    }
}

impl Subject for Networked {
    fn name(&self) -> &'static str {
        self.name
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn attach(&mut self, count: usize, port: Option<u16>) -> Result<Attached> {
        let (namespaces, routes): (Vec<_>, Vec<_>) = self.host.new_pods(count)?.into_iter().unzip();
        self.ids = (0..count).map(|_| SandboxId::random()).collect();
        let ports = (0..count).map(|at| port.map(|first| first + at as u16));
        let mut pods = Vec::new();
        for (((id, netns), route), port) in self.ids.iter().zip(&namespaces).zip(routes).zip(ports) {
            pods.push((id, netns, route, sandbox_config(port)));
        }
        let paths: Vec<_> = self.host.paths().collect();
        let pods = pods.into_iter().zip(&paths).collect();
        at_once(pods, |((id, netns, route, config), path)| {
            let way = self.network.way(&config.runtime_handler)?;
            let reserved = self.network.reserve(id, way)?;
            let inside = Inside {
                netns: netns.as_fd(),
                path,
                route,
                cgroup: "",
            };
            self.network.attach(id, reserved, inside, &config)?;
            Ok(())
        })
    }

    fn detach(&mut self) -> Result<Detached> {
        let paths: Vec<_> = self.host.paths().collect();
        let begin = Instant::now();
        let detached = at_once(self.ids.iter().zip(&paths).collect(), |(id, path)| {
            self.network.release(id, path);
            unmount(path, UnmountFlags::DETACH)?;
            Ok(self.network.detach(id)?)
        })?;
        self.network.settle(PATIENCE);
        let gone = begin.elapsed();
        ensure!(gone < PATIENCE, "{}: interfaces do not go", self.name);
        Ok(Detached {
            returned: detached.all,
            gone,
        })
    }
}

/// Does `work` for all, each on a thread of its own; all begin when each thread is there. For one there is no thread.
fn at_once<T: Send>(items: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<Attached> {
    let watched = |item| {
        let begin = Instant::now();
        work(item).map(|()| (begin, Instant::now()))
    };
    let barrier = Barrier::new(items.len());
    let times: Vec<(Instant, Instant)> = match items.len() {
        1 => items.into_iter().map(watched).collect::<Result<_>>()?,
        _ => thread::scope(|scope| {
            let start = |item| {
                scope.spawn(|| {
                    barrier.wait();
                    watched(item)
                })
            };
            let threads: Vec<_> = items.into_iter().map(start).collect();
            let times = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic while a pod is attached"));
            times.collect::<Result<_>>()
        })?,
    };
    let begin = times.iter().map(|(begin, _)| *begin).min().context("nothing to do")?;
    let end = times.iter().map(|(_, end)| *end).max().context("nothing to do")?;
    Ok(Attached {
        all: end - begin,
        each: times.iter().map(|(begin, end)| *end - *begin).collect(),
    })
}

/// The bare program, which stays.
struct Bare {
    host: Host,
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
    port: u16,
}

impl Bare {
    fn start(dir: &Path) -> Result<Self> {
        let dir = dir.join("bare");
        let host = Host::new(dir.join("pods"), BARE_HOST)?;
        let program = dir.join("attach");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/attach.c");
        let built = Command::new("gcc")
            .args(["-O2", "-static", "-o"])
            .args([&program, &source])
            .status();
        ensure!(built.context("gcc")?.success(), "{} does not build", source.display());
        host.enter()?;
        let mut child = Command::new(program)
            .arg(&host.folder)
            .args(["bare0", "10.89.0.1", "bare"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = child.stdin.take().context("stdin")?;
        let answer = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self {
            host,
            child,
            ask,
            answer,
            port: 0,
        })
    }

    fn request(&mut self, what: &str) -> Result<Vec<Duration>> {
        let pods = &self.host.pods;
        writeln!(self.ask, "{what} {} {} {}", pods.start, pods.len(), self.port)?;
        let mut line = String::new();
        self.answer.read_line(&mut line)?;
        let times = line
            .split_whitespace()
            .map(|word| word.parse().map(Duration::from_nanos));
        let times: Vec<_> = times
            .collect::<Result<_, _>>()
            .with_context(|| format!("bare: {line:?}"))?;
        ensure!(times.len() > 1, "bare: {line:?}");
        Ok(times)
    }
}

impl Subject for Bare {
    fn name(&self) -> &'static str {
        "bare"
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn attach(&mut self, count: usize, port: Option<u16>) -> Result<Attached> {
        // It opens what it needs of them itself.
        drop(self.host.new_pods(count)?);
        self.port = port.unwrap_or(0);
        let mut times = self.request("attach")?;
        let all = times.remove(0);
        Ok(Attached { all, each: times })
    }

    fn detach(&mut self) -> Result<Detached> {
        let times = self.request("detach")?;
        Ok(Detached {
            returned: times[0],
            gone: times[1],
        })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the bare program finds, and does not make: a bridge, and a table that translates as inro's does.
const BARE_HOST: &str = "ip link add bare0 type bridge
ip address add 10.89.0.1/16 dev bare0
ip link set bare0 up
nft -f - <<'end'
table ip bare {
    map host_ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
    chain prerouting {
        type nat hook prerouting priority dstnat;
        fib daddr type local dnat ip to meta l4proto . th dport map @host_ports
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr 10.89.0.0/16 ip daddr != 10.89.0.0/16 masquerade
    }
}
end
";

/// A network namespace that plays the host, and those of the pods on it.
struct Host {
    netns: OwnedFd,
    /// Where pods' namespaces are pinned, each at its number.
    folder: PathBuf,
    /// Those that are attached, or were last.
    pods: Range<usize>,
}

impl Host {
    /// With what a shell does by `script`.
    fn new(folder: PathBuf, script: &str) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let script = format!("{ANY_HOST}{script}");
        let netns = in_new_network_namespace(|| {
            let status = Command::new("sh").args(["-c", &script]).status()?;
            ensure!(status.success(), "no host: {script}");
            Ok(File::open(OWN_NAMESPACE)?.into())
        })?;
        Ok(Self {
            netns,
            folder,
            pods: 0..0,
        })
    }

    /// Has the calling thread, and what it starts, on this host.
    fn enter(&self) -> Result<()> {
        Ok(move_into_link_name_space(
            self.netns.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }

    /// New namespaces, pinned, each with a route socket that was opened in it.
    fn new_pods(&mut self, count: usize) -> Result<Vec<(OwnedFd, OwnedFd)>> {
        self.pods = self.pods.end..self.pods.end + count;
        self.paths()
            .map(|path| {
                in_new_network_namespace(|| {
                    File::create(&path)?;
                    mount_bind(OWN_NAMESPACE, &path)?;
                    let route = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
                    Ok((File::open(&path)?.into(), route))
                })
            })
            .collect()
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.pods.clone().map(|number| self.folder.join(number.to_string()))
    }

    /// That each pod has an address, and a way out.
    fn check_pods(&self) -> Result<()> {
        for path in self.paths() {
            let netns = File::open(&path)?;
            let way_out = || UdpSocket::bind("0.0.0.0:0")?.connect("198.51.100.1:9");
            in_network_namespace(netns.as_fd(), way_out)
                .with_context(|| format!("{} has no way out", path.display()))?;
        }
        Ok(())
    }

    /// That no interface of a pod is left.
    fn is_clean(&self) -> Result<()> {
        self.enter()?;
        let links = fs::read_to_string("/proc/thread-self/net/dev")?;
        let names = links.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
        let left: BTreeSet<_> = names.filter(|name| !LASTING.contains(name)).collect();
        ensure!(left.is_empty(), "interfaces are left: {left:?}");
        Ok(())
    }
}

/// With a way out, as a node has it.
const ANY_HOST: &str = "set -e
ip link set lo up
ip link add uplink0 type veth peer name router0
ip address add 192.0.2.2/24 dev uplink0
ip link set uplink0 up
ip link set router0 up
ip route add default via 192.0.2.1
";
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// Interfaces of hosts that are not a pod's.
const LASTING: [&str; 6] = ["lo", "uplink0", "router0", "inro0", "bare0", "plugged0"];

/// Runs `work` on a thread of its own.
fn in_new_network_namespace<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let parted = || {
        fork::unshare(UnshareFlags::NEWNET)?;
        work()
    };
    thread::scope(|scope| scope.spawn(parted).join().expect("no panic in a new namespace"))
}

/// As the kubelet asks for a pod.
fn sandbox_config(host_port: Option<u16>) -> SandboxConfig {
    let port = |host_port| PortMapping {
        protocol: Protocol::Tcp,
        container_port: 8080,
        host_port,
        host_ip: None,
    };
    SandboxConfig {
        metadata: SandboxMetadata {
            name: "pod".into(),
            uid: "bench".into(),
            namespace: "bench".into(),
            attempt: 0,
        },
        runtime_handler: String::new(),
        hostname: "pod".into(),
        log_directory: None,
        dns: Dns::default(),
        port_mappings: host_port.map(port).into_iter().collect(),
        labels: Default::default(),
        annotations: Default::default(),
        cgroup_parent: String::new(),
        sysctls: Default::default(),
        namespaces: Namespaces {
            user: None,
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
        },
        privileged: false,
        overhead: None,
        resources: None,
    }
}

/// Debian's, unpacked by `tests/tools.sh`.
fn plugins() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    target.join("tools/cni/usr/lib/cni")
}

fn print_times(subjects: &Subjects, samples: &[Vec<Sample>]) {
    println!("  {:<42} {:>9} {:>9} {:>9}", "milliseconds", "p50", "p99", "min");
    for (subject, samples) in subjects.iter().zip(samples) {
        for (at, measure) in MEASURES.iter().enumerate() {
            let values: Vec<f64> = samples.iter().map(|sample| sample[at]).collect();
            let [half, most, least] = [50.0, 99.0, 0.0].map(|rank| percentile(&values, rank));
            let title = format!("{}: {measure}", subject.name());
            println!("  {title:<42} {half:>9.3} {most:>9.3} {least:>9.3}");
        }
    }
}

/// How many times as long the others take.
fn print_ratios(subjects: &Subjects, samples: &[Vec<Sample>]) {
    println!("  {:<42} {:>9}   95 % interval", "ratio of p50s", "");
    for (one, other) in [("plugins", "inro"), ("inro", "bare")] {
        let of = |name| subjects.iter().position(|subject| subject.name() == name);
        let (Some(one_at), Some(other_at)) = (of(one), of(other)) else {
            continue;
        };
        for (at, measure) in MEASURES.iter().enumerate() {
            let values = |subject: usize| -> Vec<f64> { samples[subject].iter().map(|sample| sample[at]).collect() };
            let (ratio, low, high) = ratio(&values(one_at), &values(other_at));
            let title = format!("{one} / {other}: {measure}");
            println!("  {title:<42} {ratio:>8.2}x   {low:.2} to {high:.2}");
        }
    }
}

/// The curve: what the kernel does under its lock (rtnl) it does for one pod after the other, so the time per pod
/// cannot fall far below that of one. It would rise where pods stood in each other's way: a convoy.
fn print_crowds(subjects: &mut Subjects, repeats: usize) -> Result<()> {
    println!(
        "pods attached at once, {repeats} times, no host port; an rtnl convoy would be a time per pod above that at 1"
    );
    println!(
        "  {:<12} {:>5} {:>10} {:>10} {:>13} {:>9} {:>10} {:>10}",
        "milliseconds", "pods", "all: p50", "per pod", "by that at 1", "by bare", "each: p50", "each: p99"
    );
    let mut alone = vec![0.0; subjects.len()];
    for count in CROWDS {
        let crowds = crowds(subjects, count, repeats)?;
        let per_pod = |crowd: &Crowd| percentile(&crowd.all, 50.0) / count as f64;
        let bare = subjects.iter().position(|subject| subject.name() == "bare");
        let bare = per_pod(&crowds[bare.context("it is there")?]);
        for (at, crowd) in crowds.iter().enumerate().filter(|(_, crowd)| !crowd.all.is_empty()) {
            if count == 1 {
                alone[at] = per_pod(crowd);
            }
            let [half, most] = [50.0, 99.0].map(|rank| percentile(&crowd.each, rank));
            println!(
                "  {:<12} {count:>5} {:>10.3} {:>10.3} {:>12.2}x {:>8.2}x {half:>10.3} {most:>10.3}",
                subjects[at].name(),
                percentile(&crowd.all, 50.0),
                per_pod(crowd),
                per_pod(crowd) / alone[at],
                per_pod(crowd) / bare,
            );
        }
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The smallest value that at least `rank` percent of all are not above.
fn percentile(values: &[f64], rank: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (rank / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[at.max(1) - 1]
}

/// The ratio of the p50s, and its 95 % interval by the percentile bootstrap: rounds are drawn anew, with both values.
fn ratio(values: &[f64], others: &[f64]) -> (f64, f64, f64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % bound
    };
    let through = |rounds: &[usize]| {
        let of = |all: &[f64]| percentile(&rounds.iter().map(|&round| all[round]).collect::<Vec<_>>(), 50.0);
        of(values) / of(others)
    };
    let resamples: Vec<f64> = (0..2000)
        .map(|_| through(&values.iter().map(|_| below(values.len())).collect::<Vec<_>>()))
        .collect();
    let whole = through(&(0..values.len()).collect::<Vec<_>>());
    (whole, percentile(&resamples, 2.5), percentile(&resamples, 97.5))
}
