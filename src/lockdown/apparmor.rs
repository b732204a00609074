//! AppArmor: the default profile, and which profile a container gets.
//!
//! The default one is compiled into the daemon (`apparmor-profiles/`), so that a node needs no apparmor_parser. Profiles
//! of pods' own are loaded by the node's administrator; here they are only looked up.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::LockdownError;
use crate::model::{Profile, Security};

/// What `RuntimeDefault` means.
pub const DEFAULT: &str = "inro-default";

/// Compiled by `apparmor-profiles/build.sh` from the text beside it.
static POLICY: &[u8] = include_bytes!("../../apparmor-profiles/inro-default.bin");

const LOCALHOST_REF: &str = "config.linux.security_context.apparmor.localhost_ref";
const PROFILE_TYPE: &str = "config.linux.security_context.apparmor.profile_type";

/// What this node's kernel does with profiles.
pub enum AppArmor {
    /// It has no AppArmor, or that is off.
    Off,
    /// It has, but we may not load profiles, as in most containers.
    OutOfReach { why: String },
    /// The default profile was loaded through this folder, the kernel's `apparmor`.
    On { policy: OwnedFd },
}

impl AppArmor {
    /// Loads the default profile where there is AppArmor.
    pub fn detect() -> Self {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|text| text.starts_with('Y')) {
            return Self::Off;
        }
        // Replaced even if it is there: the one loaded may be an older daemon's.
        let loaded = open_policy().and_then(|policy| load(policy.as_fd()).map(|()| policy));
        match loaded {
            Ok(policy) => Self::On { policy },
            Err(error) => Self::OutOfReach { why: error.to_string() },
        }
    }

    /// The profile that a container's processes change to at exec.
    ///
    /// Where there is no AppArmor, or none within reach, who asks for nothing gets nothing, as with the peers.
    ///
    /// # Errors
    /// [`LockdownError::NotHere`] for a profile that is not loaded.
    pub fn resolve(&self, security: &Security) -> Result<Option<String>, LockdownError> {
        match &security.apparmor {
            Some(Profile::Unconfined) => Ok(None),
            Some(Profile::Localhost(name)) => self.loaded(name).map(Some),
            None | Some(Profile::RuntimeDefault) if security.privileged => Ok(None),
            asked => match self {
                Self::On { policy } => default(policy.as_fd()).map(Some),
                Self::OutOfReach { why } if asked.is_some() => Err(LockdownError::NotHere {
                    field: PROFILE_TYPE,
                    why: format!("profile {DEFAULT:?} cannot be loaded: {why}"),
                }),
                Self::OutOfReach { .. } | Self::Off => Ok(None),
            },
        }
    }

    /// For the verbose status: what an unprivileged container gets.
    pub fn state(&self) -> String {
        match self {
            Self::Off => "off".to_owned(),
            Self::OutOfReach { why } => format!("out of reach: {why}"),
            Self::On { .. } => DEFAULT.to_owned(),
        }
    }

    fn loaded(&self, name: &str) -> Result<String, LockdownError> {
        let missing = |why: String| LockdownError::NotHere {
            field: LOCALHOST_REF,
            why: format!("profile {name:?} {why}"),
        };
        let policy = match self {
            Self::Off => return Err(missing("cannot be applied: this node has no AppArmor".into())),
            Self::OutOfReach { why } => return Err(missing(format!("cannot be looked up: {why}"))),
            Self::On { policy } => policy,
        };
        match profiles(policy.as_fd()) {
            Ok(list) if lists(&list, name) => Ok(name.to_owned()),
            Ok(_) => Err(missing("is not loaded".into())),
            Err(error) => Err(missing(format!("cannot be looked up: {error}"))),
        }
    }
}

