//! What every test here stands on: a private daemon with its registry, and the host compared before and after.
//!
//! [`Node::start`] gives a daemon with folders, socket and cgroup of its own. When the node is dropped it removes what
//! the test left over the CRI, ends the daemon and compares the host with what it was: what is left over fails the test.

pub mod archive;
mod cri;
mod daemon;
pub mod disk;
mod driver;
pub mod http;
mod ledger;
mod netns;
mod pod;
pub mod registry;
mod trace;
pub mod websocket;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, OnceLock},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub use cri::{Cri, EventStream, v1};
pub use daemon::{Daemon, inro, signal};
pub use disk::Disk;
pub use driver::Driver;
pub use ledger::{Ledger, descendants, hierarchies};
pub use netns::{Netns, Server};
pub use pod::{Container, FIRST_ID, Pod, mapped, namespaces, own_network, own_users};
use registry::Registry;
pub use trace::{Call, Trace};

/// A daemon of one test's own.
pub struct Node {
    pub cri: Cri,
    pub daemon: Daemon,
    registry: OnceLock<Registry>,
    ledger: Ledger,
    dir: TempDir,
    netns: Option<Netns>,
    /// Tests look at the whole host, so one runs at a time. A node beside another has that one's.
    _alone: Option<MutexGuard<'static, ()>>,
}

/// How the names of nodes' folders begin.
const SCRATCH: &str = "inro-it-";

/// For [`Node::with_config`]: layers are EROFS images.
pub const EROFS: &str = "snapshotter = \"erofs\"\n";

impl Node {
    /// A running daemon with an empty configuration but for the registry.
    pub fn start() -> Node {
        Node::with_config("")
    }

    /// The same with `extra` lines of TOML after the generated ones.
    pub fn with_config(extra: &str) -> Node {
        Node::make(None, None, extra, Some(alone()))
    }

    /// The same with all of its folders on another file system.
    pub fn on(disk: &Disk, extra: &str) -> Node {
        Node::make(Some(disk), None, extra, Some(alone()))
    }

    /// The same in a network namespace.
    pub fn within(netns: &Netns, extra: &str) -> Node {
        Node::make(None, Some(netns.clone()), extra, Some(alone()))
    }

    /// Another node for the same test, which has to be dropped before this one, as what is declared later is.
    pub fn beside(&self, netns: &Netns, extra: &str) -> Node {
        Node::make(None, Some(netns.clone()), extra, None)
    }

