//! An exec or attach under way: its streams, and the handle that resizes its terminal and waits for its end.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use inro_shim::terminal::read_on;
use rustix::{
    io::{Errno, write},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    net::unix::pipe,
    sync::watch,
    task::JoinSet,
};

use super::{PodError, index::Container, pins::io_error, relay::Relay, spool::Behind};
use crate::{
    model::ContainerState,
    shim::Shim,
    zygote::{Exec, ZygoteError},
};

/// What a client's input is written to; dropping it, or shutting it down, is the end of the input.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// What the client is shown; ends with the process, see [`Session`].
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// Open streams of an exec or attach. Those that were asked for are there, but for stderr next to a terminal.
///
/// Read the outputs to their end, then [`Control::wait`]. The outputs of an exec end with its process; what it left in
/// the background may hold them open a little longer, but not for ever. Those of an attach end with the container, when
/// it closes them, or when the client was too slow, which `wait` then says.
pub struct Session {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    pub control: Control,
}

/// The handle of a session. Dropping it kills the process of an exec with all it started, and ends an attach.
pub struct Control(Handle);

enum Handle {
    Exec {
        /// The exit code, once it is known; an error is the keeper's death.
        code: watch::Receiver<Option<i32>>,
        terminal: Option<Arc<AsyncFd<OwnedFd>>>,
        /// Owns the process.
        _keeper: JoinSet<()>,
    },
    Attach {
        shim: Shim,
        container: Arc<Container>,
        relay: Relay,
    },
}

impl Control {
    /// Of an exec, whose outputs hear of its end by the receiver that comes along.
    pub(super) fn of_exec(exec: Exec, terminal: Option<Arc<AsyncFd<OwnedFd>>>) -> (Self, watch::Receiver<Option<i32>>) {
        let (tell, code) = watch::channel(None);
        let mut keeper = JoinSet::new();
        keeper.spawn(async move {
            match exec.wait().await {
                Ok(code) => drop(tell.send(Some(code))),
                Err(error) => tracing::debug!(%error, "an exec was lost"),
            }
        });
        let handle = Handle::Exec {
            code: code.clone(),
            terminal,
            _keeper: keeper,
        };
        (Self(handle), code)
    }

