//! A `registries.conf`, a drop-in and a name: where to ask for it, or an error that names the file or the name.
#![no_main]

use std::fs;

use inro::image::{
    reference::Reference,
    registry::{RegistriesConf, candidates},
};
use libfuzzer_sys::fuzz_target;

// The parts are apart by NUL, which TOML cannot have.
fuzz_target!(|input: &str| {
    let mut parts = input.split('\0');
    let [conf, drop_in, name] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("registries.conf");
    fs::write(&path, conf).expect("the file");
    fs::create_dir(dir.path().join("registries.conf.d")).expect("a folder");
    fs::write(dir.path().join("registries.conf.d/10.conf"), drop_in).expect("the drop-in");
    let read = match RegistriesConf::load(&path) {
        Ok(read) => read,
        Err(error) => return assert!(error.to_string().contains(".conf: "), "{error}"),
    };
    if let Ok(candidates) = candidates(&path, name) {
        assert!(!candidates.is_empty());
    }
    let Ok(reference) = name.parse::<Reference>() else {
        return;
    };
    let Some(rule) = read.rule(&reference) else { return };
    match rule.sources(&reference) {
        Ok(sources) => assert!(sources.iter().filter(|source| source.is_own).count() <= 1),
        Err(error) => assert!(error.to_string().contains("[[registry]]"), "{error}"),
    }
});
