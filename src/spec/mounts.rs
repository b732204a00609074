//! The mounts of a container, in the order in which they are made.

use std::path::{Path, PathBuf};

use rustix::mount::MountAttrFlags;
use serde_json::{Value, json};

use super::SpecError;
use crate::model::{Access, BaseMount, Mount, NamespaceMode, Propagation, Security, UserNamespace};

/// A mount of the CRI whose host side lies on the helper's stage.
#[derive(Debug, Clone)]
pub struct StagedMount {
    pub mount: Mount,
    /// Where the helper attached it.
    pub source: PathBuf,
}

/// The mounts of the spec: what only libcontainer can make. `proc` says whether that is a /proc too.
pub fn mounts(staged: &[StagedMount], proc: bool) -> Vec<Value> {
    let mut all = Vec::new();
    if proc {
        // Of the container's own pid namespace, which nobody is in before libcontainer.
        all.push(
            json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        );
    }
    all.extend(
        staged
            .iter()
            .map(|staged| bind(&staged.source, &staged.mount.container_path, &options(&staged.mount))),
    );
    all
}

/// The client's volumes in the order in which they are attached: parents before what lies in them, the client's order
/// otherwise.
///
/// # Errors
/// [`SpecError::Invalid`] for a volume over /proc.
pub fn in_order(mounts: &[Mount]) -> Result<Vec<&Mount>, SpecError> {
    let mut all: Vec<&Mount> = mounts.iter().collect();
    all.sort_by_key(|mount| mount.container_path.components().count());
    all.iter().try_for_each(|mount| check_proc(mount))?;
    Ok(all)
}

/// The file systems every container finds, in the order in which the helper makes them: libcontainer would resolve
/// each place anew through its own procfs, an eighth of a millisecond each. In a pod's own user namespace `/dev` is its
/// root's. `proc` says whether the helper is in the container's pid namespace, and makes its /proc.
pub fn base_mounts(security: &Security, user: Option<&UserNamespace>, mounts: &[Mount], proc: bool) -> Vec<BaseMount> {
    let base = |kind: &str, place: &str, options: &[(&str, &str)], attributes: MountAttrFlags| BaseMount {
        kind: kind.into(),
        place: place.into(),
        options: options.iter().map(|&(k, v)| (k.into(), v.into())).collect(),
        attributes: (attributes | MountAttrFlags::MOUNT_ATTR_NOSUID).bits(),
    };
    let (nodev, noexec) = (MountAttrFlags::MOUNT_ATTR_NODEV, MountAttrFlags::MOUNT_ATTR_NOEXEC);
    let owner = user.map(UserNamespace::root);
    let (uid, gid) = owner.map_or_else(Default::default, |(uid, gid)| (uid.to_string(), gid.to_string()));
    let mut dev = vec![("mode", "755"), ("size", "65536k")];
    if owner.is_some() {
        dev.extend([("uid", uid.as_str()), ("gid", gid.as_str())]);
    }
    let tty = user
        .map_or(Some(TTY), |user| user.gids.to_host(TTY))
        .map(|gid| gid.to_string());
    let mut pts = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    pts.extend(tty.as_deref().map(|gid| ("gid", gid)));
    let mut all = Vec::new();
    if proc {
        all.push(base("proc", "/proc", &[], nodev | noexec));
    }
    all.push(base("tmpfs", "/dev", &dev, MountAttrFlags::MOUNT_ATTR_STRICTATIME));
    all.push(base("devpts", "/dev/pts", &pts, noexec));
    if security.namespaces.ipc != NamespaceMode::Node {
        all.push(base("mqueue", "/dev/mqueue", &[], nodev | noexec));
    }
    let access = match security.privileged {
        true => MountAttrFlags::empty(),
        false => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    all.push(base("sysfs", "/sys", &[], nodev | noexec | access));
    all.retain(|base| !covers(mounts, &base.place));
    all
}

/// The group of terminals, as everywhere.
const TTY: u32 = 5;

/// Whether a volume of the client's takes the place of a default mount.
pub fn covers<'a>(mounts: impl IntoIterator<Item = &'a Mount>, place: impl AsRef<Path>) -> bool {
    mounts.into_iter().any(|mount| mount.container_path == place.as_ref())
}

/// A volume over /proc would show the container's processes, and the paths we mask, as somebody likes. The host's own
/// /proc may be shown there, and single files that cannot mislead, as with runc.
fn check_proc(mount: &Mount) -> Result<(), SpecError> {
    let Ok(inside) = mount.container_path.strip_prefix("/proc") else {
        return Ok(());
    };
    let whole = inside.as_os_str().is_empty() && mount.host_path() == Some(Path::new("/proc"));
    if whole || PROC_FILES.iter().any(|file| inside == Path::new(file)) {
        return Ok(());
    }
    Err(SpecError::Invalid {
        field: "mounts.container_path",
        why: format!("{} lies in /proc", mount.container_path.display()),
    })
}

/// What lxcfs and the like replace below /proc.
const PROC_FILES: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/kernel/ns_last_pid",
    "uptime",
];

fn options(mount: &Mount) -> Vec<&str> {
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match mount.access {
        Access::ReadWrite => "rw",
        Access::ReadOnly => "ro",
        Access::RecursiveReadOnly => "rro",
    };
    let mut options = vec!["rbind", propagation, access];
    options.extend(mount.options.iter().map(String::as_str));
    options
}

/// How the root's own propagation must be, so that mounts travel as the most demanding volume wants. libcontainer
/// knows these spellings, not the `r` forms.
pub fn root_propagation(mounts: &[Mount]) -> &'static str {
    let any = |wanted| mounts.iter().any(|mount| mount.propagation == wanted);
    match (any(Propagation::Bidirectional), any(Propagation::HostToContainer)) {
        (true, _) => "shared",
        (false, true) => "slave",
        (false, false) => "private",
    }
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}
