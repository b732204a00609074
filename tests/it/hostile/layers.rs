//! Hostile layers, made byte for byte: a library that writes archives would refuse half of them.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

/// What becomes of an image.
pub enum Expect {
    /// The pull's error has these words.
    Refused(&'static str),
    /// It is taken, and these paths of its layer are files (`f`), folders (`d`), links (`l`), devices (`c`), pipes (`p`) or
    /// not there (`-`).
    Harmless(&'static [(&'static str, char)]),
}
use Expect::{Harmless, Refused};

/// One layer of the corpus.
pub struct Layer {
    pub name: &'static str,
    /// What is served.
    pub bytes: Vec<u8>,
    /// What it is uncompressed, as far as it can be told.
    pub tar: Vec<u8>,
    pub expect: Expect,
}

/// Blocks of an archive under construction.
#[derive(Clone, Default)]
struct Tar(Vec<u8>);

/// A header's fields that hostile ones have of their own.
struct Header<'a> {
    kind: u8,
    name: &'a [u8],
    link: &'a [u8],
    mode: u32,
    /// The field as it stands there.
    size: [u8; 12],
    /// GNU's magic instead of POSIX'.
    gnu: bool,
    device: (u32, u32),
    uid: [u8; 8],
    /// Bytes of the header from 345 on, which GNU and POSIX read differently.
    rest: &'a [u8],
}

impl Default for Header<'_> {
    fn default() -> Self {
        Header {
            kind: b'0',
            name: b"",
            link: b"",
            mode: 0o644,
            size: octal(0),
            gnu: false,
            device: (0, 0),
            uid: *b"0000000\0",
            rest: b"",
        }
    }
}

fn octal(size: u64) -> [u8; 12] {
    let mut field = [0; 12];
    let digits = format!("{size:011o}");
    field[..digits.len()].copy_from_slice(digits.as_bytes());
    field
}

/// Source: GNU tar manual, "Extensions to the Archive Format": the high bit, then a big-endian number.
fn base256(first: u8, rest: [u8; 11]) -> [u8; 12] {
    let mut field = [first; 12];
    field[1..].copy_from_slice(&rest);
    field
}

impl Tar {
    fn header(mut self, header: &Header) -> Self {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &header.name[..header.name.len().min(100)]);
        put(100, format!("{:07o}\0", header.mode).as_bytes());
        put(108, &header.uid);
        put(116, b"0000000\0");
        put(124, &header.size);
        put(136, b"07500000000\0");
        put(148, b"        ");
        put(156, &[header.kind]);
        put(157, &header.link[..header.link.len().min(100)]);
        put(257, if header.gnu { b"ustar  \0" } else { b"ustar\x0000" });
        put(329, format!("{:07o}\0", header.device.0).as_bytes());
        put(337, format!("{:07o}\0", header.device.1).as_bytes());
        put(345, header.rest);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(block);
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, kind: u8, name: &[u8], link: &[u8], mode: u32, data: &[u8]) -> Self {
        let size = octal(data.len() as u64);
        let header = Header {
            kind,
            name,
            link,
            mode,
            size,
            ..Header::default()
        };
        self.header(&header).data(data)
    }

    fn file(self, name: &[u8]) -> Self {
        self.entry(b'0', name, b"", 0o644, b"evil")
    }

    fn dir(self, name: &[u8]) -> Self {
        self.entry(b'5', name, b"", 0o755, b"")
    }

    fn link(self, name: &[u8], to: &[u8]) -> Self {
        self.entry(b'2', name, to, 0o777, b"")
    }

    fn hard(self, name: &[u8], to: &[u8]) -> Self {
        self.entry(b'1', name, to, 0o644, b"")
    }

    fn device(self, kind: u8, name: &[u8], major: u32, minor: u32) -> Self {
        let header = Header {
            kind,
            name,
            device: (major, minor),
            ..Header::default()
        };
        self.header(&header)
    }

    /// Records for the next entry (`x`) or all (`g`).
    fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let bare = key.len() + value.len() + 3;
            let length = (bare..).find(|all| all - all.to_string().len() == bare).unwrap_or(bare);
            data.extend(format!("{length} {key}=").as_bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.entry(kind, b"pax", b"", 0o644, &data)
    }

    /// GNU's header for a name that has no room (`L`) or a link's (`K`).
    fn long(self, kind: u8, name: &[u8]) -> Self {
        let header = Header {
            kind,
            name: b"././@LongLink",
            size: octal(name.len() as u64),
            gnu: true,
            ..Header::default()
        };
        self.header(&header).data(name)
    }

    /// A file under a name of any length.
    fn long_file(self, name: &[u8]) -> Self {
        self.long(b'L', name).file(b"short")
    }

    /// A file that says it is sparse: pairs of offset and length, and its size when whole.
    fn sparse(self, pairs: &[(u64, u64)], whole: u64, data: &[u8]) -> Self {
        let mut rest = vec![0; 41];
        for (offset, length) in pairs.iter().take(4) {
            rest.extend(octal(*offset));
            rest.extend(octal(*length));
        }
        rest.resize(41 + 96, 0);
        rest.push(u8::from(pairs.len() > 4));
        rest.extend(octal(whole));
        let header = Header {
            kind: b'S',
            name: b"sparse",
            size: octal(data.len() as u64),
            gnu: true,
            rest: &rest,
            ..Header::default()
        };
        let mut tar = self.header(&header);
        let further: Vec<_> = pairs.iter().skip(4).collect();
        for (at, block) in further.chunks(21).enumerate() {
            let mut bytes = Vec::with_capacity(512);
            for (offset, length) in block {
                bytes.extend(octal(*offset));
                bytes.extend(octal(*length));
            }
            bytes.resize(504, 0);
            bytes.push(u8::from((at + 1) * 21 < further.len()));
            bytes.resize(512, 0);
            tar.0.extend(bytes);
        }
        tar.data(data)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("into memory")
}

