//! The one poll loop of a container's supervisor.

use inro_shim::{
    exit::{self, ExitRecord},
    launch::{self, Flags},
    log::Stream,
    protocol::{Reply, Request},
    record::{self, ShimRecord},
    state::{self, Action, Event, State},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat},
    io::{Errno, fcntl_setfd, ioctl_fionbio, read, write},
    net::{SocketFlags, accept_with},
    process::{Pid, WaitOptions, WaitStatus, getpid, waitpid},
    termios::{Winsize, tcsetwinsize},
    time::{ClockId, clock_gettime},
};

use crate::{
    clients::{Clients, Heard, MOST, receive_console},
    raw,
    sink::{Log, Source},
    start,
};

/// Seconds that the streams may stay open after init's end; the daemon kills what holds them long before.
const DRAIN: i64 = 5;
/// Milliseconds until a record that could not be written is tried again.
const RETRY: i64 = 100;

struct Supervisor {
    state: State,
    flags: Flags,
    folder: OwnedFd,
    listener: OwnedFd,
    children: OwnedFd,
    log: Log,
    /// Until init's pid has arrived.
    announcement: Option<OwnedFd>,
    init: i32,
    stdout: Option<Source>,
    stderr: Option<Source>,
    /// With a tty, until the pty's master has arrived.
    console: Option<OwnedFd>,
    /// Held open so that the container does not read the end of its input.
    stdin: Option<OwnedFd>,
    clients: Clients,
    /// An exit that is not on record yet.
    unrecorded: Option<ExitRecord>,
    /// When the drain ends, on the monotonic clock.
    drain_until: Option<i64>,
}

/// Supervises until the container is gone and its last word is in the log.
pub fn run(flags: Flags) -> i32 {
    raw::close_from(launch::FIRST_FOREIGN as u32);
    let Some(children) = raw::child_events() else { return 3 };
    let [out, err] = start::buffers();
    let stream = |number| {
        let fd = start::inherited(number);
        let _ = (ioctl_fionbio(&fd, true), fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC));
        fd
    };
    let mut console = None;
    let (mut stdout, mut stderr, mut stdin) = (None, None, None);
    if flags.tty {
        console = Some(stream(launch::STDOUT));
        // The buffers are handed out when the master arrives.
    } else {
        stdout = Some(Source::new(stream(launch::STDOUT), Stream::Stdout, out));
        stderr = Some(Source::new(stream(launch::STDERR), Stream::Stderr, err));
        stdin = flags.stdin.then(|| stream(launch::STDIN));
        return Supervisor::new(flags, children, stdout.take(), stderr.take(), stdin.take(), console).supervise(None);
    }
    Supervisor::new(flags, children, stdout, stderr, stdin, console).supervise(Some(out))
}

impl Supervisor {
    fn new(
        flags: Flags,
        children: OwnedFd,
        stdout: Option<Source>,
        stderr: Option<Source>,
        stdin: Option<OwnedFd>,
        console: Option<OwnedFd>,
    ) -> Self {
        let listener = start::inherited(launch::CONTROL);
        let announcement = start::inherited(launch::INIT_PID);
        let _ = (ioctl_fionbio(&listener, true), ioctl_fionbio(&announcement, true));
        Self {
            state: State::Creating,
            flags,
            folder: start::inherited(launch::FOLDER),
            listener,
            children,
            log: Log::new(flags.log.then(|| start::inherited(launch::LOG))),
            announcement: Some(announcement),
            init: 0,
            stdout,
            stderr,
            console,
            stdin,
            clients: Clients::default(),
            unrecorded: None,
            drain_until: None,
        }
    }

    fn supervise(mut self, mut pty_buffer: Option<&'static mut start::Buffer>) -> i32 {
        while self.state != State::Done {
            let ready = self.wait();
            if ready.children {
                let mut drop = [0u8; 128];
                let _ = read(&self.children, &mut drop);
            }
            if ready.announcement {
                self.hear_announcement();
            }
            self.reap();
            if ready.console {
                self.take_console(&mut pty_buffer);
            }
            self.pump(&ready);
            if ready.listener {
                self.clients.accept(
                    &self.listener,
                    self.state == State::Draining && self.unrecorded.is_none(),
                );
            }
            for at in 0..MOST {
                if ready.clients[at] {
                    self.serve(at);
                }
            }
            self.record_exit();
            self.check_drain();
        }
        for name in [launch::SOCKET_NAME, launch::CONSOLE_NAME] {
            let _ = unlinkat(&self.folder, name, AtFlags::empty());
        }
        0
    }

