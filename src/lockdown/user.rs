//! Who a container's processes are: the CRI's wishes and the image's /etc/passwd and /etc/group.
//!
//! The files come from the image, so they are read without following a link out of it, only when they are regular, and
//! only so far. A C library's getpwuid would run code of the image (CVE-2019-14271).

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{FileType, OFlags, ResolveFlags, fstat},
    io::Errno,
};

use super::LockdownError;
use crate::{
    model::{GroupsPolicy, RunAs, Security, User},
    sys::within,
};

/// Most bytes of a passwd or group file that are looked at; containerd's bound.
const MOST: u64 = 10 << 20;

/// Resolves the user of a container's processes.
///
/// The user is `run_as_user`, else `run_as_username`, else the image's `USER` (`name`, `uid`, `name:group`, `uid:gid`).
/// The primary group is `run_as_group`, else the image's, else the user's in /etc/passwd, else 0. With
/// [`GroupsPolicy::Merge`] the user's groups in /etc/group are added to those asked for.
///
/// # Errors
/// [`LockdownError::Invalid`] when a name is unknown or a number is none.
pub fn resolve(rootfs: BorrowedFd<'_>, image_user: &str, security: &Security) -> Result<User, LockdownError> {
    let passwd = Entries::read(rootfs, "etc/passwd")?;
    let group = Entries::read(rootfs, "etc/group")?;
    let (image_name, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let entry = match &security.run_as {
        Some(RunAs::Uid(uid)) => passwd.by_id(*uid).unwrap_or_else(|| Account::unknown(*uid)),
        Some(RunAs::Name(name)) => account(&passwd, name, "run_as_username")?,
        None if image_name.is_empty() => passwd.by_id(0).unwrap_or_else(|| Account::unknown(0)),
        None => account(&passwd, image_name, "image user")?,
    };
    let gid = match security.run_as_group {
        Some(gid) => gid,
        // The image's group belongs to the image's user only.
        None if security.run_as.is_none() && !image_group.is_empty() => group_id(&group, image_group)?,
        None => entry.gid,
    };
    let mut groups = security.supplemental_groups.clone();
    groups.push(gid);
    if security.groups_policy == GroupsPolicy::Merge
        && let Some(name) = &entry.name
    {
        groups.extend(group.memberships(name));
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(User {
        uid: entry.uid,
        gid,
        groups,
        home: entry.home,
    })
}

/// What /etc/passwd says of a user.
struct Account {
    /// Absent for a number without an entry.
    name: Option<String>,
    uid: u32,
    gid: u32,
    home: String,
}

impl Account {
    fn unknown(uid: u32) -> Self {
        Self {
            name: None,
            uid,
            gid: 0,
            home: "/".into(),
        }
    }
}

fn account(passwd: &Entries, who: &str, field: &'static str) -> Result<Account, LockdownError> {
    // A name wins over a number that looks like it: `useradd 1000` is a user called 1000.
    if let Some(account) = passwd.by_name(who) {
        return Ok(account);
    }
    match number(who) {
        Some(uid) => Ok(passwd.by_id(uid).unwrap_or_else(|| Account::unknown(uid))),
        None => Err(LockdownError::Invalid {
            field,
            why: format!("no user {who:?} in the image's /etc/passwd"),
        }),
    }
}

fn group_id(group: &Entries, which: &str) -> Result<u32, LockdownError> {
    let named = group
        .lines()
        .find(|fields| fields[0] == which)
        .and_then(|fields| number(fields.get(2)?));
    named.or_else(|| number(which)).ok_or_else(|| LockdownError::Invalid {
        field: "image user",
        why: format!("no group {which:?} in the image's /etc/group"),
    })
}

/// A plain decimal number of 31 bits: no sign, no blank, no other base. Everything else is a name, and what cannot be a
/// name is refused (CVE-2024-40635: 4294967296 must not become 0).
fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<u32>()
        .ok()
        .filter(|value| plain && *value <= i32::MAX.cast_unsigned())
}

/// The lines of a colon-separated file.
struct Entries(String);

impl Entries {
    /// Reads the file; a missing one, and anything but a regular file, has no lines.
    fn read(rootfs: BorrowedFd<'_>, path: &'static str) -> Result<Self, LockdownError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let io = |errno: Errno| LockdownError::Io {
            action: "read",
            path: path.into(),
            source: errno.into(),
        };
        let file = match within::open(rootfs, path, flags, resolve) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
                return Ok(Self(String::new()));
            }
            Err(errno) => return Err(io(errno)),
        };
        if FileType::from_raw_mode(fstat(file.as_fd()).map_err(io)?.st_mode) != FileType::RegularFile {
            return Ok(Self(String::new()));
        }
        let mut bytes = Vec::new();
        let mut bounded = File::from(file).take(MOST + 1);
        bounded.read_to_end(&mut bytes).map_err(|source| LockdownError::Io {
            action: "read",
            path: path.into(),
            source,
        })?;
        if bytes.len() as u64 > MOST {
            return Err(LockdownError::Image {
                what: "larger than 10 MiB:",
                path: path.into(),
            });
        }
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn lines(&self) -> impl Iterator<Item = Vec<&str>> {
        self.0.lines().map(|line| line.split(':').collect())
    }

    fn by_name(&self, name: &str) -> Option<Account> {
        self.accounts().find(|account| account.name.as_deref() == Some(name))
    }

    fn by_id(&self, uid: u32) -> Option<Account> {
        self.accounts().find(|account| account.uid == uid)
    }

    fn accounts(&self) -> impl Iterator<Item = Account> {
        self.lines().filter_map(|fields| {
            let [name, _, uid, gid, _, home, ..] = fields[..] else {
                return None;
            };
            let home = if home.starts_with('/') { home } else { "/" };
            Some(Account {
                name: Some(name.to_owned()),
                uid: number(uid)?,
                gid: number(gid)?,
                home: home.to_owned(),
            })
        })
    }

    /// Groups that list a user as a member.
    fn memberships(&self, user: &str) -> Vec<u32> {
        let member = |fields: &Vec<&str>| {
            fields
                .get(3)
                .is_some_and(|list| list.split(',').any(|name| name == user))
        };
        self.lines()
            .filter(member)
            .filter_map(|fields| number(fields.get(2)?))
            .collect()
    }
}

