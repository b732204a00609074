//! The real daemon as a child process, killed and started again as a test likes.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Netns, eventually};

/// `inro serve` with its folders under one scratch folder.
pub struct Daemon {
    child: Child,
    dir: PathBuf,
    netns: Option<Netns>,
}

/// The binary under test: what `tests/run` built, or what cargo built for this test.
pub fn inro() -> PathBuf {
    std::env::var_os("INRO_BIN").map_or_else(|| env!("CARGO_BIN_EXE_inro").into(), PathBuf::from)
}

impl Daemon {
    /// Starts a daemon with `dir/config.toml` and waits until it accepts connections.
    pub fn start(dir: &Path) -> Daemon {
        Daemon::start_in(None, dir)
    }

    /// The same in a network namespace, in which all that come after it are too.
    pub fn start_in(netns: Option<Netns>, dir: &Path) -> Daemon {
        let mut daemon = Daemon {
            child: spawn(netns.as_ref(), dir),
            dir: dir.into(),
            netns,
        };
        daemon.wait_ready();
        daemon
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("inro.sock")
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and nothing is waited for but the death itself.
    pub fn kill9(&mut self) {
        self.child.kill().expect("kill the daemon");
        self.child.wait().expect("reap the daemon");
    }

    /// SIGTERM, and the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        if self.is_running() {
            signal(self.pid(), Signal::TERM);
        }
        eventually("the daemon ends after SIGTERM", Duration::from_secs(10), || {
            self.child.try_wait().ok().flatten()
        })
    }

    /// Starts it again after its end; the time until it accepted a connection.
    pub fn restart(&mut self) -> Duration {
        let start = Instant::now();
        self.begin();
        self.wait_ready();
        start.elapsed()
    }

    /// Starts it again and does not wait.
    pub fn begin(&mut self) {
        self.child = spawn(self.netns.as_ref(), &self.dir);
    }

    /// Starts it again, before whose first instruction there is a [`Daemon::release`].
    pub fn begin_held(&mut self) {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r go; exec \"$0\" \"$@\" </dev/null"]);
        command.arg(inro()).stdin(Stdio::piped());
        self.child = spawn_as(command, self.netns.as_ref(), &self.dir);
    }

    pub fn release(&mut self) {
        let go = self.child.stdin.as_mut().expect("a daemon that is held");
        go.write_all(b"go\n").expect("a daemon that is held");
    }

    fn wait_ready(&mut self) {
        let socket = self.socket();
        eventually("the daemon accepts connections", Duration::from_secs(10), || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the daemon ended with {status}:\n{}", self.log_tail());
            }
            UnixStream::connect(&socket).ok()
        });
    }

    /// The last part of what it logged, over all restarts.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.join("inro.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A second call on a child already reaped is harmless.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(netns: Option<&Netns>, dir: &Path) -> Child {
    let mut command = Command::new(inro());
    command.stdin(Stdio::null());
    spawn_as(command, netns, dir)
}

fn spawn_as(mut command: Command, netns: Option<&Netns>, dir: &Path) -> Child {
    let log = File::options()
        .append(true)
        .create(true)
        .open(dir.join("inro.log"))
        .expect("inro.log");
    command
        .arg("serve")
        .args([Path::new("--config"), &dir.join("config.toml")])
        .args([Path::new("--root"), &dir.join("root")])
        .args([Path::new("--state"), &dir.join("state")])
        .args(["--listen", &format!("unix://{}/inro.sock", dir.display())])
        .stdout(log.try_clone().expect("log"))
        .stderr(log);
    // A child is where the thread is that makes it.
    let child = match netns {
        Some(netns) => netns.within(|| command.spawn()),
        None => command.spawn(),
    };
    child.unwrap_or_else(|error| panic!("{}: {error}", inro().display()))
}

/// Sends a signal to one process that this test started.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    // It may have ended meanwhile.
    let _ = kill_process(pid, signal);
}
