use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, openat};

use super::*;

fn read(root: impl AsFd, path: &str) -> io::Result<String> {
    let file = openat(root, path, OFlags::RDONLY, Mode::empty())?;
    io::read_to_string(fs::File::from(file))
}

#[test]
fn many_layers_show_the_topmost_file_and_no_mount() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path(), &[], Mounts::default()).unwrap();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    for count in [0, 1, 2, 300] {
        let layers: Vec<_> = (0..count)
            .map(|n| dir.path().join(format!("layer-of-some-length-{count}-{n}")))
            .collect();
        for (n, layer) in layers.iter().enumerate() {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join("top"), n.to_string()).unwrap();
        }
        let id = ContainerId::random();
        let layers: Vec<_> = layers.into_iter().map(Layer::Folder).collect();
        let root = snapshots.prepare(&id, &layers, None).unwrap();
        match count {
            0 => assert!(read(&root, "top").is_err()),
            count => assert_eq!(read(&root, "top").unwrap(), (count - 1).to_string()),
        }
        drop(root);
        snapshots.remove(&id).unwrap();
    }
    assert_eq!(mounts(), before);
}

#[test]
fn the_layers_are_where_the_images_are_unless_they_have_their_own_disk() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path(), &[], Mounts::default()).unwrap();
    assert_eq!(snapshots.place(), dir.path());
    let own = dir.path().join("snapshots");
    let place = crate::sys::thread::in_own_mount_namespace(|| {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("tmpfs", &own, "tmpfs", MountFlags::empty(), c"")?;
        let snapshots = Snapshots::open(dir.path(), &[], Mounts::default()).map_err(io::Error::other)?;
        Ok(snapshots.place().to_owned())
    });
    assert_eq!(place.unwrap(), own);
}

#[test]
fn the_older_way_gives_the_same() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "upper", "work", "empty"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("f"), name).unwrap();
    }
    fs::remove_file(dir.path().join("upper/f")).unwrap();
    fs::remove_file(dir.path().join("work/f")).unwrap();
    let path = |name: &str| dir.path().join(name);
    let root = by_mount(&[&path("b"), &path("a")], Some(dir.path()), &[]).unwrap();
    assert_eq!(read(&root, "f").unwrap(), "b");
    let view = by_mount(&[&path("a"), &path("empty")], None, &[]).unwrap();
    assert_eq!(read(&view, "f").unwrap(), "a");
}

#[test]
fn the_places_of_mounts_are_there_without_being_made() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path(), &[], Mounts::default()).unwrap();
    let layer = dir.path().join("layer");
    fs::create_dir_all(layer.join("etc")).unwrap();
    fs::write(layer.join("etc/hosts"), "the image's").unwrap();
    let id = ContainerId::random();
    let root = snapshots.prepare(&id, &[Layer::Folder(layer)], None).unwrap();
    assert_eq!(read(&root, "etc/hosts").unwrap(), "the image's");
    for (place, mode) in [("proc", 0o555), ("dev", 0o755), ("etc/resolv.conf", 0o644)] {
        let stat = rustix::fs::statat(&root, place, rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!(stat.st_mode & 0o7777, mode, "{place}");
    }
    assert_eq!(fs::read_dir(snapshots.upper(&id)).unwrap().count(), 0);
}

#[test]
fn a_view_is_read_only_and_one_layer_is_enough() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path(), &[], Mounts::default()).unwrap();
    let layers: Vec<_> = ["one", "two"].map(|name| dir.path().join("layers").join(name)).into();
    for layer in &layers {
        fs::create_dir_all(layer).unwrap();
        fs::write(layer.join("f"), layer.to_str().unwrap()).unwrap();
    }
    let given: Vec<_> = layers.iter().cloned().map(Layer::Folder).collect();
    for count in [1, 2] {
        let id = ContainerId::random();
        let view = snapshots.view(&id, &given[..count], None).unwrap();
        assert_eq!(read(&view, "f").unwrap(), layers[count - 1].to_str().unwrap());
        let new = openat(&view, "new", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
        assert_eq!(new.unwrap_err(), Errno::ROFS);
        snapshots.remove(&id).unwrap();
    }
    assert!(
        snapshots.view(&ContainerId::random(), &[], None).is_ok(),
        "an image without a layer"
    );
}
