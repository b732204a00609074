//! What containers and pods use.
//!
//! A pod's figures are those of its cgroup parent when that is the pod's own, as the kubelet makes one: page cache of
//! containers that are gone counts there too. Where pods share a parent they are the sums of their containers'.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc};

use super::{
    Inner, PodError, Pods,
    index::{Container, Sandbox},
    meter::Rates,
};
use crate::{
    model::{
        ContainerFilter, ContainerState, ContainerUsage, CpuUsage, Details, DiskTotals, InterfaceUsage, MemoryUsage,
        PodMeasures, SandboxFilter, SandboxId, SandboxState, SandboxUsage, SwapUsage, Timestamp, Usage,
    },
    net,
};

/// Threads that read for one call at most.
const READERS: usize = 2;
/// Pods that are not worth a further thread.
const FEW: usize = 32;

impl Pods {
    /// What a container uses. Source: CRI ContainerStats.
    ///
    /// # Errors
    /// [`PodError::NoContainer`], [`PodError::Ambiguous`].
    pub async fn container_usage(&self, id: &str) -> Result<ContainerUsage, PodError> {
        let (inner, container) = (self.inner.clone(), self.inner.index.container(id)?);
        self.inner
            .meter
            .ask(move |rates| inner.usage_of(&container, rates))
            .await
    }

    /// What the containers that match use, newest first; those that have exited too, with what they leave on the disk.
    /// Source: CRI ListContainerStats.
    ///
    /// # Errors
    /// [`PodError::NoMeter`].
    pub async fn container_usages(&self, filter: &ContainerFilter) -> Result<Vec<ContainerUsage>, PodError> {
        let (inner, containers) = (self.inner.clone(), self.inner.index.find_containers(filter));
        let read = move |rates: &mut Rates| containers.iter().map(|c| inner.usage_of(c, rates)).collect();
        self.inner.meter.ask(read).await
    }

    /// What a pod uses. Source: CRI PodSandboxStats.
    ///
    /// # Errors
    /// [`PodError::NoSandbox`], [`PodError::Ambiguous`]; [`PodError::SandboxNotReady`] when it uses nothing any more.
    pub async fn sandbox_usage(&self, id: &str) -> Result<SandboxUsage, PodError> {
        let sandbox = self.inner.index.sandbox(id)?;
        let not_ready = PodError::SandboxNotReady(sandbox.plan.id.clone());
        if sandbox.status.borrow().state != SandboxState::Ready {
            return Err(not_ready);
        }
        let inner = self.inner.clone();
        let usages = self
            .inner
            .meter
            .ask(move |rates| inner.usages_of(&[sandbox], rates))
            .await?;
        usages.into_iter().next().ok_or(not_ready)
    }

    /// What the pods that match use, newest first. Source: CRI ListPodSandboxStats.
    ///
    /// # Errors
    /// [`PodError::NoMeter`].
    pub async fn sandbox_usages(&self, filter: &SandboxFilter) -> Result<Vec<SandboxUsage>, PodError> {
        let (inner, sandboxes) = (self.inner.clone(), self.inner.index.find_sandboxes(filter));
        self.inner
            .meter
            .ask(move |rates| inner.usages_of(&sandboxes, rates))
            .await
    }

    /// Everything that there is a metric for, of the pods that are ready. Source: CRI ListPodSandboxMetrics.
    ///
    /// # Errors
    /// [`PodError::NoMeter`].
    pub async fn measures(&self) -> Result<(Vec<PodMeasures>, DiskTotals), PodError> {
        let ready = SandboxFilter {
            state: Some(SandboxState::Ready),
            ..SandboxFilter::default()
        };
        let (inner, sandboxes) = (self.inner.clone(), self.inner.index.find_sandboxes(&ready));
        let pods = self
            .inner
            .meter
            .ask(move |rates| inner.measures_of(&sandboxes, rates))
            .await?;
        let disk = self
            .inner
            .disk
            .lock()
            .expect("no panic while the value is held")
            .clone();
        Ok((pods, disk))
    }
}

