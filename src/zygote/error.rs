//! What can go wrong between a request and a running process.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

use crate::model::ErrorKind;

/// Why a request to the zygote failed.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    #[error("start the zygote: {step}")]
    Launch { step: &'static str, source: io::Error },
    #[error("send a request to the zygote")]
    Send(#[source] io::Error),
    #[error("receive the zygote's answer")]
    Receive(#[source] io::Error),
    #[error("a request with {0} descriptors: at most {max} are possible", max = super::protocol::MAX_FDS)]
    TooManyDescriptors(usize),
    /// The process that worked on the request died without an answer.
    #[error("the process working on the request died before it answered")]
    Lost,
    #[error("answer of the zygote not understood")]
    Protocol,
    #[error(transparent)]
    Failed(Failure),
    #[error("already started, or its first process is gone")]
    NotWaiting,
    #[error("start a container: {step}")]
    Start { step: &'static str, source: io::Error },
}

impl ZygoteError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Launch { .. } | Self::Send(_) | Self::Receive(_) | Self::Lost => ErrorKind::Unavailable,
            Self::TooManyDescriptors(_) => ErrorKind::InvalidArgument,
            Self::Protocol | Self::Start { .. } => ErrorKind::Internal,
            Self::NotWaiting => ErrorKind::FailedPrecondition,
            Self::Failed(failure) => match failure.stage {
                Stage::Executable | Stage::Sysctl | Stage::WorkingDirectory => ErrorKind::InvalidArgument,
                Stage::Gone | Stage::Hook => ErrorKind::FailedPrecondition,
                _ => ErrorKind::Internal,
            },
        }
    }
}

/// What a worker of the zygote reports: which step, what it said and the errno when there was one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub stage: Stage,
    pub message: String,
    pub errno: Option<i32>,
}

/// The step of a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Reading the request itself.
    Request,
    Fork,
    Sockets,
    Cgroup,
    Mounts,
    Namespaces,
    Sysctl,
    OomScore,
    /// libcontainer's part of a create.
    Build,
    /// The process to execute does not exist or cannot be executed.
    Executable,
    WorkingDirectory,
    Terminal,
    Identity,
    Confine,
    Shim,
    /// The container to join is no longer there.
    Gone,
    /// A program that one of its devices wants run.
    Hook,
}

impl Failure {
    /// A failure with its errno taken from `error`.
    pub(super) fn new(stage: Stage, what: impl fmt::Display, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let errno = error.raw_os_error();
        let message = match errno {
            Some(errno) => format!("{what}: {}", describe(errno)),
            None => format!("{what}: {error}"),
        };
        Self { stage, message, errno }
    }

    /// A failure without an errno.
    pub(super) fn said(stage: Stage, message: impl Into<String>) -> Self {
        Self {
            stage,
            message: message.into(),
            errno: None,
        }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Request => "read the request",
            Stage::Fork => "fork",
            Stage::Sockets => "make sockets and pipes",
            Stage::Cgroup => "join the cgroup",
            Stage::Mounts => "attach mounts",
            Stage::Namespaces => "enter namespaces",
            Stage::Sysctl => "set a sysctl",
            Stage::OomScore => "set oom_score_adj",
            Stage::Build => "build the container",
            Stage::Executable => "execute",
            Stage::WorkingDirectory => "change to the working directory",
            Stage::Terminal => "set up the terminal",
            Stage::Identity => "set user and groups",
            Stage::Confine => "confine the process",
            Stage::Shim => "start the shim",
            Stage::Gone => "join the container",
            Stage::Hook => "config.CDI_devices",
        };
        write!(f, "{stage}: {}", self.message)
    }
}

/// The errno in the text of a foreign error: `(os error 2)` of std, or a leading `ENOENT: ` of nix.
pub(super) fn errno_in(text: &str) -> Option<i32> {
    if let Some((_, rest)) = text.rsplit_once("os error ") {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(errno) = digits.parse() {
            return Some(errno);
        }
    }
    NAMES
        .iter()
        .find(|(name, _)| text.contains(&format!("{name}:")) || text.contains(&format!("({name})")))
        .map(|&(_, errno)| errno)
}

/// The words of an errno as the container world spells them.
fn describe(errno: i32) -> String {
    match errno {
        libc::ENOENT => "no such file or directory".into(),
        libc::EACCES => "permission denied".into(),
        libc::EPERM => "operation not permitted".into(),
        libc::ENOEXEC => "exec format error".into(),
        libc::ENOTDIR => "not a directory".into(),
        _ => io::Error::from_raw_os_error(errno).to_string(),
    }
}

const NAMES: &[(&str, i32)] = &[
    ("ENOENT", libc::ENOENT),
    ("EACCES", libc::EACCES),
    ("EPERM", libc::EPERM),
    ("ENOTDIR", libc::ENOTDIR),
    ("EISDIR", libc::EISDIR),
    ("EINVAL", libc::EINVAL),
    ("ENOSPC", libc::ENOSPC),
    ("EBUSY", libc::EBUSY),
    ("ENOMEM", libc::ENOMEM),
    ("EROFS", libc::EROFS),
    ("ELOOP", libc::ELOOP),
    ("EEXIST", libc::EEXIST),
    ("ESRCH", libc::ESRCH),
    ("ENODEV", libc::ENODEV),
    ("ENXIO", libc::ENXIO),
    ("ENAMETOOLONG", libc::ENAMETOOLONG),
    ("ENOEXEC", libc::ENOEXEC),
    ("EXDEV", libc::EXDEV),
    ("EBADF", libc::EBADF),
];

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn errno_is_found_in_foreign_texts() {
        for (text, errno) in [
            ("failed to mount: No such file or directory (os error 2)", Some(2)),
            ("failed syscall: EACCES: Permission denied", Some(13)),
            ("no number here", None),
        ] {
            assert_eq!(errno_in(text), errno, "{text}");
        }
    }
}
