//! Sandboxes and containers as values: short to make, with every field of the CRI open to `edit`.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tonic::Status;

use super::{Cri, eventually, time_factor, v1};

/// A sandbox that was run.
#[derive(Clone)]
pub struct Pod {
    pub id: String,
    pub config: v1::PodSandboxConfig,
    cri: Cri,
}

/// A container that was created.
#[derive(Clone)]
pub struct Container {
    pub id: String,
    pub config: v1::ContainerConfig,
    pub log_path: PathBuf,
    cri: Cri,
}

/// Which namespaces a pod shares with whom.
pub fn namespaces(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    let options = security.and_then(|security| security.namespace_options.as_mut());
    options.expect("made by Pod::run")
}

/// A network namespace of the pod's own instead of the host's.
pub fn own_network(config: &mut v1::PodSandboxConfig) {
    namespaces(config).network = v1::NamespaceMode::Pod.into();
}

/// A user namespace of the pod's own.
pub fn own_users(config: &mut v1::PodSandboxConfig) {
    namespaces(config).userns_options = Some(mapped());
}

/// 65536 ids from [`FIRST_ID`] of the host on.
pub fn mapped() -> v1::UserNamespace {
    let mapping = vec![v1::IdMapping {
        container_id: 0,
        host_id: FIRST_ID,
        length: 65536,
    }];
    v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        uids: mapping.clone(),
        gids: mapping,
    }
}

/// The host's id of such a pod's root.
pub const FIRST_ID: u32 = 1_000_000;

impl Pod {
    /// A pod in the host's network, with a name not used before, changed by `edit`.
    pub(super) fn config(
        cgroup_parent: &str,
        logs: &Path,
        edit: impl FnOnce(&mut v1::PodSandboxConfig),
    ) -> v1::PodSandboxConfig {
        let name = unique("pod");
        let options = v1::NamespaceOption {
            network: v1::NamespaceMode::Node.into(),
            pid: v1::NamespaceMode::Container.into(),
            ..Default::default()
        };
        let mut config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.clone(),
                uid: unique("uid"),
                namespace: "it".into(),
                attempt: 0,
            }),
            log_directory: logs.join(&name).display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: cgroup_parent.into(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        edit(&mut config);
        config
    }

    /// A sandbox; the same configuration again is a retry.
    pub fn run(cri: &Cri, config: &v1::PodSandboxConfig) -> Result<Pod, Status> {
        fs::create_dir_all(&config.log_directory).expect("log folder");
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        let id = cri.run_pod_sandbox(request)?.pod_sandbox_id;
        Ok(Pod {
            id,
            config: config.clone(),
            cri: cri.clone(),
        })
    }

    /// Creates and starts; `command` replaces the image's entry point.
    pub fn run_container(&self, image: &str, command: &[&str]) -> Container {
        let container = self.container(image, command, |_| {});
        container.start();
        container
    }

    pub fn container(&self, image: &str, command: &[&str], edit: impl FnOnce(&mut v1::ContainerConfig)) -> Container {
        self.try_container(image, command, edit)
            .unwrap_or_else(|status| panic!("create: {status:?}"))
    }

    pub fn try_container(
        &self,
        image: &str,
        command: &[&str],
        edit: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Result<Container, Status> {
        let name = unique("container");
        let pod_options = self
            .config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref());
        let mut config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.clone(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: image.into(),
                ..Default::default()
            }),
            command: command.iter().map(|&word| word.into()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: pod_options.and_then(|security| security.namespace_options.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        edit(&mut config);
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.cri.create_container(request)?.container_id;
        let log_path = Path::new(&self.config.log_directory).join(&config.log_path);
        Ok(Container {
            id,
            config,
            log_path,
            cri: self.cri.clone(),
        })
    }

    pub fn status(&self) -> v1::PodSandboxStatus {
        self.try_status().expect("sandbox status")
    }

    pub fn try_status(&self) -> Result<v1::PodSandboxStatus, Status> {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        let reply = self.cri.pod_sandbox_status(request)?;
        Ok(reply.status.expect("a status"))
    }

    /// Its addresses, the first one first.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.try_ips().expect("sandbox status")
    }

    pub fn try_ips(&self) -> Result<Vec<IpAddr>, Status> {
        let network = self.try_status()?.network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        let all = std::iter::once(network.ip).filter(|ip| !ip.is_empty()).chain(more);
        Ok(all.map(|ip| ip.parse().expect("an address")).collect())
    }

    pub fn stop(&self) {
        self.try_stop().expect("stop sandbox");
    }

    pub fn try_stop(&self) -> Result<(), Status> {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.cri.stop_pod_sandbox(request).map(drop)
    }

    pub fn remove(&self) {
        self.try_remove().expect("remove sandbox");
    }

    pub fn try_remove(&self) -> Result<(), Status> {
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        };
        self.cri.remove_pod_sandbox(request).map(drop)
    }
}

