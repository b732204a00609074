//! The way to the kernel's netfilter, for the table and for connection tracking.

use std::{io, os::fd::OwnedFd};

use rustix::net::{RecvFlags, SendFlags, netlink, netlink::SocketAddrNetlink, recv, sendto, sockopt};

use super::message::{socket, verdict};

/// A socket that is opened in the network namespace of whoever asks first, and kept: to close one waits until the kernel has
/// freed what was deleted before, for 5 to 9 ms in which no other transaction begins.
///
/// Source: `nft_rcv_nl_event` in net/netfilter/nf_tables_api.c; measured with Linux 6.18.
#[derive(Debug, Default)]
pub struct Netfilter {
    socket: Option<OwnedFd>,
}

impl Netfilter {
    /// Sends messages in one datagram, and waits for the answer to the one with the number `last`.
    ///
    /// # Errors
    /// The first that any of them met.
    pub fn ask(&mut self, messages: &[u8], last: u32) -> io::Result<()> {
        let socket = match &self.socket {
            Some(open) => open,
            None => &*self.socket.insert(socket(Some(netlink::NETFILTER))?),
        };
        let mut answer = [0u8; 1024];
        // What is left of a request that failed: all answers are there when the kernel has taken it.
        while recv(socket, &mut answer[..], RecvFlags::DONTWAIT).is_ok() {}
        // A table with thousands of elements is more than a socket sends by default.
        if messages.len() > USUAL_ROOM {
            sockopt::set_socket_send_buffer_size_force(socket, messages.len() * 2)?;
        }
        sendto(socket, messages, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        loop {
            let (count, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
            let (sequence, result) = verdict(&answer[..count])?;
            result?;
            if sequence == last {
                return Ok(());
            }
        }
    }
}

/// What a netlink socket takes without being asked to take more.
const USUAL_ROOM: usize = 100_000;
