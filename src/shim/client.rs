//! A connection to a shim: one SEQPACKET socket, read by one task that sorts replies from what the shim says by itself.

use std::{
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use inro_shim::{
    launch,
    protocol::{Reply, Request, SIZE, Wanted},
};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with, sockopt,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    sync::{Mutex, mpsc, watch as signal},
    task::JoinSet,
};

use super::{
    ShimError,
    input::{Input, Slot},
};
use crate::sys::{fdpass, reactor::watch};

/// Bytes that we may be behind before an attached container waits for us; a quarter of them, as the kernel
/// counts them (`unix_writable` in net/unix/af_unix.c).
const BEHIND: usize = 4 << 20;

/// A connection to a live shim. It ends when this is dropped.
pub struct Shim {
    socket: Arc<AsyncFd<OwnedFd>>,
    path: PathBuf,
    /// One request at a time: replies come in order and carry no number.
    replies: Mutex<mpsc::Receiver<(Reply, Option<OwnedFd>)>>,
    life: signal::Receiver<Life>,
    input: Arc<Slot>,
    _listener: JoinSet<()>,
}

/// What a connection is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Connected,
    /// The shim ended the attach.
    TooSlow,
    /// Init has ended, or the shim.
    Over,
}

/// The streams of an attach, as far as they were wanted; stdin also only as far as the container has one. An output
/// ends when the container closes it.
pub struct Attached {
    pub stdin: Option<Input>,
    pub stdout: Option<UnixStream>,
    pub stderr: Option<UnixStream>,
}

impl Shim {
    /// Connects to the shim in a container's folder. Must be called within a runtime.
    ///
    /// # Errors
    /// [`ShimError::Gone`] when nobody listens, [`ShimError::Io`].
    pub fn connect(folder: &Path) -> Result<Self, ShimError> {
        let path = folder.join(launch::SOCKET_NAME);
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ShimError::Gone { path: path.clone() },
            _ => ShimError::Io {
                action: "connect to",
                path: path.clone(),
                source,
            },
        };
        // A socket's path may have 107 bytes; through the folder's descriptor it is always short.
        let dir = File::open(folder).map_err(fail)?;
        let short = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), launch::SOCKET_NAME);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let address = SocketAddrUnix::new(short).map_err(|e| fail(e.into()))?;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(|e| fail(e.into()))?;
        connect(&socket, &address).map_err(|e| fail(e.into()))?;
        let socket = Arc::new(watch(socket, Interest::READABLE | Interest::WRITABLE).map_err(fail)?);
        let (reply_to, replies) = mpsc::channel(1);
        let (tell, life) = signal::channel(Life::Connected);
        let (mut listener, input) = (JoinSet::new(), Arc::new(Slot::default()));
        listener.spawn(listen(socket.clone(), reply_to, tell, input.clone()));
        Ok(Self {
            socket,
            path,
            replies: Mutex::new(replies),
            life,
            input,
            _listener: listener,
        })
    }

    /// Waits until init has ended and the exit is on record, or until the shim itself is gone.
    pub async fn exited(&self) {
        // An error means that the listening task is over, which it says first.
        let _ = self.life.clone().wait_for(|life| *life == Life::Over).await;
    }

    /// Waits until the shim has ended this attach because we read too slowly; for ever when that does not happen.
    pub async fn dismissed(&self) {
        if self.life.clone().wait_for(|life| *life == Life::TooSlow).await.is_err() {
            std::future::pending().await
        }
    }

    /// Sends init a signal.
    ///
    /// # Errors
    /// [`ShimError::Gone`]; [`ShimError::Refused`] with ESRCH when init has ended.
    pub async fn kill(&self, signal: i32) -> Result<(), ShimError> {
        self.ask("signal init", Request::Kill { signal }, None).await
    }

    /// Changes the size of the pty.
    ///
    /// # Errors
    /// [`ShimError::Gone`]; [`ShimError::Refused`] with ENOTTY when there is no pty.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), ShimError> {
        self.ask("resize the pty", Request::Resize { columns, rows }, None)
            .await
    }

    /// Makes the shim go on in `log`; when this returns, the old file gets no more entries.
    ///
    /// # Errors
    /// [`ShimError::Gone`], [`ShimError::Refused`].
    pub async fn reopen_log(&self, log: OwnedFd) -> Result<(), ShimError> {
        self.ask("reopen the log", Request::ReopenLog, Some(log)).await
    }

    /// Makes this connection an attach: shows everything that the container prints once this has returned.
    ///
    /// # Errors
    /// [`ShimError::Gone`]; [`ShimError::Refused`], with EMFILE when too many are attached.
    pub async fn attach(&self, wanted: Wanted) -> Result<Attached, ShimError> {
        let failed = |source: io::Error| ShimError::Io {
            action: "make sockets for",
            path: self.path.clone(),
            source,
        };
        let stdout = wanted.stdout.then(output).transpose().map_err(failed)?;
        let stderr = wanted.stderr.then(output).transpose().map_err(failed)?;
        let theirs: Vec<_> = [&stdout, &stderr]
            .into_iter()
            .flatten()
            .map(|(_, fd)| fd.as_fd())
            .collect();
        let stdin = self.send("attach a client", Request::Attach(wanted), &theirs).await?;
        let stdin = match stdin {
            Some(fd) => {
                self.input.put(watch(fd, Interest::WRITABLE).map_err(failed)?);
                Some(Input {
                    slot: Arc::downgrade(&self.input),
                    connection: Arc::downgrade(&self.socket),
                })
            }
            None => None,
        };
        Ok(Attached {
            stdin,
            stdout: stdout.map(|(ours, _)| ours),
            stderr: stderr.map(|(ours, _)| ours),
        })
    }

    async fn ask(&self, what: &'static str, request: Request, fd: Option<OwnedFd>) -> Result<(), ShimError> {
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        self.send(what, request, &fds).await.map(drop)
    }

    /// Sends a request and waits for the answer, which may be a descriptor.
    async fn send(
        &self,
        what: &'static str,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Option<OwnedFd>, ShimError> {
        let gone = || ShimError::Gone {
            path: self.path.clone(),
        };
        let mut replies = self.replies.lock().await;
        // An answer that nobody waited for (its client left) must not be taken for this one's.
        while replies.try_recv().is_ok() {}
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() {
                    ancillary.push(SendAncillaryMessage::ScmRights(fds));
                }
                let bytes = request.encode();
                Ok(sendmsg(
                    socket,
                    &[io::IoSlice::new(&bytes)],
                    &mut ancillary,
                    SendFlags::NOSIGNAL,
                )?)
            })
            .await
            .map_err(|_| gone())?;
        match replies.recv().await {
            Some((Reply::Done, fd)) => Ok(fd),
            Some((Reply::Failed(errno), _)) => Err(ShimError::Refused {
                what,
                source: io::Error::from_raw_os_error(errno),
            }),
            Some(_) | None => Err(gone()),
        }
    }
}

