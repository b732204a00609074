//! ExecSync: a further process in a running container, its output and its exit code.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::watch};

use super::{PodError, Pods, create::filter_of, index::Container, pins::io_error};
use crate::{
    model::ContainerState,
    zygote::{ExecProcess, ExecRequest, ExecStdio},
};

/// Most bytes kept of each stream; the rest is read and dropped, as both peers do.
const MOST: usize = 16 << 20;
/// How long the streams may stay open after the process's end: something in the background may hold them.
const DRAIN: Duration = Duration::from_secs(2);

/// What an exec left.
#[derive(Debug)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

impl Pods {
    /// Runs a command in a container. A `timeout` kills the command and all that came of it. Source: CRI ExecSync.
    ///
    /// # Errors
    /// [`PodError::NoContainer`]; [`PodError::WrongState`] when it does not run; [`PodError::ExecTimeout`];
    /// [`PodError::Zygote`] naming the program that cannot be executed.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, PodError> {
        let container = self.inner.index.container(id)?;
        if command.first().is_none_or(String::is_empty) {
            return Err(PodError::Invalid {
                field: "cmd",
                why: "no command".into(),
            });
        }
        let (out_from, out_to) = stream(&container)?;
        let (err_from, err_to) = stream(&container)?;
        let exec = {
            let request = self.request(&container, command, out_to, err_to)?;
            self.inner.with.zygote.exec(request).await?
        };
        let (ended, end) = watch::channel(false);
        let outputs = tokio::spawn(async move { tokio::join!(collect(out_from, end.clone()), collect(err_from, end)) });
        let exit_code = match timeout {
            None => exec.wait().await?,
            Some(timeout) => match exec.wait_for(timeout).await? {
                Some(code) => code,
                None => {
                    exec.kill_all();
                    exec.wait().await?;
                    return Err(PodError::ExecTimeout(timeout));
                }
            },
        };
        // It fails when both streams have ended already.
        let _ = ended.send(true);
        let (stdout, stderr) = outputs.await?;
        Ok(ExecOutput {
            stdout,
            stderr,
            exit_code,
        })
    }

    fn request(
        &self,
        container: &Container,
        command: Vec<String>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> Result<ExecRequest, PodError> {
        let (plan, spec) = (&container.plan, &container.spec);
        let wrong = |state| PodError::WrongState {
            id: plan.id.clone(),
            state,
            needed: "running",
        };
        match &*container.state.borrow() {
            ContainerState::Running { .. } => {}
            ContainerState::Created => return Err(wrong("created")),
            ContainerState::Exited { .. } => return Err(wrong("exited")),
        }
        // The shim holds init unreaped while this says `Running`; if it has just ended, joining it fails.
        let target = Pid::from_raw(spec.init.cast_signed()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(ExecRequest {
            init_pid: spec.init,
            init_pidfd: target.ok_or_else(|| wrong("exited"))?,
            process: ExecProcess {
                args: command,
                env: spec.env.clone(),
                cwd: spec.cwd.clone(),
                uid: spec.user.uid,
                gid: spec.user.gid,
                groups: spec.user.groups.clone(),
                capabilities: spec.capabilities,
                no_new_privs: plan.config.security.no_new_privs,
                apparmor: None,
            },
            seccomp: filter_of(plan, spec)?,
            cgroup: self.inner.cgroup_join(&plan.cgroup)?,
            stdio: ExecStdio::Pipes {
                stdin: None,
                stdout: Some(stdout),
                stderr: Some(stderr),
            },
            owner: spec.owner,
        })
    }
}

fn stream(container: &Container) -> Result<(OwnedFd, OwnedFd), PodError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| io_error("make a pipe for", container.folder.path(), errno.into()))
}

/// Reads a stream to its end, or until [`DRAIN`] after the process has `ended`; keeps at most [`MOST`] bytes.
async fn collect(from: OwnedFd, mut ended: watch::Receiver<bool>) -> Vec<u8> {
    let mut kept = Vec::new();
    let drained = async {
        // A dropped sender is an exec that failed: nobody waits for its output.
        let _ = ended.wait_for(|ended| *ended).await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = read_to(&mut kept, from) => if let Err(error) = result {
            tracing::debug!(%error, "an exec's stream broke off");
        },
        () = drained => {}
    }
    kept
}

async fn read_to(kept: &mut Vec<u8>, from: OwnedFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&from, true)?;
    let mut from = pipe::Receiver::from_owned_fd(from)?;
    let mut piece = vec![0u8; 32 * 1024];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        kept.extend_from_slice(&piece[..count.min(MOST - kept.len())]);
    }
}
