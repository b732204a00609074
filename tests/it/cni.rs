//! Networks of plugins: what plugins are told, what becomes of a pod whose plugin misbehaves, and Debian's own plugins.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use inro_proto as v1;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

use crate::harness::{Node, eventually, eventually_ok, own_network, skipped, target};

/// A node with a folder of configurations and one of plugins, which has to outlive it.
struct Plugged {
    node: Node,
    dir: TempDir,
}

impl Plugged {
    /// With `extra` lines in the section of plugins.
    fn new(mode: &str, extra: &str) -> Plugged {
        let dir = tempfile::Builder::new()
            .prefix("inro-cni-")
            .tempdir()
            .expect("a folder");
        for name in ["net.d", "bin", "calls"] {
            fs::create_dir(dir.path().join(name)).expect("a folder");
        }
        let path = dir.path().display();
        let debian = debian().display().to_string();
        let node = Node::with_config(&format!(
            "\n[net]\nmode = \"{mode}\"\n[net.cni]\nconf_dir = \"{path}/net.d\"\nbin_dirs = [\"{path}/bin\", \"{debian}\"]\n{extra}\n"
        ));
        Plugged { node, dir }
    }

    /// A network in the file `name`.
    fn write(&self, name: &str, network: &Value) {
        let path = self.dir.path().join("net.d").join(name);
        // At once, as an installer should.
        let temporary = self.dir.path().join("new");
        fs::write(&temporary, network.to_string()).expect("written");
        fs::rename(temporary, path).expect("put there");
    }

    /// A plugin that notes what it is told, and then does `what` for each verb.
    fn plugin(&self, name: &str, what: &str) {
        let calls = self.dir.path().join("calls").display().to_string();
        let script = format!(
            r#"#!/bin/sh
n=$(ls {calls} | wc -l)
cat > {calls}/$n.{name}.$CNI_COMMAND
env | grep ^CNI_ > {calls}/env.{name}.$CNI_COMMAND
case $CNI_COMMAND in
{what}
ADD) echo '{{"cniVersion":"1.1.0","interfaces":[{{"name":"eth0","sandbox":"'$CNI_NETNS'"}}],"ips":[{{"address":"10.9.9.9/24","interface":0}}]}}' ;;
VERSION) echo '{{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}}' ;;
esac
"#
        );
        let path = self.dir.path().join("bin").join(name);
        let temporary = self.dir.path().join("new");
        fs::write(&temporary, script).expect("written");
        fs::set_permissions(&temporary, Permissions::from_mode(0o755)).expect("made executable");
        fs::rename(temporary, path).expect("put there");
    }

    fn remove_plugin(&self, name: &str) {
        fs::remove_file(self.dir.path().join("bin").join(name)).expect("removed");
    }

    /// What plugins were told, in order: `number.plugin.VERB`, and the configuration.
    fn calls(&self, verb: &str) -> Vec<(String, Value)> {
        let mut calls: Vec<(usize, String, Value)> = fs::read_dir(self.dir.path().join("calls"))
            .expect("calls")
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (number, rest) = name.split_once('.')?;
                let (plugin, told) = rest.rsplit_once('.')?;
                let text = fs::read(entry.path()).ok()?;
                // One that is being written is not told yet.
                let conf = serde_json::from_slice(&text).ok()?;
                (told == verb).then_some((number.parse().ok()?, plugin.to_owned(), conf))
            })
            .collect();
        calls.sort_by_key(|call| call.0);
        calls.into_iter().map(|(_, plugin, conf)| (plugin, conf)).collect()
    }

    fn environment(&self, plugin: &str, verb: &str) -> String {
        fs::read_to_string(self.dir.path().join(format!("calls/env.{plugin}.{verb}"))).expect("it was called")
    }

    /// Whether pods can be attached, and why not.
    fn ready(&self) -> Result<(), String> {
        let status = self.node.cri.status(v1::StatusRequest::default()).expect("Status");
        let conditions = status.status.expect("a status").conditions;
        let network = conditions
            .into_iter()
            .find(|c| c.r#type == "NetworkReady")
            .expect("NetworkReady");
        match network.status {
            true => Ok(()),
            false => Err(format!("{}: {}", network.reason, network.message)),
        }
    }

    fn records(&self) -> usize {
        let folder = self.node.dir().join("root/net/attachments");
        fs::read_dir(folder).expect("attachments").count()
    }
}

