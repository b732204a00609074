//! gRPC face: CRI v1 over the unix socket.
//!
//! `parse` turns wire messages into `model` values that cannot be wrong, `render` turns values into messages, `error`
//! alone knows gRPC codes; the two services only translate. `observe` is around both, for whoever wants to know how long
//! calls take.

mod batch;
mod error;
mod events;
mod image_service;
mod observe;
mod parse;
mod render;
mod runtime_service;
mod stats;
mod streaming;

use futures_util::StreamExt;
use inro_proto::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer};
use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::{
    image::{Images, manifest},
    pod::Pods,
};
use image_service::ImageCalls;
use observe::Observed;
pub use observe::{Ended, Observer};
use runtime_service::RuntimeCalls;

/// Most bytes of a message, both ways, as with CRI-O: five times what the kubelet takes (16 MiB), for clients that take
/// more. Lists that outgrow the kubelet's limit come as streams.
const MOST_MESSAGE: usize = 80 << 20;

/// Bytes on their way to one client. A list of 600 containers has 700 KiB and goes out at once; with the kernel's usual
/// 200 KiB it goes in four turns with its reader, each of which waits for a processor.
const SEND_BUFFER: usize = 1 << 20;

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
    let image = ImageServiceServer::new(ImageCalls { images, pods })
        .max_decoding_message_size(MOST_MESSAGE)
        .max_encoding_message_size(MOST_MESSAGE);
    let incoming = UnixListenerStream::new(listener).map(|accepted| accepted.inspect(make_room));
    Server::builder()
        .add_service(Observed {
            service: runtime,
            observer: observer.clone(),
        })
        .add_service(Observed {
            service: image,
            observer,
        })
        .serve_with_incoming_shutdown(incoming, stop)
        .await
}

/// Without CAP_NET_ADMIN as much as `net.core.wmem_max` lets; with less than that it works as well, only slower.
fn make_room(connection: &UnixStream) {
    let _ = set_socket_send_buffer_size_force(connection, SEND_BUFFER)
        .or_else(|_| set_socket_send_buffer_size(connection, SEND_BUFFER));
}

/// The number of a named signal; the wire spells `SIGRTMIN+1` as `SIGNAL_SIGRTMINPLUS1`.
fn signal_number(named: inro_proto::Signal) -> Option<i32> {
    let name = named.as_str_name().replace("PLUS", "+").replace("MINUS", "-");
    manifest::signal(name.strip_prefix("SIGNAL_").unwrap_or(&name))
}
