//! Removing what was made, found by its label: it does not matter how far the measuring came.

use inro_proto as wire;

use super::{Endpoint, messages};

impl Endpoint {
    /// Removes every pod of this run, and leaves the image as it was found. Goes on after a failure and tells all.
    pub async fn clean(&self) -> Vec<anyhow::Error> {
        let mut failures = Vec::new();
        let pods = self.our_pods().await.unwrap_or_else(|error| {
            failures.push(error);
            Vec::new()
        });
        for pod in pods {
            failures.extend(self.stop_pod(&pod).await.err());
            failures.extend(self.remove_pod(&pod).await.err());
        }
        failures.extend(self.restore_image().await.err());
        failures
    }

    /// Gone if it was not there before, and there if it was: `pull` may have come to half of its way.
    async fn restore_image(&self) -> anyhow::Result<()> {
        let is_there = self.image_status().await?.is_some();
        match (self.image_is_ours, is_there) {
            (true, true) => self.remove_image().await,
            (false, false) if !self.image_id.is_empty() => self.pull_image().await,
            _ => Ok(()),
        }
    }

    async fn our_pods(&self) -> anyhow::Result<Vec<String>> {
        let filter = wire::PodSandboxFilter {
            label_selector: messages::ours(),
            ..Default::default()
        };
        let request = wire::ListPodSandboxRequest { filter: Some(filter) };
        let answer = self
            .call("ListPodSandbox", self.client.runtime.clone().list_pod_sandbox(request))
            .await?;
        // A runtime that cannot filter would tell everybody's pods.
        let ours = answer
            .items
            .into_iter()
            .filter(|pod| pod.labels.get(messages::LABEL) == Some(&*messages::RUN));
        Ok(ours.map(|pod| pod.id).collect())
    }
}