/// Where Debian's plugins are: unpacked by `tests/tools.sh`, or installed.
fn debian() -> PathBuf {
    let unpacked = target().join("tools/cni/usr/lib/cni");
    match unpacked.exists() {
        true => unpacked,
        false => "/usr/lib/cni".into(),
    }
}

fn network(plugins: &[Value]) -> Value {
    json!({"cniVersion": "1.1.0", "name": "tests", "plugins": plugins})
}

fn plain(name: &str) -> Value {
    json!({"type": name})
}

#[test]
fn a_network_that_is_put_there_makes_the_node_ready() {
    let plugged = Plugged::new("cni", "");
    let why = plugged.ready().unwrap_err();
    assert!(
        why.starts_with("NetworkPluginNotReady: no network configuration in "),
        "{why}"
    );
    let refused = plugged.node.try_pod(own_network).err().expect("no network");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(plugged.records(), 0);

    plugged.write("10-tests.conflist", &network(&[plain("first")]));
    let why = plugged.ready().unwrap_err();
    assert!(why.contains("plugin \"first\" is in none of"), "{why}");
    plugged.plugin("first", "");
    eventually("ready", Duration::from_secs(30), || plugged.ready().ok());
    let pod = plugged.node.pod(own_network);
    assert_eq!(pod.status().network.expect("a network").ip, "10.9.9.9");
    pod.stop();
    pod.remove();
    assert_eq!(plugged.records(), 0);
}

#[test]
fn plugins_are_told_what_a_pod_asks_for_and_the_result_before_them() {
    let plugged = Plugged::new("cni", "");
    plugged.plugin("first", "");
    plugged.plugin("second", "");
    let mut second = plain("second");
    second["capabilities"] = json!({"portMappings": true, "bandwidth": true, "dns": true, "mac": true,
        "io.kubernetes.cri.pod-annotations": true, "cgroupPath": false});
    plugged.write("10-tests.conflist", &network(&[plain("first"), second]));
    // It is not the first by name.
    plugged.write(
        "20-others.conf",
        &json!({"cniVersion": "1.0.0", "name": "others", "type": "nobody"}),
    );
    let pod = plugged.node.pod(|config| {
        own_network(config);
        config
            .annotations
            .insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
        config.port_mappings = vec![v1::PortMapping {
            host_port: 18080,
            container_port: 80,
            ..Default::default()
        }];
        config.dns_config = Some(v1::DnsConfig {
            servers: vec!["10.1.1.1".into()],
            ..Default::default()
        });
    });
    let added = plugged.calls("ADD");
    let names: Vec<_> = added.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    let (first, second) = (&added[0].1, &added[1].1);
    assert!(
        first["prevResult"].is_null() && first["runtimeConfig"].is_null(),
        "{first}"
    );
    assert_eq!(
        (&first["name"], &first["cniVersion"]),
        (&json!("tests"), &json!("1.1.0"))
    );
    assert_eq!(second["prevResult"]["ips"][0]["address"], "10.9.9.9/24");
    let config = &second["runtimeConfig"];
    assert_eq!(
        config["portMappings"],
        json!([{"hostPort": 18080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}])
    );
    assert_eq!(config["bandwidth"]["ingressRate"], 10_000_000);
    assert_eq!(config["dns"]["servers"], json!(["10.1.1.1"]));
    assert!(config["io.kubernetes.cri.pod-annotations"].is_object());
    assert!(config["cgroupPath"].is_null(), "not a capability of it: {config}");
    let environment = plugged.environment("first", "ADD");
    for told in [
        format!("CNI_CONTAINERID={}", pod.id),
        "CNI_IFNAME=eth0".into(),
        format!("K8S_POD_INFRA_CONTAINER_ID={}", pod.id),
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=".into(),
    ] {
        assert!(environment.contains(&told), "{told}: {environment}");
    }
    pod.stop();
    let ended = plugged.calls("DEL");
    let names: Vec<_> = ended.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["second", "first"]);
    assert_eq!(ended[0].1["prevResult"]["ips"][0]["address"], "10.9.9.9/24");
    assert!(
        plugged.environment("first", "DEL").contains("CNI_NETNS=/"),
        "before the namespace goes"
    );
    pod.remove();
}

