//! The dozen messages of rtnetlink(7) that a bridge and its pods need, written by hand.

use std::{
    io,
    net::IpAddr,
    os::fd::{OwnedFd, RawFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, bind, netdevice::name_to_index, netlink::SocketAddrNetlink, recv, sendto},
};

use super::{
    bandwidth::Rate,
    family::{Family, octets},
    message::{
        ACK, CREATE, DONE, DUMP, EXCL, Message, REQUEST, attributes, cut, framed, messages, socket, verdict, word,
    },
};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const GETADDR: u16 = 22;
const NEWQDISC: u16 = 36;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const PERMANENT: u32 = 0x80;
const NODAD: u32 = 0x02;
const RTA_GATEWAY: u16 = 5;
const RTA_OIF: u16 = 4;
const TC_H_ROOT: u32 = u32::MAX;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const LINKLAYER_ETHERNET: u8 = 1;
const UP: u32 = 1;
const LOOPBACK: u32 = 1;
/// Multicast group of what happens to interfaces, as a bit of the address.
const RTMGRP_LINK: u32 = 1;
const BRIDGE: u8 = 7;

/// A route socket: what is asked of it is done in the network namespace that it was opened in.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// One in the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self::over(socket(None)?))
    }

    /// One that was opened elsewhere.
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket, sequence: 0 }
    }

    /// An interface's index. Waits for nobody: netdevice(7)'s ioctl, which any socket does, takes no lock.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.socket, name)?)
    }

    /// Makes a bridge; one that is there is kept. A bridge without a hardware address of its own takes that of one of its
    /// ports, and another one when that port goes: its neighbours would ask for it anew with every pod.
    pub fn bridge(&mut self, name: &str, hardware: [u8; 6]) -> io::Result<()> {
        let mut message = link(0, 0);
        message.text(IFLA_IFNAME, name);
        message.raw(IFLA_ADDRESS, &hardware);
        message.nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "bridge"));
        existing(self.send(NEWLINK, CREATE | EXCL, message))
    }

    /// Makes a pair: `host`, up and on the bridge, and `peer` in another namespace. One message does all of it.
    pub fn veth(&mut self, host: &str, peer: &Peer<'_>, bridge: u32, mtu: u32) -> io::Result<()> {
        let mut message = link(0, UP);
        message.text(IFLA_IFNAME, host);
        message.number(IFLA_MASTER, bridge);
        if mtu != 0 {
            message.number(IFLA_MTU, mtu);
        }
        message.nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "veth");
            info.nest(INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |inner| {
                    // Without IFF_UP: the peer's peer is not there yet (ENOTCONN).
                    inner.bytes.extend(link_header(0, 0));
                    inner.text(IFLA_IFNAME, peer.name);
                    inner.raw(IFLA_ADDRESS, &peer.hardware);
                    inner.number(IFLA_NET_NS_FD, peer.netns.cast_unsigned());
                    if mtu != 0 {
                        inner.number(IFLA_MTU, mtu);
                    }
                });
            });
        });
        self.send(NEWLINK, CREATE | EXCL, message)
    }

    /// Lets a bridge send a frame back where it came from: where bridged packets pass netfilter (br_netfilter), a pod
    /// that asks for its own host port is answered on its own port of the bridge.
    pub fn hairpin(&mut self, name: &str) -> io::Result<()> {
        let index = self.index(name)?;
        let mut bytes = link_header(index, 0);
        bytes[0] = BRIDGE;
        let mut message = Message { bytes };
        message.nest(IFLA_PROTINFO, |port| port.raw(IFLA_BRPORT_MODE, &[1]));
        self.send(SETLINK, 0, message)
    }

    pub fn up(&mut self, index: u32) -> io::Result<()> {
        self.send(NEWLINK, 0, link(index, UP))
    }

    /// Brings the loopback interface of a new namespace up.
    pub fn loopback_up(&mut self) -> io::Result<()> {
        self.up(LOOPBACK)
    }

    /// Brings up the loopback interface of a new namespace and `index`, with its addresses and the ways out through their
    /// gateways: one datagram for all.
    pub fn furnish(&mut self, index: u32, places: &[Place]) -> io::Result<()> {
        let addresses = places.iter().map(|place| {
            let message = own_address(index, place.address, place.prefix);
            (NEWADDR, CREATE | EXCL, message)
        });
        let routes = places
            .iter()
            .map(|place| (NEWROUTE, CREATE | EXCL, default_route(index, place.gateway)));
        let mut steps = vec![(NEWLINK, 0, link(LOOPBACK, UP))];
        steps.extend(addresses);
        steps.push((NEWLINK, 0, link(index, UP)));
        steps.extend(routes);
        self.send_all(steps)
    }

    /// Adds an address; one that is there is kept.
    pub fn address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        existing(self.send(NEWADDR, CREATE | EXCL, own_address(index, address, prefix)))
    }

    /// Lets an interface send no faster than `rate`: a token bucket filter in place of its queue. Source: tc-tbf(8).
    ///
    /// # Errors
    /// `ENOENT` where the kernel has none (`sch_tbf`).
    pub fn slow_down(&mut self, index: u32, rate: Rate) -> io::Result<()> {
        // `struct tcmsg`: family and padding, the interface, no handle, at the root.
        let mut bytes = vec![0; 4];
        bytes.extend(index.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(TC_H_ROOT.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        let mut message = Message { bytes };
        message.text(TCA_KIND, "tbf");
        message.nest(TCA_OPTIONS, |options| {
            options.raw(TCA_TBF_PARMS, &token_bucket(rate));
            options.raw(TCA_TBF_RATE64, &rate.bytes_a_second().to_ne_bytes());
            options.number(TCA_TBF_BURST, rate.bytes_at_once());
        });
        self.send(NEWQDISC, CREATE | EXCL, message)
    }

    /// An interface as it is now.
    pub fn link(&mut self, index: u32) -> io::Result<Link> {
        self.sequence += 1;
        let bytes = framed(GETLINK, REQUEST, self.sequence, &link_header(index, 0));
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let answer = self.receive()?;
        let mut messages = messages(&answer);
        match messages.next() {
            Some((NEWLINK, body)) => Link::parse(body).ok_or_else(cut),
            _ => Err(verdict(&answer)?.1.err().unwrap_or_else(cut)),
        }
    }

    /// Moves an interface to another namespace, where it gets the name `name`. It is down then and has no addresses.
    pub fn relocate(&mut self, index: u32, netns: RawFd, name: &str) -> io::Result<()> {
        // Renamed after the move, which takes it down: so the name need be free only there.
        let mut message = link(index, 0);
        message.number(IFLA_NET_NS_FD, netns.cast_unsigned());
        message.text(IFLA_IFNAME, name);
        self.send(SETLINK, 0, message)
    }

    /// The addresses of an interface, of any family.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        self.sequence += 1;
        let all = framed(GETADDR, REQUEST | DUMP, self.sequence, &[0; 8]);
        sendto(&self.socket, &all, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut addresses = Vec::new();
        loop {
            let answer = self.receive()?;
            for (kind, body) in messages(&answer) {
                match kind {
                    NEWADDR if word(body, 4) == Some(index) => addresses.extend(Address::parse(body)),
                    NEWADDR => {}
                    DONE => return Ok(addresses),
                    _ => return Err(verdict(&answer)?.1.err().unwrap_or_else(cut)),
                }
            }
        }
    }

    /// Gives an interface an address that another namespace took from it.
    pub fn add(&mut self, index: u32, address: &Address) -> io::Result<()> {
        let mut bytes = vec![address.family, address.prefix, 0, address.scope];
        bytes.extend(index.to_ne_bytes());
        let mut message = Message { bytes };
        for (kind, value) in &address.attributes {
            message.raw(*kind, value);
        }
        existing(self.send(NEWADDR, CREATE | EXCL, message))
    }

    /// Deletes an interface; one that is gone is no error.
    pub fn delete(&mut self, name: &str) -> io::Result<()> {
        let mut message = link(0, 0);
        message.text(IFLA_IFNAME, name);
        match self.send(DELLINK, 0, message) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// One datagram: a dump's parts are at most 32 KiB.
    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0u8; 64 << 10];
        let (count, _) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
        answer.truncate(count);
        Ok(answer)
    }

    /// Sends one message and waits for the kernel's answer to it.
    fn send(&mut self, kind: u16, flags: u16, message: Message) -> io::Result<()> {
        self.send_all(vec![(kind, flags, message)])
    }

    /// Sends messages in one datagram, which the kernel does in their order, and waits for its answer to the last. None is
    /// left out when one before it fails; the first failure is told.
    fn send_all(&mut self, messages: Vec<(u16, u16, Message)>) -> io::Result<()> {
        let last = self.sequence + u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        for (kind, flags, message) in messages {
            self.sequence += 1;
            // A failure is answered without being asked for.
            let ack = if self.sequence == last { ACK } else { 0 };
            bytes.extend(framed(kind, flags | REQUEST | ack, self.sequence, &message.bytes));
        }
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut outcome = Ok(());
        loop {
            let mut answer = [0u8; 4096];
            let (count, _) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
            let (sequence, result) = verdict(&answer[..count])?;
            outcome = outcome.and(result);
            if sequence == last {
                return outcome;
            }
        }
    }
}

