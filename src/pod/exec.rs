//! A further process in a running container: with its output at its end (ExecSync), or with streams (Exec).

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{
    io::{AsyncReadExt, Interest},
    net::unix::pipe,
    sync::watch,
};

use super::{
    Control, Input, Output, PodError, Pods, Session, Streams,
    create::filter_of,
    index::Container,
    pins::io_error,
    session::{Closing, Terminal, UntilExit},
    tickets::{check_command, running},
};
use crate::{
    model::ContainerId,
    sys::reactor,
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
        check_command(&command)?;
        let (out_from, out_to) = stream(&container)?;
        let (err_from, err_to) = stream(&container)?;
        let exec = {
            let stdio = ExecStdio::Pipes {
                stdin: None,
                stdout: Some(out_to),
                stderr: Some(err_to),
            };
            let request = self.request(&container, command, stdio)?;
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

    /// Runs a command in a container, with streams, as it was promised. What was not asked for is `/dev/null`. Source: CRI Exec.
    ///
    /// # Errors
    /// [`PodError::NoContainer`]; [`PodError::WrongState`] when it does not run any more; [`PodError::Zygote`] naming the program that cannot be executed.
    pub async fn exec(&self, id: &ContainerId, command: Vec<String>, streams: Streams) -> Result<Session, PodError> {
        let container = self.inner.index.container(id.as_str())?;
        if streams.tty {
            self.exec_in_terminal(&container, command, streams).await
        } else {
            self.exec_with_pipes(&container, command, streams).await
        }
    }

    async fn exec_with_pipes(
        &self,
        container: &Container,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<Session, PodError> {
        let failed = |error| io_error("make a pipe for", container.folder.path(), error);
        let pipe = |wanted: bool| wanted.then(|| stream(container)).transpose();
        let (stdin, stdout, stderr) = (pipe(streams.stdin)?, pipe(streams.stdout)?, pipe(streams.stderr)?);
        let (stdin, input) = stdin.unzip();
        let (output, stdout) = stdout.unzip();
        let (errors, stderr) = stderr.unzip();
        let request = self.request(container, command, ExecStdio::Pipes { stdin, stdout, stderr })?;
        let (control, code) = Control::of_exec(self.inner.with.zygote.exec(request).await?, None);
        let receive = |from: Option<OwnedFd>| -> Result<Option<Output>, PodError> {
            let Some(from) = from else { return Ok(None) };
            let from = pipe::Receiver::from_owned_fd(from).map_err(failed)?;
            Ok(Some(Box::new(UntilExit::new(from, code.clone()))))
        };
        let input = input.map(pipe::Sender::from_owned_fd).transpose().map_err(failed)?;
        Ok(Session {
            stdin: input.map(|pipe| Box::new(Closing(Some(pipe))) as Input),
            stdout: receive(output)?,
            stderr: receive(errors)?,
            control,
        })
    }

    async fn exec_in_terminal(
        &self,
        container: &Container,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<Session, PodError> {
        let failed = |error| io_error("make a terminal for", container.folder.path(), error);
        // Without a size until the client says its own, as with both peers.
        let size = ExecStdio::Terminal { columns: 0, rows: 0 };
        let mut request = self.request(container, command, size)?;
        let env = &mut request.process.env;
        if !env.iter().any(|variable| variable.starts_with("TERM=")) {
            env.push("TERM=xterm".into());
        }
        let mut exec = self.inner.with.zygote.exec(request).await?;
        let master = exec
            .terminal
            .take()
            .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        rustix::io::ioctl_fionbio(&master, true).map_err(|errno| failed(errno.into()))?;
        let master = reactor::watch(master, Interest::READABLE | Interest::WRITABLE).map_err(failed)?;
        let terminal = Terminal(Arc::new(master));
        let (control, code) = Control::of_exec(exec, Some(terminal.0.clone()));
        let mut output = UntilExit::new(terminal.clone(), code);
        if !streams.stdout {
            // Somebody must read what it prints, or it would stop.
            tokio::spawn(async move { tokio::io::copy(&mut output, &mut tokio::io::sink()).await });
            return Ok(Session {
                stdin: streams.stdin.then(|| Box::new(terminal) as Input),
                stdout: None,
                stderr: None,
                control,
            });
        }
        Ok(Session {
            stdin: streams.stdin.then(|| Box::new(terminal) as Input),
            stdout: Some(Box::new(output)),
            stderr: None,
            control,
        })
    }

    fn request(&self, container: &Container, command: Vec<String>, stdio: ExecStdio) -> Result<ExecRequest, PodError> {
        running(container)?;
        let (plan, spec) = (&container.plan, &container.spec);
        let ended = || PodError::WrongState {
            id: plan.id.clone(),
            state: "exited",
            needed: "running",
        };
        // The shim holds init unreaped while this says `Running`; if it has just ended, joining it fails.
        let target = Pid::from_raw(spec.init.cast_signed()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(ExecRequest {
            init_pid: spec.init,
            init_pidfd: target.ok_or_else(ended)?,
            process: ExecProcess {
                args: command,
                env: spec.env.clone(),
                cwd: spec.cwd.clone(),
                uid: spec.user.uid,
                gid: spec.user.gid,
                groups: spec.user.groups.clone(),
                capabilities: spec.capabilities,
                no_new_privs: plan.config.security.no_new_privs,
                apparmor: spec.apparmor.clone(),
            },
            seccomp: filter_of(plan, spec)?,
            cgroup: self.inner.cgroup_join(&plan.cgroup, None)?,
            stdio,
            owner: spec.owner,
        })
    }
}

/// A pipe: its read end, its write end.
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
