//! Port forwarding: a connection to a port inside a pod.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use tokio::net::{TcpSocket, TcpStream};

use super::{PodError, Pods, blocking, pins};
use crate::{
    model::{NamespaceMode, SandboxId, SandboxState},
    sys::thread::in_network_namespace,
};

/// How long a listener whose queue is full is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl Pods {
    /// Connects to a port of the pod's loopback: 127.0.0.1, then ::1. Source: CRI PortForward.
    ///
    /// # Errors
    /// [`PodError::NoSandbox`], [`PodError::SandboxNotReady`]; [`PodError::NoListener`] with what each address said.
    pub async fn connect(&self, sandbox: &SandboxId, port: u16) -> Result<TcpStream, PodError> {
        let sandbox = self.inner.index.sandbox(sandbox.as_str())?;
        if sandbox.status.borrow().state != SandboxState::Ready {
            return Err(PodError::SandboxNotReady(sandbox.plan.id.clone()));
        }
        let on_host = sandbox.plan.config.namespaces.network == NamespaceMode::Node;
        let folder = sandbox.folder.path().to_owned();
        let sockets = blocking(move || match (on_host, pins::open_namespaces(&folder)?.net) {
            (true, _) => Ok(sockets()),
            (false, Some(namespace)) => in_network_namespace(namespace.as_fd(), || Ok(sockets()))
                .map_err(|source| pins::io_error("enter the network of", &folder, source)),
            (false, None) => Err(pins::io_error(
                "find the network of",
                &folder,
                io::ErrorKind::NotFound.into(),
            )),
        });
        let (v4, v6) = sockets.await?;
        let v4 = match reach(v4, (Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        match reach(v6, (Ipv6Addr::LOCALHOST, port).into()).await {
            Ok(stream) => Ok(stream),
            Err(v6) => Err(PodError::NoListener { port, v4, v6 }),
        }
    }
}

/// A socket belongs to the network namespace of the thread that made it, whoever connects it (network_namespaces(7)).
fn sockets() -> (io::Result<TcpSocket>, io::Result<TcpSocket>) {
    (TcpSocket::new_v4(), TcpSocket::new_v6())
}

async fn reach(socket: io::Result<TcpSocket>, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(PATIENCE, socket?.connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