    fn make(disk: Option<&Disk>, netns: Option<Netns>, extra: &str, alone: Option<MutexGuard<'static, ()>>) -> Node {
        let mut dir = tempfile::Builder::new();
        dir.prefix(SCRATCH);
        let dir = match disk {
            Some(disk) => dir.tempdir_in(disk.place()),
            None => dir.tempdir(),
        };
        let dir = dir.expect("a scratch folder");
        let name = dir.path().file_name().expect("a name").to_string_lossy().into_owned();
        let mut ledger = Ledger::open(dir.path(), &name, netns.clone());
        fs::create_dir_all(dir.path().join("hosts")).expect("hosts folder");
        let driver = Driver::of_tests().config();
        let place = dir.path().display();
        // What the machine has in /etc/cni is not the tests'.
        let plugins = match extra.contains("[net.cni]") {
            true => String::new(),
            false => format!("[net.cni]\nconf_dir = \"{place}/net.d\"\n"),
        };
        // Nor is what it has in /etc/containers. Credentials are where a test writes them.
        fs::write(dir.path().join("registries.conf"), "").expect("registries.conf");
        let image = format!(
            "hosts_dir = \"{place}/hosts\"\nregistries_conf = \"{place}/registries.conf\"\n\
             registries_dir = \"{place}/registries.d\"\n\
             auth_file = \"{place}/auth.json\"\nnamespaced_auth_dir = \"{place}/auth.d\"\n{}",
            Driver::of_tests().workers(ledger.cgroup())
        );
        let config = format!("{plugins}{driver}[image]\n{image}{extra}");
        fs::write(dir.path().join("config.toml"), config).expect("config.toml");
        let daemon = Daemon::start_in(netns.clone(), dir.path());
        let cri = Cri::new(&daemon.socket());
        ledger.daemon_started(daemon.pid(), dir.path());
        Node {
            cri,
            daemon,
            registry: OnceLock::new(),
            ledger,
            dir,
            netns,
            _alone: alone,
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How many addresses pods have.
    pub fn leases(&self) -> usize {
        fs::read_dir(self.dir().join("root/net/leases"))
            .expect("leases")
            .count()
    }

    /// The parent that this node's sandboxes get, made and removed by the ledger.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.ledger.cgroup())
    }

    /// One below it for each number, as the kubelet has one for each pod.
    pub fn pod_parent(&self, number: usize) -> String {
        Driver::of_tests().below(&self.cgroup_parent(), &format!("pod{number}"))
    }

    /// The registry behind every public name; started when first asked for.
    pub fn registry(&self) -> &Registry {
        self.registry.get_or_init(|| {
            let start = || Registry::start(&self.dir().join("registry"));
            let registry = match &self.netns {
                Some(netns) => netns.within(start),
                None => start(),
            };
            for host in ["docker.io", "registry.k8s.io", "k8s.gcr.io", "gcr.io", "quay.io"] {
                registry.serve_as(host, &self.dir().join("hosts"));
            }
            registry
        })
    }

    /// Pulls `docker.io/library/<name>` and returns the image's id.
    pub fn pull(&self, name: &str) -> String {
        self.try_pull(name)
            .unwrap_or_else(|status| panic!("pull {name}: {status:?}"))
    }

    pub fn try_pull(&self, reference: &str) -> Result<String, tonic::Status> {
        self.registry();
        let image = Some(v1::ImageSpec {
            image: reference.into(),
            ..Default::default()
        });
        self.cri
            .pull_image(v1::PullImageRequest {
                image,
                ..Default::default()
            })
            .map(|reply| reply.image_ref)
    }

    /// What the daemon knows of an image; `None` when it is not there.
    pub fn image(&self, reference: &str) -> Option<v1::Image> {
        let image = Some(v1::ImageSpec {
            image: reference.into(),
            ..Default::default()
        });
        let request = v1::ImageStatusRequest { image, verbose: false };
        self.cri.image_status(request).expect("image status").image
    }

    pub fn remove_image(&self, reference: &str) {
        let image = Some(v1::ImageSpec {
            image: reference.into(),
            ..Default::default()
        });
        let request = v1::RemoveImageRequest { image };
        self.cri.remove_image(request).expect("remove image");
    }

    /// A ready sandbox in the host's network, changed by `edit` before it is run.
    pub fn pod(&self, edit: impl FnOnce(&mut v1::PodSandboxConfig)) -> Pod {
        self.try_pod(edit)
            .unwrap_or_else(|status| panic!("run sandbox: {status:?}"))
    }

    pub fn try_pod(&self, edit: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<Pod, tonic::Status> {
        self.run_pod(&self.pod_config(edit))
    }

    /// What such a sandbox is asked for with; the same again is a retry.
    pub fn pod_config(&self, edit: impl FnOnce(&mut v1::PodSandboxConfig)) -> v1::PodSandboxConfig {
        Pod::config(&self.cgroup_parent(), &self.dir().join("logs"), edit)
    }

    pub fn run_pod(&self, config: &v1::PodSandboxConfig) -> Result<Pod, tonic::Status> {
        Pod::run(&self.cri, config)
    }

    /// A pod's network namespace.
    pub fn netns_of(&self, pod: &Pod) -> io::Result<Netns> {
        Netns::at(&self.dir().join("state/sandboxes").join(&pod.id).join("ns/net"))
    }

    /// Waits until a container's shim has put its exit on record, for which no daemon is needed.
    pub fn wait_exit_recorded(&self, container: &Container) {
        let record = self.dir().join("state/containers").join(&container.id).join("exit");
        eventually("the exit is on record", Duration::from_secs(20), || {
            record.exists().then_some(())
        });
    }

    /// `crictl` against this daemon.
    pub fn crictl(&self, arguments: &[&str]) -> Output {
        self.crictl_command(arguments)
            .output()
            .expect("crictl, which tests/tools.sh builds")
    }

    /// The same, not started yet.
    pub fn crictl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools().join("crictl"));
        let endpoint = self.daemon.endpoint();
        command
            .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
            .args([
                "--timeout",
                &format!("{}s", patience(Duration::from_secs(60)).as_secs()),
            ])
            .args(arguments);
        command
    }

