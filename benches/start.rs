//! How long a container takes from its create to its first instruction, and how much processor time, against a real private
//! daemon, with `crun run` and `runc run` of the same root, and the kernel's floor (`floor.c`), beside it in alternating
//! rounds. What a client sees of whole pods is `inro bench`'s to measure.
//!
//! ```text
//! cargo bench --bench start                  # 200 rounds; ROUNDS=50 for fewer, MOUNTS=500 for a busy host
//! ```
//! Needs root and what `tests/run` prepares. A pause before each start lets the kernel's grace periods end: a busy loop
//! would hide what a real start pays. The first instruction's time is printed by the workload itself (CLOCK_MONOTONIC).

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Seek, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use inro::{
    lockdown::{capabilities, seccomp},
    model::{CapabilityChanges, GroupsPolicy, NamespaceMode, Namespaces, Profile, Security},
};
use inro_proto as v1;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};

/// Before each measured start.
const PAUSE: Duration = Duration::from_millis(60);
const CGROUP: &str = "inro-bench";
/// What the kubelet asks for.
const MASKED: [&str; 8] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [mode, runtime, bundle] = &arguments[..]
        && mode == "peer"
    {
        return serve_peer(runtime, Path::new(bundle));
    }
    let rounds = number("ROUNDS", 200);
    let dir = tempfile::Builder::new().prefix("inro-bench-").tempdir()?;
    let mounts = Mounts::make(&dir.path().join("mounts"), number("MOUNTS", 0))?;
    // As /run is on a node: the state folders of all, and the bundles of the peers.
    let run = TmpFs::mount(dir.path().join("run"))?;
    // Our images and snapshots too, as the peers' root file systems; on the disk only when asked for.
    let root = match number("DISK", 0) {
        0 => run.0.join("root"),
        _ => dir.path().join("root"),
    };
    make_cgroups();
    let peers = ["crun", "runc"]
        .into_iter()
        .filter_map(|name| Peer::start(name, &run.0).transpose());
    let mut peers: Vec<Peer> = peers.collect::<Result<_>>()?;
    peers.push(Peer::floor(&run.0)?);
    let runtime = tokio::runtime::Runtime::new()?;
    let mut table = Table::default();
    {
        let _registry = Registry::start(dir.path())?;
        let mut node = Node::start(dir.path(), &root, &runtime)?;
        runtime.block_on(node.pull())?;
        for round in 0..rounds + 3 {
            // The first rounds warm caches and are not counted.
            if round == 3 {
                table = Table::default();
            }
            runtime.block_on(node.round(round, &mut table))?;
            for peer in &mut peers {
                thread::sleep(PAUSE);
                let clock = Processors::watch()?;
                let (first, whole) = peer.run(round)?;
                table.add(&format!("{}: first instruction", peer.name), first);
                table.add(&format!("{}: whole", peer.name), whole);
                table.add(&format!("{}: processor time of the whole", peer.name), clock.used()?);
            }
        }
    }
    drop((peers, run, mounts));
    table.print(rounds);
    remove_cgroups();
    Ok(())
}

