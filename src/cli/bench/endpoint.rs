//! One runtime under measurement: what is made there, and taken away at the end.

use std::path::Path;

use anyhow::Context;
use inro_proto as wire;

use super::super::client::Client;

/// A connection to a runtime, and what the benchmark made in it. Clones share the connection.
#[derive(Clone)]
pub struct Endpoint {
    pub name: String,
    /// What the runtime calls the image.
    pub image_id: String,
    image: String,
    client: Client,
    pods: Vec<String>,
}

/// A running container.
pub struct Container {
    id: String,
}

impl Endpoint {
    /// Connects and pulls `image` where it is missing.
    pub async fn connect(name: &str, socket: &str, image: &str) -> anyhow::Result<Self> {
        let path = socket.strip_prefix("unix://").unwrap_or(socket);
        let mut client = Client::connect(Path::new(path)).await?;
        client.pull(image).await.with_context(|| format!("pull {image}"))?;
        let request = wire::ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        let status = client.images.image_status(request).await?.into_inner().image;
        Ok(Self {
            name: name.to_owned(),
            image_id: status
                .with_context(|| format!("{image} was pulled and is not there"))?
                .id,
            image: image.to_owned(),
            client,
            pods: Vec::new(),
        })
    }

    /// A pod on the host's network with one container that sleeps.
    pub async fn sleeper(&mut self) -> anyhow::Result<Container> {
        let pod_config = self.pod_config();
        let request = wire::RunPodSandboxRequest {
            config: Some(pod_config.clone()),
            ..Default::default()
        };
        let pod = self
            .client
            .runtime
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id;
        self.pods.push(pod.clone());
        let config = wire::ContainerConfig {
            metadata: Some(wire::ContainerMetadata {
                name: "bench".into(),
                attempt: 0,
            }),
            image: Some(image_spec(&self.image)),
            command: vec!["sleep".into(), "1000000".into()],
            linux: Some(wire::LinuxContainerConfig {
                security_context: Some(wire::LinuxContainerSecurityContext {
                    namespace_options: Some(host_network()),
                    // RuntimeDefault, as the kubelet asks for it.
                    seccomp: Some(wire::SecurityProfile::default()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = wire::CreateContainerRequest {
            pod_sandbox_id: pod,
            config: Some(config),
            sandbox_config: Some(pod_config),
        };
        let id = self
            .client
            .runtime
            .create_container(request)
            .await?
            .into_inner()
            .container_id;
        let request = wire::StartContainerRequest {
            container_id: id.clone(),
        };
        self.client.runtime.start_container(request).await?;
        Ok(Container { id })
    }

    /// ExecSync; the exit code.
    pub async fn exec(&mut self, container: &Container, command: &[&str]) -> anyhow::Result<i32> {
        let request = wire::ExecSyncRequest {
            container_id: container.id.clone(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 10,
        };
        Ok(self.client.runtime.exec_sync(request).await?.into_inner().exit_code)
    }

    /// Removes every pod that was made here.
    pub async fn clean(&mut self) -> anyhow::Result<()> {
        for pod in std::mem::take(&mut self.pods) {
            let request = wire::StopPodSandboxRequest {
                pod_sandbox_id: pod.clone(),
            };
            self.client.runtime.stop_pod_sandbox(request).await?;
            let request = wire::RemovePodSandboxRequest { pod_sandbox_id: pod };
            self.client.runtime.remove_pod_sandbox(request).await?;
        }
        Ok(())
    }

    fn pod_config(&self) -> wire::PodSandboxConfig {
        let name = format!("bench-{}-{}", std::process::id(), self.pods.len());
        wire::PodSandboxConfig {
            metadata: Some(wire::PodSandboxMetadata {
                name: name.clone(),
                uid: name,
                namespace: "bench".into(),
                attempt: 0,
            }),
            linux: Some(wire::LinuxPodSandboxConfig {
                security_context: Some(wire::LinuxSandboxSecurityContext {
                    namespace_options: Some(host_network()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

fn image_spec(image: &str) -> wire::ImageSpec {
    wire::ImageSpec {
        image: image.into(),
        // CRI-O wants it.
        user_specified_image: image.into(),
        ..Default::default()
    }
}

fn host_network() -> wire::NamespaceOption {
    wire::NamespaceOption {
        network: wire::NamespaceMode::Node.into(),
        pid: wire::NamespaceMode::Container.into(),
        ..Default::default()
    }
}