    /// `inro image` against this daemon.
    pub fn inro_image(&self, arguments: &[&str]) -> Output {
        Command::new(inro())
            .args(["image", "--endpoint", &self.daemon.endpoint()])
            .args(arguments)
            .output()
            .expect("inro image")
    }

    /// The same, which has to succeed; its trimmed output.
    pub fn inro_image_ok(&self, arguments: &[&str]) -> String {
        let output = self.inro_image(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "inro image {arguments:?}: {told}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The same, which has to fail with code 1; what it says.
    pub fn inro_image_fails(&self, arguments: &[&str]) -> String {
        let output = self.inro_image(arguments);
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "inro image {arguments:?}: {told}");
        String::from_utf8_lossy(&output.stderr).trim().to_owned()
    }

    /// `crictl`, which has to succeed; its trimmed output.
    pub fn crictl_ok(&self, arguments: &[&str]) -> String {
        let output = self.crictl(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "crictl {arguments:?}: {told}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// Waits until no other test has a node.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Drop for Node {
    fn drop(&mut self) {
        let failed = thread::panicking();
        if failed {
            eprintln!("--- the daemon's log\n{}\n---", self.daemon.log_tail());
        }
        if !self.daemon.is_running() {
            self.daemon.restart();
        }
        let left = self.remove_everything();
        // Ours, and gone before the host is compared.
        drop(self.registry.take());
        let leaks = self.ledger.settle(&mut self.daemon, self.dir.path());
        if failed {
            eprintln!("left over as well: {leaks:#?}");
        } else if let Err(status) = left {
            panic!("clean up: {status:?}\n{}", self.daemon.log_tail());
        } else {
            assert!(leaks.is_empty(), "left over: {leaks:#?}\n{}", self.daemon.log_tail());
        }
    }
}

impl Node {
    fn remove_everything(&self) -> Result<(), tonic::Status> {
        for sandbox in self.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default())?.items {
            self.cri.stop_pod_sandbox(v1::StopPodSandboxRequest {
                pod_sandbox_id: sandbox.id.clone(),
            })?;
            self.cri.remove_pod_sandbox(v1::RemovePodSandboxRequest {
                pod_sandbox_id: sandbox.id,
            })?;
        }
        // The daemon has a descriptor of each layer that is an image, for as long as the layer is there.
        let layers = fs::read_dir(self.dir().join("root/layers"))
            .into_iter()
            .flatten()
            .flatten();
        if layers.into_iter().any(|layer| layer.path().join("erofs").exists()) {
            for image in self.cri.list_images(v1::ListImagesRequest::default())?.images {
                self.remove_image(&image.id);
            }
        }
        Ok(())
    }
}

/// How much slower than an ordinary machine this one is: `INRO_TIME_FACTOR`, 1 unless told. An emulated processor needs 30.
pub fn time_factor() -> u32 {
    match std::env::var("INRO_TIME_FACTOR") {
        Ok(factor) => factor.parse().expect("INRO_TIME_FACTOR is a whole number"),
        Err(_) => 1,
    }
}

/// What may take `limit` on an ordinary machine may take this long here.
pub fn patience(limit: Duration) -> Duration {
    limit * time_factor()
}

/// Waits until `done` answers something, looking every few milliseconds. `limit` is that of an ordinary machine.
pub fn eventually<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    eventually_ok(what, limit, || done().ok_or("not yet"))
}

/// The same for what fails until it does not: the last failure is told.
pub fn eventually_ok<T, E: std::fmt::Display>(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<T, E>,
) -> T {
    let (start, limit) = (Instant::now(), patience(limit));
    loop {
        match done() {
            Ok(answer) => return answer,
            Err(error) => assert!(start.elapsed() < limit, "not within {limit:?}: {what}: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Says that this test was not run and why; `tests/run` counts and shows it.
pub fn skipped(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    if let Some(path) = std::env::var_os("INRO_SKIPS") {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .expect("INRO_SKIPS");
        writeln!(file, "{test}: {reason}").expect("INRO_SKIPS");
    }
}

/// Where `tests/run` put crictl and the images.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => target.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
    }
}

pub fn tools() -> PathBuf {
    target().join("tools")
}