fn number(variable: &str, default: usize) -> usize {
    env::var(variable)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// A daemon, and a client that stays connected.
struct Node {
    child: Child,
    cri: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    logs: PathBuf,
}

impl Node {
    fn start(dir: &Path, root: &Path, runtime: &tokio::runtime::Runtime) -> Result<Node> {
        let socket = dir.join("inro.sock");
        let log = fs::File::create(dir.join("inro.log"))?;
        let start = Instant::now();
        let binary = env::var_os("INRO_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_inro").into());
        let child = Command::new(binary)
            .args([Path::new("serve"), Path::new("--config"), &dir.join("config.toml")])
            .args([Path::new("--root"), root, Path::new("--state"), &dir.join("run/state")])
            .args(["--listen", &format!("unix://{}", socket.display())])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start inro")?;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            ensure!(start.elapsed() < Duration::from_secs(10), "the daemon is not ready");
            thread::sleep(Duration::from_millis(1));
        }
        eprintln!("daemon ready after {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        let connect = async {
            Endpoint::from_static("http://inro.invalid")
                .connect_with_connector(tower::service_fn(move |_| {
                    let socket = socket.clone();
                    async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
                }))
                .await
        };
        let channel = runtime.block_on(connect)?;
        let (cri, images) = (
            RuntimeServiceClient::new(channel.clone()),
            ImageServiceClient::new(channel),
        );
        Ok(Node {
            child,
            cri,
            images,
            logs: dir.join("logs"),
        })
    }

    async fn pull(&mut self) -> Result<()> {
        let image = Some(v1::ImageSpec {
            image: "tiny".into(),
            ..Default::default()
        });
        self.images
            .pull_image(v1::PullImageRequest {
                image,
                ..Default::default()
            })
            .await?;
        Ok(())
    }

    /// One pod on the host's network and one container, from nothing to nothing.
    async fn round(&mut self, round: usize, table: &mut Table) -> Result<()> {
        let cri = &mut self.cri;
        let log_directory = self.logs.join(round.to_string());
        fs::create_dir_all(&log_directory)?;
        let pod = pod_config(round, &log_directory);
        let container = container_config(round);
        let log = log_directory.join(&container.log_path);
        let request = v1::RunPodSandboxRequest {
            config: Some(pod.clone()),
            ..Default::default()
        };
        let pod_sandbox_id = cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        tokio::time::sleep(PAUSE).await;

        let (begin, clock) = (monotonic(), Processors::watch()?);
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(container),
            sandbox_config: Some(pod),
        };
        let container_id = cri.create_container(request).await?.into_inner().container_id;
        let request = v1::StartContainerRequest {
            container_id: container_id.clone(),
        };
        cri.start_container(request).await?;
        let first = first_instruction(&log)?;
        table.add("inro: create and start, first instruction", first.saturating_sub(begin));
        table.add("inro: processor time until it is seen", clock.used()?);

        let request = v1::StopContainerRequest {
            container_id,
            timeout: 0,
        };
        cri.stop_container(request).await?;
        // Its container goes with it.
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
        cri.remove_pod_sandbox(request).await?;
        Ok(())
    }
}

/// The processor time of the whole machine but for this process. Source: cpuacct.usage and cpu.stat of the root cgroup.
struct Processors {
    all: Duration,
    own: Duration,
}

impl Processors {
    fn watch() -> Result<Self> {
        let nanoseconds = |text: String| text.trim().parse().map(Duration::from_nanos);
        let all = match fs::read_to_string("/sys/fs/cgroup/cpuacct/cpuacct.usage") {
            Ok(text) => nanoseconds(text)?,
            Err(_) => {
                let text = fs::read_to_string("/sys/fs/cgroup/cpu.stat")?;
                let usage = text.split_whitespace().nth(1).context("no usage_usec")?;
                Duration::from_micros(usage.parse()?)
            }
        };
        let own = clock(ClockId::ProcessCPUTime);
        Ok(Self { all, own })
    }

    fn used(&self) -> Result<Duration> {
        let now = Self::watch()?;
        Ok((now.all - self.all).saturating_sub(now.own - self.own))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nothing of a pod is left, so there is nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pod_config(round: usize, log_directory: &Path) -> v1::PodSandboxConfig {
    let options = v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        pid: v1::NamespaceMode::Container.into(),
        ..Default::default()
    };
    let security = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: format!("bench-{round}"),
            uid: format!("bench-{round}"),
            namespace: "bench".into(),
            attempt: 0,
        }),
        log_directory: log_directory.display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("/{CGROUP}"),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_config(round: usize) -> v1::ContainerConfig {
    let options = v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        pid: v1::NamespaceMode::Container.into(),
        ..Default::default()
    };
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: format!("probe-{round}"),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: "tiny".into(),
            ..Default::default()
        }),
        log_path: "probe.log".into(),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources {
                cpu_shares: 1024,
                ..Default::default()
            }),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(options),
                seccomp: Some(v1::SecurityProfile {
                    profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
                    ..Default::default()
                }),
                masked_paths: MASKED.map(String::from).into(),
                readonly_paths: READ_ONLY.map(String::from).into(),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// The stamp that the workload printed, from its log.
fn first_instruction(log: &Path) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if let Some(stamp) = text.lines().next().and_then(|line| line.splitn(4, ' ').nth(3)) {
            return Ok(Duration::from_nanos(
                stamp.parse().with_context(|| format!("stamp {stamp:?}"))?,
            ));
        }
        ensure!(start.elapsed() < Duration::from_secs(5), "nothing in {}", log.display());
        thread::sleep(Duration::from_micros(200));
    }
}

fn monotonic() -> Duration {
    clock(ClockId::Monotonic)
}

