//! gRPC face: CRI v1 over the unix socket.
//!
//! `parse` turns wire messages into `model` values that cannot be wrong, `render` turns values into messages, `error`
//! alone knows gRPC codes; the services only translate. `observe` is around the CRI's two, for whoever wants to know how
//! long calls take. `own_images` is a service of inro's own.

mod batch;
mod deadline;
mod error;
mod events;
mod image_service;
mod observe;
mod own_images;
mod parse;
mod render;
mod runtime_service;
mod stats;
mod streaming;

use inro_proto::{
    image_service_server::ImageServiceServer, images::images_server::ImagesServer,
    runtime_service_server::RuntimeServiceServer,
};
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::{
    image::{Images, manifest},
    pod::Pods,
};
use image_service::ImageCalls;
use observe::Observed;
pub use observe::{Ended, Observer};
use own_images::OwnImageCalls;
use runtime_service::RuntimeCalls;

/// Most bytes of a message, both ways, as with CRI-O: five times what the kubelet takes (16 MiB), for clients that take
/// more. Lists that outgrow the kubelet's limit come as streams.
const MOST_MESSAGE: usize = 80 << 20;

/// What the services stand on.
pub struct Ground {
    pub pods: Pods,
    pub images: Images,
    /// Where streaming calls are redeemed, without a slash at its end.
    pub stream_url: String,
    /// Who wants to know how long calls take.
    pub observer: Option<Observer>,
}

/// Serves until `stop` resolves; calls under way are finished.
///
/// # Errors
/// Those of the listener.
pub async fn serve(
    listener: UnixListener,
    ground: Ground,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let Ground {
        pods,
        images,
        stream_url,
        observer,
    } = ground;
    let (stopped, stopping) = watch::channel(false);
    let stop = async move {
        stop.await;
        stopped.send_replace(true);
    };
    let runtime = RuntimeServiceServer::new(RuntimeCalls {
        pods: pods.clone(),
        images: images.clone(),
        stream_url,
        stopping,
    })
    .max_decoding_message_size(MOST_MESSAGE)
    .max_encoding_message_size(MOST_MESSAGE);
    let own = ImagesServer::new(OwnImageCalls { images: images.clone() });
    let image = ImageServiceServer::new(ImageCalls { images, pods })
        .max_decoding_message_size(MOST_MESSAGE)
        .max_encoding_message_size(MOST_MESSAGE);
    Server::builder()
        .add_service(Observed {
            service: runtime,
            observer: observer.clone(),
        })
        .add_service(Observed {
            service: image,
            observer,
        })
        .add_service(own)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
}

/// The number of a named signal; the wire spells `SIGRTMIN+1` as `SIGNAL_SIGRTMINPLUS1`.
fn signal_number(named: inro_proto::Signal) -> Option<i32> {
    let name = named.as_str_name().replace("PLUS", "+").replace("MINUS", "-");
    manifest::signal(name.strip_prefix("SIGNAL_").unwrap_or(&name))
}
