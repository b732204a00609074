//! An attached client's way to the container's stdin.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, ready},
};

use inro_shim::protocol::Request;
use rustix::{
    io::{Errno, write},
    net::{SendFlags, send},
};
use tokio::io::{AsyncWrite, unix::AsyncFd};

/// The container's input itself, not by way of the shim: who writes waits as the container reads. Dropping it, or
/// shutting it down, is the end of this client's input; so is the end of the connection that it belongs to.
pub struct Input {
    pub(super) slot: Weak<Slot>,
    pub(super) connection: Weak<AsyncFd<OwnedFd>>,
}

/// Owned by the connection, which hears when the container's input is closed: then our end must go too, or the container
/// would wait for us.
#[derive(Default)]
pub(super) struct Slot {
    /// Guards the descriptor; held for the look at it only.
    place: Mutex<Place>,
}

#[derive(Default)]
enum Place {
    #[default]
    Empty,
    Open(Arc<AsyncFd<OwnedFd>>),
    /// Nothing is put here any more: the word that the input was closed may be faster than the input.
    Closed,
}

impl Slot {
    pub fn put(&self, fd: AsyncFd<OwnedFd>) {
        let mut place = self.lock();
        if matches!(*place, Place::Empty) {
            *place = Place::Open(Arc::new(fd));
        }
    }

    /// Answers whether there was something to close.
    pub fn close(&self) -> bool {
        matches!(std::mem::replace(&mut *self.lock(), Place::Closed), Place::Open(_))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Place> {
        self.place.lock().expect("no panic while the place is held")
    }
}

impl Input {
    fn current(&self) -> Option<Arc<AsyncFd<OwnedFd>>> {
        match &*self.slot.upgrade()?.lock() {
            Place::Open(fd) => Some(fd.clone()),
            _ => None,
        }
    }

    fn end(&self) {
        if self.slot.upgrade().is_some_and(|slot| slot.close())
            && let Some(connection) = self.connection.upgrade()
        {
            // One small message on a connection that is empty but for replies; if the shim is gone, so is the input.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = send(connection.get_ref(), &Request::EndInput.encode(), flags);
        }
    }
}

impl AsyncWrite for Input {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let fd = self.current().ok_or(io::ErrorKind::BrokenPipe)?;
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
