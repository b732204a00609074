//! Network namespaces that play machines: nodes, what is around them, and pods as seen from inside.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    os::fd::{AsFd, AsRawFd},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use inro::sys::thread::in_network_namespace;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::fstatfs;

use super::{ledger, patience};

/// A network namespace, there as long as somebody has it.
#[derive(Clone)]
pub struct Netns(Arc<File>);

impl Netns {
    /// A new one, in which loopback is up.
    pub fn new() -> Netns {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("the namespace")
        });
        let netns = Netns(Arc::new(made.join().expect("a thread")));
        netns.sh("ip link set lo up");
        netns
    }

    /// The one that is pinned at `path`, or that a process has.
    pub fn at(path: &Path) -> io::Result<Netns> {
        let file = File::open(path)?;
        // A pin that was undone is an empty file.
        if fstatfs(&file)?.f_type != NSFS_MAGIC {
            return Err(io::Error::other(format!("{} is no namespace", path.display())));
        }
        Ok(Netns(Arc::new(file)))
    }

    /// Does a piece of work inside, on a thread of its own.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_network_namespace(self.0.as_fd(), || Ok(work())).expect("the work ends")
    }

    /// What a shell line prints; it has to succeed.
    pub fn sh(&self, line: &str) -> String {
        let output = self.within(|| Command::new("sh").args(["-c", line]).output().expect("sh"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {told}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Its interfaces but the bridge of pods.
    pub fn links(&self) -> BTreeSet<String> {
        self.within(ledger::links)
    }

    /// A wire to another machine: an interface `name` on both sides, with these addresses.
    pub fn wire(&self, name: &str, own: &[&str], other: &Netns, others: &[&str]) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.sh(&format!("ip link add {name} type veth peer name {name} netns {there}"));
        for (side, addresses) in [(self, own), (other, others)] {
            // Nobody else has them, so nobody need be asked for a second.
            side.sh(&format!("echo 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad"));
            for address in addresses {
                side.sh(&format!("ip addr add {address} dev {name}"));
            }
            side.sh(&format!("ip link set {name} up"));
        }
    }

    /// Tells everyone who connects to a port from where they came.
    pub fn serve(&self, address: &str, port: u16) -> Server {
        let listener = self
            .within(|| TcpListener::bind((address, port)))
            .unwrap_or_else(|error| panic!("{address}:{port}: {error}"));
        listener.set_nonblocking(true).expect("a listener");
        let ended = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let ended = ended.clone();
            move || {
                while !ended.load(Ordering::Relaxed) {
                    match listener.accept() {
                        // One that leaves before it was told does not matter.
                        Ok((mut client, from)) => _ = client.write_all(from.ip().to_canonical().to_string().as_bytes()),
                        Err(_) => thread::sleep(Duration::from_millis(2)),
                    }
                }
            }
        });
        Server {
            ended,
            thread: Some(thread),
        }
    }

    /// From where a server saw this machine come.
    pub fn ask(&self, to: &str) -> io::Result<String> {
        let to: SocketAddr = to.to_socket_addrs()?.next().expect("an address");
        self.within(|| {
            let mut stream = TcpStream::connect_timeout(&to, patience(Duration::from_secs(5)))?;
            stream.set_read_timeout(Some(patience(Duration::from_secs(5))))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }
}

/// The file system of namespaces. Source: linux/magic.h.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// Serves until it is dropped; a namespace lives as long as something in it listens.
pub struct Server {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
