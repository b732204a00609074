//! The one poll loop of a container's supervisor.

use inro_shim::{
    events,
    exit::{self, ExitRecord},
    launch::{self, Flags},
    log::Stream,
    protocol::{Reply, Request, Wanted},
    record::{self, ShimRecord},
    state::{self, Action, Event, State},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat},
    io::{Errno, fcntl_setfd, ioctl_fionbio, pread, read, write},
    net::{SocketFlags, accept_with},
    process::{Pid, WaitOptions, WaitStatus, getpid, wait},
    termios::{Winsize, tcsetwinsize},
    time::{ClockId, clock_gettime},
};

use crate::{
    attached::Attached,
    clients::{Clients, Heard, MOST, output, receive_console},
    clock::now_ms,
    memory, raw,
    sink::{Log, Source},
};

/// Milliseconds that the streams may stay open after init's end; the daemon kills what holds them long before.
const DRAIN: i64 = 5000;
/// Milliseconds until a record that could not be written is tried again.
const RETRY: i64 = 100;
/// Place of the first client among the polled descriptors; each has two.
const FIRST_CLIENT: usize = 6;

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
    /// `memory.events` of the container's cgroup, and the last count read from it.
    events: Option<OwnedFd>,
    oom_kills: Option<u32>,
    /// An exit that is not on record yet.
    unrecorded: Option<ExitRecord>,
    /// When the drain ends, on the monotonic clock.
    drain_until: Option<i64>,
}

