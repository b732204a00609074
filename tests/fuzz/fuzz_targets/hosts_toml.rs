//! A `hosts.toml`: endpoints, or an error that names the file.
#![no_main]

use std::fs;

use inro::image::registry::{Otherwise, endpoints};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join("_default")).expect("a folder");
    fs::write(dir.path().join("_default/hosts.toml"), text).expect("the file");
    match endpoints(dir.path(), "registry.test", Otherwise::TlsUnlessLoopback) {
        Ok(endpoints) => assert!(!endpoints.is_empty()),
        Err(error) => assert!(error.to_string().contains("hosts.toml")),
    }
});
