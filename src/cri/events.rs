//! GetContainerEvents: the journal as a stream.

use futures_util::{StreamExt, stream};
use inro_proto as wire;
use tonic::Response;

use super::{batch::Items, error::status, render, runtime_service::RuntimeCalls};

impl RuntimeCalls {
    /// Ends with an error for a client that fell too far behind, and without one when the daemon ends.
    pub(super) fn events(&self) -> Response<Items<wire::ContainerEventResponse>> {
        // Listening begins with the call, not with the first message that is asked for.
        let events = stream::unfold(Some(self.pods.events()), |events| async {
            let mut events = events?;
            match events.next().await {
                Ok(Some(event)) => Some((Ok(render::event(&event)), Some(events))),
                Ok(None) => None,
                Err(error) => Some((Err(status("GetContainerEvents", &error)), None)),
            }
        });
        let mut stopping = self.stopping.clone();
        let stop = async move {
            // An error means that the server is gone already.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        Response::new(Box::pin(events.take_until(Box::pin(stop))))
    }
}
