//! One connection to systemd: any number of calls under way, and a thread that hands out what comes.
//!
//! It is systemd's own socket and not the bus: one process less on the way, there before the bus is and while the bus
//! restarts (`docs/decisions/0010-systemd-driver.md`). Every signal of the manager comes here unasked; all but the ends
//! of jobs are dropped.

use std::{
    io::{self, BufReader, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::{
    BusError, SOCKET,
    wire::{self, Call, FIXED, Message, Reader},
};
use crate::model::hex;

/// How long systemd may leave its end of the socket unread.
const UNREAD: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, BusError>;

/// A connection that works, or did until lately.
pub struct Link {
    /// The number of the last call. Held while a call is written: no two are mixed.
    serial: Mutex<u32>,
    stream: UnixStream,
    ears: Arc<Mutex<Ears>>,
}

/// A call under way.
pub struct Asked {
    link: Arc<Link>,
    serial: u32,
    heard: Receiver<Heard>,
}

/// Who waits for what. Guards the list and whether anything can still come.
#[derive(Default)]
struct Ears {
    lost: bool,
    listeners: Vec<Listener>,
}

struct Listener {
    serial: u32,
    /// Whose jobs it wants to know the end of.
    unit: Option<String>,
    tell: Sender<Heard>,
}

enum Heard {
    Answer(Message),
    JobEnded { job: String, result: String },
    Lost,
}

impl Link {
    /// Connects and starts the thread that listens.
    pub fn open(deadline: Instant) -> io::Result<Self> {
        let limit = deadline
            .saturating_duration_since(Instant::now())
            .clamp(Duration::from_millis(1), UNREAD);
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(limit))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(limit))?;
        connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
        let mut stream = UnixStream::from(socket);
        authenticate(&mut stream)?;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(UNREAD))?;
        let ears = Arc::new(Mutex::new(Ears::default()));
        let link = Self {
            serial: Mutex::new(0),
            stream: stream.try_clone()?,
            ears: ears.clone(),
        };
        thread::Builder::new()
            .name("inro-systemd".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || listen(stream, &ears))?;
        Ok(link)
    }

    pub fn is_lost(&self) -> bool {
        lock(&self.ears).lost
    }

    /// Sends a call. What is heard of `unit`'s jobs from now on comes with the answer.
    pub fn send(self: Arc<Self>, call: &Call<'_>, unit: Option<&str>) -> Result<Asked> {
        let (tell, heard) = channel();
        let mut serial = lock(&self.serial);
        *serial = serial.wrapping_add(1).max(1);
        let number = *serial;
        {
            let mut ears = lock(&self.ears);
            if ears.lost {
                return Err(BusError::Lost);
            }
            ears.listeners.push(Listener {
                serial: number,
                unit: unit.map(str::to_owned),
                tell,
            });
        }
        let written = (&self.stream).write_all(&call.encode(number));
        drop(serial);
        let asked = Asked {
            link: self,
            serial: number,
            heard,
        };
        if written.is_err() {
            // Half a message may be on its way: nothing can follow it.
            asked.link.hang_up();
            return Err(BusError::Lost);
        }
        Ok(asked)
    }

    fn hang_up(&self) {
        lock(&self.ears).lost = true;
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.hang_up();
    }
}

impl Asked {
    /// The answer.
    pub fn answer(&self, deadline: Instant) -> Result<Message> {
        loop {
            if let Heard::Answer(message) = self.hear(deadline)? {
                return Ok(message);
            }
        }
    }

    /// The answer of a call whose answer is an object's path.
    pub fn object(&self, deadline: Instant) -> Result<String> {
        path(&self.answer(deadline)?)
    }