    /// Sleeps until something is ready.
    fn wait(&self) -> Ready {
        let timeout = match (&self.unrecorded, self.drain_until) {
            (Some(_), _) => Some(RETRY),
            (None, Some(until)) => Some((until - monotonic()).max(0) * 1000),
            (None, None) => None,
        }
        .map(|ms| Timespec {
            tv_sec: ms / 1000,
            tv_nsec: ms % 1000 * 1_000_000,
        });
        // A closed place polls the listener for nothing, which never reports anything but its own end.
        let idle = self.listener.as_fd();
        let watch = |fd| poll_for(fd, idle);
        let client = |at: usize| watch(self.clients.slots[at].as_ref().map(AsFd::as_fd));
        let mut fds = [
            watch(Some(self.listener.as_fd())),
            watch(Some(self.children.as_fd())),
            watch(self.announcement.as_ref().map(AsFd::as_fd)),
            watch(self.stdout.as_ref().map(|s| s.fd.as_fd())),
            watch(self.stderr.as_ref().map(|s| s.fd.as_fd())),
            watch(self.console.as_ref().map(AsFd::as_fd)),
            client(0),
            client(1),
            client(2),
            client(3),
            client(4),
            client(5),
        ];
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Ready::default();
        }
        let ready = |at: usize| !fds[at].revents().is_empty();
        Ready {
            listener: ready(0),
            children: ready(1),
            announcement: self.announcement.is_some() && ready(2),
            stdout: self.stdout.is_some() && ready(3),
            stderr: self.stderr.is_some() && ready(4),
            console: self.console.is_some() && ready(5),
            clients: core::array::from_fn(|at| self.clients.slots[at].is_some() && ready(6 + at)),
        }
    }

    fn happen(&mut self, event: Event) -> Action {
        let (state, action) = state::next(self.state, event);
        self.state = state;
        action
    }

    /// Reads init's pid, or that there will be none.
    fn hear_announcement(&mut self) {
        let Some(pipe) = &self.announcement else { return };
        let mut bytes = [0u8; 16];
        let event = match read(pipe, &mut bytes) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(count) if count > 1 => {
                let digits = bytes[..count].strip_suffix(b"\n").unwrap_or_default();
                self.init = core::str::from_utf8(digits)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0);
                if self.init > 0 {
                    Event::InitPid
                } else {
                    Event::CreateFailed
                }
            }
            _ => Event::CreateFailed,
        };
        self.announcement = None;
        if self.happen(event) == Action::Begin {
            let record = ShimRecord {
                pid: getpid().as_raw_nonzero().get(),
                start_ticks: start_ticks(),
                init: self.init,
            };
            // Without the record the daemon still has the socket; it is for the day when the shim itself is gone.
            let _ = self.write_record(c"shim.tmp", record::NAME, record.encode().as_bytes());
        }
    }

    /// Reaps every child that has ended, once init's pid is known: until then the dead wait.
    fn reap(&mut self) {
        if matches!(self.state, State::Creating | State::Done) {
            return;
        }
        while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
            if pid == Pid::from_raw(self.init).unwrap_or(Pid::INIT)
                && self.happen(Event::InitExited) == Action::RecordExit
            {
                let now = clock_gettime(ClockId::Realtime);
                let finished_at_ns = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
                self.unrecorded = Some(ExitRecord {
                    code: exit_code(status),
                    finished_at_ns,
                });
            }
        }
    }

    /// Puts the exit on record and tells everyone; tries again later when there is no room.
    fn record_exit(&mut self) {
        let Some(exit) = self.unrecorded else { return };
        if self
            .write_record(c"exit.tmp", exit::NAME, exit.encode().as_bytes())
            .is_ok()
        {
            self.unrecorded = None;
            self.clients.announce(Reply::Exited);
            self.drain_until = Some(monotonic() + DRAIN);
        }
    }

    fn write_record(&self, temporary: &core::ffi::CStr, name: &str, bytes: &[u8]) -> rustix::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(&self.folder, temporary, flags, Mode::RUSR | Mode::WUSR)?;
        if write(&file, bytes)? != bytes.len() {
            return Err(Errno::NOSPC);
        }
        renameat(&self.folder, temporary, &self.folder, name)
    }

    fn take_console(&mut self, buffer: &mut Option<&'static mut start::Buffer>) {
        let Some(listener) = &self.console else { return };
        let Ok(connection) = accept_with(listener, SocketFlags::CLOEXEC) else {
            return;
        };
        if let Some(master) = receive_console(&connection)
            && let Some(buffer) = buffer.take()
        {
            let _ = ioctl_fionbio(&master, true);
            self.stdout = Some(Source::new(master, Stream::Stdout, buffer));
            self.console = None;
            let _ = unlinkat(&self.folder, launch::CONSOLE_NAME, AtFlags::empty());
        }
    }

    fn pump(&mut self, ready: &Ready) {
        if ready.stdout && self.stdout.as_mut().is_some_and(|source| !source.pump(&mut self.log)) {
            self.stdout = None;
        }
        if ready.stderr && self.stderr.as_mut().is_some_and(|source| !source.pump(&mut self.log)) {
            self.stderr = None;
        }
    }

    fn check_drain(&mut self) {
        let Some(until) = self.drain_until else { return };
        if self.stdout.is_none() && self.stderr.is_none() {
            self.happen(Event::StreamsClosed);
        } else if monotonic() >= until {
            self.happen(Event::DrainOver);
        }
    }

    fn serve(&mut self, at: usize) {
        let Heard::Request(request, fd) = self.clients.hear(at) else {
            return;
        };
        let reply = match self.carry_out(request, fd) {
            0 => Reply::Done,
            errno => Reply::Failed(errno),
        };
        self.clients.reply(at, reply);
    }

    /// Carries a request out; answers its errno, 0 for none.
    fn carry_out(&mut self, request: Request, fd: Option<OwnedFd>) -> i32 {
        match (request, fd) {
            // Init is not reaped while `Running`, so its pid is its own.
            (Request::Kill { signal }, _) if self.state == State::Running => raw::kill(self.init, signal),
            (Request::Kill { .. }, _) => Errno::SRCH.raw_os_error(),
            (Request::Resize { columns, rows }, _) => match &self.stdout {
                Some(pty) if self.flags.tty => {
                    let size = Winsize {
                        ws_row: rows,
                        ws_col: columns,
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    tcsetwinsize(&pty.fd, size).map_or_else(Errno::raw_os_error, |()| 0)
                }
                _ => Errno::NOTTY.raw_os_error(),
            },
            (Request::ReopenLog, Some(file)) => {
                self.log.replace(file);
                0
            }
            (Request::ReopenLog, None) => Errno::BADF.raw_os_error(),
            (Request::CloseStdin, _) => {
                self.stdin = None;
                0
            }
        }
    }
}

/// What a turn of the loop has to look at.
#[derive(Default)]
struct Ready {
    listener: bool,
    children: bool,
    announcement: bool,
    stdout: bool,
    stderr: bool,
    console: bool,
    clients: [bool; MOST],
}

fn poll_for<'fd>(fd: Option<BorrowedFd<'fd>>, idle: BorrowedFd<'fd>) -> PollFd<'fd> {
    match fd {
        Some(fd) => PollFd::from_borrowed_fd(fd, PollFlags::IN),
        None => PollFd::from_borrowed_fd(idle, PollFlags::empty()),
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

fn monotonic() -> i64 {
    clock_gettime(ClockId::Monotonic).tv_sec
}

fn start_ticks() -> i64 {
    let mut stat = [0u8; 512];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(rustix::fs::CWD, c"/proc/self/stat", flags, Mode::empty());
    let count = file.and_then(|file| read(&file, &mut stat)).unwrap_or(0);
    record::start_ticks(&stat[..count]).unwrap_or(0)
}
