//! What every snapshotter owes, run against each: the same tars have to give the same files.

mod archive;
mod node;

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt, PermissionsExt},
    },
    path::Path,
};

use proptest::prelude::*;
use tar::EntryType;

use super::{
    Mounts,
    store::Store,
    unpack::{Compression, IMAGE, Limits, Made, OPAQUE, Pulse, Snapshotter, erofs::verity, unpack},
};
use crate::model::{ContainerId, Layer};
use archive::{Tar, everything};
use node::{Node, list};

const BOTH: [Snapshotter; 2] = [Snapshotter::Overlay, Snapshotter::Erofs];
fn skipped() -> bool {
    let skip = !rustix::process::geteuid().is_root();
    if skip {
        eprintln!("skipped: needs root");
    }
    skip
}
#[test]
fn a_layer_is_the_same_whatever_it_becomes() {
    if skipped() {
        return;
    }
    let [folder, image] = BOTH.map(|snapshotter| Node::new(snapshotter).unpacked(&everything()).unwrap());
    assert_eq!(folder.keys().collect::<Vec<_>>(), image.keys().collect::<Vec<_>>());
    for (path, expected) in &folder {
        assert_eq!(&image[path], expected, "{}", path.display());
    }
    // And that it is something.
    let has = |path: &str, what: &str| {
        assert!(
            image[Path::new(path)].contains(what),
            "{path}: {}",
            image[Path::new(path)]
        )
    };
    has("", "mode 40711 of 0:0 at 1000000.0");
    has("bin/hard", "mode 104755 of 0:0 at 1000000.0 3 names");
    has("far", "of 4000000000:3999999999");
    has("bin/ping", "security.capability");
    has("gone", "char 0 mode 20000");
    has("opaque", OPAQUE);
    has("attributed", "{\"user.a\": [49], \"user.empty\": []}");
    has("disk", &format!("block {:x}", rustix::fs::makedev(259, 70_000)));
    has("sparse", "file of 52428800");
    has("many", "folder of 1500");
    has("was a file", "folder of 0 mode 40700 of 1:2");
}

#[test]
fn the_digest_taken_while_writing_is_that_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let target = File::open(dir.path()).unwrap();
    let limits = Limits::default();
    let unpacked = unpack(
        &everything()[..],
        Compression::None,
        &target,
        Snapshotter::Erofs,
        &limits,
        &Pulse::new(false),
    )
    .unwrap();
    let image = dir.path().join(IMAGE);
    let digest = || verity::digest_of(File::open(&image).unwrap(), || true).unwrap();
    let Made::Erofs { digest: expected } = unpacked.made else {
        panic!("no image");
    };
    assert_eq!(digest(), expected);
    assert_eq!(fs::metadata(&image).unwrap().len(), unpacked.size_bytes);
    for at in [0, 1030, 5000, unpacked.size_bytes - 1] {
        let file = File::options().read(true).write(true).open(&image).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        assert_ne!(digest(), expected, "the byte at {at}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(digest(), expected);
}

#[test]
fn holes_are_not_in_an_image() {
    if skipped() {
        return;
    }
    let node = Node::new(Snapshotter::Erofs);
    let tar = Tar::new().sparse("huge", 512 << 20, 511 << 20, b"data").end();
    let Layer::Erofs { file, .. } = node.layer(&tar).unwrap() else {
        panic!("no image");
    };
    assert!(fs::metadata(file).unwrap().len() < 1 << 20);
}

#[test]
fn layers_hide_what_is_below_them() {
    if skipped() {
        return;
    }
    let lower = Tar::new()
        .dir("etc/")
        .file("etc/kept", b"kept")
        .file("etc/gone", b"gone")
        .file("etc/changed", b"before")
        .file("opaque/old", b"old")
        .file("replaced/by", b"a file")
        .end();
    let upper = Tar::new()
        .file("etc/.wh.gone", b"")
        .file("etc/changed", b"after")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"new")
        .file("replaced", b"by a file")
        .end();
    let [folder, image] = BOTH.map(|snapshotter| {
        let node = Node::new(snapshotter);
        let layers = [&lower, &upper].map(|tar| node.layer(tar).unwrap());
        node.within(&layers, |root| {
            let read = |path: &str| fs::read_to_string(root.join(path)).ok();
            assert_eq!(read("etc/kept").as_deref(), Some("kept"));
            assert_eq!(read("etc/changed").as_deref(), Some("after"));
            assert_eq!(read("etc/gone"), None);
            assert_eq!((read("opaque/old"), read("opaque/new")), (None, Some("new".into())));
            assert_eq!(read("replaced").as_deref(), Some("by a file"));
            list(root)
        })
    });
    assert_eq!(folder, image);
}

