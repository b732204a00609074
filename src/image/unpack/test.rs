//! Layers honest and hostile, extracted into real folders.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
};

use tar::{Builder, EntryType, Header};

use super::*;

/// An archive under construction that takes names as they are.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, name: &str, mode: u32, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000);
        header.set_size(data.len() as u64);
        if !link.is_empty() {
            header.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn dir(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, 0o755, "", b"")
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(EntryType::Regular, name, 0o644, "", data)
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn apply(bytes: &[u8]) -> (tempfile::TempDir, Result<Unpacked, UnpackError>) {
    let dir = tempfile::tempdir().unwrap();
    let target = File::open(dir.path()).unwrap();
    let result = unpack(
        bytes,
        Compression::Auto,
        &target,
        Snapshotter::Overlay,
        &Limits {
            entries: 100,
            bytes: 1 << 20,
            ..Limits::default()
        },
        &Pulse::new(false),
    );
    (dir, result)
}

fn tree(unpacked: Unpacked) -> String {
    match unpacked.made {
        Made::Folder { tree, .. } => tree,
        Made::Erofs { .. } => panic!("an image"),
    }
}

#[test]
fn files_keep_mode_time_and_links() {
    let bytes = Layer::new()
        .add(EntryType::Directory, "./", 0o711, "", b"")
        .file("a/b/deep", b"deep")
        .add(EntryType::Regular, "bin/su", 0o4755, "", b"x")
        .add(EntryType::Link, "bin/ln", 0o600, "bin/su", b"")
        .add(EntryType::Symlink, "sym", 0o777, "/bin/su", b"")
        .bytes();
    let (dir, result) = apply(&bytes);
    assert_eq!(result.unwrap().entries, 5);
    let meta = |name: &str| fs::symlink_metadata(dir.path().join(name)).unwrap();
    assert_eq!(meta("").permissions().mode() & 0o777, 0o711);
    assert_eq!(
        meta("bin/su").permissions().mode() & 0o7777,
        0o4755,
        "a link's entry does not change the inode"
    );
    assert_eq!(meta("bin/su").ino(), meta("bin/ln").ino());
    assert_eq!(meta("bin/su").mtime(), 1_000_000);
    assert_eq!(fs::read_link(dir.path().join("sym")).unwrap().to_str(), Some("/bin/su"));
    assert_eq!(fs::read(dir.path().join("a/b/deep")).unwrap(), b"deep");
}

#[test]
fn whiteouts_become_overlay_ones() {
    let bytes = Layer::new()
        .dir("d")
        .file("d/.wh..wh..opq", b"")
        .file("d/.wh.gone", b"")
        .bytes();
    let (dir, result) = apply(&bytes);
    let made = result.unwrap().made;
    assert!(matches!(made, Made::Folder { opaque, .. } if opaque == ["d"]));
    let meta = fs::symlink_metadata(dir.path().join("d/gone")).unwrap();
    assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
}

#[test]
fn nothing_is_made_outside() {
    let outside = tempfile::tempdir().unwrap();
    let out = outside.path().to_str().unwrap();
    let hostile = [
        Layer::new().file("../evil", b"x").bytes(),
        Layer::new().file("a/../../evil", b"x").bytes(),
        Layer::new().add(EntryType::Symlink, ".", 0o777, out, b"").bytes(),
        Layer::new()
            .add(EntryType::Link, "h", 0o644, "../../etc/passwd", b"")
            .bytes(),
        Layer::new().file(".wh.", b"").bytes(),
        Layer::new().file(".wh...", b"").bytes(),
    ];
    for bytes in &hostile {
        assert!(apply(bytes).1.is_err());
    }
    // Through a link that points out: what it names is looked up inside.
    let through = Layer::new()
        .add(EntryType::Symlink, "link", 0o777, out, b"")
        .file("link/evil", b"x")
        .bytes();
    let _ = apply(&through);
    let absolute = Layer::new().file("/etc/inside", b"x").bytes();
    let (dir, result) = apply(&absolute);
    result.unwrap();
    assert!(dir.path().join("etc/inside").exists());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_name_that_comes_twice_is_the_last_one() {
    let bytes = Layer::new()
        .dir("x")
        .file("x/child", b"1")
        .file("x", b"file now")
        .add(EntryType::Symlink, "y", 0o777, "/etc", b"")
        .dir("y")
        .file("y/z", b"z")
        .bytes();
    let (dir, result) = apply(&bytes);
    result.unwrap();
    assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"file now");
    assert_eq!(fs::read(dir.path().join("y/z")).unwrap(), b"z");
}

#[test]
fn bombs_and_cuts_are_errors() {
    let big = Layer::new().file("big", &vec![0; 2 << 20]).bytes();
    assert!(apply(&big).1.unwrap_err().to_string().contains("more bytes"));
    let many = (0..200)
        .fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), b""))
        .bytes();
    assert!(apply(&many).1.unwrap_err().to_string().contains("more entries"));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&Layer::new().file("a", &[7; 5000]).bytes()).unwrap();
    let gzip = encoder.finish().unwrap();
    apply(&gzip).1.unwrap();
    for cut in [1, 2, 10, 20, gzip.len() / 2, gzip.len() - 1] {
        assert!(apply(&gzip[..cut]).1.is_err(), "cut at {cut}");
    }
    let zstd = zstd::encode_all(&Layer::new().file("a", &[7; 5000]).bytes()[..], 3).unwrap();
    apply(&zstd).1.unwrap();
    assert!(apply(&zstd[..zstd.len() - 3]).1.is_err());
}

