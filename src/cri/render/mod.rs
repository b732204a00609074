//! Model values to wire messages.

mod event;
mod metrics;
mod usage;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use inro_proto as wire;

pub use event::event;
pub use metrics::{metric_descriptors, pod_metrics};
pub use usage::{container_stats, sandbox_stats};

use crate::{
    cgroup::Driver,
    cri::signal_number,
    image::Verdict,
    model::{
        Access, ContainerEntry, ContainerFacts, ContainerPhase, ContainerStages, ContainerState, ContainerView,
        FsUsage, IdRange, ImageId, ImageView, Mount, NamespaceMode, Namespaces, Propagation, Resources, SandboxState,
        SandboxView, Stages, Timestamp, User, UserNamespace,
    },
};

pub fn cgroup_driver(driver: Driver) -> wire::CgroupDriver {
    match driver {
        Driver::Cgroupfs => wire::CgroupDriver::Cgroupfs,
        Driver::Systemd => wire::CgroupDriver::Systemd,
    }
}

pub fn sandbox(view: &SandboxView) -> wire::PodSandbox {
    wire::PodSandbox {
        id: view.id.to_string(),
        metadata: Some(sandbox_metadata(view)),
        state: sandbox_state(view.state).into(),
        created_at: view.created_at.0,
        labels: strings(&view.config.labels),
        annotations: strings(&view.config.annotations),
        runtime_handler: view.config.runtime_handler.clone(),
    }
}

pub fn sandbox_status(view: &SandboxView) -> wire::PodSandboxStatus {
    let mut ips = view.ips.iter().map(ToString::to_string);
    wire::PodSandboxStatus {
        id: view.id.to_string(),
        metadata: Some(sandbox_metadata(view)),
        state: sandbox_state(view.state).into(),
        created_at: view.created_at.0,
        network: Some(wire::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| wire::PodIp { ip }).collect(),
        }),
        linux: Some(wire::LinuxPodSandboxStatus {
            namespaces: Some(wire::Namespace {
                options: Some(namespaces(&view.config.namespaces)),
            }),
        }),
        labels: strings(&view.config.labels),
        annotations: strings(&view.config.annotations),
        runtime_handler: view.config.runtime_handler.clone(),
    }
}

