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
    let network = Builtin::open(&config_of("198.51.100.0/24"), dir.path()).unwrap();
    let pods: Vec<_> = (0..3).map(|_| (SandboxId::random(), namespace())).collect();
    let attach = |network: &Builtin, at: usize| {
        let (id, netns) = &pods[at];
        attach(network, &host, id, netns, &config()).unwrap().ips
    };
    let change = |network: &Builtin, cidr: &str| within(&host, || network.change_subnet(cidr)).unwrap();
    let old = attach(&network, 0)[0];
    change(&network, "");
    change(&network, "192.0.2.0/24,2001:db8::/64");
    let ips = attach(&network, 1);
    let new = ips[0];
    assert!(old.to_string().starts_with("198.51.100."), "{old}");
    assert!(new.to_string().starts_with("192.0.2."), "{new}");
    assert_eq!(ips[1].to_string(), new.to_string().replace("192.0.2.", "2001:db8::"));
    assert_eq!(network.told_subnets(), ["192.0.2.0/24", "2001:db8::/64"]);
    // Both go on, and reach each other through the bridge.
    let listener = in_network_namespace(pods[0].1.as_fd(), || TcpListener::bind((old, 80))).unwrap();
    let server = std::thread::spawn(move || listener.accept().unwrap().1.ip());
    in_network_namespace(pods[1].1.as_fd(), || TcpStream::connect((old, 80))).unwrap();
    assert_eq!(server.join().unwrap(), new);
    // The kubelet's word outlives the daemon, and wins over what the file says.
    let again = Builtin::open(&config_of("203.0.113.0/24"), dir.path()).unwrap();
    let live: Vec<_> = [(0, vec![old]), (1, ips)]
        .map(|(at, ips)| LivePod {
            netns: std::path::PathBuf::new(),
            id: pods[at].0.clone(),
            ips,
            port_mappings: Vec::new(),
        })
        .into();
    within(&host, || again.recover(&live)).unwrap();
    let third = attach(&again, 2);
    assert!(third[0].to_string().starts_with("192.0.2."), "{third:?}");
    assert_eq!(third.len(), 2);
    assert_ne!(third[0], new);
}