#[test]
fn a_plugin_that_misbehaves_costs_its_pod_an_error_and_nothing_else() {
    let plugged = Plugged::new("cni", "timeout_s = 2\n");
    plugged.write("10-tests.conflist", &network(&[plain("bad")]));
    let cases = [
        (
            "ADD) echo '{\"code\":7,\"msg\":\"no such range\",\"details\":\"of 3\"}'; exit 1 ;;",
            Code::Internal,
            "no such range; of 3 (code 7; exited with 1)",
        ),
        (
            "ADD) echo '{\"code\":11,\"msg\":\"not now\"}'; exit 1 ;;",
            Code::Unavailable,
            "not now",
        ),
        (
            "ADD) echo the reason >&2; exit 3 ;;",
            Code::Internal,
            "exited with 3: the reason",
        ),
        ("ADD) kill -11 $$ ;;", Code::Internal, "was killed by signal 11"),
        ("ADD) sleep 100 ;;", Code::DeadlineExceeded, "did not end within 2s"),
        (
            "ADD) sleep 100 & exec sleep 100 ;;",
            Code::DeadlineExceeded,
            "did not end within 2s",
        ),
        (
            "ADD) exec cat /dev/zero ;;",
            Code::Internal,
            "printed more than 1048576 bytes",
        ),
        (
            "ADD) echo nonsense; exit 0 ;;",
            Code::Internal,
            "plugin \"bad\" of network \"tests\"",
        ),
    ];
    for (what, code, message) in cases {
        plugged.plugin("bad", what);
        let begun = Instant::now();
        let error = plugged.node.try_pod(own_network).err().expect(what);
        assert_eq!(error.code(), code, "{what}: {error:?}");
        assert!(error.message().contains(message), "{what}: {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        assert_eq!(plugged.records(), 0, "{what}");
    }
    // The next one has a network.
    plugged.plugin("bad", "");
    let pod = plugged.node.pod(own_network);
    pod.stop();
    pod.remove();
}

#[test]
fn a_plugin_that_is_gone_or_hangs_does_not_keep_a_pod() {
    let plugged = Plugged::new("cni", "timeout_s = 1\n");
    plugged.write("10-tests.conflist", &network(&[plain("first")]));
    plugged.plugin("first", "");
    let pod = plugged.node.pod(own_network);
    plugged.remove_plugin("first");
    pod.stop();
    pod.remove();
    assert_eq!(plugged.records(), 1);
    plugged.plugin("first", "");
    eventually("its DEL", Duration::from_secs(30), || {
        (plugged.records() == 0).then_some(())
    });
    assert!(
        plugged
            .environment("first", "DEL")
            .contains(&format!("CNI_CONTAINERID={}", pod.id))
    );

    let pod = plugged.node.pod(own_network);
    plugged.plugin("first", "DEL) sleep 100 ;;");
    let begun = Instant::now();
    pod.stop();
    pod.remove();
    assert!(begun.elapsed() < Duration::from_secs(20));
    plugged.plugin("first", "");
    eventually("its DEL", Duration::from_secs(30), || {
        (plugged.records() == 0).then_some(())
    });
}

#[test]
fn a_plugin_that_says_it_is_ill_makes_the_node_unready_until_it_is_well() {
    let plugged = Plugged::new("cni", "");
    let ill = plugged.dir.path().join("ill");
    let what = format!(
        "STATUS) test ! -e {} || {{ echo '{{\"code\":50,\"msg\":\"no routes\"}}'; exit 1; }} ;;",
        ill.display()
    );
    plugged.plugin("first", &what);
    plugged.write("10-tests.conflist", &network(&[plain("first")]));
    plugged.ready().expect("it is well");
    fs::write(&ill, "").expect("written");
    let why = eventually("unready", Duration::from_secs(40), || plugged.ready().err());
    assert!(
        why.contains("STATUS of plugin \"first\"") && why.contains("no routes"),
        "{why}"
    );
    fs::remove_file(&ill).expect("removed");
    eventually("ready", Duration::from_secs(40), || plugged.ready().ok());
    // A version that it does not speak.
    let mut other = network(&[plain("first")]);
    other["cniVersion"] = json!("0.3.1");
    plugged.write("10-tests.conflist", &other);
    let why = plugged.ready().unwrap_err();
    assert!(why.contains("does not speak version 0.3.1"), "{why}");
}

#[test]
fn a_start_ends_what_no_pod_has_and_tells_plugins_what_is_left() {
    let mut plugged = Plugged::new("cni", "");
    plugged.write("10-tests.conflist", &network(&[plain("first")]));
    plugged.plugin("first", "");
    let kept = plugged.node.pod(own_network);
    let gone = plugged.node.pod(own_network);
    plugged.plugin("first", "DEL) exit 1 ;;");
    gone.stop();
    gone.remove();
    plugged.node.daemon.kill9();
    plugged.plugin("first", "");
    plugged.node.daemon.restart();
    eventually("its DEL", Duration::from_secs(30), || {
        (plugged.records() == 1).then_some(())
    });
    let collected = eventually("GC", Duration::from_secs(30), || plugged.calls("GC").pop());
    assert_eq!(
        collected.1["cni.dev/valid-attachments"],
        json!([{"containerID": kept.id, "ifname": "eth0"}])
    );
    // Its address is known as before.
    assert_eq!(kept.status().network.expect("a network").ip, "10.9.9.9");
    kept.stop();
    kept.remove();
    assert_eq!(plugged.records(), 0);
}

#[test]
fn without_plugins_the_node_has_its_own_network_until_there_are() {
    let plugged = Plugged::new("auto", "");
    plugged.ready().expect("its own");
    let own = plugged.node.pod(own_network);
    assert_eq!(plugged.node.leases(), 1);
    plugged.plugin("first", "");
    plugged.write("10-tests.conflist", &network(&[plain("first")]));
    let other = plugged.node.pod(own_network);
    assert_eq!(other.status().network.expect("a network").ip, "10.9.9.9");
    assert_eq!(plugged.node.leases(), 1);
    // Each goes the way that it came.
    for pod in [own, other] {
        pod.stop();
        pod.remove();
    }
    assert_eq!((plugged.node.leases(), plugged.records()), (0, 0));
    assert_eq!(plugged.calls("DEL").len(), 1);
}

#[test]
fn both_families_are_told_with_the_preferred_first() {
    let plugged = Plugged::new("cni", "prefer = \"ipv6\"\n");
    plugged.plugin(
        "first",
        "ADD) echo '{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"10.9.9.9/24\"},{\"address\":\"fd00::9/64\"}]}' ;;",
    );
    plugged.write("10-tests.conflist", &network(&[plain("first")]));
    let pod = plugged.node.pod(own_network);
    let network = pod.status().network.expect("a network");
    let more: Vec<_> = network.additional_ips.iter().map(|ip| ip.ip.as_str()).collect();
    assert_eq!((network.ip.as_str(), more), ("fd00::9", vec!["10.9.9.9"]));
    pod.stop();
    pod.remove();
}

/// Debian's plugins, with addresses of host-local in `data`.
fn real(plugged: &Plugged, main: Value, rest: &[Value]) -> Option<PathBuf> {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let kinds = std::iter::once(&main)
        .chain(rest)
        .filter_map(|plugin| plugin["type"].as_str());
    if let Some(missing) = kinds.chain(["host-local"]).find(|kind| !debian().join(kind).exists()) {
        skipped(
            &test,
            &format!("there is no plugin {missing:?} in {}", debian().display()),
        );
        return None;
    }
    if Command::new("iptables").arg("--version").output().is_err() {
        skipped(&test, "there is no iptables, which Debian's plugins execute");
        return None;
    }
    let data = plugged.dir.path().join("addresses");
    let mut main = main;
    main["ipam"] = json!({
        "type": "host-local", "dataDir": data, "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": "10.97.0.0/24"}], [{"subnet": "fd97::/64"}]],
    });
    let mut plugins = vec![main];
    plugins.extend_from_slice(rest);
    let mut network = network(&plugins);
    network["cniVersion"] = json!("1.0.0");
    plugged.write("10-tests.conflist", &network);
    Some(data)
}

