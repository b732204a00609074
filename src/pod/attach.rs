//! Attach: to the streams of a container's first process.

use super::{Control, Input, PodError, Pods, Session, Streams, relay::Relay, tickets::running};
use crate::{
    model::ContainerId,
    shim::{Shim, Wanted},
};

impl Pods {
    /// Attaches a client, as it was promised, beside any others: it sees all that the container prints from now on. Input for a container
    /// that has no stdin is dropped, as both peers do. Source: CRI Attach.
    ///
    /// However slowly a client reads, the container and the other clients go on at their own speed: what the client has
    /// not taken waits for it on the disk, and when that is too much it is dismissed (`pod::relay`, `pod::spool`). The log
    /// is never short of anything.
    ///
    /// # Errors
    /// [`PodError::NoContainer`]; [`PodError::WrongState`] when it does not run any more; [`PodError::Shim`] when the container has just ended, or too many clients are attached.
    pub async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<Session, PodError> {
        let container = self.inner.index.container(id.as_str())?;
        running(&container)?;
        // A connection of its own: the shim sees the client's end as this connection's, however it comes.
        let shim = Shim::connect(container.folder.path())?;
        let attached = shim
            .attach(Wanted {
                stdin: streams.stdin && container.plan.config.stdio.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
            })
            .await?;
        let stdin = match attached.stdin {
            Some(input) => Box::new(input) as Input,
            None => Box::new(tokio::io::sink()),
        };
        let (relay, [stdout, stderr]) =
            Relay::start(id.clone(), [attached.stdout, attached.stderr], &self.inner.spools);
        Ok(Session {
            stdin: streams.stdin.then_some(stdin),
            stdout,
            stderr,
            control: Control::of_attach(shim, container, relay),
        })
    }
}