fn clock(id: ClockId) -> Duration {
    let now = clock_gettime(id);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// A runtime measured beside us, in a mount namespace without the unified hierarchy: crun refuses hybrid hosts where
/// that one has a controller.
struct Peer {
    name: &'static str,
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Peer {
    fn start(name: &'static str, dir: &Path) -> Result<Option<Peer>> {
        if !Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
        {
            eprintln!("skipped: {name} is not installed");
            return Ok(None);
        }
        let bundle = dir.join(name);
        fs::create_dir_all(bundle.join("rootfs"))?;
        let source = target().join("test-images/bundle/rootfs");
        let copied = Command::new("cp").arg("-a").arg(source).arg(&bundle).status()?;
        ensure!(copied.success(), "no bundle: run tests/run");
        fs::write(bundle.join("config.json"), peer_spec().to_string())?;
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script, "peer"])
            .arg(env::current_exe()?)
            .args([Path::new("peer"), Path::new(name), &bundle]);
        Ok(Some(Peer::spawn(name, &mut command)?))
    }

    /// What no runtime can be faster than, with the daemon's own filter.
    fn floor(dir: &Path) -> Result<Peer> {
        let folder = dir.join("floor");
        fs::create_dir(&folder)?;
        let (program, filter) = (folder.join("floor"), folder.join("filter"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/floor.c");
        let built = Command::new("gcc")
            .args(["-O2", "-static", "-o"])
            .args([&program, &source])
            .status();
        ensure!(built.context("gcc")?.success(), "{} does not build", source.display());
        let security = security();
        let compiled = seccomp::compile(&security, &capabilities::resolve(&security)?, false)?;
        let mut memfd = fs::File::from(compiled.context("a filter")?.to_memfd()?);
        memfd.rewind()?;
        std::io::copy(&mut memfd, &mut fs::File::create(&filter)?)?;
        let layer = target().join("test-images/bundle/rootfs");
        let mut command = Command::new(program);
        command.args([&layer, &folder]).arg(CGROUP).arg(filter);
        Peer::spawn("floor", &mut command)
    }

    fn spawn(name: &'static str, command: &mut Command) -> Result<Peer> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let ask = child.stdin.take().context("stdin")?;
        let answer = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Peer {
            name,
            child,
            ask,
            answer,
        })
    }

    /// Time to the workload's first instruction, and to the end of the whole command.
    fn run(&mut self, round: usize) -> Result<(Duration, Duration)> {
        writeln!(self.ask, "{round}")?;
        let mut line = String::new();
        self.answer.read_line(&mut line)?;
        let mut times = line
            .split_whitespace()
            .map(|word| word.parse().map(Duration::from_nanos));
        let mut next = || times.next().with_context(|| format!("{}: {line:?}", self.name));
        Ok((next()??, next()??))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The probe's, for the filter.
fn security() -> Security {
    Security {
        privileged: false,
        run_as: None,
        run_as_group: None,
        supplemental_groups: Vec::new(),
        groups_policy: GroupsPolicy::Merge,
        capabilities: CapabilityChanges::default(),
        no_new_privs: false,
        readonly_rootfs: false,
        seccomp: Profile::RuntimeDefault,
        apparmor: None,
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        namespaces: Namespaces {
            user: None,
            network: NamespaceMode::Node,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
        },
    }
}

/// The other side of [`Peer`]: one `run` for each line read.
fn serve_peer(runtime: &str, bundle: &Path) -> Result<()> {
    for line in std::io::stdin().lines() {
        let id = format!("bench-{runtime}-{}", line?);
        let begin = monotonic();
        let output = Command::new(runtime)
            .args(["run", "--bundle"])
            .arg(bundle)
            .arg(&id)
            .output()?;
        let whole = monotonic() - begin;
        let told = String::from_utf8_lossy(&output.stderr);
        let stamp = String::from_utf8_lossy(&output.stdout);
        let first = stamp
            .trim()
            .parse()
            .map(Duration::from_nanos)
            .with_context(|| format!("{runtime}: {told}"))?;
        println!("{} {}", first.saturating_sub(begin).as_nanos(), whole.as_nanos());
    }
    Ok(())
}

/// What the daemon derives for the same container, as an OCI spec.
fn peer_spec() -> serde_json::Value {
    let capabilities = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
    .map(|name| format!("CAP_{name}"));
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/probe", "once"], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/bin", "HOME=/root"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs"},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/{CGROUP}/peer"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 1024}},
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": peer_seccomp(&capabilities),
        },
    })
}

