//! The unpack worker's jail without the worker: an unpacker that checks nothing, and what a worker that was taken over would
//! try.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, Write},
    net::{TcpListener, UdpSocket},
    os::{fd::AsFd, unix::ffi::OsStrExt, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use inro::image::unpack::jail;
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, chmodat, chownat, linkat,
        makedev, mkdirat, mknodat, openat, openat2, setxattr, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
    process::{Pid, Resource, Rlimit, getppid, pidfd_open, setrlimit, test_kill_process},
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs},
};

use super::{canary, layers, snapshot};

/// What the process below is told by: the folder that is its jail, where in it to unpack, the canary.
const JAIL: &str = "INRO_TEST_JAIL";
const PLACE: &str = "INRO_TEST_PLACE";
const CANARY: &str = "INRO_TEST_CANARY";

#[test]
fn the_jail_alone_holds_an_unpacker_that_checks_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let outside = canary(dir.path());
    let fs_dir = dir.path().join("root/tmp/fs");
    let climb = "../../../../canary";
    fs::create_dir_all(&fs_dir).expect("a folder");
    let before = snapshot(&outside);

    // In a jail that is wide enough the layers do reach what they want, or this would show nothing.
    inmate(dir.path(), "/root/tmp/fs", &outside, &archives("/canary", climb));
    assert_ne!(
        fs::read_to_string(outside.join("file")).ok().as_deref(),
        Some("untouched")
    );
    assert!(outside.join("new").exists() && snapshot(&outside) != before);
    fs::remove_dir_all(&outside).expect("the canary");
    fs::remove_dir_all(dir.path().join("root")).expect("what they made");

    canary(dir.path());
    fs::create_dir_all(&fs_dir).expect("a folder");
    let before = snapshot(dir.path());
    inmate(&fs_dir, "/", &outside, &archives(&outside.to_string_lossy(), climb));
    assert!(
        fs::read_dir(&fs_dir).expect("the folder").count() > 0,
        "nothing was unpacked"
    );
    fs::remove_dir_all(&fs_dir).expect("what they made");
    fs::create_dir(&fs_dir).expect("a folder");
    let (before, after) = (but(before, &fs_dir), but(snapshot(dir.path()), &fs_dir));
    assert_eq!(before, after);
}

/// Without a folder that was made again, and the one it is in.
fn but(mut all: BTreeMap<PathBuf, String>, folder: &Path) -> BTreeMap<PathBuf, String> {
    all.retain(|path, _| path != folder && Some(path.as_path()) != folder.parent());
    all
}

#[test]
fn the_kernel_refuses_what_is_no_unpacking() {
    let dir = tempfile::tempdir().expect("a folder");
    let outside = canary(dir.path());
    let fs_dir = dir.path().join("root/tmp/x/fs");
    fs::create_dir_all(&fs_dir).expect("a folder");
    let before = snapshot(&outside);
    let told = inmate(&fs_dir, "/", &outside, &[]);
    assert_eq!(snapshot(&outside), before);
    let lines: Vec<_> = told.lines().filter_map(|line| line.split_once("act: ")).collect();
    assert!(lines.len() > 35, "{told}");
    let done: Vec<_> = lines.iter().filter(|(_, act)| !act.ends_with("refused")).collect();
    assert!(done.is_empty(), "{done:?}");
}

/// Every layer of the corpus as plain archives; those in two layers as one after the other.
fn archives(canary: &str, climb: &str) -> Vec<Vec<u8>> {
    let layers = layers::all(canary, climb).into_iter();
    let single = layers
        .filter(|layer| !layer.name.contains("deep"))
        .map(|layer| layer.tar);
    let pairs = layers::pairs(canary).into_iter().map(|(_, below, above, _)| {
        let end = below.1.len() - 1024;
        [&below.1[..end], &above.1].concat()
    });
    // Large and deep ones have nothing that others have not, but time.
    single.chain(pairs).filter(|tar| tar.len() < 1 << 17).collect()
}

/// Runs [`in_jail`] in a process of its own; what it said.
fn inmate(jail: &Path, place: &str, canary: &Path, archives: &[Vec<u8>]) -> String {
    let mut input = tempfile::tempfile().expect("a file");
    for archive in archives {
        input.write_all(&archive.len().to_ne_bytes()).expect("its length");
        input.write_all(archive).expect("an archive");
    }
    input.rewind().expect("the archives");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "hostile::jail::in_jail",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(JAIL, jail)
        .env(PLACE, place)
        .env(CANARY, canary)
        .stdin(Stdio::from(input))
        .output()
        .expect("this program again");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("act: in jail"),
        "{told} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    told
}

