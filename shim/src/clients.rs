//! The control connections: daemons of now and of before, a handful at most.

use core::mem::MaybeUninit;

use inro_shim::protocol::{Reply, Request, SIZE};
use rustix::{
    fd::{AsFd, OwnedFd},
    io::{Errno, IoSliceMut},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, accept_with, recvmsg, send},
};

/// Connections beyond this are closed at once.
pub const MOST: usize = 6;

/// The open connections.
#[derive(Default)]
pub struct Clients {
    pub slots: [Option<OwnedFd>; MOST],
}

/// What a connection had to say.
pub enum Heard {
    Request(Request, Option<OwnedFd>),
    Nothing,
    /// It is closed, or does not speak the protocol.
    Gone,
}

impl Clients {
    /// Takes every connection that waits; a late one is told at once that init has `exited`.
    pub fn accept(&mut self, listener: &OwnedFd, exited: bool) {
        while let Ok(client) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            if exited {
                tell(&client, Reply::Exited);
            }
            if let Some(slot) = self.slots.iter_mut().find(|slot| slot.is_none()) {
                *slot = Some(client);
            }
        }
    }

    /// The next message of connection `at`.
    pub fn hear(&mut self, at: usize) -> Heard {
        let Some(client) = &self.slots[at] else {
            return Heard::Nothing;
        };
        let heard = receive(client);
        if matches!(heard, Heard::Gone) {
            self.slots[at] = None;
        }
        heard
    }

    /// Answers connection `at`.
    pub fn reply(&mut self, at: usize, reply: Reply) {
        if let Some(client) = &self.slots[at] {
            tell(client, reply);
        }
    }

    /// Tells everyone.
    pub fn announce(&mut self, reply: Reply) {
        for client in self.slots.iter().flatten() {
            tell(client, reply);
        }
    }
}

/// A client that does not read loses messages; the end of its connection tells it that something happened.
fn tell(client: &OwnedFd, reply: Reply) {
    let _ = send(client, &reply.encode(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

fn receive(client: &OwnedFd) -> Heard {
    let mut bytes = [0u8; SIZE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let count = match recvmsg(
        client.as_fd(),
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        flags,
    ) {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Heard::Nothing,
        Err(_) => return Heard::Gone,
    };
    let fd = first_descriptor(&mut ancillary);
    match Request::decode(&bytes[..count]) {
        Some(request) => Heard::Request(request, fd),
        None => Heard::Gone,
    }
}

/// Takes the pty's master off a console connection.
pub fn receive_console(connection: &OwnedFd) -> Option<OwnedFd> {
    let mut bytes = [0u8; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        connection.as_fd(),
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .ok()?;
    first_descriptor(&mut ancillary)
}

fn first_descriptor(ancillary: &mut RecvAncillaryBuffer<'_>) -> Option<OwnedFd> {
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}