/// What the host has that plugins may make for good: bridges, devices of a module, tables.
fn lasting() -> (BTreeSet<String>, BTreeSet<String>) {
    let links = fs::read_dir("/sys/class/net").expect("links").flatten();
    let links = links.filter_map(|entry| entry.file_name().into_string().ok());
    let tables = Command::new("nft").args(["list", "tables"]).output().expect("nft");
    let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
    let links = links.filter(|link| LASTING.contains(&link.as_str()));
    (links.collect(), tables.lines().map(str::to_owned).collect())
}

/// Has what is new of it go at the end of a test.
struct Host {
    links: BTreeSet<String>,
    tables: BTreeSet<String>,
}

impl Host {
    fn now() -> Host {
        let (links, tables) = lasting();
        Host { links, tables }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let (links, tables) = lasting();
        for link in links.difference(&self.links) {
            let _ = Command::new("ip").args(["link", "delete", link]).status();
        }
        for table in tables.difference(&self.tables) {
            let _ = Command::new("nft").arg("delete").args(table.split(' ')).status();
        }
    }
}

/// Links that are not a pod's.
const LASTING: [&str; 4] = ["inrocni0", "inromaster", "ifb0", "ifb1"];

/// Addresses that host-local has given.
fn given(data: &Path) -> usize {
    let names = fs::read_dir(data.join("tests")).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with("10.97.") || name.starts_with("fd97"))
        .count()
}