/// The default profile, loaded again if somebody removed it: `aa-remove-unknown` removes all that have no file in `/etc`.
fn default(policy: BorrowedFd<'_>) -> Result<String, LockdownError> {
    let there = profiles(policy).map(|list| lists(&list, DEFAULT));
    match there.and_then(|there| if there { Ok(()) } else { load(policy) }) {
        Ok(()) => Ok(DEFAULT.to_owned()),
        Err(error) => Err(LockdownError::NotHere {
            field: PROFILE_TYPE,
            why: format!("profile {DEFAULT:?} cannot be loaded: {error}"),
        }),
    }
}

/// The kernel's folder, through a mount that nobody else sees: securityfs need not be mounted on the node.
fn open_policy() -> io::Result<OwnedFd> {
    let context = fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&mount, "apparmor", flags, Mode::empty())?)
}

/// Gives the kernel the default profile, and looks whether it has it.
fn load(policy: BorrowedFd<'_>) -> io::Result<()> {
    let file = openat(policy, ".replace", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel takes a policy in one write only.
    if File::from(file).write(POLICY)? != POLICY.len() || !lists(&profiles(policy)?, DEFAULT) {
        return Err(io::Error::other("the kernel did not take it"));
    }
    Ok(())
}

/// The loaded profiles as the kernel lists them: `NAME (MODE)` on each line.
fn profiles(policy: BorrowedFd<'_>) -> io::Result<String> {
    let file = openat(policy, "profiles", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut list = String::new();
    File::from(file).read_to_string(&mut list)?;
    Ok(list)
}

/// A name may have spaces and brackets in it.
fn lists(list: &str, name: &str) -> bool {
    list.lines()
        .filter_map(|line| line.rsplit_once(" ("))
        .any(|(listed, _)| listed == name)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::spec::test_security;

    fn asking(apparmor: Option<Profile>, privileged: bool) -> Security {
        Security {
            apparmor,
            privileged,
            ..test_security()
        }
    }

    #[test]
    fn names_are_found_whole() {
        let list = "a (enforce)\nb c (x) (complain)\n/usr/bin/man (enforce)\n";
        for (name, found) in [
            ("a", true),
            ("b c (x)", true),
            ("/usr/bin/man", true),
            ("b c", false),
            ("man", false),
            ("", false),
            ("a (enforce)", false),
        ] {
            assert_eq!(lists(list, name), found, "{name:?}");
        }
    }

    #[test]
    fn a_node_without_apparmor_gives_nothing_and_refuses_names() {
        let localhost = asking(Some(Profile::Localhost("x".into())), false);
        for node in [AppArmor::Off, AppArmor::OutOfReach { why: "no".into() }] {
            assert_eq!(node.resolve(&asking(None, false)).unwrap(), None);
            assert_eq!(node.resolve(&asking(Some(Profile::Unconfined), false)).unwrap(), None);
            assert_eq!(
                node.resolve(&asking(Some(Profile::RuntimeDefault), true)).unwrap(),
                None
            );
            let error = node.resolve(&localhost).unwrap_err().to_string();
            assert!(error.starts_with(LOCALHOST_REF) && error.contains("\"x\""), "{error}");
        }
        let default = asking(Some(Profile::RuntimeDefault), false);
        assert_eq!(AppArmor::Off.resolve(&default).unwrap(), None);
        let error = AppArmor::OutOfReach { why: "no".into() }.resolve(&default).unwrap_err();
        assert!(error.to_string().starts_with(PROFILE_TYPE), "{error}");
    }

    /// The header as the kernel's `policy_unpack.c` reads it: tag, length, name; then the value.
    #[test]
    fn the_compiled_policy_is_the_default_profile_for_kernels_since_4_14() {
        let version = POLICY.strip_prefix(b"\x04\x08\0version\0\x02").unwrap();
        let abi = u32::from_le_bytes(version[..4].try_into().unwrap()) & 0x3ff;
        assert_eq!(abi, 7);
        let profile = version[4..].strip_prefix(b"\x04\x08\0profile\0\x07").unwrap();
        assert!(profile[3..].starts_with(b"inro-default\0"));
    }
}
