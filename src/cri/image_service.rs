//! ImageService: each call one translation there and one back. What the writable layers take is asked of the pods.

use inro_proto::{self as wire, image_service_server::ImageService};
use tonic::{Request, Response, Status};

use super::{
    batch::{self, Items},
    error::{Fault, status, to_its_end},
    parse, render,
};
use crate::{
    image::{Images, registry::Puller},
    pod::Pods,
};

pub struct ImageCalls {
    pub images: Images,
    pub pods: Pods,
}

type Answer<T> = Result<Response<T>, Status>;

impl ImageCalls {
    fn list(&self, filter: Option<wire::ImageFilter>) -> Vec<wire::Image> {
        let name = filter
            .and_then(|filter| filter.image)
            .map(|image| image.image)
            .filter(|name| !name.is_empty());
        self.images
            .list(name.as_deref())
            .into_iter()
            .map(render::image)
            .collect()
    }
}

fn name(image: Option<wire::ImageSpec>) -> Result<String, Fault> {
    parse::non_empty(image.unwrap_or_default().image, "image.image")
}

#[tonic::async_trait]
impl ImageService for ImageCalls {
    type StreamImagesStream = Items<wire::StreamImagesResponse>;

    async fn list_images(&self, request: Request<wire::ListImagesRequest>) -> Answer<wire::ListImagesResponse> {
        Ok(Response::new(wire::ListImagesResponse {
            images: self.list(request.into_inner().filter),
        }))
    }

    async fn stream_images(&self, request: Request<wire::StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        Ok(batch::images(self.list(request.into_inner().filter)))
    }

    async fn image_status(&self, request: Request<wire::ImageStatusRequest>) -> Answer<wire::ImageStatusResponse> {
        let request = request.into_inner();
        let name = name(request.image)?;
        let found = self
            .images
            .status(&name)
            .map_err(|error| status("ImageStatus", &error))?;
        let verdicts = found.as_ref().filter(|_| request.verbose);
        let verdicts = verdicts.map(|image| self.images.verdicts(&image.id));
        Ok(Response::new(wire::ImageStatusResponse {
            image: found.map(render::image),
            info: verdicts.map(render::image_info).unwrap_or_default(),
        }))
    }

    async fn pull_image(&self, request: Request<wire::PullImageRequest>) -> Answer<wire::PullImageResponse> {
        let request = request.into_inner();
        let (name, auth) = (name(request.image)?, parse::auth(request.auth));
        let sandbox = request.sandbox_config.and_then(|sandbox| sandbox.metadata);
        let puller = Puller {
            auth: auth.as_ref(),
            namespace: sandbox.as_ref().map(|metadata| metadata.namespace.as_str()),
        };
        // Not carried on without its client: a download that nobody waits for is only traffic.
        let pulled = self
            .images
            .pull(&name, puller)
            .await
            .map_err(|error| status("PullImage", &error))?;
        Ok(Response::new(wire::PullImageResponse { image_ref: pulled.0 }))
    }

    async fn remove_image(&self, request: Request<wire::RemoveImageRequest>) -> Answer<wire::RemoveImageResponse> {
        let name = name(request.into_inner().image)?;
        let images = self.images.clone();
        to_its_end("RemoveImage", async move {
            tokio::task::spawn_blocking(move || images.remove(&name))
                .await
                .unwrap_or(Err(crate::image::ImageError::Abandoned))
        })
        .await?;
        Ok(Response::new(wire::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _: Request<wire::ImageFsInfoRequest>) -> Answer<wire::ImageFsInfoResponse> {
        Ok(Response::new(wire::ImageFsInfoResponse {
            image_filesystems: vec![render::fs_usage(self.images.fs_info())],
            container_filesystems: vec![render::fs_usage(self.pods.layers_usage())],
        }))
    }
}
