//! Pods that were stopped: when their interface goes, and their address is another's.

use std::fs;

use super::*;

/// A host with a network that has one address for pods.
struct Host {
    netns: OwnedFd,
    network: Builtin,
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        Some(Self {
            netns: namespace(),
            network: Self::open(dir.path()),
            dir,
        })
    }

    fn open(dir: &Path) -> Builtin {
        let config = Config {
            subnet: "198.51.100.0/30".into(),
            ..Config::default()
        };
        Builtin::open(&config, dir).unwrap()
    }

    fn attach(&self, id: &SandboxId, netns: &OwnedFd) -> Result<IpAddr, NetError> {
        attach(&self.network, &self.netns, id, netns, &config()).map(|attached| attached.ips[0])
    }

    fn detach(&self, id: &SandboxId) {
        within(&self.netns, || self.network.detach(id)).unwrap();
    }

    fn has_device(&self, id: &SandboxId) -> bool {
        within(&self.netns, || Netlink::open().unwrap().index(&host_end(id))).is_ok()
    }

    fn lease(&self) -> std::path::PathBuf {
        self.dir.path().join("net/leases/198.51.100.2")
    }
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn an_address_is_free_only_after_its_device_is_gone() {
    let Some(host) = Host::new() else { return };
    let (old, netns) = (SandboxId::random(), namespace());
    host.attach(&old, &netns).unwrap();
    host.detach(&old);
    // Its namespace is still there, so the device does not go by itself.
    while host.network.inner.leases.has(&old) {
        let (leased, there) = (host.lease().exists(), host.has_device(&old));
        assert!(leased || !there, "free, and the device is there");
    }
    assert!(!host.has_device(&old) && !host.lease().exists());
}

#[test]
fn a_pod_waits_for_an_address_that_is_about_to_be_free_and_for_no_other() {
    let Some(host) = Host::new() else { return };
    let (old, new, third) = (SandboxId::random(), SandboxId::random(), SandboxId::random());
    let (netns, other) = (namespace(), namespace());
    let address = host.attach(&old, &netns).unwrap();
    host.detach(&old);
    assert_eq!(host.attach(&new, &other).unwrap(), address);
    assert!(!host.has_device(&old) && host.has_device(&new));
    let refused = host.attach(&third, &namespace()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn a_device_goes_with_its_namespace() {
    let Some(host) = Host::new() else { return };
    for _ in 0..3 {
        let (id, netns) = (SandboxId::random(), namespace());
        host.attach(&id, &netns).unwrap();
        drop(netns);
        host.detach(&id);
        host.network.settle(LONG);
        assert!(!host.has_device(&id) && !host.lease().exists());
    }
}

#[test]
fn what_a_daemon_left_that_died_after_a_stop_is_removed_at_the_next_start() {
    let Some(host) = Host::new() else { return };
    let (id, netns) = (SandboxId::random(), namespace());
    host.attach(&id, &netns).unwrap();
    // Died before anything was done: the lease is all that tells.
    let next = Host::open(host.dir.path());
    assert!(host.has_device(&id) && host.lease().exists());
    within(&host.netns, || next.recover(&[])).unwrap();
    assert!(!host.has_device(&id) && !host.lease().exists());
}

#[test]
fn a_removal_that_failed_is_tried_again_with_the_next() {
    let Some(host) = Host::new() else { return };
    let (id, netns) = (SandboxId::random(), namespace());
    host.attach(&id, &netns).unwrap();
    // A lease that cannot be removed.
    fs::remove_file(host.lease()).unwrap();
    fs::create_dir_all(host.lease().join("full")).unwrap();
    host.detach(&id);
    host.network.settle(LONG);
    assert!(host.network.inner.leases.has(&id));
    let refused = host.attach(&SandboxId::random(), &namespace()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted, "nothing to wait for");
    fs::remove_dir_all(host.lease()).unwrap();
    host.attach(&SandboxId::random(), &namespace()).unwrap();
    assert!(!host.network.inner.leases.has(&id));
}

#[test]
fn a_pod_with_the_address_of_an_earlier_one_is_reached_at_once() {
    let Some(mut host) = Host::new() else { return };
    // With five addresses, one of them of a pod that stays: without any the host forgets all it knows.
    let config = Config {
        subnet: "198.51.100.0/29".into(),
        ..Config::default()
    };
    host.network = Builtin::open(&config, host.dir.path()).unwrap();
    let (staying, its_netns) = (SandboxId::random(), namespace());
    host.attach(&staying, &its_netns).unwrap();
    for _ in 0..5 {
        let (id, netns) = (SandboxId::random(), namespace());
        let address = host.attach(&id, &netns).unwrap();
        let _listener = within(&netns, || TcpListener::bind((address, 80))).unwrap();
        // Who asks knows the pod's hardware address from then on.
        for asking in [&host.netns, &its_netns] {
            let asked = within(asking, || {
                TcpStream::connect_timeout(&(address, 80).into(), Duration::from_secs(3))
            });
            assert!(asked.is_ok(), "{address}: {asked:?}");
        }
        host.detach(&id);
        host.network.settle(LONG);
    }
}

#[test]
fn a_bridge_that_somebody_took_away_is_made_again() {
    let Some(host) = Host::new() else { return };
    let (old, new) = (SandboxId::random(), SandboxId::random());
    let (netns, other) = (namespace(), namespace());
    host.attach(&old, &netns).unwrap();
    host.detach(&old);
    host.network.settle(LONG);
    within(&host.netns, || Netlink::open()?.delete("inro0")).unwrap();
    let address = host.attach(&new, &other).unwrap();
    let gateway = within(&host.netns, || TcpListener::bind("198.51.100.1:80")).unwrap();
    within(&other, || TcpStream::connect("198.51.100.1:80")).unwrap();
    assert_eq!(gateway.accept().unwrap().1.ip(), address);
}