#[test]
#[ignore = "for the tests above, in a process of its own"]
fn in_jail() {
    let Some(folder) = std::env::var_os(JAIL) else { return };
    let place = PathBuf::from(std::env::var_os(PLACE).expect("a place"));
    let canary = PathBuf::from(std::env::var_os(CANARY).expect("a canary"));
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).expect("the archives");
    let parent = getppid().expect("who started this");
    let _inside = jail::enter(Path::new(&folder)).expect("the jail");
    println!("act: in jail is refused");
    if input.is_empty() {
        try_everything(&canary, parent);
    }
    // Each in a folder of its own.
    let mut number = 0;
    while let Some((length, rest)) = input.split_first_chunk() {
        let (tar, rest) = rest.split_at(usize::from_ne_bytes(*length));
        unpack_without_checks(tar, &place.join(number.to_string()));
        (number, input) = (number + 1, rest.to_vec());
    }
}

/// Makes everything by its name as it stands there, over whatever links are on the way.
fn unpack_without_checks(tar: &[u8], place: &Path) {
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().into_iter().flatten() {
        let Ok(mut entry) = entry else { return };
        let named = |bytes: &[u8]| place.join(std::ffi::OsStr::from_bytes(bytes));
        let path = named(&entry.path_bytes());
        let to = entry
            .link_name_bytes()
            .map(|bytes| bytes.into_owned())
            .unwrap_or_default();
        let mode = Mode::from_raw_mode(entry.header().mode().unwrap_or(0) & 0o7777);
        for above in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let _ = mkdirat(CWD, above, Mode::RWXU);
        }
        let hidden = path.file_name().and_then(|name| name.as_bytes().strip_prefix(b".wh."));
        if let Some(hidden) = hidden {
            let gone = path.with_file_name(std::ffi::OsStr::from_bytes(hidden));
            let _ = unlinkat(CWD, &gone, AtFlags::empty());
            continue;
        }
        match entry.header().entry_type() {
            tar::EntryType::Directory => drop(mkdirat(CWD, &path, mode)),
            tar::EntryType::Symlink => {
                let _ = unlinkat(CWD, &path, AtFlags::empty());
                let _ = symlinkat(to.as_slice(), CWD, &path);
                continue;
            }
            tar::EntryType::Link => drop(linkat(CWD, named(&to), CWD, &path, AtFlags::SYMLINK_FOLLOW)),
            tar::EntryType::Char => drop(mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(1, 3))),
            _ => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
                if let Ok(file) = openat(CWD, &path, flags, mode) {
                    let _ = std::io::copy(&mut entry.by_ref().take(4096), &mut File::from(file));
                }
            }
        }
        let _ = chmodat(CWD, &path, mode, AtFlags::empty());
        let _ = chownat(CWD, &path, Some(rustix::fs::Uid::ROOT), None, AtFlags::empty());
    }
}

