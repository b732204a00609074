//! Running a program to its end: what it reads is given, how long it may take and how much it may say is bounded.

use std::{
    fmt,
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
    process::{Pid, Signal, kill_process_group},
};

/// A program and all that it is given.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    pub path: &'a Path,
    /// With argument zero; empty: the path alone.
    pub args: &'a [String],
    /// `NAME=value`, the whole environment.
    pub env: &'a [String],
    pub cwd: &'a Path,
    /// Its standard input. What it prints to its standard output is lost.
    pub input: &'a [u8],
    pub limit: Duration,
}

/// Why a program did not do what it was run for.
#[derive(Debug)]
pub enum Unfinished {
    NotRun(io::Error),
    /// What it said on its standard error, the end of it when that was long.
    Failed {
        status: ExitStatus,
        said: String,
    },
    TimedOut {
        limit: Duration,
        said: String,
    },
}

/// Runs it and waits for its end. It is killed, and what it started in its process group with it, when it takes longer
/// than its limit; the kernel kills it when the calling thread dies.
///
/// # Errors
/// [`Unfinished`], unless it exits with 0.
pub fn run(program: &Program<'_>) -> Result<(), Unfinished> {
    let mut child = spawn(program).map_err(Unfinished::NotRun)?;
    let mut said = Vec::new();
    let ended = watch(&mut child, program, &mut said);
    if !matches!(ended, Ok(Some(_))) {
        kill_group(&child);
        let _ = child.wait();
    }
    let said = || String::from_utf8_lossy(&said).trim().to_owned();
    match ended {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(Unfinished::Failed { status, said: said() }),
        Ok(None) => Err(Unfinished::TimedOut {
            limit: program.limit,
            said: said(),
        }),
        Err(error) => Err(Unfinished::NotRun(error)),
    }
}

fn spawn(program: &Program<'_>) -> io::Result<Child> {
    let mut command = Command::new(program.path);
    if let Some((zero, args)) = program.args.split_first() {
        command.arg0(zero).args(args);
    }
    command
        .env_clear()
        .envs(program.env.iter().filter_map(|variable| variable.split_once('=')))
        .current_dir(program.cwd)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let parent = rustix::process::getpid();
    let die_with_parent = move || {
        let signal = libc::c_ulong::from(libc::SIGKILL.unsigned_abs());
        // SAFETY: two system calls on plain numbers; the closure allocates nothing. A filter may refuse the first: then
        // only the limit ends the program.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
        match rustix::process::getppid() == Some(parent) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: the closure makes async-signal-safe calls only, and touches nothing that another thread may hold.
    unsafe { command.pre_exec(die_with_parent) };
    command.spawn()
}

/// Feeds the program and listens to it; its status, or `None` when its time is over.
fn watch(child: &mut Child, program: &Program<'_>, said: &mut Vec<u8>) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + program.limit;
    let (mut stdin, mut stderr) = (child.stdin.take(), child.stderr.take());
    if let Some(pipe) = &stdin {
        ioctl_fionbio(pipe, true)?;
    }
    if let Some(pipe) = &stderr {
        ioctl_fionbio(pipe, true)?;
    }
    let mut left = program.input;
    loop {
        if let Some(pipe) = &mut stdin
            && !feed(pipe, &mut left)?
        {
            stdin = None;
        }
        if let Some(pipe) = &mut stderr
            && !listen(pipe, said)?
        {
            stderr = None;
        }
        if let Some(status) = child.try_wait()? {
            // Its last words may have come after the look above.
            if let Some(pipe) = &mut stderr {
                listen(pipe, said)?;
            }
            return Ok(Some(status));
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(None);
        }
        // The end of its standard error tells of its end at once; whoever holds that open is looked at again now and then.
        let tick = if stderr.is_some() { TICK } else { SHORT_TICK };
        let wait = tick.min(deadline - now);
        let wait = Timespec {
            tv_sec: wait.as_secs().cast_signed(),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(2);
        fds.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        fds.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let _ = poll(&mut fds, Some(&wait));
    }
}

/// Writes what the pipe takes; whether more is to come. A program may end without having read everything.
fn feed(pipe: &mut impl Write, left: &mut &[u8]) -> io::Result<bool> {
    while !left.is_empty() {
        match pipe.write(left) {
            Ok(count) => *left = &left[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Reads what there is, and keeps the end of it; whether more may come.
fn listen(pipe: &mut impl Read, said: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                said.extend_from_slice(&buffer[..count]);
                let over = said.len().saturating_sub(MOST_SAID);
                said.drain(..over);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn kill_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match self {
            Self::NotRun(error) => return write!(f, "cannot be run: {error}"),
            Self::Failed { status, said } => {
                match (status.code(), status.signal()) {
                    (Some(code), _) => write!(f, "exited with {code}")?,
                    (None, signal) => write!(f, "was killed by signal {}", signal.unwrap_or_default())?,
                }
                said
            }
            Self::TimedOut { limit, said } => {
                write!(f, "did not end within {limit:?}")?;
                said
            }
        };
        if said.is_empty() {
            return Ok(());
        }
        write!(f, ": {said}")
    }
}

/// Bytes of what a program said that are kept.
const MOST_SAID: usize = 2048;
const TICK: Duration = Duration::from_millis(20);
const SHORT_TICK: Duration = Duration::from_millis(1);

#[cfg(test)]
mod test {
    use super::*;

    fn sh(script: &str, limit_ms: u64) -> Result<(), Unfinished> {
        let args = ["sh".to_owned(), "-c".into(), script.into()];
        run(&Program {
            path: Path::new("/bin/sh"),
            args: &args,
            env: &["GREETING=hello".to_owned()],
            cwd: Path::new("/proc"),
            input: b"what it reads",
            limit: Duration::from_millis(limit_ms),
        })
    }

    #[test]
    fn a_program_gets_what_it_is_given_and_nothing_else() {
        let script = r#"test "$(cat)" = "what it reads" && test "$PWD $GREETING $HOME" = "/proc hello ""#;
        sh(script, 10_000).unwrap();
        // It need not read what it gets.
        sh("exec <&-", 10_000).unwrap();
    }

    #[test]
    fn failures_tell_how_it_ended_and_what_it_said() {
        assert_eq!(
            sh("echo the cause >&2; exit 3", 10_000).unwrap_err().to_string(),
            "exited with 3: the cause"
        );
        assert_eq!(
            sh("kill -9 $$", 10_000).unwrap_err().to_string(),
            "was killed by signal 9"
        );
        let long = sh(
            "head -c 100000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1",
            10_000,
        );
        let text = long.unwrap_err().to_string();
        assert!(text.len() < 3000 && text.ends_with("xend"), "{}", text.len());
        let none = run(&Program {
            path: Path::new("/no/such"),
            args: &[],
            env: &[],
            cwd: Path::new("/"),
            input: b"",
            limit: Duration::from_secs(1),
        });
        assert!(none.unwrap_err().to_string().contains("cannot be run"));
    }

    #[test]
    fn one_that_takes_too_long_is_killed_with_all_it_started() {
        let begun = Instant::now();
        let error = sh("echo waiting >&2; sleep 100 & sleep 100", 300).unwrap_err();
        assert_eq!(error.to_string(), "did not end within 300ms: waiting");
        assert!(begun.elapsed() < Duration::from_secs(10));
        // One that leaves somebody behind has ended all the same.
        sh("sleep 3 & exit 0", 2_000).unwrap();
    }
}
