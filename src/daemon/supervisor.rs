//! What the daemon and its service manager tell each other. Source: sd_notify(3). Without one all this does nothing.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use inro_proto as wire;
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{cli::client::Client, model::chain, pod::Pods, sys::fdpass};

/// Calls are answered, with the configuration of `status`.
pub fn ready(status: &str) {
    tell(&[NotifyState::Status(status), NotifyState::Ready]);
}

/// Does what may take longer than a start may: the manager is told to wait for as long as it goes on.
pub async fn patiently(work: impl Future<Output = ()>) {
    tokio::pin!(work);
    let mut turns = interval(MORE_TIME / 3);
    loop {
        tokio::select! {
            () = &mut work => return,
            _ = turns.tick() => {
                let micros = u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX);
                tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
            }
        }
    }
}

/// The configuration is being read again; ends with [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell the time"),
    }
}

/// No new call is answered.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Has a socket kept for the next daemon, in place of any that was kept under this name.
pub fn keep(name: &str, socket: BorrowedFd<'_>) {
    let name = format!("FDNAME={name}");
    tell(&[NotifyState::Custom("FDSTOREREMOVE=1"), NotifyState::Custom(&name)]);
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = pass(&manager, &format!("FDSTORE=1\n{name}\n"), socket) {
        tracing::warn!(%error, "cannot have the socket kept");
    }
}

/// Tells the watchdog that the daemon is well, each time that it has found that it is. For ever, if there is a watchdog.
///
/// Asked are: its own socket, as a client does; the zygote, which has to fork; the journal, in which every change is.
pub async fn report_health(socket: PathBuf, pods: Pods) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    // One check may fail or be late, and the next still comes in time.
    let mut turns = interval(limit / 3);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        match timeout(limit / 3, check(&socket, &pods)).await {
            Ok(Ok(())) => tell(&[NotifyState::Watchdog]),
            Ok(Err(error)) => tracing::error!(error = format!("{error:#}"), "the daemon is not well"),
            Err(_) => tracing::error!(waited_ms = millis(limit / 3), "the daemon does not answer itself"),
        }
    }
}

async fn check(socket: &Path, pods: &Pods) -> anyhow::Result<()> {
    let mut client = Client::connect(socket).await?;
    client
        .runtime
        .status(wire::StatusRequest::default())
        .await
        .context("Status")?;
    pods.check().await.map_err(|error| anyhow::anyhow!("{}", chain(&error)))
}

/// The one thing that sd-notify does only with another crate. The address may be a path, or a name behind `@`.
fn pass(manager: &OsStr, message: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    let address = match manager.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(manager)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    fdpass::send(socket.as_fd(), message.as_bytes(), &[fd])
}

/// What the manager is asked for at a time.
const MORE_TIME: Duration = Duration::from_secs(60);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