/// What a server at `address` says to the simplest question.
fn fetch(address: (&str, u16)) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// How the host would send to `address`, and whom it knows.
fn way_to(address: &str) -> String {
    let line = format!("ip route get {address}; ip -br link; ip neigh; bridge link; ip addr show inrocni0");
    let output = Command::new("sh").args(["-c", &line]).output().expect("sh");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn bridge_host_local_and_portmap_give_a_pod_two_families_and_a_host_port() {
    let plugged = Plugged::new("cni", "");
    let _host = Host::now();
    let main = json!({"type": "bridge", "bridge": "inrocni0", "isGateway": true, "ipMasq": false, "hairpinMode": true});
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let Some(data) = real(&plugged, main, &[portmap]) else {
        return;
    };
    plugged.ready().expect("they speak it");
    let port = crate::harness::registry::free_port();
    let pod = plugged.node.pod(|config| {
        own_network(config);
        config.port_mappings = vec![v1::PortMapping {
            host_port: port.into(),
            container_port: 8080,
            ..Default::default()
        }];
    });
    let told = pod.status().network.expect("a network");
    assert!(told.ip.starts_with("10.97.0."), "{told:?}");
    assert!(told.additional_ips[0].ip.starts_with("fd97::"), "{told:?}");
    plugged.node.pull("shell");
    let serve = "mkdir /www && echo -n page > /www/index.html && exec httpd -f -p 8080 -h /www";
    let server = pod.run_container("shell", &["sh", "-c", serve]);
    let page = |address: (&str, u16)| {
        let fetched = fetch(address).map_err(|error| error.to_string());
        let why = match fetched {
            Ok(text) if text.ends_with("page") => return Ok(()),
            Ok(text) => format!("{text:?}"),
            Err(error) => error,
        };
        // All that may be at fault: the server, and the way there.
        let (state, log) = (server.status().state(), server.logged());
        Err(format!("{address:?}: {why}; {state:?}, {log:?}\n{}", way_to(address.0)))
    };
    eventually_ok("the pod's address", Duration::from_secs(30), || {
        page((told.ip.as_str(), 8080))
    });
    eventually_ok("the host's port", Duration::from_secs(30), || page(("127.0.0.1", port)));
    assert_eq!(given(&data), 2);
    server.stop(0);
    pod.stop();
    pod.remove();
    assert_eq!(given(&data), 0);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn ptp_and_macvlan_attach_and_let_go() {
    let plugged = Plugged::new("cni", "");
    let _host = Host::now();
    let Some(data) = real(&plugged, json!({"type": "ptp", "ipMasq": false}), &[]) else {
        return;
    };
    let pod = plugged.node.pod(own_network);
    assert!(pod.status().network.expect("a network").ip.starts_with("10.97.0."));
    pod.stop();
    pod.remove();
    assert_eq!(given(&data), 0);

    let pair = ["link", "add", "inromaster", "type", "veth", "peer", "name", "inroother"];
    let made = Command::new("ip").args(pair).status();
    assert!(made.expect("ip").success());
    real(&plugged, json!({"type": "macvlan", "master": "inromaster"}), &[]);
    let pod = plugged.node.pod(own_network);
    assert!(pod.status().network.expect("a network").ip.starts_with("10.97.0."));
    pod.stop();
    pod.remove();
    assert_eq!(given(&data), 0);
}

#[test]
fn a_chain_as_calico_has_it_attaches_and_lets_go() {
    let plugged = Plugged::new("cni", "");
    let _host = Host::now();
    let rest = [
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
        json!({"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}),
        json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_notify": "1"}}),
    ];
    let Some(data) = real(&plugged, json!({"type": "ptp", "ipMasq": true}), &rest) else {
        return;
    };
    let pod = plugged.node.pod(|config| {
        own_network(config);
        config
            .annotations
            .insert("kubernetes.io/egress-bandwidth".into(), "5M".into());
    });
    let shaped = Command::new("ip")
        .args(["-br", "link", "show", "type", "ifb"])
        .output()
        .expect("ip");
    let shaped = String::from_utf8_lossy(&shaped.stdout).into_owned();
    assert!(shaped.contains("bwp"), "the bandwidth plugin makes an ifb: {shaped}");
    pod.stop();
    pod.remove();
    assert_eq!(given(&data), 0);
}
