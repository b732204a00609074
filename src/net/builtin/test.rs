//! Real namespaces: one plays the host, so that the machine's own network stays as it is.

mod families;
mod host_ports;
mod node;
mod removal;
mod subnets;

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
};

use rustix::thread::UnshareFlags;

use super::*;
use crate::{model::*, sys::thread::in_network_namespace};

/// A new network namespace, alive as long as its descriptor.
fn namespace() -> OwnedFd {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                #[allow(unsafe_code)]
                // SAFETY: parts only this thread's network.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
                OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
            })
            .join()
            .unwrap()
    })
}

/// Attaches a pod to `host`.
fn attach(
    network: &Builtin,
    host: &OwnedFd,
    id: &SandboxId,
    netns: &OwnedFd,
    config: &SandboxConfig,
) -> Result<Attachment, NetError> {
    let route = within(netns, || message::socket(None)).unwrap();
    within(host, || {
        let reserved = network.reserve(id)?;
        network.attach(id, reserved, netns.as_fd(), route, config)
    })
}

fn within<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    in_network_namespace(netns.as_fd(), || Ok(work())).unwrap()
}

fn config() -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: "n".into(),
            uid: "u".into(),
            namespace: "ns".into(),
            attempt: 0,
        },
        runtime_handler: String::new(),
        hostname: String::new(),
        log_directory: None,
        dns: Dns::default(),
        port_mappings: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        cgroup_parent: String::new(),
        sysctls: Default::default(),
        namespaces: crate::spec::test_security().namespaces,
        privileged: false,
        overhead: None,
        resources: None,
    }
}

#[test]
fn pods_reach_each_other_and_leave_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let host = namespace();
    let network = Builtin::open(
        &Config {
            subnet: "198.51.100.0/24".into(),
            ..Config::default()
        },
        dir.path(),
    )
    .unwrap();
    let pods: Vec<_> = (0..2).map(|_| (SandboxId::random(), namespace())).collect();
    let ips: Vec<_> = pods
        .iter()
        .map(|(id, netns)| attach(&network, &host, id, netns, &config()).unwrap().ips[0])
        .collect();
    assert_ne!(ips[0], ips[1]);
    let listener = in_network_namespace(pods[0].1.as_fd(), || TcpListener::bind((ips[0], 80))).unwrap();
    let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"hello").unwrap());
    let text = in_network_namespace(pods[1].1.as_fd(), || {
        let mut text = String::new();
        TcpStream::connect((ips[0], 80))?.read_to_string(&mut text)?;
        Ok(text)
    });
    assert_eq!(text.unwrap(), "hello");
    server.join().unwrap();
    // A daemon that comes back frees what is not alive any more.
    let again = Builtin::open(&network.inner.config, dir.path()).unwrap();
    let live = [LivePod {
        netns: std::path::PathBuf::new(),
        id: pods[0].0.clone(),
        ips: vec![ips[0]],
        port_mappings: Vec::new(),
    }];
    in_network_namespace(host.as_fd(), || again.recover(&live).map_err(std::io::Error::other)).unwrap();
    in_network_namespace(host.as_fd(), || {
        let netlink = Netlink::open()?;
        assert!(netlink.index(&host_end(&pods[0].0)).is_ok());
        assert!(netlink.index(&host_end(&pods[1].0)).is_err());
        Ok(())
    })
    .unwrap();
    in_network_namespace(host.as_fd(), || again.detach(&pods[0].0).map_err(std::io::Error::other)).unwrap();
    again.settle(Duration::from_secs(10));
    again.detach(&pods[0].0).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("net/leases")).unwrap().count(), 0);
}