fn strings(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn sandbox_metadata(view: &SandboxView) -> wire::PodSandboxMetadata {
    let metadata = view.config.metadata.clone();
    wire::PodSandboxMetadata {
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        attempt: metadata.attempt,
    }
}

fn sandbox_state(state: SandboxState) -> wire::PodSandboxState {
    match state {
        SandboxState::Ready => wire::PodSandboxState::SandboxReady,
        SandboxState::NotReady => wire::PodSandboxState::SandboxNotready,
    }
}

fn namespaces(namespaces: &Namespaces) -> wire::NamespaceOption {
    let mode = |mode: &NamespaceMode| match mode {
        NamespaceMode::Pod => wire::NamespaceMode::Pod,
        NamespaceMode::Container => wire::NamespaceMode::Container,
        NamespaceMode::Node => wire::NamespaceMode::Node,
        NamespaceMode::Target(_) => wire::NamespaceMode::Target,
    };
    wire::NamespaceOption {
        network: mode(&namespaces.network).into(),
        pid: mode(&namespaces.pid).into(),
        ipc: mode(&namespaces.ipc).into(),
        target_id: match &namespaces.pid {
            NamespaceMode::Target(id) => id.to_string(),
            _ => String::new(),
        },
        userns_options: Some(user_namespace(namespaces.user.as_ref())),
    }
}

fn user_namespace(user: Option<&UserNamespace>) -> wire::UserNamespace {
    let range = |ids: IdRange| {
        vec![wire::IdMapping {
            host_id: ids.host,
            container_id: 0,
            length: ids.size,
        }]
    };
    match user {
        Some(user) => wire::UserNamespace {
            mode: wire::NamespaceMode::Pod.into(),
            uids: range(user.uids),
            gids: range(user.gids),
        },
        None => wire::UserNamespace {
            mode: wire::NamespaceMode::Node.into(),
            ..Default::default()
        },
    }
}

pub fn container(entry: &ContainerEntry) -> wire::Container {
    let facts = &*entry.facts;
    wire::Container {
        id: facts.id.to_string(),
        pod_sandbox_id: facts.sandbox.to_string(),
        metadata: Some(container_metadata(facts)),
        image: Some(image_spec(facts)),
        image_ref: facts.image_id.to_string(),
        state: container_state(entry.phase).into(),
        created_at: facts.created_at.0,
        labels: strings(&facts.config.labels),
        annotations: strings(&facts.config.annotations),
        image_id: facts.image_id.0.clone(),
    }
}

/// The same as [`container`], encoded; what never changes of it only once.
pub fn encoded_container(entry: &ContainerEntry) -> wire::EncodedContainer {
    let fixed = entry
        .facts
        .listed
        .get_or_init(|| wire::EncodedContainer::fixed(container(entry)));
    wire::EncodedContainer {
        fixed: fixed.clone(),
        state: container_state(entry.phase).into(),
    }
}

pub fn container_status(view: &ContainerView) -> wire::ContainerStatus {
    let (started_at, exit) = match &view.state {
        ContainerState::Created => (None, None),
        ContainerState::Running { started_at } => (Some(*started_at), None),
        ContainerState::Exited { started_at, exit } => (*started_at, Some(exit.clone())),
    };
    let time = |time: Option<Timestamp>| time.map_or(0, |time| time.0);
    wire::ContainerStatus {
        id: view.id.to_string(),
        metadata: Some(container_metadata(view)),
        state: container_state(view.state.phase()).into(),
        created_at: view.created_at.0,
        started_at: time(started_at),
        finished_at: exit.as_ref().map_or(0, |exit| exit.finished_at.0),
        exit_code: exit.as_ref().map_or(0, |exit| exit.code),
        image: Some(named_image(view)),
        image_ref: view.image_id.to_string(),
        reason: exit.as_ref().map(|exit| exit.reason.clone()).unwrap_or_default(),
        message: exit.map(|exit| exit.message).unwrap_or_default(),
        mounts: mounts(view),
        log_path: view
            .log
            .as_ref()
            .map(|log| log.display().to_string())
            .unwrap_or_default(),
        resources: Some(wire::ContainerResources {
            linux: Some(resources(&view.resources)),
            windows: None,
        }),
        user: Some(user(&view.user)),
        stop_signal: stop_signal(view.stop_signal),
        labels: strings(&view.config.labels),
        annotations: strings(&view.config.annotations),
        image_id: view.image_id.0.clone(),
    }
}

fn container_metadata(facts: &ContainerFacts) -> wire::ContainerMetadata {
    wire::ContainerMetadata {
        name: facts.config.metadata.name.clone(),
        attempt: facts.config.metadata.attempt,
    }
}

fn image_spec(facts: &ContainerFacts) -> wire::ImageSpec {
    wire::ImageSpec {
        image: facts.config.image.clone(),
        user_specified_image: facts.config.user_specified_image.clone(),
        ..Default::default()
    }
}

/// The kubelet asks with an id, and shows the answer to whoever looks at the pod: the name, when it told us one.
fn named_image(facts: &ContainerFacts) -> wire::ImageSpec {
    let mut spec = image_spec(facts);
    if !spec.user_specified_image.is_empty() {
        spec.image.clone_from(&spec.user_specified_image);
    }
    spec
}

fn container_state(phase: ContainerPhase) -> wire::ContainerState {
    match phase {
        ContainerPhase::Created => wire::ContainerState::ContainerCreated,
        ContainerPhase::Running => wire::ContainerState::ContainerRunning,
        ContainerPhase::Exited => wire::ContainerState::ContainerExited,
    }
}

fn mounts(view: &ContainerView) -> Vec<wire::Mount> {
    let mut images = view.volume_images.iter();
    let all = view.config.mounts.iter();
    all.map(|each| mount(each, each.image().and_then(|_| images.next())))
        .collect()
}

/// `image` is the id of the image that the mount shows, if it shows one.
fn mount(mount: &Mount, image: Option<&ImageId>) -> wire::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => wire::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => wire::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => wire::MountPropagation::PropagationBidirectional,
    };
    wire::Mount {
        container_path: mount.container_path.display().to_string(),
        host_path: mount
            .host_path()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        image: mount.image().map(|shown| wire::ImageSpec {
            image: shown.image.clone(),
            user_specified_image: shown.user_specified_image.clone(),
            image_ref: image.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        }),
        image_sub_path: mount
            .image()
            .map(|shown| shown.sub_path.display().to_string())
            .unwrap_or_default(),
        readonly: mount.access != Access::ReadWrite,
        recursive_read_only: mount.access == Access::RecursiveReadOnly,
        propagation: propagation.into(),
        mount_options: mount.options.clone(),
        ..Default::default()
    }
}