    /// Waits for the answer, which is a job's path, and for that job to be done.
    pub fn job(self, deadline: Instant) -> Result<()> {
        let (mut ours, mut ended) = (None, Vec::new());
        loop {
            match self.hear(deadline)? {
                Heard::Answer(message) => ours = Some(path(&message)?),
                Heard::JobEnded { job, result } => ended.push((job, result)),
                Heard::Lost => return Err(BusError::Lost),
            }
            let end = ended.iter().find(|(job, _)| Some(job) == ours.as_ref());
            if let Some((_, result)) = end {
                return done(result);
            }
        }
    }

    /// Waits for a job of its unit.
    pub fn job_called(self, job: &str, deadline: Instant) -> Result<()> {
        loop {
            if let Heard::JobEnded { job: ended, result } = self.hear(deadline)?
                && ended == job
            {
                return done(&result);
            }
        }
    }

    fn hear(&self, deadline: Instant) -> Result<Heard> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.heard.recv_timeout(left) {
            Ok(Heard::Answer(message)) if message.kind == wire::REFUSAL => {
                let text = Reader::new(&message.body).text().unwrap_or_default().to_owned();
                Err(BusError::Refused {
                    name: message.error,
                    message: text,
                })
            }
            Ok(Heard::Lost) | Err(RecvTimeoutError::Disconnected) => Err(BusError::Lost),
            Ok(heard) => Ok(heard),
            Err(RecvTimeoutError::Timeout) => Err(BusError::Slow),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let serial = self.serial;
        lock(&self.link.ears)
            .listeners
            .retain(|listener| listener.serial != serial);
    }
}

impl Ears {
    fn hand_out(&self, message: Message) {
        if message.kind == wire::SIGNAL {
            let Some((job, unit, result)) = job_removed(&message) else {
                return;
            };
            for listener in &self.listeners {
                if listener.unit.as_deref() == Some(unit) {
                    let (job, result) = (job.to_owned(), result.to_owned());
                    // One that gave up is on its way out of the list.
                    let _ = listener.tell.send(Heard::JobEnded { job, result });
                }
            }
        } else if let Some(listener) = self.listeners.iter().find(|l| Some(l.serial) == message.reply_to) {
            let _ = listener.tell.send(Heard::Answer(message));
        }
    }
}

/// Until the other end closes.
fn listen(stream: UnixStream, ears: &Mutex<Ears>) {
    let mut stream = BufReader::new(stream);
    while let Ok(message) = receive(&mut stream) {
        lock(ears).hand_out(message);
    }
    let mut ears = lock(ears);
    ears.lost = true;
    for listener in &ears.listeners {
        let _ = listener.tell.send(Heard::Lost);
    }
}

fn receive(from: &mut impl Read) -> io::Result<Message> {
    let mut fixed = [0; FIXED];
    from.read_exact(&mut fixed)?;
    let rest = Message::rest(&fixed).ok_or(io::ErrorKind::InvalidData)?;
    let mut bytes = fixed.to_vec();
    bytes.resize(FIXED + rest, 0);
    from.read_exact(&mut bytes[FIXED..])?;
    Message::decode(&bytes).ok_or(io::ErrorKind::InvalidData.into())
}

/// Source: D-Bus Specification, "Authentication Protocol"; the socket tells systemd who we are.
fn authenticate(stream: &mut UnixStream) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    stream.write_all(format!("\0AUTH EXTERNAL {}\r\nBEGIN\r\n", hex(uid.as_bytes())).as_bytes())?;
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > 256 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    if line.starts_with(b"OK") {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Job, unit and result of a `JobRemoved(u, o, s, s)`.
fn job_removed(message: &Message) -> Option<(&str, &str, &str)> {
    (message.member == "JobRemoved").then_some(())?;
    let mut reader = Reader::new(&message.body);
    reader.u32()?;
    Some((reader.text()?, reader.text()?, reader.text()?))
}

fn path(answer: &Message) -> Result<String> {
    let path = Reader::new(&answer.body).text();
    path.map(str::to_owned).ok_or(BusError::Answer)
}

fn done(result: &str) -> Result<()> {
    if result == "done" {
        Ok(())
    } else {
        Err(BusError::Job(result.to_owned()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
