//! A client of any CRI socket.

use std::path::Path;

use anyhow::Context;
use inro_proto::{
    self as wire, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::{Channel, Endpoint};

/// Both services of one socket, over one connection. Clones share it.
#[derive(Clone)]
pub struct Client {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
}

impl Client {
    /// # Errors
    /// When nobody listens at `socket`.
    pub async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                tokio::net::UnixStream::connect(path)
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }
        });
        // The address is only for the HTTP header; the connector knows the way.
        let channel = Endpoint::from_static("http://inro")
            .connect_with_connector(connector)
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    /// Pulls an image and returns its id.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn pull(&mut self, name: &str) -> anyhow::Result<String> {
        let image = Some(wire::ImageSpec {
            image: name.into(),
            ..Default::default()
        });
        let request = wire::PullImageRequest {
            image,
            ..Default::default()
        };
        Ok(self.images.pull_image(request).await?.into_inner().image_ref)
    }
}
