//! Capability sets from what the CRI asks for.

use std::sync::LazyLock;

use caps::Capability;

use super::LockdownError;
use crate::model::{CapabilitySets, Security};

/// What a container gets when nothing is asked: the set of both peers.
const DEFAULT: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// The daemon's own bounding set: nobody can be given more (nested nodes lack some).
static AVAILABLE: LazyLock<u64> = LazyLock::new(|| {
    caps::read(None, caps::CapSet::Bounding)
        .map(|set| set.iter().map(|c| c.bitmask()).sum())
        .unwrap_or(u64::MAX)
});

/// The sets a container's processes end up with.
///
/// `add: ALL` means all that the host has, then `drop` takes away; `drop: ALL` means none, then `add` gives; the default
/// set is the start otherwise. Privileged containers have all. Inheritable stays empty (CVE-2022-29162) but for
/// `add_ambient`. Source: CRI `Capability`.
///
/// # Errors
/// [`LockdownError::Invalid`] for a name that is no capability.
pub fn resolve(security: &Security) -> Result<CapabilitySets, LockdownError> {
    if security.privileged {
        let all = *AVAILABLE;
        return Ok(CapabilitySets {
            bounding: all,
            effective: all,
            permitted: all,
            ..CapabilitySets::default()
        });
    }
    let changes = &security.capabilities;
    let add = mask(&changes.add, "capabilities.add_capabilities")?;
    let drop = mask(&changes.drop, "capabilities.drop_capabilities")?;
    let start: u64 = DEFAULT.iter().map(|c| c.bitmask()).sum();
    let set = match (add.all, drop.all) {
        (true, false) => *AVAILABLE & !drop.some,
        (true, true) | (false, true) => add.some,
        (false, false) => (start | add.some) & !drop.some,
    } & *AVAILABLE;
    let ambient = mask(&changes.add_ambient, "capabilities.add_ambient_capabilities")?;
    let ambient = (if ambient.all { *AVAILABLE } else { ambient.some }) & *AVAILABLE;
    let set = set | ambient;
    Ok(CapabilitySets {
        bounding: set,
        effective: set,
        permitted: set,
        inheritable: ambient,
        ambient,
    })
}

/// The names of a mask's capabilities, as the OCI spec has them.
pub fn names(mask: u64) -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().filter(|c| mask & c.bitmask() != 0).collect();
    all.sort_by_key(|c| c.index());
    all.iter().map(ToString::to_string).collect()
}

struct Mask {
    all: bool,
    some: u64,
}

fn mask(names: &[String], field: &'static str) -> Result<Mask, LockdownError> {
    let mut mask = Mask { all: false, some: 0 };
    for name in names {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" {
            mask.all = true;
            continue;
        }
        let full = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        let unknown = |_| LockdownError::Invalid {
            field,
            why: format!("{name:?} is not a capability"),
        };
        mask.some |= full.parse::<Capability>().map_err(unknown)?.bitmask();
    }
    Ok(mask)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::model::CapabilityChanges;
    use crate::spec::test_security as security;

    fn sets(add: &[&str], drop: &[&str]) -> u64 {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let changes = CapabilityChanges {
            add: list(add),
            drop: list(drop),
            add_ambient: Vec::new(),
        };
        let sets = resolve(&Security {
            capabilities: changes,
            ..security()
        })
        .unwrap();
        assert_eq!((sets.inheritable, sets.ambient), (0, 0));
        assert_eq!(sets.effective, sets.permitted);
        sets.effective
    }

    #[test]
    fn changes_combine_as_with_the_peers() {
        let net_admin = Capability::CAP_NET_ADMIN.bitmask();
        assert_eq!(sets(&[], &[]), 0xa804_25fb);
        assert_eq!(sets(&["NET_ADMIN"], &[]), 0xa804_25fb | net_admin);
        assert_eq!(sets(&[], &["ALL"]), 0);
        assert_eq!(sets(&["cap_net_admin"], &["all"]), net_admin);
        assert_eq!(sets(&["ALL"], &["NET_ADMIN"]), *AVAILABLE & !net_admin);
        assert_eq!(sets(&["NET_ADMIN"], &["CAP_NET_ADMIN"]), 0xa804_25fb);
    }

    #[test]
    fn an_unknown_name_is_named() {
        let changes = CapabilityChanges {
            add: vec!["CAP_NONSENSE".into()],
            ..CapabilityChanges::default()
        };
        let error = resolve(&Security {
            capabilities: changes,
            ..security()
        })
        .unwrap_err();
        assert!(
            error.to_string().contains("add_capabilities: \"CAP_NONSENSE\""),
            "{error}"
        );
    }
}
