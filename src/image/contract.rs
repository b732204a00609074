//! What every snapshotter owes, run against each: the same tars have to give the same files.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::{
    Mounts,
    content::Content,
    snapshot::Snapshots,
    unpack::{Compression, IMAGE, Limits, Made, OPAQUE, Pulse, Snapshotter, erofs::verity, unpack},
};
use crate::model::{ContainerId, Layer};

const BOTH: [Snapshotter; 2] = [Snapshotter::Overlay, Snapshotter::Erofs];

/// A store with one snapshotter.
struct Node {
    dir: tempfile::TempDir,
    content: Content,
    snapshots: Snapshots,
}

impl Node {
    fn new(snapshotter: Snapshotter) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path(), snapshotter).unwrap();
        let snapshots = Snapshots::open(dir.path(), &[], content.mounts.clone()).unwrap();
        Self {
            dir,
            content,
            snapshots,
        }
    }

    /// Unpacks and commits a layer.
    fn layer(&self, tar: &[u8]) -> Result<Layer, String> {
        let scratch = self.content.scratch().unwrap();
        let target = File::open(scratch.unpacked()).unwrap();
        let limits = Limits {
            entries: 10_000,
            bytes: 1 << 30,
            ..Limits::default()
        };
        let unpacked = unpack(
            tar,
            Compression::Auto,
            &target,
            self.content.snapshotter,
            &limits,
            &Pulse::new(false),
        );
        let unpacked = unpacked.map_err(|error| crate::model::chain(&error))?;
        let chain_id = format!("sha256:{}", ContainerId::random());
        self.content
            .commit_layers(vec![(chain_id.clone(), scratch, unpacked)])
            .map_err(|error| crate::model::chain(&error))?;
        let record = self.content.layer_record(&chain_id).expect("committed");
        Ok(self.content.layer_in_use(&chain_id, Some(&record)))
    }

    /// The files of one layer by itself, with its marks for overlayfs.
    fn files(&self, layer: &Layer) -> Files {
        match layer {
            Layer::Folder(folder) => list(folder),
            Layer::Erofs { file, sealed } => {
                let mount = self.content.mounts.of(file, sealed.as_deref()).unwrap();
                list(&PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())))
            }
        }
    }

    fn unpacked(&self, tar: &[u8]) -> Result<Files, String> {
        Ok(self.files(&self.layer(tar)?))
    }

    /// Runs `look` in a container's root.
    fn within<T>(&self, layers: &[Layer], look: impl FnOnce(&Path) -> T) -> T {
        let id = ContainerId::random();
        let root = self.snapshots.prepare(&id, layers, None).unwrap();
        let seen = look(&PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())));
        drop(root);
        self.snapshots.remove(&id).unwrap();
        seen
    }
}

/// By path: what can be seen of a file.
type Files = BTreeMap<PathBuf, String>;

fn list(root: &Path) -> Files {
    let mut files = Files::new();
    let mut linked = HashMap::new();
    let mut ahead = vec![PathBuf::new()];
    while let Some(path) = ahead.pop() {
        let place = match path.as_os_str().is_empty() {
            true => root.join("."),
            false => root.join(&path),
        };
        let meta = fs::symlink_metadata(&place).unwrap();
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            let names = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap());
            let mut names: Vec<_> = names.inspect(|entry| assert_kind(entry, &path)).collect();
            names.sort_by_key(fs::DirEntry::file_name);
            ahead.extend(names.iter().map(|entry| path.join(entry.file_name())));
            format!("folder of {}", names.len())
        } else if kind.is_symlink() {
            format!("link to {:?}", fs::read_link(&place).unwrap())
        } else if kind.is_file() {
            let bytes = fs::read(&place).unwrap();
            format!("file of {} {:08x}", meta.size(), crc32fast::hash(&bytes))
        } else {
            let special = match (kind.is_char_device(), kind.is_block_device()) {
                (true, _) => "char",
                (_, true) => "block",
                _ => "other",
            };
            format!("{special} {:x}", meta.rdev())
        };
        let first = linked.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        let links = match kind.is_dir() {
            true => String::new(),
            false => format!("{} names, as {}", meta.nlink(), first.display()),
        };
        // A folder that no entry is about is as old as its layer in the store, or as old as time.
        let mtime = match meta.mtime() {
            0 => "unlisted".to_owned(),
            now if now > 1_700_000_000 => "unlisted".to_owned(),
            mtime => format!("{mtime}.{}", meta.mtime_nsec()),
        };
        files.insert(
            path,
            format!(
                "{what} mode {:o} of {}:{} at {mtime} {links} {:?}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                attributes(&place)
            ),
        );
    }
    files
}

