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
    /// Its standard input.
    pub input: &'a [u8],
    /// How many bytes it may print to its standard output; with 0 what it prints there is lost.
    pub most_output: usize,
    pub limit: Duration,
}

/// Why a program did not do what it was run for.
#[derive(Debug)]
pub enum Unfinished {
    NotRun(io::Error),
    /// With what it printed, and what it said on its standard error, the end of it when that was long.
    Failed {
        status: ExitStatus,
        output: Vec<u8>,
        said: String,
    },
    /// It printed more than it may.
    TooMuch {
        most: usize,
    },
    TimedOut {
        limit: Duration,
        said: String,
    },
}

/// Runs it and waits for its end; what it printed. It is killed, and what it started in its process group with it, when it
/// takes longer than its limit or prints more than it may; the kernel kills it when the calling thread dies.
///
/// # Errors
/// [`Unfinished`], unless it exits with 0.
pub fn run(program: &Program<'_>) -> Result<Vec<u8>, Unfinished> {
    let mut child = spawn(program).map_err(Unfinished::NotRun)?;
    let mut heard = Heard::default();
    let ended = watch(&mut child, program, &mut heard);
    if !matches!(ended, Ok(End::Exited(_))) {
        kill_group(&child);
        let _ = child.wait();
    }
    let Heard { output, said } = heard;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match ended {
        Ok(End::Exited(status)) if status.success() => Ok(output),
        Ok(End::Exited(status)) => Err(Unfinished::Failed { status, output, said }),
        Ok(End::TimedOut) => Err(Unfinished::TimedOut {
            limit: program.limit,
            said,
        }),
        Ok(End::TooMuch) => Err(Unfinished::TooMuch {
            most: program.most_output,
        }),
        Err(error) => Err(Unfinished::NotRun(error)),
    }
}

/// What a program has let be known so far.
#[derive(Default)]
struct Heard {
    output: Vec<u8>,
    said: Vec<u8>,
}

/// How the watch over it ended.
enum End {
    Exited(ExitStatus),
    TimedOut,
    TooMuch,
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
        .stdout(match program.most_output {
            0 => Stdio::null(),
            _ => Stdio::piped(),
        })
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

/// Feeds the program and listens to it.
fn watch(child: &mut Child, program: &Program<'_>, heard: &mut Heard) -> io::Result<End> {
    let deadline = Instant::now() + program.limit;
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    if let Some(pipe) = &stdin {
        ioctl_fionbio(pipe, true)?;
    }
    if let Some(pipe) = &stdout {
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
        // Whether it has ended, before the last look: what it printed until then is there.
        let ended = child.try_wait()?;
        if let Some(pipe) = &mut stderr
            && !listen(pipe, &mut heard.said, |said| {
                let over = said.len().saturating_sub(MOST_SAID);
                said.drain(..over);
                true
            })?
        {
            stderr = None;
        }
        if let Some(pipe) = &mut stdout
            && !listen(pipe, &mut heard.output, |output| output.len() <= program.most_output)?
        {
            stdout = None;
        }
        if heard.output.len() > program.most_output {
            return Ok(End::TooMuch);
        }
        if let Some(status) = ended {
            return Ok(End::Exited(status));
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(End::TimedOut);
        }
        // The end of its standard error tells of its end at once; whoever holds that open is looked at again now and then.
        let tick = if stderr.is_some() { TICK } else { SHORT_TICK };
        let wait = tick.min(deadline - now);
        let wait = Timespec {
            tv_sec: wait.as_secs().cast_signed(),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(3);
        fds.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        fds.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
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

/// Reads what there is, as long as it may `go_on`; whether more may come.
fn listen(pipe: &mut impl Read, heard: &mut Vec<u8>, go_on: impl Fn(&mut Vec<u8>) -> bool) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                heard.extend_from_slice(&buffer[..count]);
                if !go_on(heard) {
                    return Ok(false);
                }
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
            Self::TooMuch { most } => return write!(f, "printed more than {most} bytes"),
            Self::Failed { status, said, .. } => {
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

    fn sh(script: &str, limit_ms: u64) -> Result<Vec<u8>, Unfinished> {
        let args = ["sh".to_owned(), "-c".into(), script.into()];
        run(&Program {
            path: Path::new("/bin/sh"),
            args: &args,
            env: &["GREETING=hello".to_owned()],
            cwd: Path::new("/proc"),
            input: b"what it reads",
            most_output: 100,
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
            most_output: 0,
            limit: Duration::from_secs(1),
        });
        assert!(none.unwrap_err().to_string().contains("cannot be run"));
    }

    #[test]
    fn what_it_prints_is_answered_and_bounded() {
        assert_eq!(sh("echo one; sleep 0.1; echo two", 10_000).unwrap(), b"one\ntwo\n");
        let failed = sh("echo why; exit 1", 10_000).unwrap_err();
        assert!(
            matches!(&failed, Unfinished::Failed { output, .. } if output == b"why\n"),
            "{failed}"
        );
        let begun = Instant::now();
        let flood = sh("exec cat /dev/zero", 60_000).unwrap_err();
        assert_eq!(flood.to_string(), "printed more than 100 bytes");
        assert!(begun.elapsed() < Duration::from_secs(30));
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