#[test]
fn the_diff_id_is_of_the_whole_stream() {
    let mut bytes = Layer::new().file("a", b"1").bytes();
    bytes.extend([0; 4096]);
    let expected = Hashed::new(&bytes[..]);
    let mut reader = expected;
    io::copy(&mut reader, &mut io::sink()).unwrap();
    assert_eq!(apply(&bytes).1.unwrap().diff_id, reader.digest());
}

#[test]
fn the_digest_taken_while_writing_is_that_of_the_files() {
    let layer = Layer::new()
        .dir("etc/")
        .file("etc/replaced", b"first")
        .file("etc/replaced", b"second")
        .file("becomes-link", b"x")
        .add(EntryType::Symlink, "becomes-link", 0o777, "etc", b"")
        .add(EntryType::Link, "linked", 0o644, "etc/replaced", b"")
        .file("not/listed/above", b"deep")
        .file(".wh.gone", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque", b"a later entry took the folder's place")
        .bytes();
    let (dir, unpacked) = apply(&layer);
    let unpacked = unpacked.unwrap();
    let stored = || digest_of_stored(&File::open(dir.path()).unwrap(), || true);
    assert_eq!(stored().unwrap(), tree(unpacked));
    let (_again, same) = apply(&Layer::new().dir("a/").file("a/b", b"c").bytes());
    let (_other, other) = apply(&Layer::new().dir("a/").file("a/c", b"b").bytes());
    assert_ne!(tree(same.unwrap()), tree(other.unwrap()));
    for change in [
        |dir: &Path| fs::write(dir.join("etc/replaced"), "third!").unwrap(),
        |dir: &Path| fs::rename(dir.join("linked"), dir.join("renamed")).unwrap(),
        |dir: &Path| fs::set_permissions(dir.join("not"), fs::Permissions::from_mode(0o700)).unwrap(),
        |dir: &Path| fs::remove_file(dir.join("becomes-link")).unwrap(),
    ] {
        let before = stored().unwrap();
        change(dir.path());
        assert_ne!(stored().unwrap(), before);
    }
    let stopped = digest_of_stored(&File::open(dir.path()).unwrap(), || false);
    assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::Interrupted);
}
