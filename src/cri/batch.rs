//! Lists as streams: each item once, at least one in a message, then the end.
//!
//! A message is as large as is still cheap to make, far below what a client accepts; an item that is larger than that
//! has one of its own. Source: CRI `StreamContainers` and its five siblings.

use std::pin::Pin;

use futures_util::{Stream, stream};
use inro_proto as wire;
use prost::Message;
use tonic::{Response, Status};

use super::render;
use crate::model::{ContainerEntry, SandboxView};

/// What a streaming call answers with.
pub type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes of items in a message, but for the last one.
const FULL: usize = 512 << 10;
/// A message that is waited for has no more items than this.
const MOST_ITEMS: usize = 256;

pub fn sandboxes(views: Vec<SandboxView>) -> Response<Items<wire::StreamPodSandboxesResponse>> {
    let items = views.into_iter().map(|view| render::sandbox(&view));
    batches(items, |pod_sandboxes| wire::StreamPodSandboxesResponse {
        pod_sandboxes,
    })
}

pub fn containers(entries: Vec<ContainerEntry>) -> Response<Items<wire::StreamContainersResponse>> {
    let items = entries.into_iter().map(|entry| render::container(&entry));
    batches(items, |containers| wire::StreamContainersResponse { containers })
}

pub fn images(images: Vec<wire::Image>) -> Response<Items<wire::StreamImagesResponse>> {
    batches(images.into_iter(), |images| wire::StreamImagesResponse { images })
}

pub fn container_stats(stats: Vec<wire::ContainerStats>) -> Response<Items<wire::StreamContainerStatsResponse>> {
    batches(stats.into_iter(), |container_stats| {
        wire::StreamContainerStatsResponse { container_stats }
    })
}

pub fn sandbox_stats(stats: Vec<wire::PodSandboxStats>) -> Response<Items<wire::StreamPodSandboxStatsResponse>> {
    batches(stats.into_iter(), |pod_sandbox_stats| {
        wire::StreamPodSandboxStatsResponse { pod_sandbox_stats }
    })
}

pub fn metrics(metrics: Vec<wire::PodSandboxMetrics>) -> Response<Items<wire::StreamPodSandboxMetricsResponse>> {
    batches(metrics.into_iter(), |pod_sandbox_metrics| {
        wire::StreamPodSandboxMetricsResponse { pod_sandbox_metrics }
    })
}

/// Makes each message when the client has room for it.
fn batches<I, T>(items: I, message: fn(Vec<I::Item>) -> T) -> Response<Items<T>>
where
    I: Iterator<Item: Message> + Send + 'static,
    T: Send + 'static,
{
    let mut items = items;
    let messages = std::iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < FULL && batch.len() < MOST_ITEMS {
            let Some(item) = items.next() else { break };
            bytes += item.encoded_len();
            batch.push(item);
        }
        (!batch.is_empty()).then(|| Ok(message(batch)))
    });
    Response::new(Box::pin(stream::iter(messages)))
}

#[cfg(test)]
mod test {
    use futures_util::StreamExt;

    use super::*;

    async fn sizes(items: Vec<wire::Image>) -> Vec<usize> {
        let messages = images(items).into_inner().map(|message| message.unwrap().images.len());
        messages.collect().await
    }

    fn image(bytes: usize) -> wire::Image {
        wire::Image {
            id: "x".repeat(bytes),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn no_items_are_no_messages() {
        assert_eq!(sizes(Vec::new()).await, [0; 0]);
    }

    #[tokio::test]
    async fn many_small_items_come_in_several_messages() {
        assert_eq!(sizes(vec![image(10); 600]).await, [256, 256, 88]);
    }

    #[tokio::test]
    async fn large_items_fill_a_message_early() {
        assert_eq!(sizes(vec![image(300 << 10); 5]).await, [2, 2, 1]);
    }

    #[tokio::test]
    async fn an_item_larger_than_a_message_has_one_of_its_own() {
        assert_eq!(sizes(vec![image(3 << 20), image(3 << 20)]).await, [1, 1]);
    }
}