/// A stream's two ends: ours, and the shim's with room for [`BEHIND`].
fn output() -> io::Result<(UnixStream, StdStream)> {
    let (ours, theirs) = StdStream::pair()?;
    if sockopt::set_socket_send_buffer_size_force(&theirs, BEHIND).is_err() {
        // Without CAP_NET_ADMIN over the node: as much as it gives to everyone.
        sockopt::set_socket_send_buffer_size(&theirs, BEHIND)?;
    }
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// Reads what the shim sends until its end.
async fn listen(
    socket: Arc<AsyncFd<OwnedFd>>,
    replies: mpsc::Sender<(Reply, Option<OwnedFd>)>,
    life: signal::Sender<Life>,
    input: Arc<Slot>,
) {
    loop {
        let received = socket
            .async_io(Interest::READABLE, |socket| fdpass::receive(socket.as_fd(), SIZE + 1))
            .await;
        let Ok(Some((bytes, fds))) = received else { break };
        match Reply::decode(&bytes) {
            Some(Reply::Exited) => {
                life.send_replace(Life::Over);
            }
            Some(Reply::TooSlow) => {
                life.send_replace(Life::TooSlow);
            }
            Some(Reply::InputClosed) => {
                input.close();
            }
            Some(reply) => {
                if replies.send((reply, fds.into_iter().next())).await.is_err() {
                    break;
                }
            }
            None => break,
        }
    }
    life.send_if_modified(|life| {
        let news = *life == Life::Connected;
        if news {
            *life = Life::Over;
        }
        news
    });
}
