//! One runtime under measurement, as its client.
//!
//! Every call goes through [`Endpoint::call`], so a failure names the endpoint and the call. Everything made here has the
//! label of this run, by which it is found and removed at the end.

mod cgroup;
mod clean;
mod first_line;
mod messages;
mod pods;
mod stages;

use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use inro_proto as wire;
use tonic::{Response, Status};

pub use cgroup::remove_own_parent;
pub use messages::{LABEL, WORKLOAD_SECONDS};
pub use pods::{Up, UpTimes};

use super::{arguments::Arguments, interrupt::Interrupt, study::Runtime};
use crate::cli::client::Client;

/// A connection to a runtime. Clones share it.
#[derive(Clone)]
pub struct Endpoint {
    /// What the command line calls it.
    pub name: String,
    pub runtime: Runtime,
    pub socket: PathBuf,
    /// What the runtime calls the image; empty before it was fetched.
    pub image_id: String,
    /// It is removed at the end.
    image_is_ours: bool,
    image: String,
    /// What the pods' cgroups are below.
    cgroup_parent: String,
    /// Where containers' logs go, a folder for each pod.
    logs: PathBuf,
    client: Client,
    interrupt: Interrupt,
}

impl Endpoint {
    /// Connects to the endpoint `name` and asks who is there.
    ///
    /// # Errors
    /// When nobody listens, or has no version to tell.
    pub async fn connect(
        name: &str,
        arguments: &Arguments,
        logs: PathBuf,
        interrupt: Interrupt,
    ) -> anyhow::Result<Self> {
        let named = arguments.endpoints.iter().find(|endpoint| endpoint.name == name);
        let socket = named.with_context(|| format!("no endpoint {name}"))?.socket.clone();
        let client = Client::connect(&socket).await;
        let mut endpoint = Self {
            name: name.to_owned(),
            runtime: Runtime {
                endpoint: name.to_owned(),
                socket: socket.display().to_string(),
                handler: arguments.handler(name),
                name: String::new(),
                version: String::new(),
            },
            client: client.with_context(|| format!("endpoint {name}"))?,
            socket,
            image_id: String::new(),
            image_is_ours: false,
            image: arguments.image.clone(),
            cgroup_parent: String::new(),
            logs,
            interrupt,
        };
        let version = endpoint.version().await?;
        endpoint.runtime.name = version.runtime_name;
        endpoint.runtime.version = version.runtime_version;
        endpoint.cgroup_parent = match &arguments.cgroup_parent {
            Some(parent) => parent.clone(),
            None => endpoint.choose_cgroup_parent().await?,
        };
        Ok(endpoint)
    }

    /// Pulls the image where it is missing.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn fetch_image(&mut self) -> anyhow::Result<()> {
        let found = match self.image_status().await? {
            Some(image) => image,
            None => {
                self.image_is_ours = true;
                self.pull_image().await?;
                let Some(image) = self.image_status().await? else {
                    bail!("endpoint {}: {} was pulled and is not there", self.name, self.image);
                };
                image
            }
        };
        // CRI-O leaves the algorithm out.
        self.image_id = found.id.trim_start_matches("sha256:").to_owned();
        Ok(())
    }

    /// Refuses to remove what cannot be pulled again: an image that others know by another name.
    ///
    /// # Errors
    /// Names those names.
    pub async fn check_removable(&self) -> anyhow::Result<()> {
        let tags = self
            .image_status()
            .await?
            .map(|image| image.repo_tags)
            .unwrap_or_default();
        if tags.len() > 1 {
            bail!(
                "endpoint {}: {} has other names ({}), which the removal of the image would take away",
                self.name,
                self.image,
                tags.join(", ")
            );
        }
        Ok(())
    }

    /// One call; its failure names endpoint and call.
    async fn call<T>(
        &self,
        call: &str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> anyhow::Result<T> {
        self.try_call(call, answer)
            .await?
            .map_err(|status| self.failed(call, &status))
    }

    /// One call; `None` when the runtime has no such call.
    async fn optional<T>(
        &self,
        call: &str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> anyhow::Result<Option<T>> {
        match self.try_call(call, answer).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
            Err(status) => Err(self.failed(call, &status)),
        }
    }

    async fn try_call<T>(
        &self,
        call: &str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> anyhow::Result<Result<T, Status>> {
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => Ok(answer.map(Response::into_inner)),
            Err(_) => bail!(
                "endpoint {}: {call}: no answer within {} s",
                self.name,
                PATIENCE.as_secs()
            ),
        }
    }

    fn failed(&self, call: &str, status: &Status) -> anyhow::Error {
        anyhow!(
            "endpoint {}: {call}: {:?}: {}",
            self.name,
            status.code(),
            status.message()
        )
    }

    pub async fn version(&self) -> anyhow::Result<wire::VersionResponse> {
        let request = wire::VersionRequest::default();
        self.call("Version", self.client.runtime.clone().version(request)).await
    }

    pub async fn status(&self) -> anyhow::Result<()> {
        let request = wire::StatusRequest::default();
        self.call("Status", self.client.runtime.clone().status(request)).await?;
        Ok(())
    }

    pub async fn list_images(&self) -> anyhow::Result<()> {
        let request = wire::ListImagesRequest::default();
        self.call("ListImages", self.client.images.clone().list_images(request))
            .await?;
        Ok(())
    }

    async fn image_status(&self) -> anyhow::Result<Option<wire::Image>> {
        let request = wire::ImageStatusRequest {
            image: Some(messages::image(&self.image)),
            verbose: false,
        };
        let answer = self
            .call("ImageStatus", self.client.images.clone().image_status(request))
            .await?;
        Ok(answer.image)
    }

    pub async fn pull_image(&self) -> anyhow::Result<()> {
        let request = wire::PullImageRequest {
            image: Some(messages::image(&self.image)),
            ..Default::default()
        };
        self.call("PullImage", self.client.images.clone().pull_image(request))
            .await?;
        Ok(())
    }

    pub async fn remove_image(&self) -> anyhow::Result<()> {
        let request = wire::RemoveImageRequest {
            image: Some(messages::image(&self.image)),
        };
        self.call("RemoveImage", self.client.images.clone().remove_image(request))
            .await?;
        Ok(())
    }
}

/// Longer than anything that still makes sense to measure.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);