/// What a folder says that a file is, is what it is.
fn assert_kind(entry: &fs::DirEntry, folder: &Path) {
    let told = entry.file_type().unwrap();
    let is = fs::symlink_metadata(entry.path()).unwrap().file_type();
    assert_eq!(told, is, "{:?} in {folder:?}", entry.file_name());
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let count = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let count = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(count);
        (String::from_utf8(name.to_vec()).unwrap(), value)
    };
    names.map(value).collect()
}

/// An archive under construction.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(7);
        header.set_gid(9);
        header.set_mtime(1_000_000);
        header
    }

    fn entry(mut self, mut header: Header, name: &str, data: &[u8]) -> Self {
        let is_link = matches!(header.entry_type(), EntryType::Symlink | EntryType::Link);
        let (link, data) = if is_link { (data, &b""[..]) } else { (&b""[..], data) };
        if is_link {
            header.set_size(0);
        }
        // As GNU tar has what is longer than its field.
        for (kind, text, field) in [(b'L', name.as_bytes(), 0), (b'K', link, 157)] {
            if text.len() < 100 {
                header.as_mut_bytes()[field..][..text.len()].copy_from_slice(text);
                continue;
            }
            let mut long = Self::header(EntryType::new(kind), text.len() + 1);
            long.as_mut_bytes()[..13].copy_from_slice(b"././@LongLink");
            long.set_cksum();
            self.0.append(&long, &[text, b"\0"].concat()[..]).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn add(self, kind: EntryType, name: &str, data: &[u8]) -> Self {
        self.entry(Self::header(kind, data.len()), name, data)
    }

    fn dir(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, b"")
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(EntryType::Regular, name, data)
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.add(EntryType::Symlink, name, to.as_bytes())
    }

    fn hard(self, name: &str, to: &str) -> Self {
        self.add(EntryType::Link, name, to.as_bytes())
    }

    fn owned(self, kind: EntryType, name: &str, mode: u32, (uid, gid): (u64, u64), data: &[u8]) -> Self {
        let mut header = Self::header(kind, data.len());
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.entry(header, name, data)
    }

    fn device(self, kind: EntryType, name: &str, (major, minor): (u32, u32)) -> Self {
        let mut header = Self::header(kind, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.entry(header, name, b"")
    }

    /// Attributes of the next entry.
    fn attributes(mut self, attributes: &[(&str, &[u8])]) -> Self {
        let keys: Vec<_> = attributes
            .iter()
            .map(|(name, _)| format!("SCHILY.xattr.{name}"))
            .collect();
        let records = keys
            .iter()
            .zip(attributes)
            .map(|(key, (_, value))| (key.as_str(), *value));
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    /// A file of `size` bytes with `data` at `offset` and nothing else.
    fn sparse(self, name: &str, size: u64, offset: u64, data: &[u8]) -> Self {
        let mut header = Self::header(EntryType::GNUSparse, data.len());
        let octal = |field: &mut [u8; 12], number: u64| write!(&mut field[..], "{number:011o}").unwrap();
        let gnu = header.as_gnu_mut().unwrap();
        octal(&mut gnu.sparse[0].offset, offset);
        octal(&mut gnu.sparse[0].numbytes, data.len() as u64);
        // As GNU tar ends a map.
        octal(&mut gnu.sparse[1].offset, size);
        octal(&mut gnu.sparse[1].numbytes, 0);
        octal(&mut gnu.realsize, size);
        self.entry(header, name, data)
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn skipped() -> bool {
    let skip = !rustix::process::geteuid().is_root();
    if skip {
        eprintln!("skipped: needs root");
    }
    skip
}

/// A layer with one of everything.
fn everything() -> Vec<u8> {
    let noise: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let acl = [
        &[2, 0, 0, 0][..],
        &[1, 0, 6, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 5, 0, 0, 0],
        &[4, 0, 4, 0, 255, 255, 255, 255],
        &[16, 0, 4, 0, 255, 255, 255, 255],
        &[32, 0, 4, 0, 255, 255, 255, 255],
    ]
    .concat();
    let long = "n".repeat(255);
    let deep = format!("{}deep", "a-folder-in-a-folder/".repeat(40));
    let mut tar = Tar::new()
        .owned(EntryType::Directory, "./", 0o711, (0, 0), b"")
        .dir("bin/")
        .owned(EntryType::Regular, "bin/su", 0o4755, (0, 0), b"#!")
        .owned(EntryType::Regular, "bin/wall", 0o2755, (0, 5), b"#!")
        .owned(EntryType::Directory, "tmp/", 0o1777, (0, 0), b"")
        .owned(
            EntryType::Regular,
            "far",
            0o600,
            (4_000_000_000, 3_999_999_999),
            b"owned",
        )
        .attributes(&[("security.capability", &capability)])
        .owned(EntryType::Regular, "bin/ping", 0o755, (0, 0), b"#!")
        .attributes(&[("user.a", b"1"), ("user.empty", b""), ("trusted.overlay.opaque", b"y")])
        .file("attributed", b"x")
        .attributes(&[("user.on.a.folder", &[7; 3000])])
        .dir("attributed.d/")
        .attributes(&[("system.posix_acl_access", &acl)])
        .file("listed", b"x")
        .attributes(&[("user.much", &[9; 3500])])
        .file("much beside little", &noise[..1500])
        .hard("bin/hard", "bin/su")
        .hard("hard", "bin/su")
        .link("link", "/bin/su")
        .link("links", &"up/../".repeat(600))
        .link("links.d", "bin")
        .file("links.d/through", b"a link")
        .file("no/entry/is/about/this/folder", b"")
        .file(&deep, b"deep")
        .file(&format!("long/{long}"), b"long")
        .link(&format!("long/{}", "l".repeat(255)), &"t".repeat(4000))
        .device(EntryType::Char, "null", (1, 3))
        .device(EntryType::Block, "disk", (259, 70_000))
        .device(EntryType::Fifo, "fifo", (0, 0))
        .file(".wh.gone", b"")
        .dir("opaque/")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"new")
        .file(".wh..wh.aufs", b"")
        .sparse("sparse", 50 << 20, 20 << 20, &noise)
        .sparse("hollow", 1 << 20, 0, b"")
        .sparse("odd", 10_001, 5_000, b"odd")
        .file("replaced", b"first")
        .file("replaced", b"second")
        .file("was a folder/with/files", b"x")
        .file("was a folder", b"now a file")
        .file("was a file", b"x")
        .file("was a file/", b"")
        .owned(EntryType::Directory, "was a file", 0o700, (1, 2), b"")
        .owned(EntryType::Regular, "old", 0o644, (0, 0), b"");
    for size in [0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 300_000] {
        tar = tar.file(&format!("sizes/{size}"), &noise[..size]);
    }
    // Names before and behind `.` and `..`, and more than a block of them.
    for name in ["!", "-", ".", "..a", "...", "/", "\u{7f}", "ü"] {
        tar = tar.file(&format!("names/{name}x"), b"");
    }
    for number in 0..1500 {
        tar = tar.file(&format!("many/file number {number}"), b"");
    }
    tar.end()
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
    let mut other = node.content.clone();
    other.snapshotter = Snapshotter::Erofs;
    let other = Node {
        dir: tempfile::tempdir().unwrap(),
        content: other,
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
    let mount = || node.content.mounts.of(file, None).unwrap();
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
    node.content.mounts.forget(folder);
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
                node.content.snapshotter
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
