//! The CRI over the daemon's socket, blocking: a test reads as the calls it makes.
//!
//! Every call connects anew, so that a daemon may die and come back between two of them.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime::Runtime};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

pub use inro_proto as v1;
use v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};

/// Longer than any call takes; a client whose daemon was killed at a bad moment may wait for ever.
const PATIENCE: Duration = Duration::from_secs(180);

/// A client; clones share nothing but the socket's path.
#[derive(Clone)]
pub struct Cri {
    socket: Arc<Path>,
}

macro_rules! calls {
    ($service:ident: $($name:ident($request:ident) -> $reply:ident;)*) => {
        impl Cri {
            $(pub fn $name(&self, request: v1::$request) -> Result<v1::$reply, Status> {
                let channel = self.channel();
                runtime().block_on(async move {
                    // As much as the daemon sends.
                    let mut client = $service::new(channel.await?).max_decoding_message_size(80 << 20);
                    let answer = tokio::time::timeout(PATIENCE, client.$name(request)).await;
                    let answer = answer.map_err(|_| Status::deadline_exceeded("the test waits no longer"))?;
                    answer.map(|reply| reply.into_inner())
                })
            })*
        }
    };
}

calls! { RuntimeServiceClient:
    version(VersionRequest) -> VersionResponse;
    status(StatusRequest) -> StatusResponse;
    runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    create_container(CreateContainerRequest) -> CreateContainerResponse;
    start_container(StartContainerRequest) -> StartContainerResponse;
    stop_container(StopContainerRequest) -> StopContainerResponse;
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    list_containers(ListContainersRequest) -> ListContainersResponse;
    exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    exec(ExecRequest) -> ExecResponse;
    port_forward(PortForwardRequest) -> PortForwardResponse;
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
    checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
    restore_pod(RestorePodRequest) -> RestorePodResponse;
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
}

calls! { ImageServiceClient:
    pull_image(PullImageRequest) -> PullImageResponse;
    image_status(ImageStatusRequest) -> ImageStatusResponse;
    list_images(ListImagesRequest) -> ListImagesResponse;
    remove_image(RemoveImageRequest) -> RemoveImageResponse;
    image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
}

/// Calls that answer with a stream, read to its end.
macro_rules! streams {
    ($service:ident: $($name:ident($request:ident) -> $reply:ident;)*) => {
        impl Cri {
            $(pub fn $name(&self, request: v1::$request) -> Result<Vec<v1::$reply>, Status> {
                let channel = self.channel();
                runtime().block_on(async move {
                    let mut stream = $service::new(channel.await?).$name(request).await?.into_inner();
                    let mut replies = Vec::new();
                    while let Some(reply) = stream.message().await? {
                        replies.push(reply);
                    }
                    Ok(replies)
                })
            })*
        }
    };
}

streams! { RuntimeServiceClient:
    stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
    stream_containers(StreamContainersRequest) -> StreamContainersResponse;
    stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
    stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
    stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
}

streams! { ImageServiceClient:
    stream_images(StreamImagesRequest) -> StreamImagesResponse;
}

/// GetContainerEvents, read as the test likes.
pub struct EventStream(tonic::Streaming<v1::ContainerEventResponse>);

impl EventStream {
    /// The next event, waited for at most this long; `None` at the end of the stream.
    pub fn next(&mut self, limit: Duration) -> Result<Option<v1::ContainerEventResponse>, Status> {
        let message = async { tokio::time::timeout(limit, self.0.message()).await };
        let message = runtime().block_on(message);
        message.unwrap_or_else(|_| panic!("no event within {limit:?}"))
    }
}

impl Cri {
    /// Listens from now on.
    pub fn events(&self) -> EventStream {
        // Small, so that a stream that nobody reads is soon full.
        let channel = self.channel_with(Some(65_535));
        let stream = runtime().block_on(async move {
            let mut client = RuntimeServiceClient::new(channel.await?);
            client.get_container_events(v1::GetEventsRequest {}).await
        });
        EventStream(stream.expect("events").into_inner())
    }

    pub fn new(socket: &Path) -> Cri {
        Cri { socket: socket.into() }
    }

    fn channel(&self) -> impl Future<Output = Result<Channel, Status>> + use<> {
        self.channel_with(None)
    }

    fn channel_with(&self, window: Option<u32>) -> impl Future<Output = Result<Channel, Status>> + use<> {
        let socket: PathBuf = self.socket.as_ref().into();
        async move {
            Endpoint::from_static("http://inro.invalid")
                .initial_stream_window_size(window)
                .connect_with_connector(tower::service_fn(move |_| {
                    let socket = socket.clone();
                    async move { UnixStream::connect(socket).await.map(TokioIo::new) }
                }))
                .await
                .map_err(|error| Status::unavailable(error.to_string()))
        }
    }
}

pub(super) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a tokio runtime"))
}