impl Container {
    pub fn start(&self) {
        self.try_start().unwrap_or_else(|status| panic!("start: {status:?}"));
    }

    pub fn try_start(&self) -> Result<(), Status> {
        self.cri
            .start_container(v1::StartContainerRequest {
                container_id: self.id.clone(),
            })
            .map(|_| ())
    }

    /// StopContainer with a grace period in seconds.
    pub fn stop(&self, grace: i64) {
        let request = v1::StopContainerRequest {
            container_id: self.id.clone(),
            timeout: grace,
        };
        self.cri
            .stop_container(request)
            .unwrap_or_else(|status| panic!("stop: {status:?}"));
    }

    pub fn remove(&self) {
        self.try_remove().unwrap_or_else(|status| panic!("remove: {status:?}"));
    }

    pub fn try_remove(&self) -> Result<(), Status> {
        let request = v1::RemoveContainerRequest {
            container_id: self.id.clone(),
        };
        self.cri.remove_container(request).map(drop)
    }

    pub fn status(&self) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: false,
        };
        self.cri
            .container_status(request)
            .expect("container status")
            .status
            .expect("a status")
    }

    /// The pid of init, as the host sees it.
    pub fn pid(&self) -> u32 {
        let request = v1::ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: true,
        };
        let info = self.cri.container_status(request).expect("container status").info;
        let info = info.get("info").unwrap_or_else(|| panic!("no info in {info:?}"));
        let info: serde_json::Value = serde_json::from_str(info).expect("info is JSON");
        u32::try_from(info["pid"].as_u64().unwrap_or_else(|| panic!("no pid in {info}"))).expect("a pid")
    }

    /// Waits for the exit; its status.
    pub fn wait(&self) -> v1::ContainerStatus {
        eventually("the container exits", Duration::from_secs(20), || {
            let status = self.status();
            (status.state == v1::ContainerState::ContainerExited as i32).then_some(status)
        })
    }

    pub fn exec(&self, command: &[&str]) -> v1::ExecSyncResponse {
        self.try_exec(command, 10 * i64::from(time_factor()))
            .unwrap_or_else(|status| panic!("exec {command:?}: {status:?}"))
    }

    /// ExecSync with a time limit in seconds; 0 means none.
    pub fn try_exec(&self, command: &[&str], timeout: i64) -> Result<v1::ExecSyncResponse, Status> {
        let cmd = command.iter().map(|&word| word.into()).collect();
        self.cri.exec_sync(v1::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd,
            timeout,
        })
    }

    /// What a shell line prints; it has to succeed.
    pub fn sh(&self, line: &str) -> String {
        let reply = self.exec(&["sh", "-c", line]);
        assert_eq!(reply.exit_code, 0, "{line}: {}", String::from_utf8_lossy(&reply.stderr));
        String::from_utf8_lossy(&reply.stdout).trim_end().to_owned()
    }

    /// The payload of the log so far, pieces joined, both streams.
    pub fn logged(&self) -> String {
        let raw = fs::read(&self.log_path).unwrap_or_default();
        String::from_utf8_lossy(&payload(&raw)).into_owned()
    }

    /// Waits until the log's payload contains `text`.
    pub fn wait_logged(&self, text: &str) {
        eventually(&format!("the log says {text:?}"), Duration::from_secs(10), || {
            self.logged().contains(text).then_some(())
        });
    }
}

/// The bytes that a container wrote, from the lines of a CRI log: `TIME STREAM P|F TEXT`.
pub fn payload(log: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in log.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut fields = line.splitn(4, |&byte| byte == b' ');
        let (_, _, tag, text) = (fields.next(), fields.next(), fields.next(), fields.next());
        bytes.extend_from_slice(text.unwrap_or_default());
        if tag == Some(b"F") {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// A name not used before in this run.
pub fn unique(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{kind}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