/// Hears when interfaces of the calling thread's network namespace are gone.
pub struct Departures {
    socket: OwnedFd,
}

impl Departures {
    pub fn listen() -> io::Result<Self> {
        let socket = socket(None)?;
        bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_LINK))?;
        Ok(Self { socket })
    }

    /// Whether there is no such interface. It was down before its name went: no packet comes through it any more.
    pub fn is_gone(&self, name: &str) -> io::Result<bool> {
        match name_to_index(&self.socket, name) {
            Ok(_) => Ok(false),
            Err(Errno::NODEV) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until some interface is gone, at most for `limit`.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let limit = Timespec::try_from(end.saturating_duration_since(Instant::now())).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&limit)) {
                Ok(0) => return Ok(()),
                Ok(_) if self.heard()? => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes all that was told; whether something is gone, or may be.
    fn heard(&self) -> io::Result<bool> {
        let mut gone = false;
        loop {
            let mut told = [0u8; 8192];
            match recv(&self.socket, &mut told[..], RecvFlags::DONTWAIT) {
                Ok((count, _)) => gone |= messages(&told[..count]).any(|(kind, _)| kind == DELLINK),
                Err(Errno::AGAIN) => return Ok(gone),
                // Too much at once: the kernel dropped some of it.
                Err(Errno::NOBUFS) => gone = true,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// An end of a pair to be made in another namespace.
pub struct Peer<'a> {
    pub name: &'a str,
    pub netns: RawFd,
    pub hardware: [u8; 6],
}

/// Where an interface is in a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub address: IpAddr,
    pub prefix: u8,
    pub gateway: IpAddr,
}

/// What an interface is like.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub up: bool,
    pub mtu: u32,
}

impl Link {
    /// From `struct ifinfomsg` and what follows.
    fn parse(body: &[u8]) -> Option<Self> {
        let mtu = attributes(body.get(16..)?).find(|(kind, _)| *kind == IFLA_MTU);
        Some(Self {
            up: word(body, 8)? & UP != 0,
            mtu: word(mtu?.1, 0)?,
        })
    }
}

/// An address of an interface, as the kernel tells and takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    scope: u8,
    flags: u32,
    /// Those that make the address: not its label, which has the interface's name in it, nor its age.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// From `struct ifaddrmsg` and what follows.
    fn parse(body: &[u8]) -> Option<Self> {
        let &[family, prefix, old_flags, scope] = body.get(..4)? else {
            return None;
        };
        let attributes: Vec<_> = attributes(body.get(8..)?)
            .filter(|(kind, _)| [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS].contains(kind))
            .map(|(kind, value)| (kind, value.to_vec()))
            .collect();
        let flags = attributes.iter().find(|(kind, _)| *kind == IFA_FLAGS);
        let flags = flags.and_then(|(_, value)| word(value, 0)).unwrap_or(old_flags.into());
        Some(Self {
            family,
            prefix,
            scope,
            flags,
            attributes,
        })
    }

    /// Whether it goes where its interface goes: permanent, and of global scope.
    pub fn is_kept(&self) -> bool {
        self.flags & PERMANENT != 0 && self.scope == 0
    }
}

