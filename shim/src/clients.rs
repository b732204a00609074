//! The connections: daemons of now and of before, a handful at most, and one for each attached client.

use core::mem::MaybeUninit;

use inro_shim::{
    log::Stream,
    protocol::{Reply, Request, SIZE},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        SocketFlags, accept_with, recvmsg, send, sendmsg,
    },
};

use crate::{
    attached::{Attached, Output},
    clock::now_ms,
};

/// Connections beyond this are closed at once.
pub const MOST: usize = 16;
/// Attached ones among them; the rest is for daemons.
const MOST_ATTACHED: usize = 12;

/// A connection, and what it was attached to.
pub struct Client {
    pub fd: OwnedFd,
    pub attached: Option<Attached>,
}

/// The open connections.
#[derive(Default)]
pub struct Clients {
    pub slots: [Option<Client>; MOST],
}

/// What a connection had to say.
pub enum Heard {
    Request(Request, [Option<OwnedFd>; 2]),
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
                *slot = Some(Client {
                    fd: client,
                    attached: None,
                });
            }
        }
    }

    /// The next message of connection `at`.
    pub fn hear(&mut self, at: usize) -> Heard {
        match &self.slots[at] {
            Some(client) => receive(&client.fd),
            None => Heard::Nothing,
        }
    }

    /// Closes connection `at`. Answers whether the container's input was its.
    pub fn close(&mut self, at: usize) -> bool {
        let client = self.slots[at].take();
        client
            .and_then(|client| client.attached)
            .is_some_and(|attached| attached.stdin)
    }

    /// Answers connection `at`, with a descriptor if there is one.
    pub fn reply(&self, at: usize, reply: Reply, fd: Option<BorrowedFd<'_>>) {
        let Some(client) = &self.slots[at] else { return };
        let Some(fd) = fd else { return tell(&client.fd, reply) };
        let fds = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = sendmsg(&client.fd, &[IoSlice::new(&reply.encode())], &mut ancillary, flags);
    }

    /// Tells everyone.
    pub fn announce(&self, reply: Reply) {
        for client in self.slots.iter().flatten() {
            tell(&client.fd, reply);
        }
    }

    /// Attaches connection `at`. Answers the errno of a refusal.
    pub fn attach(&mut self, at: usize, attached: Attached) -> Result<(), Errno> {
        if self.attached().count() >= MOST_ATTACHED {
            return Err(Errno::MFILE);
        }
        match &mut self.slots[at] {
            Some(Client {
                attached: slot @ None, ..
            }) => {
                *slot = Some(attached);
                Ok(())
            }
            _ => Err(Errno::ALREADY),
        }
    }

    /// Connection `at` has no more input. Answers whether the container's input was its.
    pub fn end_input(&mut self, at: usize) -> bool {
        let attached = self.slots[at].as_mut().and_then(|client| client.attached.as_mut());
        attached.is_some_and(|attached| core::mem::take(&mut attached.stdin))
    }

    /// Looks for room for more of a stream. Answers whether there is room with everyone who is attached to it.
    pub fn room(&mut self, stream: Stream) -> bool {
        let Some(any) = self.outputs(stream).next() else {
            return true;
        };
        let idle = any.fd.as_fd();
        // One entry for each slot; those that are not attached ask for nothing.
        let mut fds: [PollFd<'_>; MOST] = core::array::from_fn(|at| match output(&self.slots[at], stream) {
            Some(output) => PollFd::from_borrowed_fd(output.fd.as_fd(), PollFlags::OUT),
            None => PollFd::from_borrowed_fd(idle, PollFlags::empty()),
        });
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut fds, Some(&at_once)).is_err() {
            return true;
        }
        let now = now_ms();
        let room: [bool; MOST] = fds.map(|fd| !fd.revents().is_empty());
        for (slot, room) in self.slots.iter_mut().zip(room) {
            if output(slot, stream).is_some()
                && let Some(attached) = slot.as_mut().and_then(|client| client.attached.as_mut())
            {
                attached.note(stream, !room, now);
            }
        }
        !self.held(stream)
    }

    /// Whether a stream waits for somebody's room.
    pub fn held(&self, stream: Stream) -> bool {
        self.outputs(stream).any(|output| output.full)
    }

    /// Shows everyone who is attached some bytes of a stream.
    pub fn show(&mut self, stream: Stream, bytes: &[u8]) {
        for attached in self
            .slots
            .iter_mut()
            .flatten()
            .filter_map(|client| client.attached.as_mut())
        {
            attached.show(stream, bytes);
        }
    }

    /// A stream has ended.
    pub fn end(&mut self, stream: Stream) {
        for attached in self
            .slots
            .iter_mut()
            .flatten()
            .filter_map(|client| client.attached.as_mut())
        {
            attached.outputs[stream as usize] = None;
        }
    }

    /// Milliseconds until somebody's patience is over.
    pub fn patience_ms(&self) -> Option<i64> {
        self.attached().next()?;
        let now = now_ms();
        self.attached()
            .filter_map(|attached| attached.patience.left_ms(now))
            .min()
    }

    /// The next client that read too slowly, told so.
    pub fn too_slow(&self) -> Option<usize> {
        self.attached().next()?;
        let now = now_ms();
        let slow = |attached: &Attached| attached.lost || attached.patience.left_ms(now) == Some(0);
        let at = (0..MOST).find(|&at| {
            let client = self.slots[at].as_ref();
            client.and_then(|client| client.attached.as_ref()).is_some_and(slow)
        })?;
        self.reply(at, Reply::TooSlow, None);
        Some(at)
    }

    fn attached(&self) -> impl Iterator<Item = &Attached> {
        self.slots
            .iter()
            .flatten()
            .filter_map(|client| client.attached.as_ref())
    }

    fn outputs(&self, stream: Stream) -> impl Iterator<Item = &Output> {
        self.slots.iter().filter_map(move |slot| output(slot, stream))
    }
}

/// Where a slot's client is shown a stream.
pub fn output(slot: &Option<Client>, stream: Stream) -> Option<&Output> {
    slot.as_ref()?.attached.as_ref()?.outputs[stream as usize].as_ref()
}

/// A client that does not read loses messages; the end of its connection tells it that something happened.
fn tell(client: &OwnedFd, reply: Reply) {
    let _ = send(client, &reply.encode(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

fn receive(client: &OwnedFd) -> Heard {
    let mut bytes = [0u8; SIZE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
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
    let fds = descriptors(&mut ancillary);
    match Request::decode(&bytes[..count]) {
        Some(request) => Heard::Request(request, fds),
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
    let [first, _] = descriptors(&mut ancillary);
    first
}

fn descriptors(ancillary: &mut RecvAncillaryBuffer<'_>) -> [Option<OwnedFd>; 2] {
    let mut all = [None, None];
    let mut places = all.iter_mut();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            for fd in fds {
                // One too many is closed here.
                if let Some(place) = places.next() {
                    *place = Some(fd);
                }
            }
        }
    }
    all
}