/// Says of each act whether it was refused.
fn try_everything(canary: &Path, parent: Pid) {
    let file = canary.join("file");
    let above = Path::new("../../../../canary/file");
    let write = OFlags::WRONLY;
    let none = Mode::empty();
    let time = Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let node = |name: &str, kind, major, minor| mknodat(CWD, name, kind, Mode::RWXU, makedev(major, minor));
    let acts: Vec<(&str, bool)> = vec![
        ("read a file of the node", fs::read("/etc/passwd").is_ok()),
        ("see a file outside", statat(CWD, &file, AtFlags::empty()).is_ok()),
        ("write a file outside", openat(CWD, &file, write, none).is_ok()),
        ("write a file above", openat(CWD, above, write, none).is_ok()),
        (
            "write a file above without a word on links",
            openat2(CWD, above, write, none, ResolveFlags::empty()).is_ok(),
        ),
        (
            "make a file outside",
            openat(CWD, canary.join("new"), write | OFlags::CREATE, Mode::RUSR).is_ok(),
        ),
        (
            "make a folder outside",
            mkdirat(CWD, canary.join("new"), Mode::RWXU).is_ok(),
        ),
        ("remove a file outside", unlinkat(CWD, &file, AtFlags::empty()).is_ok()),
        (
            "link a file outside",
            linkat(CWD, &file, CWD, "stolen", AtFlags::empty()).is_ok(),
        ),
        ("write a file through a link", {
            let _ = symlinkat(&file, CWD, "link");
            openat(CWD, "link", write, none).is_ok()
        }),
        (
            "change a mode outside",
            chmodat(CWD, &file, Mode::RWXO, AtFlags::empty()).is_ok(),
        ),
        (
            "change a mode above",
            chmodat(CWD, above, Mode::RWXO, AtFlags::empty()).is_ok(),
        ),
        (
            "change an owner outside",
            chownat(CWD, &file, Some(rustix::fs::Uid::from_raw(1)), None, AtFlags::empty()).is_ok(),
        ),
        (
            "change a time outside",
            utimensat(CWD, &file, &times, AtFlags::empty()).is_ok(),
        ),
        (
            "change an attribute outside",
            setxattr(&file, "user.x", b"x", XattrFlags::empty()).is_ok(),
        ),
        ("move a file", rustix::fs::rename("link", "moved").is_ok()),
        ("open a device that it made", {
            let _ = node("zero", FileType::CharacterDevice, 1, 5);
            openat(CWD, "zero", OFlags::RDONLY, none).is_ok()
        }),
        ("open the kernel's memory", {
            let _ = node("mem", FileType::CharacterDevice, 1, 1);
            openat(CWD, "mem", OFlags::RDONLY, none).is_ok()
        }),
        ("listen to the network", TcpListener::bind("127.0.0.1:0").is_ok()),
        ("send a packet", UdpSocket::bind("127.0.0.1:0").is_ok()),
        ("listen to the node", UnixListener::bind("socket").is_ok()),
        ("talk to itself", std::os::unix::net::UnixStream::pair().is_ok()),
        ("make a pipe", rustix::pipe::pipe().is_ok()),
        ("see whether a process is there", test_kill_process(parent).is_ok()),
        (
            "hold a process",
            pidfd_open(parent, rustix::process::PidfdFlags::empty()).is_ok(),
        ),
        ("start a program", Command::new("/program").spawn().is_ok()),
        ("start a thread", thread::Builder::new().spawn(|| ()).is_ok()),
        (
            "mount",
            rustix::mount::mount("none", "/", "tmpfs", rustix::mount::MountFlags::empty(), None).is_ok(),
        ),
        (
            "mount a piece",
            rustix::mount::open_tree(CWD, "/", rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE).is_ok(),
        ),
        (
            "unmount",
            rustix::mount::unmount("/", rustix::mount::UnmountFlags::DETACH).is_ok(),
        ),
        ("change its root", rustix::process::chroot("/").is_ok()),
        ("change its folder", rustix::process::chdir("/").is_ok()),
        ("have all capabilities", {
            let all = CapabilitySet::all();
            let sets = CapabilitySets {
                effective: all,
                permitted: all,
                inheritable: all,
            };
            set_capabilities(None, sets).is_ok()
        }),
        ("have what was given up", set_no_new_privs(true).is_ok()),
        (
            "be root of another kind",
            rustix::thread::set_thread_uid(rustix::fs::Uid::ROOT).is_ok(),
        ),
        ("have more memory", {
            let more = Rlimit {
                current: None,
                maximum: None,
            };
            setrlimit(Resource::As, more).is_ok()
        }),
        ("take 512 MiB", Vec::<u8>::new().try_reserve_exact(512 << 20).is_ok()),
        ("open two thousand files", {
            let opened: Result<Vec<_>, Errno> = (0..2000).map(|_| openat(CWD, "/", OFlags::RDONLY, none)).collect();
            opened.is_ok()
        }),
        (
            "make a file of memory",
            rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()).is_ok(),
        ),
        (
            "make an event",
            rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).is_ok(),
        ),
        (
            "be looked into",
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).is_ok(),
        ),
        (
            "control what it reads from",
            rustix::io::ioctl_fionread(std::io::stdin().as_fd()).is_ok(),
        ),
    ];
    for (act, done) in acts {
        println!("act: {act} is {}", if done { "DONE" } else { "refused" });
    }
    // And it does work.
    let made = openat(CWD, "inside", write | OFlags::CREATE, Mode::RUSR).is_ok();
    println!(
        "act: to be kept from its own folder is {}",
        if made { "refused" } else { "DONE" }
    );
}