#[test]
fn what_a_container_writes_is_its_own() {
    if skipped() {
        return;
    }
    let tar = Tar::new()
        .dir("d/")
        .file("d/f", b"image's")
        .file("d/g", &[1; 9000])
        .end();
    for snapshotter in BOTH {
        let node = Node::new(snapshotter);
        let layers = [node.layer(&tar).unwrap()];
        node.within(&layers, |root| {
            let mut file = fs::OpenOptions::new().append(true).open(root.join("d/f")).unwrap();
            file.write_all(b", and more").unwrap();
            fs::set_permissions(root.join("d/g"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(root.join("d/g"), root.join("d/h")).unwrap();
            assert_eq!(fs::read(root.join("d/f")).unwrap(), b"image's, and more");
            assert_eq!(fs::read(root.join("d/h")).unwrap(), [1; 9000]);
        });
        node.within(&layers, |root| {
            assert_eq!(fs::read(root.join("d/f")).unwrap(), b"image's")
        });
        let view = node.snapshots.view(&ContainerId::random(), &layers, None).unwrap();
        let new = format!("/proc/self/fd/{}/new", view.as_raw_fd());
        let error = fs::write(new, "x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{snapshotter:?}");
    }
}

#[test]
fn a_hundred_and_thirty_layers_are_one_root_and_no_mount_of_the_host() {
    if skipped() {
        return;
    }
    for snapshotter in BOTH {
        let node = Node::new(snapshotter);
        let place = node.dir.path().to_str().unwrap();
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
        let layers: Vec<_> = (0..130)
            .map(|n| {
                let tar = Tar::new()
                    .file("top", n.to_string().as_bytes())
                    .file(&format!("f{n}"), b"");
                node.layer(&tar.end()).unwrap()
            })
            .collect();
        node.within(&layers, |root| {
            assert_eq!(fs::read_to_string(root.join("top")).unwrap(), "129");
            // With what is below all layers: the places of mounts.
            assert_eq!(fs::read_dir(root).unwrap().count(), 131 + 4);
            assert!(!mounts().contains(" - erofs ") && !mounts().contains(place));
        });
    }
}

#[test]
fn both_forms_are_layers_of_one_root() {
    if skipped() {
        return;
    }
    let node = Node::new(Snapshotter::Overlay);
    let mut store = Store::open(node.dir.path(), Snapshotter::Erofs, &[]).unwrap();
    store.content.mounts = node.store.content.mounts.clone();
    let other = Node {
        dir: tempfile::tempdir().unwrap(),
        store,
        snapshots: node.snapshots.clone(),
    };
    let layers = [
        node.layer(&Tar::new().file("a", b"1").file("b", b"1").end()).unwrap(),
        other.layer(&Tar::new().file("b", b"2").file("c", b"2").end()).unwrap(),
        node.layer(&Tar::new().file("c", b"3").end()).unwrap(),
    ];
    assert!(matches!(
        layers,
        [Layer::Folder(_), Layer::Erofs { .. }, Layer::Folder(_)]
    ));
    node.within(&layers, |root| {
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
        assert_eq!([read("a"), read("b"), read("c")], ["1", "2", "3"]);
    });
    drop(other.dir);
}

#[test]
fn an_image_is_mounted_once_until_its_layer_goes() {
    if skipped() {
        return;
    }
    let node = Node::new(Snapshotter::Erofs);
    let layer = node.layer(&Tar::new().file("f", b"x").end()).unwrap();
    let Layer::Erofs { file, .. } = &layer else {
        panic!("no image");
    };
    let mount = || node.store.content.mounts.of(file, None).unwrap();
    let device = || {
        fs::metadata(format!("/proc/self/fd/{}", mount().as_raw_fd()))
            .unwrap()
            .dev()
    };
    let first = device();
    node.within(std::slice::from_ref(&layer), |_| assert_eq!(device(), first));
    assert_eq!(device(), first);
    let held = mount();
    assert_eq!(std::sync::Arc::strong_count(&held), 2);
    let folder = file.parent().unwrap().parent().unwrap();
    node.store.content.mounts.forget(folder);
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
}

#[test]
fn what_is_damaged_or_no_image_is_not_mounted() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounts = Mounts::default();
    let image = dir.path().join(IMAGE);
    assert!(mounts.of(&image, None).is_err());
    fs::write(&image, [0; 8192]).unwrap();
    assert!(mounts.of(&image, None).is_err());
    let node = Node::new(Snapshotter::Erofs);
    let Layer::Erofs { file, .. } = node.layer(&Tar::new().file("f", b"x").end()).unwrap() else {
        panic!("no image");
    };
    let linked = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &linked).unwrap();
    assert!(mounts.of(&linked, None).is_err(), "over a link");
    assert!(mounts.of(&file, Some("sha256:00")).is_err(), "nothing watches over it");
    mounts.of(&file, None).unwrap();
}

