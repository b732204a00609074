//! Stats and metrics calls: what each of them and its streaming sibling answer with.

use inro_proto as wire;
use tonic::{Response, Status};

use super::{
    error::status,
    parse, render,
    runtime_service::{Answer, RuntimeCalls},
};

impl RuntimeCalls {
    pub(super) async fn stats_of_container(
        &self,
        request: wire::ContainerStatsRequest,
    ) -> Answer<wire::ContainerStatsResponse> {
        let id = parse::non_empty(request.container_id, "container_id")?;
        let usage = self.pods.container_usage(&id).await;
        let usage = usage.map_err(|error| status("ContainerStats", &error))?;
        Ok(Response::new(wire::ContainerStatsResponse {
            stats: Some(render::container_stats(&usage, &self.layers_at())),
        }))
    }

    pub(super) async fn stats_of_containers(
        &self,
        filter: Option<wire::ContainerStatsFilter>,
    ) -> Result<Vec<wire::ContainerStats>, Status> {
        let filter = parse::container_stats_filter(filter);
        let usages = self.pods.container_usages(&filter).await;
        let usages = usages.map_err(|error| status("ListContainerStats", &error))?;
        let at = self.layers_at();
        Ok(usages.iter().map(|usage| render::container_stats(usage, &at)).collect())
    }

    pub(super) async fn stats_of_sandbox(
        &self,
        request: wire::PodSandboxStatsRequest,
    ) -> Answer<wire::PodSandboxStatsResponse> {
        let id = parse::non_empty(request.pod_sandbox_id, "pod_sandbox_id")?;
        let usage = self.pods.sandbox_usage(&id).await;
        let usage = usage.map_err(|error| status("PodSandboxStats", &error))?;
        Ok(Response::new(wire::PodSandboxStatsResponse {
            stats: Some(render::sandbox_stats(&usage, &self.layers_at())),
        }))
    }

    pub(super) async fn stats_of_sandboxes(
        &self,
        filter: Option<wire::PodSandboxStatsFilter>,
    ) -> Result<Vec<wire::PodSandboxStats>, Status> {
        let filter = parse::sandbox_stats_filter(filter);
        let usages = self.pods.sandbox_usages(&filter).await;
        let usages = usages.map_err(|error| status("ListPodSandboxStats", &error))?;
        let at = self.layers_at();
        Ok(usages.iter().map(|usage| render::sandbox_stats(usage, &at)).collect())
    }

    pub(super) async fn metrics_of_sandboxes(&self) -> Result<Vec<wire::PodSandboxMetrics>, Status> {
        let measured = self.pods.measures().await;
        let (pods, disk) = measured.map_err(|error| status("ListPodSandboxMetrics", &error))?;
        Ok(pods.iter().map(|pod| render::pod_metrics(pod, &disk)).collect())
    }

    /// The folder that stands for the file system of the writable layers, as in ImageFsInfo.
    fn layers_at(&self) -> String {
        self.pods.layers_place().display().to_string()
    }
}
