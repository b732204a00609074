//! How much there is of everything, counted when somebody asks.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue},
    metrics::MetricType,
};

use crate::{
    image::Images,
    model::{ContainerFilter, ContainerPhase, SandboxFilter, SandboxState},
    pod::Pods,
};

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    pub pods_ready: u64,
    pub pods_not_ready: u64,
    pub containers_created: u64,
    pub containers_running: u64,
    pub containers_exited: u64,
    pub images: u64,
    /// Streaming calls that wait for their clients.
    pub tickets: u64,
}

impl Census {
    pub fn take(pods: &Pods, images: &Images) -> Self {
        let mut census = Self {
            images: images.list(None).len() as u64,
            tickets: pods.promised() as u64,
            ..Self::default()
        };
        for pod in pods.sandboxes(&SandboxFilter::default()) {
            *match pod.state {
                SandboxState::Ready => &mut census.pods_ready,
                SandboxState::NotReady => &mut census.pods_not_ready,
            } += 1;
        }
        for container in pods.containers(&ContainerFilter::default()) {
            *match container.phase {
                ContainerPhase::Created => &mut census.containers_created,
                ContainerPhase::Running => &mut census.containers_running,
                ContainerPhase::Exited => &mut census.containers_exited,
            } += 1;
        }
        census
    }
}

/// A census as gauges.
pub struct Gauges<F>(F);

impl<F> Gauges<F> {
    pub fn new(take: F) -> Self {
        Self(take)
    }
}

impl<F> fmt::Debug for Gauges<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl<F: Fn() -> Census + Send + Sync + 'static> Collector for Gauges<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let census = (self.0)();
        let pods = [("ready", census.pods_ready), ("not_ready", census.pods_not_ready)];
        by_state(&mut encoder, "inro_pods", "Pod sandboxes there are.", &pods)?;
        let containers = [
            ("created", census.containers_created),
            ("running", census.containers_running),
            ("exited", census.containers_exited),
        ];
        by_state(&mut encoder, "inro_containers", "Containers there are.", &containers)?;
        gauge(&mut encoder, "inro_images", "Images there are.", census.images)?;
        let help = "Streaming calls that wait for their clients.";
        gauge(&mut encoder, "inro_streaming_tickets", help, census.tickets)
    }
}

/// States that nothing is in are told too, so that a sum never lacks them.
fn by_state(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, counts: &[(&str, u64)]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (state, count) in counts {
        family.encode_family(&[("state", *state)])?.encode_gauge(count)?;
    }
    Ok(())
}

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&value)
}
