//! What is taken for a reference is the same one when it is written out, and no part of it climbs.
#![no_main]

use inro::image::reference::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<Reference>() else {
        return;
    };
    assert_eq!(reference.to_string().parse::<Reference>().ok(), Some(reference.clone()));
    assert!(
        !reference
            .repository
            .split('/')
            .any(|part| matches!(part, "" | "." | ".."))
    );
});
