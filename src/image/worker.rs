//! The jailed child that unpacks one layer: how it is started, and what its answer means.

use std::{
    io,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
};

use super::{
    ImageError,
    content::Scratch,
    unpack::{Made, Refusal, Snapshotter, Unpacked},
};

/// Most bytes of an honest answer: opaque folders, each byte of their paths escaped.
pub const MOST_ANSWER: u64 = 8 << 20;

/// How workers are started: for all of them the same.
#[derive(Debug, Clone, Default)]
pub struct Workshop {
    /// Files of the cgroup that they are to be in: who writes `0` into one moves itself.
    pub joins: Vec<PathBuf>,
}

impl Workshop {
    /// A worker that unpacks what it is told by its stdin into a folder of `tmp`.
    pub fn worker(&self, scratch: &Scratch, tells: Tells) -> Command {
        let mut command = Command::new("/proc/self/exe");
        std::os::unix::process::CommandExt::arg0(&mut command, "inro-unpack");
        command.arg("unpack-worker").arg(scratch.unpacked());
        command.args(["auto", scratch.snapshotter.name()]);
        command.arg(match tells {
            Tells::Progress => "progress",
            Tells::Outcome => "outcome",
        });
        command
            .args(&self.joins)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }
}

/// What a worker says before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    /// Lines with the number of bytes that are unpacked, then the outcome.
    Progress,
    Outcome,
}

/// What came out of the layer `digest`, whose diff id has to be `diff_id` if somebody says so, by what its worker `told` before it ended.
///
/// # Errors
/// [`ImageError::Layer`], [`ImageError::Digest`]; [`ImageError::Io`] when the disk is full.
pub fn outcome(
    told: &str,
    status: ExitStatus,
    scratch: &Scratch,
    digest: &str,
    diff_id: Option<&str>,
) -> Result<Unpacked, ImageError> {
    let fail = |why: String| ImageError::Layer {
        digest: digest.to_owned(),
        why,
    };
    let outcome: Result<Unpacked, Refusal> =
        serde_json::from_str(told).map_err(|_| fail(format!("the unpack worker died: {status}")))?;
    let unpacked = outcome.map_err(|refusal| match refusal.errno {
        // The node's fault, not the layer's.
        Some(errno @ (libc::ENOSPC | libc::EDQUOT)) => ImageError::Io {
            action: "unpack a layer into",
            path: scratch.path.clone(),
            source: io::Error::from_raw_os_error(errno),
        },
        _ => fail(refusal.why),
    })?;
    let asked_for = match unpacked.made {
        Made::Folder { .. } => Snapshotter::Overlay,
        Made::Erofs { .. } => Snapshotter::Erofs,
    };
    if asked_for != scratch.snapshotter {
        return Err(fail("the unpack worker made something else".into()));
    }
    match diff_id {
        Some(expected) if expected != unpacked.diff_id => Err(ImageError::Digest {
            what: "an uncompressed layer",
            expected: expected.to_owned(),
            got: unpacked.diff_id,
        }),
        _ => Ok(unpacked),
    }
}
