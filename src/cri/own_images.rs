//! What inro can do with images and the CRI has no call for; beside it at the same socket, which only root reaches.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use inro_proto::images::{self as wire, images_server::Images as ImageCalls};
use tonic::{Request, Response, Status};

use super::{
    error::{status, to_its_end},
    parse,
};
use crate::{
    image::{Images, LayerView, PullView, Pulling, Repairing, Stage, registry::Puller},
    model::{Damage, Damaged, ImageView, Repair},
};

pub struct OwnImageCalls {
    pub images: Images,
}

type Answer<T> = Result<Response<T>, Status>;

/// How often a client is told how far its pull is.
const INTERVAL: Duration = Duration::from_millis(200);

#[tonic::async_trait]
impl ImageCalls for OwnImageCalls {
    type PullStream = Pin<Box<dyn Stream<Item = Result<wire::PullUpdate, Status>> + Send>>;

    async fn pull(&self, request: Request<wire::PullRequest>) -> Answer<Self::PullStream> {
        let request = request.into_inner();
        let (name, auth) = (parse::non_empty(request.image, "image")?, parse::auth(request.auth));
        let puller = Puller {
            auth: auth.as_ref(),
            namespace: Some(request.pod_namespace.as_str()).filter(|name| !name.is_empty()),
        };
        let pulling = self
            .images
            .begin_pull(&name, puller)
            .map_err(|error| status("Pull", &error))?;
        // A client that leaves drops the stream, and with it what waits for the pull.
        Ok(Response::new(Box::pin(stream::unfold(Some(pulling), next_update))))
    }

    async fn list_pulls(&self, _: Request<wire::ListPullsRequest>) -> Answer<wire::ListPullsResponse> {
        let pulls = self.images.pulls().into_iter().map(pull).collect();
        Ok(Response::new(wire::ListPullsResponse { pulls }))
    }

    async fn import(&self, request: Request<wire::ImportRequest>) -> Answer<wire::ImportResponse> {
        let wire::ImportRequest { path, name } = request.into_inner();
        let path = parse::non_empty(path, "path")?;
        let images = self.images.clone();
        let made = to_its_end("Import", async move {
            let name = Some(name.as_str()).filter(|name| !name.is_empty());
            images.import(path.as_ref(), name).await
        })
        .await?;
        Ok(Response::new(wire::ImportResponse {
            images: made.into_iter().map(imported).collect(),
        }))
    }

    async fn verify(&self, request: Request<wire::VerifyRequest>) -> Answer<wire::VerifyResponse> {
        let request = request.into_inner();
        let repair = request.repair.then(|| Repairing {
            auth: parse::auth(request.auth),
        });
        // Not carried on without its client: it reads every file of every image.
        let verified = self
            .images
            .verify(&request.images, repair)
            .await
            .map_err(|error| status("Verify", &error))?;
        Ok(Response::new(wire::VerifyResponse {
            images: verified.images,
            documents: verified.documents,
            layers: verified.layers,
            layers_by_presence: verified.by_presence,
            damaged: verified.damaged.into_iter().map(damaged).collect(),
        }))
    }
}

/// What is told next of a pull; after its outcome nothing.
async fn next_update(pulling: Option<Pulling>) -> Option<(Result<wire::PullUpdate, Status>, Option<Pulling>)> {
    let pulling = pulling?;
    let update = |image_ref: String| wire::PullUpdate {
        pull: Some(pull(pulling.view())),
        image_ref,
    };
    match tokio::time::timeout(INTERVAL, pulling.outcome()).await {
        Err(_) => Some((Ok(update(String::new())), Some(pulling))),
        Ok(Ok(image)) => Some((Ok(update(image.0)), None)),
        Ok(Err(error)) => Some((Err(status("Pull", &error)), None)),
    }
}

fn pull(view: PullView) -> wire::Pull {
    wire::Pull {
        image: view.reference,
        waiting: u32::try_from(view.waiting).unwrap_or(u32::MAX),
        elapsed_ms: u64::try_from(view.elapsed.as_millis()).unwrap_or(u64::MAX),
        layers: view.layers.into_iter().map(layer).collect(),
    }
}

fn layer(view: LayerView) -> wire::pull::Layer {
    use wire::pull::Stage as Told;
    let stage = match view.stage {
        Stage::Waiting => Told::Waiting,
        Stage::Fetching => Told::Fetching,
        Stage::Unpacked => Told::Unpacked,
        Stage::Present => Told::Present,
    };
    wire::pull::Layer {
        digest: view.digest,
        size_bytes: view.size_bytes,
        stage: stage.into(),
        fetched_bytes: view.fetched_bytes,
        kept_bytes: view.kept_bytes,
        unpacked_bytes: view.unpacked_bytes,
        endpoint: view.endpoint.unwrap_or_default(),
    }
}

fn imported(image: ImageView) -> wire::ImportedImage {
    wire::ImportedImage {
        names: image.names().to_vec(),
        id: image.id.0,
    }
}

fn damaged(damaged: Damaged) -> wire::Damage {
    use wire::damage::Kind;
    let kind = match damaged.what {
        Damage::Record => Kind::Record,
        Damage::Config => Kind::Config,
        Damage::Manifest => Kind::Manifest,
        Damage::Layer => Kind::Layer,
    };
    let (repaired, repair_error) = match damaged.repair {
        Repair::NotAsked => (false, String::new()),
        Repair::Done => (true, String::new()),
        Repair::Failed(why) => (false, why),
    };
    wire::Damage {
        kind: kind.into(),
        digest: damaged.digest,
        why: damaged.why,
        image: damaged.image,
        repaired,
        repair_error,
    }
}
