//! An attached client's way to the container's stdin.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use inro_shim::protocol::Request;
use rustix::{
    io::{Errno, write},
    net::{SendFlags, send},
};
use tokio::io::{AsyncWrite, unix::AsyncFd};

/// The container's input itself, not by way of the shim: who writes waits as the container reads. Dropping it, or
/// shutting it down, is the end of this client's input.
pub struct Input {
    pub(super) slot: Arc<Slot>,
    pub(super) connection: Arc<AsyncFd<OwnedFd>>,
}

/// Shared with whoever hears that the container's input was closed: then this end must go too, or the container would
/// wait for us.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<Arc<AsyncFd<OwnedFd>>>>);

impl Slot {
    pub fn put(&self, fd: AsyncFd<OwnedFd>) {
        *self.lock() = Some(Arc::new(fd));
    }

    /// Answers whether there was something to close.
    pub fn close(&self) -> bool {
        self.lock().take().is_some()
    }

    fn current(&self) -> io::Result<Arc<AsyncFd<OwnedFd>>> {
        self.lock().clone().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<AsyncFd<OwnedFd>>>> {
        self.0.lock().expect("no panic while the slot is held")
    }
}

impl Input {
    fn end(&self) {
        if self.slot.close() {
            // One small message on a connection that is empty but for replies; if the shim is gone, so is the input.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = send(self.connection.get_ref(), &Request::EndInput.encode(), flags);
        }
    }
}

impl AsyncWrite for Input {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let fd = self.slot.current()?;
        loop {
            let mut guard = ready!(fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| write(fd.get_ref(), bytes).map_err(Errno::into)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.end();
    }
}