#[test]
fn both_refuse_the_same_for_the_same_reason() {
    if skipped() {
        return;
    }
    let deep = "d/".repeat(600);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("leaves the layer", Tar::new().file("../evil", b"x").end()),
        ("the root is not a folder", Tar::new().link(".", "/").end()),
        (
            "hard link out of the layer",
            Tar::new().hard("h", "../../etc/passwd").end(),
        ),
        ("whiteout of nothing", Tar::new().file(".wh.", b"").end()),
        ("deeper than allowed", Tar::new().file(&format!("{deep}f"), b"").end()),
        ("open the folder of", Tar::new().file("f", b"").file("f/x", b"").end()),
        (
            "Symbolic link loop",
            Tar::new().link("a", "b").link("b", "a").file("a/x", b"").end(),
        ),
        ("No such file", Tar::new().link("a", "missing").file("a/x", b"").end()),
        ("name too long", Tar::new().file(&"n".repeat(256), b"").end()),
        ("link \"h\"", Tar::new().hard("h", "missing").end()),
        ("link \"h\"", Tar::new().dir("d/").hard("h", "d").end()),
        ("link \"d\"", Tar::new().file("d/f", b"x").hard("d", "d/f").end()),
        (
            "owner",
            Tar::new()
                .owned(EntryType::Regular, "f", 0o644, (u32::MAX.into(), 0), b"")
                .end(),
        ),
        ("unknown type", Tar::new().add(EntryType::new(b'Z'), "f", b"").end()),
        (
            "attribute",
            Tar::new()
                .attributes(&[("security.capability", b"?")])
                .file("f", b"")
                .end(),
        ),
        (
            "attribute",
            Tar::new()
                .attributes(&[("system.posix_acl_default", &ACL)])
                .file("f", b"")
                .end(),
        ),
    ];
    let nodes = BOTH.map(Node::new);
    for (why, tar) in cases {
        for node in &nodes {
            let refused = node.unpacked(&tar);
            let refused = refused.expect_err(why);
            assert!(
                refused.contains(why),
                "{:?}: {refused}, not {why}",
                node.store.content.snapshotter
            );
        }
    }
    assert_eq!(fs::read_dir(nodes[1].dir.path().join("layers")).unwrap().count(), 0);
}

/// Everything for the owner, the group and all others.
const ACL: [u8; 28] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 7, 0, 255, 255, 255, 255, 32, 0, 7, 0, 255, 255, 255, 255,
];

/// Entries with few names, so that they meet.
fn some_entry() -> impl Strategy<Value = (u8, String, String)> {
    let name = || prop::sample::select(vec!["a", "b", ".wh.a", "..", "c", ".wh..wh..opq", "."]);
    let path = move || prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/"));
    (0..8_u8, path(), path())
}

fn archive(entries: &[(u8, String, String)]) -> Vec<u8> {
    let mut tar = Tar::new();
    for (number, (kind, name, other)) in entries.iter().enumerate() {
        tar = match kind {
            0 | 1 => tar.file(name, &vec![7; number * 700]),
            2 => tar.owned(EntryType::Directory, name, 0o700 + number as u32 % 8, (1, 2), b""),
            3 => tar.link(name, other),
            4 => tar.link(name, &format!("/{other}")),
            5 => tar.hard(name, other),
            6 => tar.device(EntryType::Char, name, (0, number as u32 % 2)),
            _ => tar.attributes(&[("user.n", &[number as u8])]).file(name, b"attributed"),
        };
    }
    tar.end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_entries_in_any_order_give_the_same(entries in prop::collection::vec(some_entry(), 1..14)) {
        if skipped() {
            return Ok(());
        }
        let tar = archive(&entries);
        let [folder, image] = BOTH.map(|snapshotter| Node::new(snapshotter).unpacked(&tar));
        match (folder, image) {
            (Ok(folder), Ok(image)) => prop_assert_eq!(folder, image),
            (Err(folder), Err(image)) => prop_assert_eq!(folder, image),
            (folder, image) => prop_assert!(false, "{:?} but {:?}", folder, image),
        }
    }
}