impl Inner {
    fn usage_of(&self, container: &Container, rates: &mut Rates) -> ContainerUsage {
        let mut usage = self.read(container);
        rate(&mut usage, rates);
        usage
    }

    /// All that the files tell of a container: all but the rate.
    fn read(&self, container: &Container) -> ContainerUsage {
        let (view, cgroup) = (container.view(), &container.plan.cgroup);
        let lives = !matches!(view.state, ContainerState::Exited { .. });
        let read = || {
            let mut usage = self.with.cgroups.usage(cgroup)?;
            usage.processes = self.with.cgroups.process_count(cgroup);
            Some(usage)
        };
        ContainerUsage {
            usage: lives.then(read).flatten(),
            layer: container.layer(),
            view,
        }
    }

    fn usages_of(&self, sandboxes: &[Arc<Sandbox>], rates: &mut Rates) -> Vec<SandboxUsage> {
        let (containers, owners) = (self.by_sandbox(), self.cgroup_owners());
        let read = |sandbox: &Arc<Sandbox>| {
            let own = owners.get(&sandbox.plan.config.cgroup_parent) == Some(&true);
            let usage = own.then(|| self.with.cgroups.usage(&sandbox.plan.config.cgroup_parent));
            let containers = containers.get(&sandbox.plan.id).into_iter().flatten();
            let containers: Vec<_> = containers.map(|container| self.read(container)).collect();
            (usage.flatten(), containers)
        };
        // Most of the time goes into opening files, and one pod's have nothing to do with another's.
        let (read, interfaces) = std::thread::scope(|scope| {
            let interfaces = scope.spawn(|| interfaces_of(sandboxes));
            let parts = sandboxes.chunks(sandboxes.len().div_ceil(READERS).max(FEW));
            let parts: Vec<_> = parts
                .map(|part| scope.spawn(|| part.iter().map(read).collect::<Vec<_>>()))
                .collect();
            let read: Vec<_> = parts
                .into_iter()
                .flat_map(|part| part.join().unwrap_or_default())
                .collect();
            (read, interfaces.join().unwrap_or_default())
        });
        let all = sandboxes.iter().zip(read).zip(interfaces);
        all.map(|((sandbox, (own, mut containers)), interfaces)| {
            containers.iter_mut().for_each(|container| rate(container, rates));
            SandboxUsage {
                view: sandbox.view(),
                usage: pod_usage(sandbox, own, &containers, rates),
                interfaces,
                containers,
            }
        })
        .collect()
    }

    fn measures_of(&self, sandboxes: &[Arc<Sandbox>], rates: &mut Rates) -> Vec<PodMeasures> {
        let mut containers = self.by_sandbox();
        let interfaces = interfaces_of(sandboxes);
        let pods = sandboxes.iter().zip(interfaces).map(|(sandbox, interfaces)| {
            let containers = containers.remove(&sandbox.plan.id).unwrap_or_default();
            let measured = containers.iter().filter_map(|container| {
                let usage = self.usage_of(container, rates);
                usage.usage.is_some().then(|| (usage, self.details_of(container)))
            });
            PodMeasures {
                view: sandbox.view(),
                interfaces,
                containers: measured.collect(),
            }
        });
        pods.collect()
    }

    fn details_of(&self, container: &Container) -> Details {
        self.with.cgroups.details(&container.plan.cgroup, container.spec.init)
    }

    /// All containers, newest first in each sandbox.
    fn by_sandbox(&self) -> HashMap<SandboxId, Vec<Arc<Container>>> {
        let mut containers: HashMap<_, Vec<_>> = HashMap::new();
        for container in self.index.find_containers(&ContainerFilter::default()) {
            containers
                .entry(container.plan.sandbox.clone())
                .or_default()
                .push(container);
        }
        containers
    }

