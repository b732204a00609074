//! Layers, compressed or not: unpacked or refused, and nothing is beside their folder. Wants root, as the worker has it.
#![no_main]

use std::fs::{self, File};

use inro::image::unpack::{Compression, Limits, Pulse, Snapshotter, unpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for snapshotter in [Snapshotter::Overlay, Snapshotter::Erofs] {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join(snapshotter.folder());
        fs::create_dir(&folder).expect("a folder");
        let limits = Limits {
            entries: 1000,
            bytes: 1 << 20,
            ..Limits::default()
        };
        let _ = unpack(
            bytes,
            Compression::Auto,
            &File::open(&folder).expect("a folder"),
            snapshotter,
            &limits,
            &Pulse::new(false),
        );
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }
});
