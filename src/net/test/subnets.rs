//! The kubelet names another subnet while pods run.

use super::*;

#[test]
fn new_pods_get_the_kubelets_subnet_and_old_ones_keep_theirs() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let host = namespace();
    let config_of = |subnet: &str| Config {
        subnet: subnet.into(),
        ..Config::default()
    };
    let network = Network::open(&config_of("198.51.100.0/24"), dir.path()).unwrap();
    let pods: Vec<_> = (0..3).map(|_| (SandboxId::random(), namespace())).collect();
    let attach = |network: &Network, at: usize| {
        let (id, netns) = &pods[at];
        attach(network, &host, id, netns, &config()).unwrap().ips[0]
    };
    let change = |network: &Network, cidr: &str| within(&host, || network.change_subnet(cidr)).unwrap();
    let old = attach(&network, 0);
    change(&network, "");
    change(&network, "192.0.2.0/24,2001:db8::/64");
    let new = attach(&network, 1);
    assert!(old.to_string().starts_with("198.51.100."), "{old}");
    assert!(new.to_string().starts_with("192.0.2."), "{new}");
    // Both go on, and reach each other through the bridge.
    let listener = in_network_namespace(pods[0].1.as_fd(), || TcpListener::bind((old, 80))).unwrap();
    let server = std::thread::spawn(move || listener.accept().unwrap().1.ip());
    in_network_namespace(pods[1].1.as_fd(), || TcpStream::connect((old, 80))).unwrap();
    assert_eq!(server.join().unwrap(), new);
    // The kubelet's word outlives the daemon, and wins over what the file says.
    let again = Network::open(&config_of("203.0.113.0/24"), dir.path()).unwrap();
    let live: Vec<_> = [(0, old), (1, new)]
        .map(|(at, ip)| LivePod {
            id: pods[at].0.clone(),
            ips: vec![ip],
            port_mappings: Vec::new(),
        })
        .into();
    within(&host, || again.recover(&live)).unwrap();
    let third = attach(&again, 2);
    assert!(third.to_string().starts_with("192.0.2."), "{third}");
    assert_ne!(third, new);
}
