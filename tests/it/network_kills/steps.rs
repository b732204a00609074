//! Which calls to the kernel are steps of a pod's way into the network and out of it, and what they are called.

use std::path::Path;

use crate::harness::Call;

/// What of a call to the kernel is a step: its name, the same in every run.
pub fn step(call: &Call) -> Option<String> {
    let step = match call.name {
        "open" if call.number(1) & CREATE != 0 => format!("write {}", told(&call.path(0))),
        "openat" if call.number(2) & CREATE != 0 => format!("write {}", told(&call.path_below(0))),
        "write"
            if call
                .file(0)
                .parent()
                .is_some_and(|folder| folder.ends_with("net/leases")) =>
        {
            format!("fill {}", told(&call.file(0)))
        }
        "mkdir" => format!("make {}", told(&call.path(0))),
        "mkdirat" => format!("make {}", told(&call.path_below(0))),
        "rename" => format!("rename {}", told(&call.path(0))),
        "renameat" | "renameat2" => format!("rename {}", told(&call.path_below(0))),
        "unlink" | "rmdir" => format!("remove {}", told(&call.path(0))),
        "unlinkat" => format!("remove {}", told(&call.path_below(0))),
        "mount" => format!("mount {}", told(&call.path(1))),
        "umount2" => format!("unmount {}", told(&call.path(0))),
        "sendto" => message(call)?,
        _ => return None,
    };
    Some(step)
}

/// A path without what differs from run to run.
fn told(path: &Path) -> String {
    if path.starts_with("/sys/fs/cgroup") {
        return "a cgroup".to_owned();
    }
    let words = path.iter().map(|word| {
        let word = word.to_string_lossy();
        match word.strip_suffix(".tmp").and_then(|name| name.rsplit_once('.')) {
            Some((name, _)) => name.to_owned(),
            None if word.len() == 64 => "ID".into(),
            None if word.starts_with("10.98.") => "IPV4".into(),
            None if word.starts_with("fd98:") => "IPV6".into(),
            None => word.into_owned(),
        }
    });
    let words: Vec<_> = words.collect();
    let own = words.iter().position(|word| word.starts_with("inro-it-"));
    words[own.map_or(1, |at| at + 1)..].join("/")
}

/// A message to the kernel's network; `None` for other sockets.
fn message(call: &Call) -> Option<String> {
    const NETLINK: [u8; 2] = 16u16.to_ne_bytes();
    if call.number(4) == 0 || call.bytes(4, 2) != NETLINK {
        return None;
    }
    let datagram = call.bytes(1, usize::try_from(call.number(2)).expect("a length"));
    let mut kinds = Vec::new();
    let mut rest = &datagram[..];
    while let Some((header, _)) = rest.split_at_checked(16) {
        let number = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        kinds.push(number(4));
        rest = rest
            .get(usize::from(number(0)).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    let has = |text: &[u8]| datagram.windows(text.len()).any(|part| part == text);
    let name = match kinds[..] {
        [RTM_NEWLINK] if has(b"veth") => "make the pair",
        [RTM_NEWLINK] if has(b"bridge") => "make the bridge",
        [RTM_NEWLINK] => "bring up the bridge",
        [RTM_SETLINK] => "let the pod ask itself",
        [RTM_NEWADDR] => "address the bridge",
        [RTM_NEWLINK, .., RTM_NEWROUTE] => "configure eth0",
        [RTM_DELLINK] => "delete the pair",
        [CT_DELETE] => "forget flows",
        _ if kinds.contains(&NFT_NEWRULE) => "make the table",
        _ if kinds.contains(&NFT_NEWSETELEM) => "open ports",
        _ if kinds.contains(&NFT_DELSETELEM) => "close ports",
        _ if kinds.contains(&NFT_DELTABLE) => "remove the table",
        _ => return Some(format!("netlink {kinds:?}")),
    };
    Some(name.to_owned())
}

/// O_CREAT, of x86 and ARM alike.
const CREATE: u64 = 0o100;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const CT_DELETE: u16 = 0x102;
const NFT_DELTABLE: u16 = 0xa02;
const NFT_NEWRULE: u16 = 0xa06;
const NFT_NEWSETELEM: u16 = 0xa0c;
const NFT_DELSETELEM: u16 = 0xa0e;
