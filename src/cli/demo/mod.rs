//! `inro demo`: a newcomer's first pod, in one command and without a client.
//!
//! A daemon of its own in a scratch folder, the built-in image (or one of a registry), a pod over the CRI socket, its
//! log, a `kill -9` of the daemon under it, the same pod after the restart, an exec, and a clean host at the end.

mod image;
mod stage;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use inro_proto as wire;

use super::{client::Client, scratch::Scratch};
use stage::Stages;

/// How long anything of the demo may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it with the built-in image, or with one of a registry.
///
/// # Errors
/// At the first step that fails; what was made is taken away.
pub fn run(image: Option<&str>) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("needs root: a pod is made of namespaces, mounts and cgroups (try: sudo inro demo)");
    }
    let scratch = Scratch::new("inro-demo")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(show(scratch.path(), image))
}

async fn show(scratch: &Path, image: Option<&str>) -> anyhow::Result<()> {
    let mut stages = Stages::default();
    fs::create_dir(scratch.join("preload"))?;
    if image.is_none() {
        fs::write(scratch.join("preload/demo.tar"), image::archive()?)?;
    }
    let mut daemon = stages.time("start the daemon", Daemon::start(scratch)).await?;
    let mut cri = Cri::connect(scratch).await?;
    let image = match image {
        None => image::NAME,
        Some(name) => {
            stages.time(&format!("pull {name}"), cri.client.pull(name)).await?;
            name
        }
    };
    let pod = stages.time("RunPodSandbox", cri.run_pod(scratch)).await?;
    let shown = show_pod(scratch, image, &pod, &mut daemon, &mut cri, &mut stages).await;
    // Whatever happened: nothing stays.
    let ended = stages.time("stop and remove", cri.remove_pod(&pod)).await;
    daemon.stop().await?;
    stages.print();
    shown.and(ended)
}

async fn show_pod(
    scratch: &Path,
    image: &str,
    pod: &str,
    daemon: &mut Daemon,
    cri: &mut Cri,
    stages: &mut Stages,
) -> anyhow::Result<()> {
    let container = stages.time("CreateContainer", cri.create(pod, image)).await?;
    stages.time("StartContainer", cri.start(&container)).await?;
    let log = scratch.join("logs/demo.log");
    stages.time("its first line in the log", first_line(&log)).await?;
    if image != image::NAME {
        return print_log(&log);
    }
    let before = cri.pid(&container).await?;
    daemon.kill()?;
    println!("the daemon was killed with SIGKILL; process {before} runs on");
    *daemon = stages.time("restart the daemon", Daemon::start(scratch)).await?;
    *cri = Cri::connect(scratch).await?;
    let after = cri.pid(&container).await?;
    if before != after {
        bail!("the container's process was {before} and is {after}");
    }
    println!("the new daemon has found it: still process {after}");
    let said = stages
        .time("ExecSync", cri.exec(&container, &["/demo", "hello"]))
        .await?;
    print!("exec says: {said}");
    print_log(&log)
}