    pub(super) fn of_attach(shim: Shim, container: Arc<Container>, relay: Relay) -> Self {
        Self(Handle::Attach { shim, container, relay })
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// [`PodError::Invalid`] without a terminal; [`PodError::Shim`] when the container has ended.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), PodError> {
        match &self.0 {
            Handle::Exec {
                terminal: Some(terminal),
                ..
            } => {
                let size = Winsize {
                    ws_row: rows,
                    ws_col: columns,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                tcsetwinsize(terminal.get_ref(), size)
                    .map_err(|errno| io_error("resize", Path::new("the terminal"), errno.into()))
            }
            Handle::Exec { terminal: None, .. } => Err(PodError::Invalid {
                field: "tty",
                why: "there is no terminal".into(),
            }),
            Handle::Attach { shim, .. } => Ok(shim.resize(columns, rows).await?),
        }
    }

    /// Waits for the end: the exit code of an exec's process, or that of the container attached to. May be cancelled
    /// and called again.
    ///
    /// # Errors
    /// [`PodError::Zygote`] when the exec's end was not seen; [`PodError::TooSlow`] when an attach was ended because
    /// its client was too far behind.
    pub async fn wait(&self) -> Result<i32, PodError> {
        match &self.0 {
            Handle::Exec { code, .. } => {
                let code = code.clone().wait_for(Option::is_some).await.map(|code| *code);
                code.ok().flatten().ok_or(PodError::Zygote(ZygoteError::Lost))
            }
            Handle::Attach { shim, container, relay } => {
                // First: one that missed something is told so, however the container ended meanwhile.
                relay.ended().await.map_err(PodError::TooSlow)?;
                tokio::select! {
                    code = exit_code(container) => code,
                    () = shim.dismissed() => Err(PodError::TooSlow(Arc::new(Behind::Daemon))),
                }
            }
        }
    }
}

async fn exit_code(container: &Container) -> Result<i32, PodError> {
    let mut state = container.state.subscribe();
    let exited = state
        .wait_for(|state| matches!(state, ContainerState::Exited { .. }))
        .await;
    match exited.as_deref() {
        Ok(ContainerState::Exited { exit, .. }) => Ok(exit.code),
        // Removed, which happens only after its exit: nobody knows its code any more.
        _ => Err(PodError::NoContainer(container.plan.id.to_string())),
    }
}

/// An output of an exec. What the process has left in the background may hold the stream open after its end: then it
/// ends once [`DRAIN`] has passed and nothing is left in it.
pub(super) struct UntilExit<R> {
    from: R,
    over: Over,
}

enum Over {
    NotYet(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// The most that may have been in the stream; somebody who goes on writing for ever is not listened to for ever.
    Left(usize),
}

impl<R> UntilExit<R> {
    pub fn new(from: R, mut code: watch::Receiver<Option<i32>>) -> Self {
        let over = async move {
            // An error is an exec that was lost: nothing will end its streams either.
            let _ = code.wait_for(Option::is_some).await;
            tokio::time::sleep(DRAIN).await;
        };
        Self {
            from,
            over: Over::NotYet(Box::pin(over)),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for UntilExit<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Over::NotYet(over) = &mut self.over
            && over.as_mut().poll(cx).is_ready()
        {
            self.over = Over::Left(PIPE);
        }
        let before = into.filled().len();
        match (Pin::new(&mut self.from).poll_read(cx, into), &mut self.over) {
            (Poll::Ready(Ok(())), Over::Left(left)) => {
                let count = (into.filled().len() - before).min(*left);
                *left -= count;
                into.set_filled(before + count);
                Poll::Ready(Ok(()))
            }
            (Poll::Pending, Over::Left(_)) => Poll::Ready(Ok(())),
            (result, _) => result,
        }
    }
}

/// One side of a terminal. It has no end of input: the process may still print.
#[derive(Clone)]
pub(super) struct Terminal(pub Arc<AsyncFd<OwnedFd>>);

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let room = into.initialize_unfilled();
            match guard.try_io(|fd| read_on(fd.get_ref(), room).map_err(io::Error::from)) {
                Ok(Ok(count)) => {
                    into.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // The master's word for "the last slave was closed" (pty(7)).
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| write(fd.get_ref(), bytes).map_err(io::Error::from)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A pipe that is closed when it is shut down, not only when it is dropped.
pub(super) struct Closing(pub Option<pipe::Sender>);

impl AsyncWrite for Closing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// How long the streams may stay open after the process's end.
const DRAIN: Duration = Duration::from_secs(2);
/// Most bytes in a pipe of ours.
const PIPE: usize = 1 << 20;

#[cfg(test)]
mod test {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn until_exit() -> (pipe::Sender, UntilExit<pipe::Receiver>, watch::Sender<Option<i32>>) {
        let (to, from) = pipe::pipe().unwrap();
        let (exit, code) = watch::channel(None);
        (to, UntilExit::new(from, code), exit)
    }

    #[tokio::test]
    async fn what_a_process_wrote_is_read_to_the_end_however_slowly() {
        let (mut to, mut from, exit) = until_exit();
        to.write_all(&[7; 5000]).await.unwrap();
        exit.send_replace(Some(0));
        // Longer than the drain; nobody holds the pipe, so its end is its own.
        drop(to);
        let mut first = [0; 10];
        from.read_exact(&mut first).await.unwrap();
        tokio::time::sleep(DRAIN + Duration::from_millis(100)).await;
        let mut rest = Vec::new();
        assert_eq!(from.read_to_end(&mut rest).await.unwrap(), 4990);
    }

    #[tokio::test]
    async fn a_stream_held_open_in_the_background_ends_after_the_process() {
        let (mut to, mut from, exit) = until_exit();
        to.write_all(b"said").await.unwrap();
        exit.send_replace(Some(0));
        let began = tokio::time::Instant::now();
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"said");
        assert!((DRAIN..DRAIN * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn one_who_floods_in_the_background_is_not_heard_for_ever() {
        let (mut to, mut from, exit) = until_exit();
        exit.send_replace(Some(0));
        let flood = tokio::spawn(async move { while to.write_all(&[0; 4096]).await.is_ok() {} });
        let mut dropped = tokio::io::sink();
        let read = tokio::io::copy(&mut from, &mut dropped);
        tokio::time::timeout(DRAIN * 3, read).await.expect("an end").unwrap();
        drop(from);
        flood.await.unwrap();
    }

    #[tokio::test]
    async fn shutting_an_input_down_ends_it() {
        let (to, mut from) = pipe::pipe().unwrap();
        let mut input = Closing(Some(to));
        input.write_all(b"in").await.unwrap();
        input.shutdown().await.unwrap();
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"in");
        assert!(input.write_all(b"more").await.is_err());
    }
}
