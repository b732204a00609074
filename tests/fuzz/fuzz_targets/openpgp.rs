//! GPG's messages and keyrings: read or refused in few words. A registry or a storage sends any message; a keyring is the
//! node's own file.
#![no_main]

use inro::image::trust::openpgp::Keyring;
use libfuzzer_sys::fuzz_target;

const KEYS: &[u8] = include_bytes!("../../../src/image/trust/openpgp/vectors/both.pgp");
/// In 2026.
const NOW: u64 = 1_780_000_000;

fuzz_target!(|bytes: &[u8]| {
    let ring = |keys: &[u8]| Keyring::new(&[("keys".to_owned(), keys.to_vec())], NOW);
    let known = ring(KEYS).expect("a keyring");
    if let Err(why) = known.open(bytes) {
        assert!(!why.is_empty() && why.len() < 2000);
    }
    if let Ok(other) = ring(bytes) {
        let _ = other.open(bytes);
    }
});