async fn first_line(log: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while fs::metadata(log).map_or(0, |meta| meta.len()) == 0 {
        if Instant::now() > deadline {
            bail!("{} stays empty", log.display());
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    Ok(())
}

fn print_log(log: &Path) -> anyhow::Result<()> {
    println!("its log:");
    for line in fs::read_to_string(log)?.lines().take(5) {
        println!("  {line}");
    }
    Ok(())
}

/// The demo's own daemon.
struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts it and waits until its socket answers.
    async fn start(scratch: &Path) -> anyhow::Result<Self> {
        let config = scratch.join("config.toml");
        // A bridge and subnet of the demo's own: it must not meddle with a daemon that serves this node.
        let text = format!(
            "[image]\npreload_dir = {:?}\n[net]\nbridge = \"inrodemo0\"\nsubnet = \"10.89.251.0/24\"\n",
            scratch.join("preload")
        );
        fs::write(&config, text)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["serve".as_ref(), "--config".as_ref(), config.as_os_str()])
            .args(["--root".as_ref(), scratch.join("root").as_os_str()])
            .args(["--state".as_ref(), scratch.join("run").as_os_str()])
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .context("start the daemon")?;
        let mut daemon = Self { child };
        let deadline = Instant::now() + PATIENCE;
        while tokio::net::UnixStream::connect(scratch.join("run/inro.sock"))
            .await
            .is_err()
        {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("the daemon ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("the daemon does not listen");
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Ok(daemon)
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; then the bridge, which daemons keep for the next pod.
    async fn stop(&mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        // Not a blocking wait: our own connection has to hear that the daemon goes.
        while self.child.try_wait()?.is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        crate::net::remove_bridge("inrodemo0").context("remove the demo's bridge")?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already, but on the way out of a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The demo's steps as a client of the CRI.
struct Cri {
    client: Client,
}

impl Cri {
    async fn connect(scratch: &Path) -> anyhow::Result<Self> {
        let client = Client::connect(&scratch.join("run/inro.sock")).await?;
        Ok(Self { client })
    }

    /// A folder of the demo's own; systemd's scopes leave nothing behind.
    async fn cgroup_parent(&mut self) -> anyhow::Result<String> {
        let config = self
            .client
            .runtime
            .runtime_config(wire::RuntimeConfigRequest {})
            .await?;
        let driver = config.into_inner().linux.unwrap_or_default().cgroup_driver();
        Ok(match driver {
            wire::CgroupDriver::Systemd => String::new(),
            wire::CgroupDriver::Cgroupfs => own_parent(),
        })
    }

    async fn run_pod(&mut self, scratch: &Path) -> anyhow::Result<String> {
        let config = wire::PodSandboxConfig {
            metadata: Some(wire::PodSandboxMetadata {
                name: "demo".into(),
                uid: "demo".into(),
                ..Default::default()
            }),
            hostname: "demo".into(),
            log_directory: scratch.join("logs").display().to_string(),
            linux: Some(wire::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent().await?,
                security_context: Some(wire::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pid()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = wire::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        let answer = self.client.runtime.run_pod_sandbox(request).await?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    async fn create(&mut self, pod: &str, image: &str) -> anyhow::Result<String> {
        let security = wire::LinuxContainerSecurityContext {
            namespace_options: Some(own_pid()),
            seccomp: Some(wire::SecurityProfile::default()),
            ..Default::default()
        };
        let config = wire::ContainerConfig {
            metadata: Some(wire::ContainerMetadata {
                name: "demo".into(),
                attempt: 0,
            }),
            image: Some(wire::ImageSpec {
                image: image.into(),
                ..Default::default()
            }),
            log_path: "demo.log".into(),
            linux: Some(wire::LinuxContainerConfig {
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = wire::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self
            .client
            .runtime
            .create_container(request)
            .await?
            .into_inner()
            .container_id)
    }

    async fn start(&mut self, container: &str) -> anyhow::Result<()> {
        self.client
            .runtime
            .start_container(wire::StartContainerRequest {
                container_id: container.into(),
            })
            .await?;
        Ok(())
    }

    async fn pid(&mut self, container: &str) -> anyhow::Result<u64> {
        let request = wire::ContainerStatusRequest {
            container_id: container.into(),
            verbose: true,
        };
        let answer = self.client.runtime.container_status(request).await?.into_inner();
        let info: serde_json::Value = serde_json::from_str(answer.info.get("info").context("no verbose status")?)?;
        info["pid"]
            .as_u64()
            .filter(|pid| *pid > 0)
            .context("the container has no process")
    }

    async fn exec(&mut self, container: &str, command: &[&str]) -> anyhow::Result<String> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        let request = wire::ExecSyncRequest {
            container_id: container.into(),
            cmd,
            timeout: 10,
        };
        let answer = self.client.runtime.exec_sync(request).await?.into_inner();
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    async fn remove_pod(&mut self, pod: &str) -> anyhow::Result<()> {
        self.client
            .runtime
            .stop_pod_sandbox(wire::StopPodSandboxRequest {
                pod_sandbox_id: pod.into(),
            })
            .await?;
        self.client
            .runtime
            .remove_pod_sandbox(wire::RemovePodSandboxRequest {
                pod_sandbox_id: pod.into(),
            })
            .await?;
        let driver = crate::cgroup::Choice::Cgroupfs;
        crate::cgroup::Cgroups::open(&crate::cgroup::Config { driver })?.remove(&own_parent())?;
        Ok(())
    }
}

fn own_parent() -> String {
    format!("/inro-demo-{}", std::process::id())
}

/// A PID namespace for each container, as the kubelet asks for it.
fn own_pid() -> wire::NamespaceOption {
    wire::NamespaceOption {
        pid: wire::NamespaceMode::Container.into(),
        ..Default::default()
    }
}