/// A frame of zeros, a block of 128 KiB for each four bytes. Source: RFC 8878, "Frame_Header", "RLE_Block".
fn zstd_zeros(blocks: usize, window: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
    for block in 1..=blocks {
        let header = (128 << 10) << 3 | 1 << 1 | u32::from(block == blocks);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// All layers. `canary` is a folder that they know the path of and must not reach; `fs` is where a layer is unpacked, as seen
/// from it: the canary is `climb` below it.
pub fn all(canary: &str, climb: &str) -> Vec<Layer> {
    let mut layers = Vec::new();
    escapes(&mut layers, canary, climb);
    whiteouts(&mut layers, canary, climb);
    kinds(&mut layers);
    names(&mut layers);
    numbers(&mut layers);
    sparse(&mut layers);
    streams(&mut layers);
    layers
}

fn add(layers: &mut Vec<Layer>, name: &'static str, tar: Tar, expect: Expect) {
    let tar = tar.end();
    layers.push(Layer {
        name,
        bytes: gzip(&tar),
        tar,
        expect,
    });
}

fn escapes(layers: &mut Vec<Layer>, canary: &str, climb: &str) {
    let tar = Tar::default;
    let out = canary.as_bytes();
    let up = climb.as_bytes();
    let under = |folder: &[u8], name: &str| [folder, b"/", name.as_bytes()].concat();
    let mut add = |name, tar, expect| add(layers, name, tar, expect);
    const LEAVES: Expect = Refused("path leaves the layer");
    const LINK_LEAVES: Expect = Refused("hard link out of the layer");
    add("a file above", tar().file(&under(up, "new")), LEAVES);
    add("a file above that is there", tar().file(&under(up, "file")), LEAVES);
    add("a folder above", tar().dir(&under(up, "new/")), LEAVES);
    add("the folder above itself", tar().dir(b".."), LEAVES);
    add("up from inside", tar().dir(b"a").file(b"a/../../new"), LEAVES);
    add("up and in again", tar().dir(b"a").file(b"a/../b"), LEAVES);
    add("an absolute path", tar().long_file(&under(out, "new")), Harmless(&[]));
    add(
        "many slashes",
        tar().file(b"////etc//.//x"),
        Harmless(&[("etc/x", 'f')]),
    );
    add(
        "through an absolute link",
        tar().link(b"l", out).file(b"l/new"),
        Refused("open the folder of"),
    );
    add(
        "through a link above",
        tar().link(b"l", up).file(b"l/new"),
        Refused("open the folder of"),
    );
    add(
        "through a link to the root",
        tar().link(b"l", b"/").file(b"l/new"),
        Harmless(&[("new", 'f')]),
    );
    add(
        "through a link to the folder above",
        tar().link(b"l", b"../../..").file(b"l/new"),
        Harmless(&[("new", 'f')]),
    );
    add(
        "through two links",
        tar().link(b"a", b"..").link(b"b", b"a/..").file(b"b/new"),
        Harmless(&[("new", 'f')]),
    );
    add(
        "through a link in a circle",
        tar().link(b"a", b"b").link(b"b", b"a").file(b"a/new"),
        Refused("open the folder of"),
    );
    add(
        "through a link into /proc",
        tar().dir(b"proc").link(b"l", b"/proc/self/root").file(b"l/new"),
        Refused("open the folder of"),
    );
    add(
        "over a link to a file",
        tar().link(b"l", &under(out, "file")).file(b"l"),
        Harmless(&[("l", 'f')]),
    );
    add(
        "a mode over a link to a folder",
        tar().link(b"l", out).entry(b'5', b"l", b"", 0o777, b""),
        Harmless(&[("l", 'd')]),
    );
    add(
        "a mode through a link's last slash",
        tar().link(b"l", out).entry(b'5', b"l/", b"", 0o777, b""),
        Harmless(&[("l", 'd')]),
    );
    add("a hard link above", tar().hard(b"h", &under(up, "file")), LINK_LEAVES);
    add(
        "an absolute hard link",
        tar().long(b'K', &under(out, "file")).hard(b"h", b"short"),
        Refused("link"),
    );
    add(
        "a hard link through a link",
        tar().link(b"l", out).hard(b"h", b"l/file"),
        Refused("link"),
    );
    add(
        "a file through a hard link to a link",
        tar().link(b"l", &under(out, "file")).hard(b"h", b"l").file(b"h"),
        Harmless(&[("l", 'l'), ("h", 'f')]),
    );
    add(
        "a folder through a hard link to a link",
        tar().link(b"l", out).hard(b"h", b"l").file(b"h/new"),
        Refused("open the folder of"),
    );
    add(
        "a hard link to itself",
        tar().file(b"h").hard(b"h", b"h"),
        Harmless(&[("h", 'f')]),
    );
    add("a hard link to nothing", tar().hard(b"h", b"nothing"), Refused("link"));
    add(
        "a hard link to a folder",
        tar().dir(b"d").hard(b"h", b"d"),
        Refused("link"),
    );
    add("a hard link to the root", tar().hard(b"h", b"/"), LINK_LEAVES);
    add(
        "a link to an empty name",
        tar().link(b"l", b""),
        Refused("link to nothing"),
    );
    add(
        "the root as a link",
        tar().link(b"./", out),
        Refused("the root is not a folder"),
    );
    add(
        "the root as a file",
        tar().file(b"/"),
        Refused("the root is not a folder"),
    );
    add(
        "the root as a hard link",
        tar().hard(b".", out),
        Refused("the root is not a folder"),
    );
    add(
        "a parent swapped for a link",
        tar().dir(b"d").file(b"d/a").link(b"d", out).file(b"d/new"),
        Refused("open the folder of"),
    );
    add(
        "a folder whose time is set after it became a link",
        tar().dir(b"d").link(b"d", out),
        Harmless(&[("d", 'l')]),
    );
}

fn whiteouts(layers: &mut Vec<Layer>, canary: &str, climb: &str) {
    let tar = Tar::default;
    let under = |folder: &str, name: &str| format!("{folder}/{name}").into_bytes();
    let mut add = |name, tar, expect| add(layers, name, tar, expect);
    const NOTHING: Expect = Refused("whiteout of nothing");
    add("a whiteout of nothing", tar().file(b".wh."), NOTHING);
    add("a whiteout of the folder", tar().file(b".wh.."), NOTHING);
    add("a whiteout of the folder above", tar().file(b".wh..."), NOTHING);
    add(
        "a whiteout above",
        tar().file(&under(climb, ".wh.file")),
        Refused("path leaves the layer"),
    );
    add(
        "a whiteout through a link",
        tar().link(b"l", canary.as_bytes()).file(b"l/.wh.file"),
        Refused("open the folder of"),
    );
    add(
        "opaque through a link",
        tar().link(b"l", canary.as_bytes()).file(b"l/.wh..wh..opq"),
        Refused("open the folder of"),
    );
    add(
        "an opaque folder that becomes a link",
        tar().dir(b"d").file(b"d/.wh..wh..opq").link(b"d", canary.as_bytes()),
        Harmless(&[("d", 'l')]),
    );
    add(
        "an opaque folder that becomes a file",
        tar().dir(b"d").file(b"d/.wh..wh..opq").file(b"d"),
        Harmless(&[("d", 'f')]),
    );
    add(
        "an opaque folder of no text",
        tar().dir(b"\xff").file(b"\xff/.wh..wh..opq"),
        Refused("is no text"),
    );
    add(
        "a whiteout of no text",
        tar().file(b".wh.\xff"),
        Harmless(&[(".wh.\u{fffd}", '-')]),
    );
    add(
        "aufs' own names",
        tar().dir(b".wh..wh.plnk").file(b".wh..wh.aufs"),
        Harmless(&[(".wh..wh.aufs", '-')]),
    );
    let many = (0..12_000).fold(tar(), |tar, _| tar.file(&[&[b'd'; 85][..], b"/.wh..wh..opq"].concat()));
    add("opaque folders without number", many, Refused("more opaque folders"));
}

fn kinds(layers: &mut Vec<Layer>) {
    let tar = Tar::default;
    let mut add = |name, tar, expect| add(layers, name, tar, expect);
    add(
        "a node of the kernel's memory and of a disk",
        tar().device(b'3', b"mem", 1, 1).device(b'4', b"sda", 8, 0),
        Harmless(&[]),
    );
    add(
        "a device of no number",
        tar().device(b'3', b"big", 0o7777777, 0o7777777),
        Harmless(&[]),
    );
    add("a pipe", tar().device(b'6', b"pipe", 0, 0), Harmless(&[("pipe", 'p')]));
    add(
        "a file below a pipe",
        tar().device(b'6', b"pipe", 0, 0).file(b"pipe/x"),
        Refused("open the folder of"),
    );
    add(
        "a pipe with attributes",
        tar()
            .pax(b'x', &[("SCHILY.xattr.user.x", b"1")])
            .device(b'6', b"pipe", 0, 0),
        Harmless(&[("pipe", 'p')]),
    );
    add(
        "an unknown type",
        tar().entry(b'Z', b"x", b"", 0o644, b""),
        Refused("unknown type"),
    );
    add(
        "a folder with bytes in it",
        tar().entry(b'5', b"d", b"", 0o755, &[1; 700]).file(b"after"),
        Harmless(&[("d", 'd'), ("after", 'f')]),
    );
    add(
        "setuid for everybody",
        tar()
            .entry(b'0', b"su", b"", 0o7777, b"x")
            .entry(b'5', b"d", b"", 0o7777, b""),
        Harmless(&[("su", 'f')]),
    );
    add(
        "a mode with bits of a type",
        tar().entry(b'0', b"x", b"", 0o7770_0644, b"x"),
        Harmless(&[("x", 'f')]),
    );
    add(
        "capabilities that are none",
        tar()
            .pax(b'x', &[("SCHILY.xattr.security.capability", b"all of them")])
            .file(b"x"),
        Refused("set an attribute of"),
    );
    add(
        "overlayfs' own attributes",
        tar()
            .pax(b'x', &[("SCHILY.xattr.trusted.overlay.redirect", b"/../../etc")])
            .dir(b"d"),
        Harmless(&[("d", 'd')]),
    );
    add(
        "an attribute of the root's that is none",
        tar().pax(b'x', &[("SCHILY.xattr.", b"x")]).dir(b"./"),
        Refused("set an attribute of"),
    );
    let turns = (0..300).fold(tar(), |tar, n| match n % 4 {
        0 => tar.dir(b"x").file(b"x/child"),
        1 => tar.file(b"x"),
        2 => tar.link(b"x", b"/etc"),
        _ => tar.device(b'6', b"x", 0, 0),
    });
    add("a name that is everything in turn", turns, Harmless(&[("x", 'p')]));
    // Each folder that goes was looked for among all that are there.
    let folders = (0..400).fold(tar(), |tar, n| tar.dir(format!("d/{n}").as_bytes()));
    let turns = (0..200).fold(folders, |tar, _| tar.dir(b"x").file(b"x"));
    add("folders that come and go", turns, Harmless(&[("x", 'f')]));
}

fn names(layers: &mut Vec<Layer>) {
    let tar = Tar::default;
    let mut add = |name, tar, expect| add(layers, name, tar, expect);
    add("a name with a newline", tar().file(b"a\nb"), Harmless(&[("a\nb", 'f')]));
    add("a name of no text", tar().file(b"\xff\xfe/\x80"), Harmless(&[]));
    add(
        "a name that ends early",
        tar().pax(b'x', &[("path", b"a\0b")]).file(b"x"),
        Refused("not a path"),
    );
    add(
        "a link's name that ends early",
        tar().pax(b'x', &[("linkpath", b"a\0b")]).link(b"x", b"y"),
        Refused("link to nothing"),
    );
    add("no name", tar().file(b""), Refused("the root is not a folder"));
    add(
        "a name of 256 bytes",
        tar().long_file(&[b'n'; 256]),
        Refused("Filename too long"),
    );
    add(
        "a path of 5000 bytes",
        tar().long_file(&b"a/".repeat(2500)),
        Refused("not a path"),
    );
    add(
        "a link's name of 5000 bytes",
        tar().long(b'K', &[b'l'; 5000]).link(b"l", b"x"),
        Refused("Filename too long"),
    );
    add(
        "a name of 100 kB",
        tar().long_file(&[b'\n'; 100_000]),
        Refused("not a path"),
    );
    add(
        "folders 900 deep",
        tar().long_file(&b"d/".repeat(900)),
        Refused("deeper"),
    );
    // Each link adds to the depth what no path has room for.
    let mut deep = tar();
    for n in 0..30 {
        let above = match n {
            0 => String::new(),
            n => format!("l{}/", n - 1),
        };
        let path = format!("{above}{}", "d/".repeat(400));
        deep = deep
            .long(b'L', path.as_bytes())
            .dir(b"short")
            .long(b'K', path.as_bytes())
            .link(format!("l{n}").as_bytes(), b"short");
    }
    add("folders 12000 deep", deep, Refused("deeper"));
    let mut deep = tar().long(b'L', &b"d/".repeat(500)).dir(b"short");
    deep = deep.file(b"d");
    add("a deep tree that gives way", deep, Harmless(&[("d", 'f')]));
}

fn numbers(layers: &mut Vec<Layer>) {
    let tar = Tar::default;
    let mut add = |name, tar, expect| add(layers, name, tar, expect);
    let sized = |size| {
        let header = Header {
            name: b"x",
            size,
            gnu: true,
            ..Header::default()
        };
        Tar::default().header(&header)
    };
    let owned = |uid| {
        let header = Header {
            name: b"x",
            gnu: true,
            uid,
            ..Header::default()
        };
        Tar::default().header(&header)
    };
    add(
        "a size of 8 GiB and no bytes",
        sized(octal(8 << 30)).data(b"x"),
        Refused("unexpected EOF"),
    );
    add(
        "a size of 2^62",
        sized(base256(0x80, [0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0])),
        Refused("more bytes than allowed"),
    );
    add(
        "a size of 2^64 - 1",
        sized(base256(0x80, [0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])),
        Refused("size overflow"),
    );
    add("a negative size", sized(base256(0xff, [255; 11])), Refused(""));
    add("a size of letters", sized(*b"evil evil ev"), Refused("numeric field"));
    add("no size", sized([0; 12]), Refused("numeric field"));
    add(
        "PAX: a size of 2^63",
        tar().pax(b'x', &[("size", b"9223372036854775808")]).file(b"x"),
        Refused("more bytes than allowed"),
    );
    add(
        "PAX: a negative size",
        tar().pax(b'x', &[("size", b"-1")]).file(b"x"),
        Harmless(&[("x", 'f')]),
    );
    add(
        "PAX: a size that hides an entry",
        tar().pax(b'x', &[("size", b"1536")]).file(b"x").file(b"hidden"),
        Harmless(&[("x", 'f'), ("hidden", '-')]),
    );
    add(
        "PAX: a size for the header after it",
        tar().pax(b'x', &[("size", b"0")]).long_file(b"real name"),
        Refused("numeric field"),
    );
    add(
        "PAX: a path for all",
        tar().pax(b'g', &[("path", b"../../../../canary/new")]).file(b"x"),
        Harmless(&[("x", 'f')]),
    );
    add(
        "PAX: no end",
        tar().pax(b'x', &[("path", b"x")]),
        Refused("future member"),
    );
    add(
        "PAX: twice",
        tar()
            .pax(b'x', &[("path", b"y")])
            .pax(b'x', &[("path", b"z")])
            .file(b"x"),
        Refused("two pax"),
    );
    add(
        "PAX: a record longer than all",
        tar()
            .entry(b'x', b"p", b"", 0o644, b"99999999999999999999 path=x\n")
            .file(b"x"),
        Refused(""),
    );
    add(
        "PAX: a path above",
        tar().pax(b'x', &[("path", b"../../../../canary/new")]).file(b"x"),
        Refused("path leaves the layer"),
    );
    add(
        "PAX: a hard link above",
        tar()
            .pax(b'x', &[("linkpath", b"../../../../canary/file")])
            .hard(b"x", b"y"),
        Refused("hard link out of the layer"),
    );
    add(
        "PAX: 4 MiB of it",
        tar().pax(b'x', &[("comment", &vec![b'x'; 4 << 20])]).file(b"x"),
        Refused("more headers than allowed"),
    );
    add(
        "GNU: a long name without end",
        tar().long(b'L', b"x"),
        Refused("future member"),
    );
    add(
        "GNU: two long names",
        tar().long(b'L', b"x").long_file(b"y"),
        Refused("two long name"),
    );
    add(
        "GNU: a name of 4 MiB",
        tar().long_file(&vec![b'n'; 4 << 20]),
        Refused("more headers than allowed"),
    );
    let announced = Header {
        kind: b'L',
        name: b"././@LongLink",
        size: base256(0x80, [0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]),
        gnu: true,
        ..Header::default()
    };
    add("GNU: a name of 2^60", tar().header(&announced).data(b"x"), Refused(""));
    add(
        "an owner of 2^32 - 1",
        owned([0x80, 0, 0, 0, 255, 255, 255, 255]),
        Refused("an owner that no file can have"),
    );
    add(
        "an owner of 2^40",
        owned([0x80, 0, 1, 0, 0, 0, 0, 0]),
        Refused("an owner that no file can have"),
    );
    add(
        "PAX: an owner of 2^32 - 1",
        tar().pax(b'x', &[("gid", b"4294967295")]).file(b"x"),
        Refused("an owner that no file can have"),
    );
}

fn sparse(layers: &mut Vec<Layer>) {
    let tar = Tar::default;
    let mut add = |name, tar, expect| add(layers, name, tar, expect);
    add(
        "sparse: 256 MiB of hole",
        tar().sparse(&[(256 << 20, 0)], 256 << 20, b""),
        Harmless(&[("sparse", 'f')]),
    );
    add(
        "sparse: a hole without end",
        tar().sparse(&[(0o77777777777, 0), (0o77777777777, 0)], 0o7777, b""),
        Refused("mismatch in sparse"),
    );
    add(
        "sparse: backwards",
        tar().sparse(&[(512, 4), (0, 4)], 516, b"evil"),
        Refused("sparse"),
    );
    add(
        "sparse: more than it has",
        tar().sparse(&[(0, 4096)], 4096, b"evil"),
        Refused("sparse"),
    );
    let map: Vec<_> = (0..100_000).map(|n| (n * 512, 0)).collect();
    add(
        "sparse: a map of a hundred thousand",
        tar().sparse(&map, 99_999 * 512, b""),
        Refused("more headers than allowed"),
    );
    add(
        "sparse: PAX 1.0",
        tar()
            .pax(
                b'x',
                &[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"../../x"),
                    ("GNU.sparse.realsize", b"9999999999999"),
                ],
            )
            .file(b"GNUSparseFile.0/x"),
        Refused("sparse in the PAX way"),
    );
    add(
        "sparse: PAX 0.1",
        tar()
            .pax(
                b'x',
                &[
                    ("GNU.sparse.map", b"0,4,9999999999,4"),
                    ("GNU.sparse.size", b"10000000003"),
                ],
            )
            .file(b"x"),
        Refused("sparse in the PAX way"),
    );
}

fn streams(layers: &mut Vec<Layer>) {
    let plain = Tar::default().file(b"a").end();
    let mut add = |name, bytes: Vec<u8>, tar: Vec<u8>, expect| {
        layers.push(Layer {
            name,
            bytes,
            tar,
            expect,
        });
    };
    let file = || Harmless(&[("a", 'f')]);
    add("no bytes", Vec::new(), Vec::new(), Harmless(&[]));
    add("one byte", vec![0], vec![0], Refused(""));
    add("no archive", b"evil".repeat(1000), b"evil".repeat(1000), Refused(""));
    add(
        "a wrong checksum",
        [&[b'x'][..], &plain[1..]].concat(),
        plain.clone(),
        Refused("checksum"),
    );
    add("no end", plain[..1024].to_vec(), plain[..1024].to_vec(), file());
    add(
        "cut in a header",
        plain[..300].to_vec(),
        plain[..300].to_vec(),
        Refused(""),
    );
    add(
        "cut in a file",
        plain[..514].to_vec(),
        plain[..514].to_vec(),
        Refused("unexpected EOF"),
    );
    let garbage = [&plain[..], &[0xee; 5000]].concat();
    add("garbage after the end", garbage.clone(), garbage, file());
    let packed = gzip(&plain);
    add(
        "gzip: cut",
        packed[..packed.len() - 9].to_vec(),
        plain.clone(),
        Refused(""),
    );
    add(
        "gzip: a wrong sum",
        [&packed[..packed.len() - 8], &[0; 8]].concat(),
        plain.clone(),
        Refused("corrupt"),
    );
    add(
        "gzip: garbage after the end",
        [&packed[..], &[0xee; 100]].concat(),
        plain.clone(),
        Refused("gzip"),
    );
    add(
        "gzip: in two members",
        [gzip(&plain[..700]), gzip(&plain[700..])].concat(),
        plain.clone(),
        file(),
    );
    let members = [gzip(&plain), gzip(b"").repeat(20_000)].concat();
    add("gzip: members without number", members, plain.clone(), file());
    let bomb = [&plain[..], &vec![0; 32 << 20]].concat();
    add("gzip: 32 MiB after the end", gzip(&bomb), bomb, file());
    add("gzip: in gzip", gzip(&packed), packed.clone(), Refused(""));
    add("zstd: cut", zstd(&plain)[..20].to_vec(), plain.clone(), Refused(""));
    add(
        "zstd: a window of 2 GiB",
        zstd_zeros(1, 21 << 3),
        vec![0; 128 << 10],
        Refused("memory"),
    );
    add(
        "zstd: a window of 128 MiB",
        zstd_zeros(1100, 17 << 3),
        vec![0; 1100 * (128 << 10)],
        Harmless(&[]),
    );
    add(
        "zstd: a frame to skip and no other",
        [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"evil"].concat(),
        Vec::new(),
        Harmless(&[]),
    );
    add(
        "zstd: skips 4 GiB",
        vec![0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255, 0],
        Vec::new(),
        Refused(""),
    );
}

/// Two layers of one image: what the second finds through what the first made.
pub fn pairs(canary: &str) -> Vec<(&'static str, Made, Made, Expect)> {
    let tar = Tar::default;
    let out = canary.as_bytes();
    let made = |tar: Tar| {
        let tar = tar.end();
        (gzip(&tar), tar)
    };
    let pair = |name, above, expect| (name, made(tar().link(b"l", out)), made(above), expect);
    let fine = || Harmless(&[]);
    vec![
        pair("a file through a link below", tar().file(b"l/new"), fine()),
        pair("a folder over a link below", tar().dir(b"l/").file(b"l/file"), fine()),
        pair("a whiteout through a link below", tar().file(b"l/.wh.file"), fine()),
        pair("opaque through a link below", tar().file(b"l/.wh..wh..opq"), fine()),
        pair(
            "a whiteout of the link below",
            tar().file(b".wh.l").file(b"l/new"),
            Refused("open the folder of"),
        ),
    ]
}

/// A layer: served bytes, and what they are uncompressed.
pub type Made = (Vec<u8>, Vec<u8>);
