//! RuntimeService: each call one translation there and one back. What is not built yet says so.

use inro_proto::{self as wire, runtime_service_server::RuntimeService};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{
    batch::{self, Items},
    error::{status, to_its_end},
    observe::stopwatch,
    parse, render,
};
use crate::{image::Images, pod::Pods};

pub struct RuntimeCalls {
    pub pods: Pods,
    pub images: Images,
    /// Where streaming calls are redeemed.
    pub stream_url: String,
    /// Turns true when the daemon is about to end: streams without an end of their own end then.
    pub stopping: watch::Receiver<bool>,
}

pub(super) type Answer<T> = Result<Response<T>, Status>;

fn not_built(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not built yet"))
}

#[tonic::async_trait]
impl RuntimeService for RuntimeCalls {
    type StreamPodSandboxesStream = Items<wire::StreamPodSandboxesResponse>;
    type StreamContainersStream = Items<wire::StreamContainersResponse>;
    type StreamContainerStatsStream = Items<wire::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Items<wire::StreamPodSandboxStatsResponse>;
    type GetContainerEventsStream = Items<wire::ContainerEventResponse>;
    type StreamPodSandboxMetricsStream = Items<wire::StreamPodSandboxMetricsResponse>;

    async fn version(&self, _: Request<wire::VersionRequest>) -> Answer<wire::VersionResponse> {
        Ok(Response::new(wire::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "inro".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<wire::RunPodSandboxRequest>,
    ) -> Answer<wire::RunPodSandboxResponse> {
        let mut watch = stopwatch(&request);
        let request = request.into_inner();
        let config = parse::sandbox(request.config, request.runtime_handler)?;
        watch.lap("decode");
        let pods = self.pods.clone();
        let id = to_its_end("RunPodSandbox", async move { pods.run_sandbox(config, watch).await }).await?;
        Ok(Response::new(wire::RunPodSandboxResponse {
            pod_sandbox_id: id.to_string(),
        }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<wire::StopPodSandboxRequest>,
    ) -> Answer<wire::StopPodSandboxResponse> {
        let id = parse::non_empty(request.into_inner().pod_sandbox_id, "pod_sandbox_id")?;
        let pods = self.pods.clone();
        to_its_end("StopPodSandbox", async move { pods.stop_sandbox(&id).await }).await?;
        Ok(Response::new(wire::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<wire::RemovePodSandboxRequest>,
    ) -> Answer<wire::RemovePodSandboxResponse> {
        let id = parse::non_empty(request.into_inner().pod_sandbox_id, "pod_sandbox_id")?;
        let pods = self.pods.clone();
        to_its_end("RemovePodSandbox", async move { pods.remove_sandbox(&id).await }).await?;
        Ok(Response::new(wire::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<wire::PodSandboxStatusRequest>,
    ) -> Answer<wire::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let id = parse::non_empty(request.pod_sandbox_id, "pod_sandbox_id")?;
        let pod = self.pods.pod(&id).map_err(|error| status("PodSandboxStatus", &error))?;
        let info = if request.verbose {
            render::sandbox_info(&pod.sandbox, &self.pods.sandbox_stages(&id).unwrap_or_default())
        } else {
            Default::default()
        };
        // Both or neither: the time says that the statuses are of one moment.
        let (containers_statuses, timestamp) = match self.pods.containers_in_status() {
            true => (pod.containers.iter().map(render::container_status).collect(), pod.at.0),
            false => Default::default(),
        };
        Ok(Response::new(wire::PodSandboxStatusResponse {
            status: Some(render::sandbox_status(&pod.sandbox)),
            info,
            containers_statuses,
            timestamp,
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<wire::ListPodSandboxRequest>,
    ) -> Answer<wire::ListPodSandboxResponse> {
        let filter = parse::sandbox_filter(request.into_inner().filter)?;
        let items = self.pods.sandboxes(&filter).iter().map(render::sandbox).collect();
        Ok(Response::new(wire::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Answer<wire::CreateContainerResponse> {
        let mut watch = stopwatch(&request);
        let request = request.into_inner();
        let sandbox = parse::non_empty(request.pod_sandbox_id, "pod_sandbox_id")?;
        let config = parse::container(request.config)?;
        watch.lap("decode");
        let pods = self.pods.clone();
        let id = to_its_end("CreateContainer", async move {
            pods.create_container(&sandbox, config, watch).await
        })
        .await?;
        Ok(Response::new(wire::CreateContainerResponse {
            container_id: id.to_string(),
        }))
    }

    async fn start_container(
        &self,
        request: Request<wire::StartContainerRequest>,
    ) -> Answer<wire::StartContainerResponse> {
        let mut watch = stopwatch(&request);
        let id = parse::non_empty(request.into_inner().container_id, "container_id")?;
        watch.lap("decode");
        let pods = self.pods.clone();
        to_its_end("StartContainer", async move { pods.start_container(&id, watch).await }).await?;
        Ok(Response::new(wire::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<wire::StopContainerRequest>,
    ) -> Answer<wire::StopContainerResponse> {
        let request = request.into_inner();
        let id = parse::non_empty(request.container_id, "container_id")?;
        let (pods, grace) = (self.pods.clone(), parse::seconds(request.timeout, "timeout")?);
        to_its_end("StopContainer", async move { pods.stop_container(&id, grace).await }).await?;
        Ok(Response::new(wire::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<wire::RemoveContainerRequest>,
    ) -> Answer<wire::RemoveContainerResponse> {
        let id = parse::non_empty(request.into_inner().container_id, "container_id")?;
        let pods = self.pods.clone();
        to_its_end("RemoveContainer", async move { pods.remove_container(&id).await }).await?;
        Ok(Response::new(wire::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Answer<wire::ListContainersResponse> {
        let filter = parse::container_filter(request.into_inner().filter)?;
        let entries = filter.map_or_else(Vec::new, |filter| self.pods.containers(&filter));
        Ok(Response::new(wire::ListContainersResponse {
            containers: Vec::new(),
            encoded: entries.iter().map(render::encoded_container).collect(),
        }))
    }

    async fn container_status(
        &self,
        request: Request<wire::ContainerStatusRequest>,
    ) -> Answer<wire::ContainerStatusResponse> {
        let request = request.into_inner();
        let id = parse::non_empty(request.container_id, "container_id")?;
        let view = self
            .pods
            .container(&id)
            .map_err(|error| status("ContainerStatus", &error))?;
        let info = if request.verbose {
            render::container_info(&view, &self.pods.container_stages(&id).unwrap_or_default())
        } else {
            Default::default()
        };
        Ok(Response::new(wire::ContainerStatusResponse {
            status: Some(render::container_status(&view)),
            info,
        }))
    }

    async fn reopen_container_log(
        &self,
        request: Request<wire::ReopenContainerLogRequest>,
    ) -> Answer<wire::ReopenContainerLogResponse> {
        let id = parse::non_empty(request.into_inner().container_id, "container_id")?;
        let pods = self.pods.clone();
        to_its_end("ReopenContainerLog", async move { pods.reopen_log(&id).await }).await?;
        Ok(Response::new(wire::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<wire::ExecSyncRequest>) -> Answer<wire::ExecSyncResponse> {
        let request = request.into_inner();
        let id = parse::non_empty(request.container_id, "container_id")?;
        let command = parse::command(request.cmd)?;
        let timeout = Some(parse::seconds(request.timeout, "timeout")?).filter(|limit| !limit.is_zero());
        // Dropped with its client: an exec that nobody waits for is killed.
        let output = self
            .pods
            .exec_sync(&id, command, timeout)
            .await
            .map_err(|error| status("ExecSync", &error))?;
        Ok(Response::new(wire::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        }))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Answer<wire::StatusResponse> {
        let condition = |name: &str, ready: Result<(), String>, reason: &str| wire::RuntimeCondition {
            r#type: name.into(),
            status: ready.is_ok(),
            reason: ready.as_ref().map_or_else(|_| reason.into(), |()| String::new()),
            message: ready.err().unwrap_or_default(),
        };
        let conditions = vec![
            condition("RuntimeReady", Ok(()), ""),
            // The kubelet waits for that reason.
            condition("NetworkReady", self.pods.network_ready().await, "NetworkPluginNotReady"),
        ];
        let handler = |name| wire::RuntimeHandler {
            name,
            features: Some(wire::RuntimeHandlerFeatures {
                recursive_read_only_mounts: true,
                user_namespaces: self.pods.user_namespaces(),
            }),
        };
        let info = match request.into_inner().verbose {
            true => render::runtime_info(&self.images.fs_info().path, &self.pods.apparmor()),
            false => Default::default(),
        };
        Ok(Response::new(wire::StatusResponse {
            status: Some(wire::RuntimeStatus { conditions }),
            info,
            runtime_handlers: self.pods.runtime_handlers().into_iter().map(handler).collect(),
            features: Some(wire::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: self.pods.user_namespaces(),
                mount_options: true,
            }),
        }))
    }

    async fn runtime_config(&self, _: Request<wire::RuntimeConfigRequest>) -> Answer<wire::RuntimeConfigResponse> {
        let linux = wire::LinuxRuntimeConfiguration {
            cgroup_driver: render::cgroup_driver(self.pods.cgroup_driver()).into(),
        };
        Ok(Response::new(wire::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<wire::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let filter = parse::sandbox_filter(request.into_inner().filter)?;
        Ok(batch::sandboxes(self.pods.sandboxes(&filter)))
    }

    async fn stream_containers(
        &self,
        request: Request<wire::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let filter = parse::container_filter(request.into_inner().filter)?;
        Ok(batch::containers(
            filter.map_or_else(Vec::new, |filter| self.pods.containers(&filter)),
        ))
    }

    async fn update_container_resources(
        &self,
        request: Request<wire::UpdateContainerResourcesRequest>,
    ) -> Answer<wire::UpdateContainerResourcesResponse> {
        let (id, change) = parse::update_container(request.into_inner())?;
        let pods = self.pods.clone();
        to_its_end("UpdateContainerResources", async move {
            pods.update_container(&id, change).await
        })
        .await?;
        Ok(Response::new(wire::UpdateContainerResourcesResponse {}))
    }

    async fn exec(&self, request: Request<wire::ExecRequest>) -> Answer<wire::ExecResponse> {
        self.exec_url(request.into_inner()).map(Response::new)
    }

    async fn attach(&self, request: Request<wire::AttachRequest>) -> Answer<wire::AttachResponse> {
        self.attach_url(request.into_inner()).map(Response::new)
    }

    async fn port_forward(&self, request: Request<wire::PortForwardRequest>) -> Answer<wire::PortForwardResponse> {
        self.port_forward_url(request.into_inner()).map(Response::new)
    }

    async fn container_stats(
        &self,
        request: Request<wire::ContainerStatsRequest>,
    ) -> Answer<wire::ContainerStatsResponse> {
        self.stats_of_container(request.into_inner()).await
    }

    async fn list_container_stats(
        &self,
        request: Request<wire::ListContainerStatsRequest>,
    ) -> Answer<wire::ListContainerStatsResponse> {
        let stats = self.stats_of_containers(request.into_inner().filter).await?;
        Ok(Response::new(wire::ListContainerStatsResponse { stats }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<wire::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        Ok(batch::container_stats(
            self.stats_of_containers(request.into_inner().filter).await?,
        ))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<wire::PodSandboxStatsRequest>,
    ) -> Answer<wire::PodSandboxStatsResponse> {
        self.stats_of_sandbox(request.into_inner()).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<wire::ListPodSandboxStatsRequest>,
    ) -> Answer<wire::ListPodSandboxStatsResponse> {
        let stats = self.stats_of_sandboxes(request.into_inner().filter).await?;
        Ok(Response::new(wire::ListPodSandboxStatsResponse { stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<wire::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        Ok(batch::sandbox_stats(
            self.stats_of_sandboxes(request.into_inner().filter).await?,
        ))
    }

    async fn update_runtime_config(
        &self,
        request: Request<wire::UpdateRuntimeConfigRequest>,
    ) -> Answer<wire::UpdateRuntimeConfigResponse> {
        let pod_cidr = parse::pod_cidr(request.into_inner());
        let pods = self.pods.clone();
        to_its_end(
            "UpdateRuntimeConfig",
            async move { pods.update_pod_cidr(pod_cidr).await },
        )
        .await?;
        Ok(Response::new(wire::UpdateRuntimeConfigResponse {}))
    }

    async fn checkpoint_container(
        &self,
        request: Request<wire::CheckpointContainerRequest>,
    ) -> Answer<wire::CheckpointContainerResponse> {
        let (id, location, timeout) = parse::checkpoint(request.into_inner())?;
        let pods = self.pods.clone();
        to_its_end("CheckpointContainer", async move {
            pods.checkpoint_container(&id, &location, timeout).await
        })
        .await?;
        Ok(Response::new(wire::CheckpointContainerResponse {}))
    }

    async fn checkpoint_pod(&self, _: Request<wire::CheckpointPodRequest>) -> Answer<wire::CheckpointPodResponse> {
        Err(not_built("CheckpointPod"))
    }

    async fn restore_pod(&self, _: Request<wire::RestorePodRequest>) -> Answer<wire::RestorePodResponse> {
        Err(not_built("RestorePod"))
    }

    async fn get_container_events(&self, _: Request<wire::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        Ok(self.events())
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<wire::ListMetricDescriptorsRequest>,
    ) -> Answer<wire::ListMetricDescriptorsResponse> {
        Ok(Response::new(wire::ListMetricDescriptorsResponse {
            descriptors: render::metric_descriptors(),
        }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<wire::ListPodSandboxMetricsRequest>,
    ) -> Answer<wire::ListPodSandboxMetricsResponse> {
        let pod_metrics = self.metrics_of_sandboxes().await?;
        Ok(Response::new(wire::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<wire::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        Ok(batch::metrics(self.metrics_of_sandboxes().await?))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<wire::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<wire::UpdatePodSandboxResourcesResponse> {
        let (id, overhead, resources) = parse::update_sandbox(request.into_inner())?;
        let pods = self.pods.clone();
        to_its_end("UpdatePodSandboxResources", async move {
            pods.update_sandbox(&id, overhead, resources).await
        })
        .await?;
        Ok(Response::new(wire::UpdatePodSandboxResourcesResponse {}))
    }
}
