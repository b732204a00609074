//! Datagrams with descriptors over unix sockets (unix(7), SCM_RIGHTS).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use tokio::io::unix::AsyncFd;

/// A connected pair of SEQPACKET sockets, both close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Makes a socket non-blocking and known to the current tokio runtime.
pub fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    // SAFETY: an `OwnedFd` stays open and keeps its number until the `AsyncFd` that owns it is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Sends one datagram; never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len().max(1)))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(body)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one datagram of at most `limit` bytes with its descriptors (close-on-exec); `None` at the end.
///
/// # Errors
/// `InvalidData` when the datagram or its descriptors did not fit.
pub fn receive(socket: BorrowedFd<'_>, limit: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut body = vec![0; size(socket)?.clamp(1, limit)];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut body)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(message) => break message,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    body.truncate(message.bytes);
    Ok(Some((body, fds)))
}

/// Bytes of the next datagram, which stays where it is.
fn size(socket: BorrowedFd<'_>) -> io::Result<usize> {
    loop {
        match recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::TRUNC) {
            Ok((_, size)) => return Ok(size),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The kernel's `SCM_MAX_FD`.
const MOST: usize = 253;

#[cfg(test)]
mod test {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_datagram_arrives_with_its_descriptors_and_then_the_end() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"hello", &[a.as_fd(), b.as_fd()]).unwrap();
        let (body, fds) = receive(b.as_fd(), 16).unwrap().unwrap();
        assert_eq!((body.as_slice(), fds.len()), (&b"hello"[..], 2));
        drop((a, fds));
        assert!(receive(b.as_fd(), 16).unwrap().is_none());
    }

    #[test]
    fn a_datagram_over_the_limit_is_an_error() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &[7; 32], &[]).unwrap();
        assert!(receive(b.as_fd(), 16).is_err());
    }
}
