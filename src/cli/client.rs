//! A client of any CRI socket.

use std::path::Path;

use anyhow::Context;
use inro_proto::{
    self as wire, image_service_client::ImageServiceClient, images::images_client::ImagesClient,
    runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::{Channel, Endpoint};

/// Most bytes of an answer about images: as much as a daemon sends.
const MOST_MESSAGE: usize = 80 << 20;

/// The services of one socket, over one connection. Clones share it.
#[derive(Clone)]
pub struct Client {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    /// Of inro's socket only.
    pub own_images: ImagesClient<Channel>,
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
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MOST_MESSAGE),
            own_images: ImagesClient::new(channel).max_decoding_message_size(MOST_MESSAGE),
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