/// The daemon's own default profile for those capabilities, in OCI's form.
fn peer_seccomp(capabilities: &[String]) -> serde_json::Value {
    let profile: serde_json::Value =
        serde_json::from_str(include_str!("../seccomp-profiles/default.json")).expect("our own profile");
    let names = |rule: &serde_json::Value, which: &str, kind: &str| -> Vec<String> {
        let list = rule[which][kind].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|name| name.as_str().map(String::from)).collect()
    };
    let applies = |rule: &&serde_json::Value| {
        let arches = names(rule, "includes", "arches");
        names(rule, "includes", "caps")
            .iter()
            .all(|cap| capabilities.contains(cap))
            && !names(rule, "excludes", "caps")
                .iter()
                .any(|cap| capabilities.contains(cap))
            && (arches.is_empty() || arches.iter().any(|arch| arch == "amd64"))
    };
    let rules = profile["syscalls"].as_array().expect("rules").iter().filter(applies);
    let rules = rules.map(|rule| {
        let mut kept = json!({"names": rule["names"], "action": rule["action"]});
        for field in ["args", "errnoRet"] {
            if let Some(value) = rule.get(field) {
                kept[field] = value.clone();
            }
        }
        kept
    });
    json!({
        "defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules.collect::<Vec<_>>(),
    })
}

/// A stock registry over the prepared images.
struct Registry(Child);

impl Registry {
    /// Also writes the daemon's configuration.
    fn start(dir: &Path) -> Result<Registry> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let storage = target().join("test-images/registry");
        ensure!(storage.exists(), "no images: run tests/run");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: \"{}\"}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            storage.display()
        );
        fs::write(dir.join("registry.yml"), config)?;
        fs::create_dir_all(dir.join("hosts/docker.io"))?;
        fs::write(
            dir.join("hosts/docker.io/hosts.toml"),
            format!("[host.\"http://127.0.0.1:{port}\"]\n"),
        )?;
        fs::write(
            dir.join("config.toml"),
            format!("[image]\nhosts_dir = \"{}/hosts\"\n", dir.display()),
        )?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("registry.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("docker-registry")?;
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(start.elapsed() < Duration::from_secs(10), "the registry is not ready");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Registry(child))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Host mounts that a start may have to wade through.
struct Mounts(#[allow(dead_code, reason = "held until the end")] Vec<TmpFs>);

impl Mounts {
    fn make(dir: &Path, count: usize) -> Result<Mounts> {
        let mounts = (0..count).map(|number| TmpFs::mount(dir.join(number.to_string())));
        Ok(Mounts(mounts.collect::<Result<_>>()?))
    }
}

/// Unmounted when dropped.
struct TmpFs(PathBuf);

impl TmpFs {
    fn mount(path: PathBuf) -> Result<TmpFs> {
        fs::create_dir_all(&path)?;
        rustix::mount::mount("none", &path, "tmpfs", rustix::mount::MountFlags::empty(), None)?;
        Ok(TmpFs(path))
    }
}

impl Drop for TmpFs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Times by name, in the order of their first appearance.
#[derive(Default)]
struct Table {
    order: Vec<String>,
    times: BTreeMap<String, Vec<Duration>>,
}

impl Table {
    fn add(&mut self, name: &str, time: Duration) {
        if !self.times.contains_key(name) {
            self.order.push(name.into());
        }
        self.times.entry(name.into()).or_default().push(time);
    }

    fn print(&mut self, rounds: usize) {
        println!(
            "{rounds} rounds, milliseconds\n{:<44} {:>8} {:>8} {:>8}",
            "", "p50", "p99", "min"
        );
        for name in &self.order {
            let times = self.times.get_mut(name).expect("added with its order");
            times.sort();
            let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
            println!("{name:<44} {:>8.2} {:>8.2} {:>8.2}", at(50), at(99), at(0));
        }
    }
}

fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
}

fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields[2].starts_with("cgroup"))
        .map(|fields| fields[1].into())
        .collect()
}

fn make_cgroups() {
    for hierarchy in hierarchies() {
        let _ = fs::create_dir(hierarchy.join(CGROUP));
    }
}

fn remove_cgroups() {
    for hierarchy in hierarchies() {
        let _ = fs::remove_dir(hierarchy.join(CGROUP).join("peer"));
        let _ = fs::remove_dir(hierarchy.join(CGROUP));
    }
}