fn resources(resources: &Resources) -> wire::LinuxContainerResources {
    let signed = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or_default();
    wire::LinuxContainerResources {
        cpu_period: signed(resources.cpu_period_us),
        cpu_quota: resources.cpu_quota_us.unwrap_or_default(),
        cpu_shares: signed(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit_bytes.unwrap_or_default(),
        oom_score_adj: resources.oom_score_adj.unwrap_or_default().into(),
        cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: resources.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| wire::HugepageLimit {
                page_size: page_size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: resources.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes.unwrap_or_default(),
    }
}

fn user(user: &User) -> wire::ContainerUser {
    wire::ContainerUser {
        linux: Some(wire::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.iter().map(|gid| i64::from(*gid)).collect(),
        }),
    }
}

/// The wire's name of a signal number; several names of one number are told apart by the first.
fn stop_signal(number: i32) -> i32 {
    let mut all = (1..).map_while(|value| wire::Signal::try_from(value).ok());
    let named = all.find(|named| signal_number(*named) == Some(number));
    named.unwrap_or(wire::Signal::RuntimeDefault).into()
}

pub fn image(view: ImageView) -> wire::Image {
    let user = view.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    wire::Image {
        id: view.id.0,
        repo_tags: view.repo_tags,
        repo_digests: view.repo_digests,
        size: view.size_bytes,
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid: uid.map(|value| wire::Int64Value { value }),
        spec: Some(wire::ImageSpec {
            annotations: view
                .artifact
                .map(|kind| (ARTIFACT_TYPE.to_owned(), kind))
                .into_iter()
                .collect(),
            ..Default::default()
        }),
        pinned: view.pinned,
    }
}

/// The annotation of what is no image.
const ARTIFACT_TYPE: &str = "io.inro.artifact-type";

/// Why the policy let an image in.
pub fn image_info(verdicts: Vec<Verdict>) -> HashMap<String, String> {
    let info = serde_json::json!({ "trust": verdicts });
    HashMap::from([("info".to_owned(), info.to_string())])
}

pub fn fs_usage(usage: FsUsage) -> wire::FilesystemUsage {
    wire::FilesystemUsage {
        timestamp: usage.at.0,
        fs_id: Some(wire::FilesystemIdentifier {
            mountpoint: usage.path.display().to_string(),
        }),
        used_bytes: Some(wire::UInt64Value {
            value: usage.used_bytes,
        }),
        inodes_used: Some(wire::UInt64Value { value: usage.inodes }),
    }
}

/// The verbose part of a container's status, as `crictl inspect` shows it.
pub fn container_info(view: &ContainerView, stages: &ContainerStages) -> HashMap<String, String> {
    let info = serde_json::json!({
        "sandboxID": view.sandbox,
        "pid": view.pid.unwrap_or(0),
        "config": &*view.config,
        "user": view.user,
        "apparmor": view.apparmor,
        "stagesMs": milliseconds(&stages.create),
        "startStagesMs": milliseconds(&stages.start),
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// The verbose part of the runtime's status. `stateDir` is where clients look for the file system that root file systems
/// are on.
pub fn runtime_info(root: &Path, apparmor: &str) -> HashMap<String, String> {
    let config = serde_json::json!({ "rootDir": root, "stateDir": root.join("snapshots") });
    HashMap::from([
        ("images".to_owned(), root.display().to_string()),
        ("config".to_owned(), config.to_string()),
        ("apparmor".to_owned(), apparmor.to_owned()),
    ])
}

/// The verbose part of a sandbox's status.
pub fn sandbox_info(view: &SandboxView, stages: &Stages) -> HashMap<String, String> {
    let info = serde_json::json!({ "config": &*view.config, "ips": view.ips, "stagesMs": milliseconds(stages) });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// Each stage with its time, in the order of the stages.
fn milliseconds(stages: &Stages) -> Vec<(&str, f64)> {
    let rounded = |time: &std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    stages
        .iter()
        .map(|(name, time)| (name.as_str(), rounded(time)))
        .collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn signals_survive_the_way_there_and_back() {
        for (number, name) in [
            (15, "SIGTERM"),
            (3, "SIGQUIT"),
            (9, "SIGKILL"),
            (34, "SIGRTMIN"),
            (64, "SIGRTMAX"),
        ] {
            let rendered = wire::Signal::try_from(stop_signal(number)).unwrap();
            assert!(rendered.as_str_name().ends_with(name), "{number}: {rendered:?}");
        }
    }
}
