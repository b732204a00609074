use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    thread,
};

use super::*;
use crate::{
    image::{
        content::{sha256, test::beside_writers},
        records::VERSION,
        unpack::{self, Snapshotter},
    },
    model::{ImageConfig, ImageId},
};

const TAG: &str = "registry.example/app:1";

#[test]
fn an_image_that_is_known_is_not_written_again() {
    let (dir, store) = store();
    commit(&store, image("a"));
    let record = dir.path().join("images").join(&image("a").id.0["sha256:".len()..]);
    let before = fs::metadata(&record).unwrap().ino();
    commit(&store, image("a"));
    assert_eq!(fs::metadata(&record).unwrap().ino(), before);
    let tag = "registry.example/app:2".to_owned();
    commit(
        &store,
        ImageRecord {
            repo_tags: vec![tag.clone()],
            ..image("a")
        },
    );
    assert_ne!(fs::metadata(&record).unwrap().ino(), before);
    assert_eq!(reopened(dir.path())[0].repo_tags, [TAG.to_owned(), tag]);
}

#[test]
fn what_others_named_meanwhile_counts() {
    let (dir, store) = store();
    let expected = store.expect(image("a")).unwrap();
    let digest = "registry.example/other@sha256:00".to_owned();
    commit(
        &store,
        ImageRecord {
            repo_digests: vec![digest.clone()],
            ..image("a")
        },
    );
    commit(&store, image("b"));
    store.name(&[], Vec::new(), vec![expected]).unwrap();
    for records in [store.records(), reopened(dir.path())] {
        let of = |config| records.iter().find(|record| record.id == image(config).id).unwrap();
        assert_eq!(of("a").repo_tags, [TAG]);
        assert!(of("a").repo_digests.contains(&digest), "{:?}", of("a").repo_digests);
        assert!(of("b").repo_tags.is_empty(), "the tag is the other image's");
    }
    assert_eq!(unfinished(dir.path()), 0);
}

#[test]
fn a_record_that_is_damaged_on_the_disk_is_written_again() {
    let (dir, store) = store();
    commit(&store, image("a"));
    fs::write(store.content.image(&image("a").id.0), "half").unwrap();
    commit(&store, image("a"));
    assert_eq!(reopened(dir.path()), [image("a")]);
}

#[test]
fn a_document_stays_until_its_pull_has_named_it_even_of_an_image_without_layers() {
    let (dir, store) = store();
    store.lease(&[]);
    let digest = image("a").id.0;
    let document = store.content.new_blob(&digest, b"{}").unwrap().expect("new");
    store.collect();
    document.name().unwrap();
    store.collect();
    assert!(store.content.blob(&digest).exists());
    store.end_lease(&[]);
    store.collect();
    assert!(!store.content.blob(&digest).exists());
    assert_eq!(unfinished(dir.path()), 0);
}

#[test]
fn whoever_looks_for_images_does_not_wait_for_the_removal_of_files() {
    // Not each time the writers come at the moment.
    assert!(
        (0..10).any(|_| is_told_during_removal()),
        "told only when the files were gone"
    );
}

/// Whether an image is seen to be gone while its files are still being removed.
fn is_told_during_removal() -> bool {
    let (dir, store) = store();
    let scratch = store.content.scratch().unwrap();
    let folder = File::open(scratch.unpacked()).unwrap();
    let layer = unpack::Unpacked {
        diff_id: sha256(b"diff"),
        size_bytes: 0,
        entries: 0,
        made: unpack::Made::Folder {
            opaque: Vec::new(),
            tree: String::new(),
        },
    };
    let record = ImageRecord {
        layers: vec![sha256(b"chain")],
        ..image("a")
    };
    let made = Made {
        layers: vec![(sha256(b"chain"), scratch, layer)],
        images: vec![made(record)],
    };
    store.commit(made, &store.content.writes().unwrap()).unwrap();
    let is_told = beside_writers(&folder, |writers| {
        thread::scope(|scope| {
            let removal = scope.spawn(|| store.remove(&image("a").id).unwrap());
            while fs::read_dir(dir.path().join("tmp")).unwrap().count() == 0 && !removal.is_finished() {
                thread::yield_now();
            }
            assert!(store.all().is_empty());
            let is_told = !removal.is_finished() && writers.go_on();
            writers.stop();
            is_told
        })
    });
    assert_eq!(unfinished(dir.path()), 0);
    is_told
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Snapshotter::Overlay, &[]).unwrap();
    (dir, store)
}

/// An image without layers.
fn image(config: &str) -> ImageRecord {
    ImageRecord {
        version: VERSION,
        id: ImageId(sha256(config.as_bytes())),
        repo_tags: vec![TAG.to_owned()],
        repo_digests: Vec::new(),
        size_bytes: 0,
        config: ImageConfig::default(),
        layers: Vec::new(),
        artifact: None,
        blobs: Vec::new(),
        verdicts: Vec::new(),
        signatures: Vec::new(),
    }
}

fn made(record: ImageRecord) -> MadeImage {
    let documents = vec![(record.id.0.clone(), b"{}".to_vec())];
    MadeImage { record, documents }
}

fn commit(store: &Store, record: ImageRecord) {
    let made = Made {
        layers: Vec::new(),
        images: vec![made(record)],
    };
    store.commit(made, &store.content.writes().unwrap()).unwrap();
}

/// What a later life reads.
fn reopened(root: &std::path::Path) -> Vec<ImageRecord> {
    Store::open(root, Snapshotter::Overlay, &[]).unwrap().records()
}

/// How many files and folders have no names.
fn unfinished(root: &std::path::Path) -> usize {
    let names = ["tmp", "images", "blobs/sha256"].map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let names = names.into_iter().flatten().map(|entry| entry.unwrap().path());
    names
        .filter(|path| path.parent().unwrap().ends_with("tmp") || path.extension().is_some())
        .count()
}
