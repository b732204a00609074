//! A `policy.json` and a name: read whole or refused in few words, and something is demanded of each name.
#![no_main]

use inro::image::{reference::Reference, trust::policy::Policy};
use libfuzzer_sys::fuzz_target;

// The name is behind a NUL, which JSON cannot have.
fuzz_target!(|input: &str| {
    let (policy, name) = input.split_once('\0').unwrap_or((input, "registry.test/team/app:1"));
    let policy = match Policy::parse(policy.as_bytes()) {
        Ok(policy) => policy,
        Err(why) => return assert!(!why.is_empty()),
    };
    let Ok(reference) = name.parse::<Reference>() else {
        return;
    };
    assert!(!policy.demand(&reference).requirements.is_empty());
});
