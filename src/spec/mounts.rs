//! The mounts of a container, in the order in which they are made.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::SpecError;
use crate::model::{Access, Mount, NamespaceMode, Propagation, Security};

/// A mount of the CRI whose host side lies on the helper's stage.
#[derive(Debug, Clone)]
pub struct StagedMount {
    pub mount: Mount,
    /// Where the helper attached it.
    pub source: PathBuf,
}

/// What the pod gives every container, on the helper's stage.
#[derive(Debug, Clone, Default)]
pub struct PodFiles {
    pub resolv_conf: Option<PathBuf>,
    pub hosts: Option<PathBuf>,
    pub hostname: Option<PathBuf>,
    /// The pod's shared memory, or the host's when IPC is shared with it.
    pub shm: Option<PathBuf>,
}

/// Who shows a container its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMount {
    /// Its init does (v1), or a volume of the client's takes the place.
    Elsewhere,
    V2,
}

pub fn mounts(
    security: &Security,
    files: &PodFiles,
    cgroup: CgroupMount,
    staged: &[StagedMount],
) -> Result<Vec<Value>, SpecError> {
    let mut all = default_mounts(security, files, cgroup, staged);
    let mut own: Vec<&StagedMount> = staged.iter().collect();
    // Parents before what lies in them; the client's order otherwise.
    own.sort_by_key(|staged| staged.mount.container_path.components().count());
    for staged in own {
        // The client's mount takes the place of a default one.
        all.retain(|default| default["destination"] != json!(staged.mount.container_path));
        all.push(bind(
            &staged.source,
            &staged.mount.container_path,
            &options(&staged.mount),
        ));
    }
    Ok(all)
}

fn default_mounts(security: &Security, files: &PodFiles, cgroup: CgroupMount, staged: &[StagedMount]) -> Vec<Value> {
    let access = if security.privileged { "rw" } else { "ro" };
    let fs = |kind: &str, target: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let mut all = vec![
        fs("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        fs("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        fs(
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
    ];
    if security.namespaces.ipc != NamespaceMode::Node {
        all.push(fs("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]));
    }
    all.push(fs("sysfs", "/sys", &["nosuid", "noexec", "nodev", access]));
    if cgroup == CgroupMount::V2 {
        all.push(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
        );
    }
    let shm = [(&files.shm, "/dev/shm", false)];
    let readonly = security.readonly_rootfs;
    let texts = [
        (&files.resolv_conf, "/etc/resolv.conf", readonly),
        (&files.hosts, "/etc/hosts", readonly),
        (&files.hostname, "/etc/hostname", readonly),
    ];
    for (source, target, readonly) in shm.into_iter().chain(texts) {
        let covered = staged
            .iter()
            .any(|staged| staged.mount.container_path == Path::new(target));
        if let (Some(source), false) = (source, covered) {
            all.push(bind(
                source,
                Path::new(target),
                &["rbind", "rprivate", if readonly { "ro" } else { "rw" }],
            ));
        }
    }
    all
}

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
pub fn root_propagation(staged: &[StagedMount]) -> &'static str {
    let any = |wanted| staged.iter().any(|staged| staged.mount.propagation == wanted);
    match (any(Propagation::Bidirectional), any(Propagation::HostToContainer)) {
        (true, _) => "shared",
        (false, true) => "slave",
        (false, false) => "private",
    }
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}