/// Supervises until the container is gone and its last word is in the log.
pub fn run(flags: Flags) -> i32 {
    raw::close_from(launch::FIRST_FOREIGN as u32);
    let Some(children) = raw::child_events() else { return 3 };
    let [out, err] = memory::buffers();
    let stream = |number| {
        let fd = memory::inherited(number);
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
        let listener = memory::inherited(launch::CONTROL);
        let announcement = memory::inherited(launch::INIT_PID);
        let _ = (ioctl_fionbio(&listener, true), ioctl_fionbio(&announcement, true));
        Self {
            state: State::Creating,
            flags,
            folder: memory::inherited(launch::FOLDER),
            listener,
            children,
            log: Log::new(flags.log.then(|| memory::inherited(launch::LOG))),
            announcement: Some(announcement),
            init: 0,
            stdout,
            stderr,
            console,
            stdin,
            clients: Clients::default(),
            events: flags.events.then(|| memory::inherited(launch::EVENTS)),
            oom_kills: None,
            unrecorded: None,
            drain_until: None,
        }
    }

    fn supervise(mut self, mut pty_buffer: Option<&'static mut memory::Buffer>) -> i32 {
        while self.state != State::Done {
            let ready = self.wait();
            if ready.children {
                self.count_oom_kills();
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
            self.dismiss_slow();
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
        let own = match (&self.unrecorded, self.drain_until) {
            (Some(_), _) => Some(RETRY),
            (None, Some(until)) => Some((until - now_ms()).max(0)),
            (None, None) => None,
        };
        let timeout = [own, self.clients.patience_ms()].into_iter().flatten().min();
        let timeout = timeout.map(|ms| Timespec {
            tv_sec: ms / 1000,
            tv_nsec: ms % 1000 * 1_000_000,
        });
        let (out_held, err_held) = (self.clients.held(Stream::Stdout), self.clients.held(Stream::Stderr));
        // A closed place polls the listener for nothing, which never reports anything but its own end.
        let idle = self.listener.as_fd();
        let watch = |fd| poll_for(fd, PollFlags::IN, idle);
        // A held stream is not read; the room of those it waits for is watched instead.
        let out = self.stdout.as_ref().filter(|_| !out_held);
        let err = self.stderr.as_ref().filter(|_| !err_held);
        let mut fds: [PollFd<'_>; FIRST_CLIENT + 2 * MOST] = core::array::from_fn(|at| match at {
            0 => watch(Some(self.listener.as_fd())),
            1 => watch(Some(self.children.as_fd())),
            2 => watch(self.announcement.as_ref().map(AsFd::as_fd)),
            3 => watch(out.map(|source| source.fd.as_fd())),
            4 => watch(err.map(|source| source.fd.as_fd())),
            5 => watch(self.console.as_ref().map(AsFd::as_fd)),
            _ => {
                let slot = &self.clients.slots[(at - FIRST_CLIENT) / 2];
                if (at - FIRST_CLIENT).is_multiple_of(2) {
                    watch(slot.as_ref().map(|client| client.fd.as_fd()))
                } else {
                    // If both of its outputs are full, the other one's turn comes when this one has room.
                    let full = |stream| output(slot, stream).filter(|output| output.full);
                    let output = full(Stream::Stdout).or(full(Stream::Stderr));
                    poll_for(output.map(|output| output.fd.as_fd()), PollFlags::OUT, idle)
                }
            }
        });
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Ready::default();
        }
        let ready = |at: usize| !fds[at].revents().is_empty();
        Ready {
            listener: ready(0),
            children: ready(1),
            announcement: self.announcement.is_some() && ready(2),
            stdout: self.stdout.is_some() && (out_held || ready(3)),
            stderr: self.stderr.is_some() && (err_held || ready(4)),
            console: self.console.is_some() && ready(5),
            clients: core::array::from_fn(|at| self.clients.slots[at].is_some() && ready(FIRST_CLIENT + 2 * at)),
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

    /// Asks the cgroup: first thing after any death, as systemd removes a scope and its count once nothing lives in it; and
    /// once more when init is known to be dead, as the death before may have been another's.
    fn count_oom_kills(&mut self) {
        let Some(file) = &self.events else { return };
        let mut text = [0u8; 256];
        match pread(file, &mut text, 0) {
            Ok(length) => self.oom_kills = events::oom_kills(&text[..length]),
            // What was counted before is the least that it was; none is not known to be none.
            Err(_) => self.oom_kills = self.oom_kills.filter(|&kills| kills > 0),
        }
    }

    /// Reaps every child that has ended, once init's pid is known: until then the dead wait.
    fn reap(&mut self) {
        if matches!(self.state, State::Creating | State::Done) {
            return;
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == Pid::from_raw(self.init).unwrap_or(Pid::INIT)
                && self.happen(Event::InitExited) == Action::RecordExit
            {
                self.count_oom_kills();
                let now = clock_gettime(ClockId::Realtime);
                let finished_at_ns = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
                self.unrecorded = Some(ExitRecord {
                    code: exit_code(status),
                    finished_at_ns,
                    oom_kills: self.oom_kills,
                });
            }
        }
    }

    /// Puts the exit on record and tells everyone; tries again later when there is no room.
    fn record_exit(&mut self) {
        let Some(exit) = self.unrecorded else { return };
        match self.write_record(c"exit.tmp", exit::NAME, exit.encode().as_bytes()) {
            // Nobody will look into a folder that is gone.
            Ok(()) | Err(Errno::NOENT) => {
                self.unrecorded = None;
                self.clients.announce(Reply::Exited);
                self.drain_until = Some(now_ms() + DRAIN);
            }
            Err(_) => {}
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

    fn take_console(&mut self, buffer: &mut Option<&'static mut memory::Buffer>) {
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
        let streams = [
            (Stream::Stdout, ready.stdout, &mut self.stdout),
            (Stream::Stderr, ready.stderr, &mut self.stderr),
        ];
        for (stream, ready, slot) in streams {
            if ready
                && let Some(source) = slot
                && !source.pump(&mut self.log, &mut self.clients)
            {
                *slot = None;
                self.clients.end(stream);
            }
        }
    }

    /// Parts with clients whose patience is over; the streams go on without them.
    fn dismiss_slow(&mut self) {
        while let Some(at) = self.clients.too_slow() {
            self.close(at);
        }
    }

    fn close(&mut self, at: usize) {
        if self.clients.close(at) {
            self.input_ended();
        }
    }

    /// A client that had the container's input has no more of it.
    fn input_ended(&mut self) {
        if self.flags.input_ends_with_client() && self.stdin.take().is_some() {
            // Others hold the same pipe: it is closed when they have let go of it.
            self.clients.announce(Reply::InputClosed);
        }
    }

    fn check_drain(&mut self) {
        let Some(until) = self.drain_until else { return };
        if self.stdout.is_none() && self.stderr.is_none() {
            self.happen(Event::StreamsClosed);
        } else if now_ms() >= until {
            self.happen(Event::DrainOver);
        }
    }

    fn serve(&mut self, at: usize) {
        let (request, fds) = match self.clients.hear(at) {
            Heard::Nothing => return,
            Heard::Gone => return self.close(at),
            Heard::Request(request, fds) => (request, fds),
        };
        let wants_input = matches!(request, Request::Attach(Wanted { stdin: true, .. }));
        match self.carry_out(at, request, fds) {
            None => {}
            Some(Ok(())) => {
                let input = self.input().filter(|_| wants_input);
                self.clients.reply(at, Reply::Done, input);
            }
            Some(Err(errno)) => self.clients.reply(at, Reply::Failed(errno.raw_os_error()), None),
        }
    }

    /// Carries a request out; `None` for one without a reply.
    fn carry_out(&mut self, at: usize, request: Request, fds: [Option<OwnedFd>; 2]) -> Option<Result<(), Errno>> {
        Some(match request {
            // Init is not reaped while `Running`, so its pid is its own.
            Request::Kill { signal } if self.state == State::Running => raw::kill(self.init, signal),
            Request::Kill { .. } => Err(Errno::SRCH),
            Request::Resize { columns, rows } => match &self.stdout {
                Some(pty) if self.flags.tty => {
                    let size = Winsize {
                        ws_row: rows,
                        ws_col: columns,
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    tcsetwinsize(&pty.fd, size)
                }
                _ => Err(Errno::NOTTY),
            },
            Request::ReopenLog => {
                let [file, _] = fds;
                file.map(|file| self.log.replace(file)).ok_or(Errno::BADF)
            }
            Request::Attach(wanted) => self.attach(at, wanted, fds),
            Request::EndInput => {
                if self.clients.end_input(at) {
                    self.input_ended();
                }
                return None;
            }
        })
    }

    fn attach(&mut self, at: usize, wanted: Wanted, [first, second]: [Option<OwnedFd>; 2]) -> Result<(), Errno> {
        let (stdout, stderr) = match (wanted.stdout, wanted.stderr) {
            (false, true) => (None, first),
            _ => (first, second),
        };
        if wanted.stdout != stdout.is_some() || wanted.stderr != stderr.is_some() {
            return Err(Errno::BADF);
        }
        // A stream that is over is over at once.
        let stdout = stdout.filter(|_| self.stdout.is_some() || self.console.is_some());
        let stderr = stderr.filter(|_| self.stderr.is_some());
        self.clients.attach(at, Attached::new([stdout, stderr], wanted.stdin))
    }

    /// Where the container's input is written, while it has one.
    fn input(&self) -> Option<BorrowedFd<'_>> {
        match &self.stdout {
            Some(pty) if self.flags.tty && self.flags.stdin => Some(pty.fd.as_fd()),
            _ => self.stdin.as_ref().map(AsFd::as_fd),
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

fn poll_for<'fd>(fd: Option<BorrowedFd<'fd>>, flags: PollFlags, idle: BorrowedFd<'fd>) -> PollFd<'fd> {
    match fd {
        Some(fd) => PollFd::from_borrowed_fd(fd, flags),
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

fn start_ticks() -> i64 {
    let mut stat = [0u8; 512];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(rustix::fs::CWD, c"/proc/self/stat", flags, Mode::empty());
    let count = file.and_then(|file| read(&file, &mut stat)).unwrap_or(0);
    record::start_ticks(&stat[..count]).unwrap_or(0)
}