#[cfg(test)]
mod test {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::spec::test_security as security;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/sh\n1000:x:7:7::/seven:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:50:other,web\n";

    fn in_image(files: &[(&str, &str)], user: &str, security: &Security) -> Result<User, LockdownError> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        for (name, text) in files {
            fs::write(root.path().join("etc").join(name), text).unwrap();
        }
        resolve(File::open(root.path()).unwrap().as_fd(), user, security)
    }

    fn with_files(user: &str, security: &Security) -> Result<User, LockdownError> {
        in_image(&[("passwd", PASSWD), ("group", GROUP)], user, security)
    }

    #[test]
    fn image_users_resolve_by_name_and_number() {
        let user = |text: &str| with_files(text, &security()).map(|u| (u.uid, u.gid, u.groups, u.home));
        assert_eq!(user("").unwrap(), (0, 0, vec![0], "/root".into()));
        assert_eq!(user("web").unwrap(), (33, 34, vec![34, 50], "/srv".into()));
        assert_eq!(user("33").unwrap(), (33, 34, vec![34, 50], "/srv".into()));
        assert_eq!(user("web:root").unwrap(), (33, 0, vec![0, 50], "/srv".into()));
        assert_eq!(user("5:6").unwrap(), (5, 6, vec![6], "/".into()));
        assert_eq!(user("1000").unwrap().0, 7, "a name wins over a number");
    }

    #[test]
    fn numbers_that_are_none_never_become_root() {
        for text in ["4294967296", "2147483648", "-1", "0x0", "0 ", " 0", "+0", "nobody-here"] {
            let error = with_files(text, &security()).unwrap_err();
            assert!(error.to_string().starts_with("image user"), "{text}: {error}");
        }
        assert_eq!(with_files("00", &security()).unwrap().uid, 0);
    }

    #[test]
    fn the_request_wins_over_the_image() {
        let asked = |run_as| Security {
            run_as: Some(run_as),
            ..security()
        };
        assert_eq!(with_files("web", &asked(RunAs::Uid(12))).unwrap().uid, 12);
        assert_eq!(with_files("", &asked(RunAs::Name("web".into()))).unwrap().gid, 34);
        assert!(with_files("", &asked(RunAs::Name("absent".into()))).is_err());
        let grouped = Security {
            run_as_group: Some(99),
            supplemental_groups: vec![5],
            ..asked(RunAs::Uid(33))
        };
        assert_eq!(with_files("", &grouped).unwrap().groups, [5, 50, 99]);
        let strict = Security {
            groups_policy: GroupsPolicy::Strict,
            ..grouped
        };
        assert_eq!(with_files("", &strict).unwrap().groups, [5, 99]);
    }

    #[test]
    fn files_that_are_no_files_neither_hang_nor_leak() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir(&etc).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            etc.join("passwd"),
            FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        symlink("/etc/group", etc.join("group")).unwrap();
        let user = resolve(File::open(root.path()).unwrap().as_fd(), "", &security()).unwrap();
        assert_eq!((user.uid, user.home.as_str()), (0, "/"));
    }
}