    /// The cgroup parents that sandboxes name, and whether all who name one are of the same pod. A pod's earlier
    /// sandboxes have the same parent as the one it has now.
    fn cgroup_owners(&self) -> HashMap<String, bool> {
        let mut owners: HashMap<String, (String, bool)> = HashMap::new();
        for sandbox in self.index.find_sandboxes(&SandboxFilter::default()) {
            let config = &sandbox.plan.config;
            if config.cgroup_parent.is_empty() {
                continue;
            }
            let uid = &config.metadata.uid;
            let owner = owners
                .entry(config.cgroup_parent.clone())
                .or_insert_with(|| (uid.clone(), true));
            owner.1 &= owner.0 == *uid;
        }
        owners.into_iter().map(|(parent, (_, own))| (parent, own)).collect()
    }
}

/// A pod's figures: those of its `own` cgroup, or the sums.
fn pod_usage(sandbox: &Sandbox, own: Option<Usage>, containers: &[ContainerUsage], rates: &mut Rates) -> Usage {
    let sum = sum(containers);
    let reaper = u64::from(sandbox.status.borrow().reaper.is_some());
    let processes = sum.processes + reaper;
    let Some(mut usage) = own else {
        return Usage { processes, ..sum };
    };
    if let Some(cpu) = &mut usage.cpu {
        // Its cgroup may be older than the sandbox: the first time there is nothing to compare with.
        let rate = rates.note(sandbox.plan.id.as_str(), None, usage.at, cpu.total_ns);
        cpu.nano_cores = rate.or(sum.cpu.and_then(|cpu| cpu.nano_cores));
    }
    Usage { processes, ..usage }
}

/// Gives a container's CPU time its rate.
fn rate(container: &mut ContainerUsage, rates: &mut Rates) {
    let began_at = match container.view.state {
        ContainerState::Running { started_at } => started_at,
        _ => container.view.created_at,
    };
    if let Some(usage) = &mut container.usage
        && let Some(cpu) = &mut usage.cpu
    {
        cpu.nano_cores = rates.note(container.view.id.as_str(), Some(began_at), usage.at, cpu.total_ns);
    }
}

/// The interfaces of each; none for those that are on the host's network or are being stopped.
fn interfaces_of(sandboxes: &[Arc<Sandbox>]) -> Vec<Vec<InterfaceUsage>> {
    let namespaces: Vec<PathBuf> = sandboxes.iter().map(|s| s.folder.path().join("ns/net")).collect();
    let all = net::interfaces_of(&namespaces).into_iter().zip(sandboxes);
    all.map(|(interfaces, sandbox)| {
        interfaces.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(sandbox = %sandbox.plan.id, %error, "cannot read the interfaces");
            }
            Vec::new()
        })
    })
    .collect()
}

/// What containers use together; limits and pressure cannot be added.
fn sum(containers: &[ContainerUsage]) -> Usage {
    let mut sum = Usage {
        at: Timestamp::now(),
        ..Usage::default()
    };
    let (mut cpu, mut memory) = (CpuUsage::default(), MemoryUsage::default());
    for usage in containers.iter().filter_map(|container| container.usage.as_ref()) {
        if let Some(of_one) = usage.cpu {
            cpu.total_ns += of_one.total_ns;
            cpu.nano_cores = Some(cpu.nano_cores.unwrap_or(0) + of_one.nano_cores.unwrap_or(0));
        }
        if let Some(of_one) = usage.memory {
            memory.used_bytes += of_one.used_bytes;
            memory.inactive_file_bytes += of_one.inactive_file_bytes;
            memory.rss_bytes += of_one.rss_bytes;
            memory.page_faults += of_one.page_faults;
            memory.major_page_faults += of_one.major_page_faults;
        }
        if let Some(of_one) = usage.swap {
            sum.swap.get_or_insert_with(SwapUsage::default).used_bytes += of_one.used_bytes;
        }
        sum.processes += usage.processes;
    }
    sum.cpu = Some(cpu);
    sum.memory = Some(memory);
    sum
}
