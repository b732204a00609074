//! The control connection: one SEQPACKET socket, read by one task that sorts replies from the word of the exit.

use std::{
    fs::File,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use inro_shim::{
    launch,
    protocol::{Reply, Request, SIZE},
};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, sendmsg, socket_with,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Mutex, mpsc, watch as signal},
};

use super::ShimError;
use crate::sys::reactor::watch;

/// A connection to a live shim.
pub struct Shim {
    socket: Arc<AsyncFd<OwnedFd>>,
    path: PathBuf,
    /// One request at a time: replies come in order and carry no number.
    replies: Mutex<mpsc::Receiver<Reply>>,
    exited: signal::Receiver<bool>,
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
        let (exit_to, exited) = signal::channel(false);
        tokio::spawn(listen(socket.clone(), reply_to, exit_to));
        Ok(Self {
            socket,
            path,
            replies: Mutex::new(replies),
            exited,
        })
    }

    /// Waits until init has ended and the exit is on record, or until the shim itself is gone.
    pub async fn exited(&self) {
        // An error means that the listening task is over, which it says first.
        let _ = self.exited.clone().wait_for(|exited| *exited).await;
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

    /// Ends the container's input.
    ///
    /// # Errors
    /// [`ShimError::Gone`].
    pub async fn close_stdin(&self) -> Result<(), ShimError> {
        self.ask("close stdin", Request::CloseStdin, None).await
    }

    async fn ask(&self, what: &'static str, request: Request, fd: Option<OwnedFd>) -> Result<(), ShimError> {
        let gone = || ShimError::Gone {
            path: self.path.clone(),
        };
        let mut replies = self.replies.lock().await;
        // An answer that nobody waited for (its client left) must not be taken for this one's.
        while replies.try_recv().is_ok() {}
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() {
                    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
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
            Some(Reply::Done) => Ok(()),
            Some(Reply::Failed(errno)) => Err(ShimError::Refused {
                what,
                source: io::Error::from_raw_os_error(errno),
            }),
            Some(Reply::Exited) | None => Err(gone()),
        }
    }
}

/// Reads what the shim sends until its end.
async fn listen(socket: Arc<AsyncFd<OwnedFd>>, replies: mpsc::Sender<Reply>, exited: signal::Sender<bool>) {
    loop {
        let mut bytes = [0u8; SIZE + 1];
        let received = socket
            .async_io(Interest::READABLE, |socket| {
                Ok(recv(socket, &mut bytes[..], RecvFlags::empty())?.0)
            })
            .await;
        match received.ok().and_then(|count| Reply::decode(&bytes[..count])) {
            Some(Reply::Exited) => {
                exited.send_replace(true);
            }
            Some(reply) => {
                if replies.send(reply).await.is_err() {
                    break;
                }
            }
            None => break,
        }
    }
    exited.send_replace(true);
}
