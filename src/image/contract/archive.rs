//! Layers as tars, entry by entry.

use std::io::Write;

use tar::{Builder, EntryType, Header};

/// An archive under construction.
pub struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub fn header(kind: EntryType, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(7);
        header.set_gid(9);
        header.set_mtime(1_000_000);
        header
    }

    pub fn entry(mut self, mut header: Header, name: &str, data: &[u8]) -> Self {
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

    pub fn add(self, kind: EntryType, name: &str, data: &[u8]) -> Self {
        self.entry(Self::header(kind, data.len()), name, data)
    }

    pub fn dir(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, b"")
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(EntryType::Regular, name, data)
    }

    pub fn link(self, name: &str, to: &str) -> Self {
        self.add(EntryType::Symlink, name, to.as_bytes())
    }

    pub fn hard(self, name: &str, to: &str) -> Self {
        self.add(EntryType::Link, name, to.as_bytes())
    }

    pub fn owned(self, kind: EntryType, name: &str, mode: u32, (uid, gid): (u64, u64), data: &[u8]) -> Self {
        let mut header = Self::header(kind, data.len());
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        self.entry(header, name, data)
    }

    pub fn device(self, kind: EntryType, name: &str, (major, minor): (u32, u32)) -> Self {
        let mut header = Self::header(kind, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.entry(header, name, b"")
    }

    /// Attributes of the next entry.
    pub fn attributes(mut self, attributes: &[(&str, &[u8])]) -> Self {
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
    pub fn sparse(self, name: &str, size: u64, offset: u64, data: &[u8]) -> Self {
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

    pub fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A layer with one of everything.
pub fn everything() -> Vec<u8> {
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
