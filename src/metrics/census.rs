//! How much there is of everything, counted when somebody asks.

use std::{fmt, sync::atomic::Ordering};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
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
    pub pulls: u64,
    /// Calls that wait for them.
    pub pulls_waiting: u64,
    /// Bytes since the start.
    pub fetched: u64,
    pub kept: u64,
    pub unpacked: u64,
}

impl Census {
    pub fn take(pods: &Pods, images: &Images) -> Self {
        let (pulls, totals) = (images.pulls(), images.pull_totals());
        let mut census = Self {
            images: images.list(None).len() as u64,
            tickets: pods.promised() as u64,
            pulls: pulls.len() as u64,
            pulls_waiting: pulls.iter().map(|pull| pull.waiting as u64).sum(),
            fetched: totals.fetched_bytes.load(Ordering::Relaxed),
            kept: totals.kept_bytes.load(Ordering::Relaxed),
            unpacked: totals.unpacked_bytes.load(Ordering::Relaxed),
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
        gauge(&mut encoder, "inro_streaming_tickets", help, census.tickets)?;
        gauge(&mut encoder, "inro_pulls", "Pulls under way.", census.pulls)?;
        let help = "Calls that wait for pulls under way.";
        gauge(&mut encoder, "inro_pulls_waiting", help, census.pulls_waiting)?;
        let help = "Bytes of layers that came from registries.";
        bytes(&mut encoder, "inro_pull_fetched", help, census.fetched)?;
        let help = "Bytes of layers that an earlier pull had kept.";
        bytes(&mut encoder, "inro_pull_kept", help, census.kept)?;
        let help = "Bytes that were unpacked of layers.";
        bytes(&mut encoder, "inro_pull_unpacked", help, census.unpacked)
    }
}

/// A counter of bytes.
fn bytes(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
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
