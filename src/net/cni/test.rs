//! Configurations as clusters have them, and what is wrong with others.

use std::fs;

use serde_json::json;

use super::{
    conf::{Version, load},
    plugin::runtime_config,
    result::addresses,
    *,
};

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn one(name: &str, text: &str) -> Result<Option<Network>, String> {
    load(folder(&[(name, text)]).path()).map_err(|error| chain(&error).to_string())
}

#[test]
fn the_first_file_that_is_a_network_wins() {
    let dir = folder(&[
        ("00-readme.txt", "no"),
        ("05-broken.conflist", "{"),
        (
            "10-net.conflist",
            r#"{"cniVersion":"1.0.0","name":"ten","plugins":[{"type":"bridge"}]}"#,
        ),
        ("20-net.conf", r#"{"cniVersion":"0.4.0","name":"twenty","type":"ptp"}"#),
    ]);
    let network = load(dir.path()).unwrap().unwrap();
    assert_eq!((network.name.as_str(), network.version), ("ten", Version(1, 0, 0)));
    fs::remove_file(dir.path().join("10-net.conflist")).unwrap();
    let network = load(dir.path()).unwrap().unwrap();
    assert_eq!(network.plugins[0].kind, "ptp");
    fs::remove_file(dir.path().join("20-net.conf")).unwrap();
    let error = chain(&load(dir.path()).unwrap_err()).to_string();
    assert!(error.contains("05-broken.conflist: "), "{error}");
    assert!(load(&dir.path().join("no such folder")).unwrap().is_none());
}

#[test]
fn a_network_that_is_none_is_told_with_what_is_wrong() {
    for (text, why) in [
        ("[]", "is no JSON object"),
        (r#"{"plugins":[{"type":"a"}]}"#, "name: is missing"),
        (r#"{"name":"../a","plugins":[{"type":"a"}]}"#, "is no name of a network"),
        (r#"{"name":"a","plugins":[]}"#, "plugins: there are none"),
        (
            r#"{"name":"a","plugins":[{"type":"a"},{}]}"#,
            "plugins[1]: type: is missing",
        ),
        (r#"{"name":"a","plugins":[{"type":"../sh"}]}"#, "is no file name"),
        (
            r#"{"name":"a","cniVersion":"2.0.0","plugins":[{"type":"a"}]}"#,
            "2.0.0 is none of 0.1.0 to 1.1.0",
        ),
        (
            r#"{"name":"a","disableGC":3,"plugins":[{"type":"a"}]}"#,
            "disableGC: is neither true nor false",
        ),
    ] {
        let error = one("10.conflist", text).unwrap_err();
        assert!(
            error.contains("10.conflist: ") && error.contains(why),
            "{text}: {error}"
        );
    }
}

#[test]
fn the_newest_version_that_is_spoken_counts_and_further_plugins_are_in_a_folder() {
    let dir = folder(&[
        (
            "10.conflist",
            r#"{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0","1.2.0"],"name":"a","plugins":[{"type":"one"}]}"#,
        ),
        ("a/10.conf", r#"{"type":"two"}"#),
        ("a/20.conf", r#"{"type":"three"}"#),
    ]);
    let network = load(dir.path()).unwrap().unwrap();
    assert_eq!(network.version, Version(1, 1, 0));
    let kinds: Vec<_> = network.plugins.iter().map(|plugin| plugin.kind.as_str()).collect();
    assert_eq!(kinds, ["one", "two", "three"]);
    // As it is kept with an attachment.
    assert_eq!(Network::try_from(Value::from(network.clone())).unwrap(), network);
}

#[test]
fn a_plugin_gets_the_wishes_that_it_can_fulfil() {
    let text = r#"{"name":"a","plugins":[{"type":"a","capabilities":{"portMappings":true,"dns":false,"mac":true}}]}"#;
    let network = one("10.conflist", text).unwrap().unwrap();
    let wishes = json!({"portMappings": [1], "dns": {}, "bandwidth": {}});
    let given = runtime_config(&network.plugins[0], wishes.as_object().unwrap());
    assert_eq!(given, Some(json!({"portMappings": [1]})));
    assert_eq!(runtime_config(&network.plugins[0], &Map::new()), None);
}

#[test]
fn results_of_all_versions_tell_the_pods_own_addresses() {
    let new = json!({
        "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/ns"}],
        "ips": [{"address": "10.1.0.1/16", "interface": 0}, {"address": "fd00::2/64", "interface": 1}, {"address": "10.1.0.2/16"}],
    });
    let told: Vec<_> = addresses(&new).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(told, ["fd00::2", "10.1.0.2"]);
    let old = json!({"ip4": {"ip": "10.1.0.3/24"}, "dns": {}});
    assert_eq!(addresses(&old).unwrap(), ["10.1.0.3".parse::<IpAddr>().unwrap()]);
    assert!(
        addresses(&json!({"ips": [{"address": "nowhere"}]}))
            .unwrap_err()
            .contains("nowhere")
    );
    let both = ["10.0.0.1", "fd00::1", "10.0.0.2"].map(|text| text.parse().unwrap());
    let first = |prefer| {
        in_order(both.to_vec(), prefer)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(first(Preference::Ipv4), ["10.0.0.1", "10.0.0.2", "fd00::1"]);
    assert_eq!(first(Preference::Ipv6), ["fd00::1", "10.0.0.1", "10.0.0.2"]);
}

#[test]
fn a_configuration_that_no_plugin_can_be_run_with_is_refused_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |edit: fn(&mut Config)| {
        let mut config = Config::default();
        edit(&mut config);
        let error = Cni::open(&config, dir.path()).err().expect("refused");
        chain(&error).to_string()
    };
    for (error, key) in [
        (
            refused(|config| config.conf_dir = "net.d".into()),
            "net.cni.conf_dir: net.d",
        ),
        (
            refused(|config| config.bin_dirs.push("bin".into())),
            "net.cni.bin_dirs: bin",
        ),
        (refused(|config| config.timeout_s = 0), "net.cni.timeout_s: "),
    ] {
        assert!(error.starts_with(key), "{error}");
    }
    Cni::open(&Config::default(), dir.path()).unwrap();
}
