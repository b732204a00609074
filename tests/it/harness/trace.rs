//! A process watched at its system calls, and killed before one of them.
//!
//! Source: ptrace(2). Every stop is the kernel's to make, so a kill is where it was asked for, whatever the machine is
//! doing.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::{CStr, OsStr},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::PathBuf,
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
};

use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use syscalls::Sysno;

/// A system call about to be done.
pub struct Call {
    pid: Pid,
    pub name: &'static str,
    arguments: Vec<u64>,
}

impl Call {
    /// What a stopped thread is about to do.
    fn of(pid: Pid, thread: Pid) -> Option<Call> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).ok()?;
        let mut words = text.split_whitespace();
        let number = Sysno::new(words.next()?.parse().ok()?)?;
        let arguments = words.filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        Some(Call {
            pid,
            name: number.name(),
            arguments: arguments.collect(),
        })
    }

    pub fn number(&self, at: usize) -> u64 {
        self.arguments[at]
    }

    /// The bytes that an argument points at.
    pub fn bytes(&self, at: usize, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let memory = File::open(format!("/proc/{}/mem", self.pid));
        let read = memory.and_then(|memory| memory.read_at(&mut bytes, self.number(at)));
        bytes.truncate(read.unwrap_or(0));
        bytes
    }

    /// The path that an argument points at.
    pub fn path(&self, at: usize) -> PathBuf {
        // Short of the end of a page, behind which there may be nothing.
        let bytes = self.bytes(at, 4096);
        let path = CStr::from_bytes_until_nul(&bytes).map_or(&[][..], CStr::to_bytes);
        OsStr::from_bytes(path).into()
    }

    /// The path of a file by its descriptor.
    pub fn file(&self, at: usize) -> PathBuf {
        // The upper half of a register that holds an int means nothing.
        let descriptor = self.number(at) as i32;
        fs::read_link(format!("/proc/{}/fd/{descriptor}", self.pid)).unwrap_or_default()
    }

    /// A path that is relative to the descriptor before it.
    pub fn path_below(&self, descriptor: usize) -> PathBuf {
        self.file(descriptor).join(self.path(descriptor + 1))
    }
}

/// A process under watch. It ends with the watch at the latest.
pub struct Trace {
    pid: Pid,
    thread: JoinHandle<Vec<String>>,
}

impl Trace {
    /// Watches all threads of a process. What `name` calls a step is noted; the process is killed before the step of
    /// which `fatal` says so.
    ///
    /// # Errors
    /// Those of ptrace(2): the machine may forbid it.
    pub fn start(
        pid: u32,
        name: impl Fn(&Call) -> Option<String> + Send + 'static,
        mut fatal: impl FnMut(&str) -> bool + Send + 'static,
    ) -> io::Result<Trace> {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
        let (ready, is_ready) = channel();
        // All requests have to come from the thread that began.
        let thread = thread::spawn(move || {
            if !begin(pid, &ready) {
                return Vec::new();
            }
            let mut steps = Vec::new();
            follow(pid, |call| {
                let Some(step) = name(call) else { return false };
                let fatal = fatal(&step);
                steps.push(step);
                fatal
            });
            steps
        });
        is_ready.recv().expect("the watching thread")?;
        Ok(Trace { pid, thread })
    }

    /// Whether the process is dead.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the process, if it has not been, and tells the steps that were noted.
    pub fn end(self) -> Vec<String> {
        let _ = kill(self.pid, Signal::SIGKILL);
        self.thread.join().expect("the watching thread")
    }
}

/// Takes hold of every thread, and tells how that went.
fn begin(pid: Pid, ready: &Sender<io::Result<()>>) -> bool {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    let mut held = BTreeSet::new();
    loop {
        let before = held.len();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if !held.insert(thread) {
                continue;
            }
            let thread = Pid::from_raw(thread);
            match ptrace::seize(thread, options).and_then(|()| ptrace::interrupt(thread)) {
                Err(error) if thread == pid => {
                    let _ = ready.send(Err(error.into()));
                    return false;
                }
                // It ended, or was made by one that is held and is held with it.
                Ok(()) | Err(_) => {}
            }
        }
        if held.len() == before {
            return ready.send(Ok(())).is_ok();
        }
    }
}

/// Lets the process go from stop to stop until it is dead. `fatal` is asked at the beginning of every call.
fn follow(pid: Pid, mut fatal: impl FnMut(&Call) -> bool) {
    let mut calling = HashSet::new();
    // Without WEXITED: whoever made the process is to reap it.
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        let (thread, signal) = match waitid(Id::All, flags) {
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                // The same stop at the beginning of a call and at its end.
                if calling.remove(&thread) {
                    (thread, None)
                } else {
                    calling.insert(thread);
                    if Call::of(pid, thread).is_some_and(|call| fatal(&call)) {
                        let _ = kill(pid, Signal::SIGKILL);
                        continue;
                    }
                    (thread, None)
                }
            }
            // A signal on its way, which it gets; any other event is the kernel's word to us.
            Ok(WaitStatus::PtraceEvent(thread, signal, 0)) => (thread, Some(signal)),
            Ok(WaitStatus::PtraceEvent(thread, ..)) => (thread, None),
            Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) => return,
            other => panic!("an event of another kind: {other:?}"),
        };
        // One that was killed meanwhile does not go on.
        let _ = ptrace::syscall(thread, signal);
    }
}