fn existing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// `struct ifinfomsg`, with `change` saying which flags are meant.
fn link_header(index: u32, flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes
}

fn own_address(index: u32, address: IpAddr, prefix: u8) -> Message {
    let mut bytes = vec![Family::of(address).number(), prefix, 0, 0];
    bytes.extend(index.to_ne_bytes());
    let mut message = Message { bytes };
    message.raw(IFA_LOCAL, &octets(address));
    message.raw(IFA_ADDRESS, &octets(address));
    if address.is_ipv6() {
        // Nobody else is given it, so nobody need be asked for a second whether they have it (RFC 4862, 5.4).
        message.number(IFA_FLAGS, NODAD);
    }
    message
}

fn default_route(index: u32, gateway: IpAddr) -> Message {
    // Main table, protocol "boot", scope "universe", type "unicast", no flags.
    let mut message = Message {
        bytes: vec![Family::of(gateway).number(), 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0],
    };
    message.raw(RTA_GATEWAY, &octets(gateway));
    message.number(RTA_OIF, index);
    message
}

/// `struct tc_tbf_qopt`: rate, no peak rate, the bytes that wait at most, and no times, which follow from the rest.
fn token_bucket(rate: Rate) -> Vec<u8> {
    // `struct tc_ratespec` of Ethernet; what does not fit is in an attribute of its own.
    let mut bytes = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    let slow = u32::try_from(rate.bytes_a_second()).unwrap_or(u32::MAX);
    bytes.extend(slow.to_ne_bytes());
    bytes.extend([0; 12]);
    bytes.extend(rate.bytes_waiting().to_ne_bytes());
    bytes.extend([0; 8]);
    bytes
}

fn link(index: u32, flags: u32) -> Message {
    Message {
        bytes: link_header(index, flags),
    }
}
