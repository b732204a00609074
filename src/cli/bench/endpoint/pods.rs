//! The calls that make, use and remove a pod, and a whole pod brought up and down with the time of each.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use inro_proto as wire;

use super::{
    super::arguments::Network,
    Endpoint,
    first_line::FirstLine,
    messages::{self, LOG},
};

/// A sandbox.
pub struct Pod {
    pub id: String,
    network: Network,
    config: wire::PodSandboxConfig,
}

/// A pod whose workload has begun.
pub struct Up {
    pub pod: Pod,
    /// The container's id.
    pub container: String,
    pub times: UpTimes,
}

/// From the first call on nothing rests.
pub struct UpTimes {
    pub run: Duration,
    pub create: Duration,
    pub start: Duration,
    /// From the start's call until the workload's first line is seen in the log.
    pub first_instruction: Duration,
    /// From the create's call on.
    pub container_up: Duration,
    /// From the first call on.
    pub pod_up: Duration,
}

pub struct DownTimes {
    pub stop: Duration,
    pub stop_pod: Duration,
    pub remove: Duration,
    pub remove_pod: Duration,
    pub pod_down: Duration,
}

impl Endpoint {
    /// A pod with a container that runs, on `network`.
    ///
    /// # Errors
    /// Of the call that failed; a workload that logs nothing.
    pub async fn up(&self, network: Network) -> anyhow::Result<Up> {
        let config = messages::sandbox(network, &self.cgroup_parent, &self.logs);
        fs::create_dir_all(&config.log_directory).with_context(|| format!("make {}", config.log_directory))?;
        let begin = Instant::now();
        let pod = self.run_pod(config, network).await?;
        let ran = Instant::now();
        let container = self.create(&pod).await?;
        let created = Instant::now();
        let line = FirstLine::watch(Path::new(&pod.config.log_directory), LOG)
            .with_context(|| format!("watch {}", pod.config.log_directory))?;
        let asked = Instant::now();
        self.start(&container).await?;
        let started = Instant::now();
        let first = line
            .seen()
            .await
            .with_context(|| format!("endpoint {}: the container runs", self.name))?;
        // Laying the watch is our own work.
        let laid = asked - created;
        Ok(Up {
            pod,
            container,
            times: UpTimes {
                run: ran - begin,
                create: created - ran,
                start: started - asked,
                first_instruction: first - asked,
                container_up: first - ran - laid,
                pod_up: first - begin - laid,
            },
        })
    }

    /// Ends and removes it.
    ///
    /// # Errors
    /// Of the call that failed.
    pub async fn down(&self, up: &Up) -> anyhow::Result<DownTimes> {
        let begin = Instant::now();
        self.stop(&up.container).await?;
        let stopped = Instant::now();
        self.stop_pod(&up.pod.id).await?;
        let pod_stopped = Instant::now();
        self.remove(&up.container).await?;
        let removed = Instant::now();
        self.remove_pod(&up.pod.id).await?;
        let pod_removed = Instant::now();
        Ok(DownTimes {
            stop: stopped - begin,
            stop_pod: pod_stopped - stopped,
            remove: removed - pod_stopped,
            remove_pod: pod_removed - removed,
            pod_down: pod_removed - begin,
        })
    }

    /// ExecSync of `true`.
    ///
    /// # Errors
    /// Another exit code than 0.
    pub async fn exec(&self, container: &str) -> anyhow::Result<()> {
        let request = wire::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: vec!["true".into()],
            timeout: 10,
        };
        let answer = self
            .call("ExecSync", self.client.runtime.clone().exec_sync(request))
            .await?;
        let code = answer.exit_code;
        ensure!(code == 0, "endpoint {}: ExecSync: true answered {code}", self.name);
        Ok(())
    }

    async fn run_pod(&self, config: wire::PodSandboxConfig, network: Network) -> anyhow::Result<Pod> {
        // Whatever is made begins here.
        self.interrupt.check()?;
        let request = wire::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: self.runtime.handler.clone(),
        };
        let answer = self
            .call("RunPodSandbox", self.client.runtime.clone().run_pod_sandbox(request))
            .await?;
        Ok(Pod {
            id: answer.pod_sandbox_id,
            network,
            config,
        })
    }

    async fn create(&self, pod: &Pod) -> anyhow::Result<String> {
        let request = wire::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(messages::container(pod.network, &self.image)),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer = self
            .call("CreateContainer", self.client.runtime.clone().create_container(request))
            .await?;
        Ok(answer.container_id)
    }

    async fn start(&self, container: &str) -> anyhow::Result<()> {
        let request = wire::StartContainerRequest {
            container_id: container.to_owned(),
        };
        self.call("StartContainer", self.client.runtime.clone().start_container(request))
            .await?;
        Ok(())
    }

    async fn stop(&self, container: &str) -> anyhow::Result<()> {
        let request = wire::StopContainerRequest {
            container_id: container.to_owned(),
            timeout: 0,
        };
        self.call("StopContainer", self.client.runtime.clone().stop_container(request))
            .await?;
        Ok(())
    }

    async fn remove(&self, container: &str) -> anyhow::Result<()> {
        let request = wire::RemoveContainerRequest {
            container_id: container.to_owned(),
        };
        self.call("RemoveContainer", self.client.runtime.clone().remove_container(request))
            .await?;
        Ok(())
    }

    pub(super) async fn stop_pod(&self, pod: &str) -> anyhow::Result<()> {
        let request = wire::StopPodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.call("StopPodSandbox", self.client.runtime.clone().stop_pod_sandbox(request))
            .await?;
        Ok(())
    }

    pub(super) async fn remove_pod(&self, pod: &str) -> anyhow::Result<()> {
        let request = wire::RemovePodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.call(
            "RemovePodSandbox",
            self.client.runtime.clone().remove_pod_sandbox(request),
        )
        .await?;
        Ok(())
    }

    /// How many sandboxes there are, whoever made them.
    pub async fn list_pods(&self) -> anyhow::Result<usize> {
        let request = wire::ListPodSandboxRequest::default();
        let answer = self
            .call("ListPodSandbox", self.client.runtime.clone().list_pod_sandbox(request))
            .await?;
        Ok(answer.items.len())
    }

    pub async fn list_containers(&self) -> anyhow::Result<()> {
        let request = wire::ListContainersRequest::default();
        self.call("ListContainers", self.client.runtime.clone().list_containers(request))
            .await?;
        Ok(())
    }

    /// False when the runtime has no such call, which not every version has.
    pub async fn list_container_stats(&self) -> anyhow::Result<bool> {
        let request = wire::ListContainerStatsRequest::default();
        let answer = self
            .optional(
                "ListContainerStats",
                self.client.runtime.clone().list_container_stats(request),
            )
            .await?;
        Ok(answer.is_some())
    }

    /// The same.
    pub async fn list_pod_stats(&self) -> anyhow::Result<bool> {
        let request = wire::ListPodSandboxStatsRequest::default();
        let answer = self
            .optional(
                "ListPodSandboxStats",
                self.client.runtime.clone().list_pod_sandbox_stats(request),
            )
            .await?;
        Ok(answer.is_some())
    }
}
