//! What can go wrong with a pod, in the words of the CRI.

use std::{path::PathBuf, sync::Arc};

use super::spool::Behind;
use crate::{
    cgroup::CgroupError,
    checkpoint::CheckpointError,
    image::ImageError,
    lockdown::LockdownError,
    model::{ContainerId, ErrorKind, SandboxId},
    net::NetError,
    resctrl::ResctrlError,
    shim::ShimError,
    spec::SpecError,
    store::StoreError,
    zygote::ZygoteError,
};

/// Why an operation on a sandbox or container failed.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error("no sandbox {0:?}")]
    NoSandbox(String),
    #[error("no container {0:?}")]
    NoContainer(String),
    #[error("{what} {id:?} is ambiguous: more than one id begins with it")]
    Ambiguous { what: &'static str, id: String },
    #[error("image {0:?} is not present")]
    NoImage(String),
    /// Asked for a user namespace on a node that cannot give one.
    #[error("config.linux.security_context.namespace_options.userns_options.mode: no user namespaces here: {0}")]
    NoUserNamespaces(String),
    #[error("sandbox {0} is not ready")]
    SandboxNotReady(SandboxId),
    #[error("a {what} with this metadata exists already: {id}")]
    Exists { what: &'static str, id: String },
    #[error("container {id} is {state}, not {needed}")]
    WrongState {
        id: ContainerId,
        state: &'static str,
        needed: &'static str,
    },
    #[error("runtime_handler: no runtime handler {0:?}")]
    NoHandler(String),
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    /// A program that a device wants run.
    #[error("config.CDI_devices: {hook} {why}")]
    Hook { hook: String, why: String },
    /// The kubelet knows it by its first word. Source: k8s.io/cri-api, `pkg/errors`.
    #[error("ImageVolumeMountFailed: {why}")]
    ImageVolume { kind: ErrorKind, why: String },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// The first word is the kubelet's (cri-api `ErrRROUnsupported`).
    #[error("RROUnsupported: make {} recursively read-only", path.display())]
    RecursiveReadOnly { path: PathBuf, source: std::io::Error },
    #[error("container {0} did not die within the time allowed")]
    Unkillable(ContainerId),
    #[error("the command did not end within {0:?} and was killed")]
    ExecTimeout(std::time::Duration),
    #[error("{0} streaming calls wait for their clients already")]
    TooManyStreams(usize),
    #[error("the client read too slowly for what the container prints and was detached")]
    TooSlow(#[source] Arc<Behind>),
    #[error("nothing answers on port {port} in the pod: 127.0.0.1: {v4}; ::1: {v6}")]
    NoListener {
        port: u16,
        v4: std::io::Error,
        v6: std::io::Error,
    },
    #[error("{count} events were missed: the client reads too slowly; list, and listen again")]
    Missed { count: u64 },
    #[error("the thread that reads what pods use has ended")]
    NoMeter,
    #[error("the daemon's task ended early")]
    Task(#[from] tokio::task::JoinError),
    #[error("record")]
    Store(#[from] StoreError),
    #[error("cgroup")]
    Cgroup(#[from] CgroupError),
    #[error("checkpoint")]
    Checkpoint(#[from] CheckpointError),
    #[error("image")]
    Image(#[from] ImageError),
    /// An image that the policy does not let run; the kubelet knows that by the first word, so nothing is before it.
    #[error(transparent)]
    Untrusted(ImageError),
    #[error("lockdown")]
    Lockdown(#[from] LockdownError),
    #[error("network")]
    Net(#[from] NetError),
    #[error(transparent)]
    Resctrl(#[from] ResctrlError),
    #[error("shim")]
    Shim(#[from] ShimError),
    #[error("spec")]
    Spec(#[from] SpecError),
    #[error("zygote")]
    Zygote(#[from] ZygoteError),
    /// The failure of a call that this one joined.
    #[error(transparent)]
    Joined(std::sync::Arc<PodError>),
}

impl PodError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSandbox(_) | Self::NoContainer(_) | Self::NoImage(_) | Self::NoHandler(_) => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::AlreadyExists,
            Self::NoUserNamespaces(_) | Self::Hook { .. } => ErrorKind::FailedPrecondition,
            Self::SandboxNotReady(_) | Self::WrongState { .. } => ErrorKind::FailedPrecondition,
            Self::Ambiguous { .. } | Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::ImageVolume { kind, .. } => *kind,
            Self::TooManyStreams(_) | Self::TooSlow(_) => ErrorKind::ResourceExhausted,
            Self::NoListener { .. } => ErrorKind::Unavailable,
            Self::ExecTimeout(_) | Self::Unkillable(_) => ErrorKind::DeadlineExceeded,
            Self::Missed { .. } => ErrorKind::ResourceExhausted,
            Self::RecursiveReadOnly { .. } => ErrorKind::Named,
            Self::Io { .. } | Self::NoMeter | Self::Task(_) | Self::Store(_) => ErrorKind::Internal,
            Self::Cgroup(e) => e.kind(),
            Self::Checkpoint(e) => e.kind(),
            Self::Image(e) | Self::Untrusted(e) => e.kind(),
            Self::Lockdown(e) => e.kind(),
            Self::Net(e) => e.kind(),
            Self::Resctrl(e) => e.kind(),
            Self::Shim(e) => e.kind(),
            Self::Spec(e) => e.kind(),
            Self::Zygote(e) => e.kind(),
            Self::Joined(e) => e.kind(),
        }
    }
}
