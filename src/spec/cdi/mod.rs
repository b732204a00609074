//! CDI devices: what their vendors' files say a container needs, in the words of this crate.
//!
//! The files are read anew for each container that asks for a device: there are few of them, and vendors change them when
//! they like. A device of a later folder hides one of the same name in an earlier folder; two in one folder hide each
//! other. Source: CDI specification, "CDI JSON Specification" and "Specification directories".

mod format;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Component, Path, PathBuf},
};

use super::{SpecError, devices::Devices, devices::rule};
use crate::model::{Access, DeviceKind, DeviceNode, Mount, MountSource, Propagation, UserNamespace};

/// What a container gets for its CDI devices.
#[derive(Debug, Clone, Default)]
pub struct CdiEdits {
    /// Win over those of the image and the request.
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// Further groups of its processes.
    pub gids: Vec<u32>,
}

/// Whose the nodes are that no file gives an owner.
#[derive(Debug, Clone, Copy)]
pub struct CdiOwner<'a> {
    /// The container's user and group; root's leave the host's owner.
    pub user: (u32, u32),
    pub namespace: Option<&'a UserNamespace>,
}

/// Finds the devices `names` in the folders `dirs` and adds their nodes to `devices`.
///
/// # Errors
/// [`SpecError::Invalid`] with the device that is in no file, or whose edits cannot be applied.
pub fn resolve(
    dirs: &[PathBuf],
    names: &[String],
    owner: CdiOwner<'_>,
    devices: &mut Devices,
) -> Result<CdiEdits, SpecError> {
    if names.is_empty() {
        return Ok(CdiEdits::default());
    }
    let found = Found::read(dirs);
    let mut edits = CdiEdits::default();
    let mut used = Vec::new();
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            continue;
        }
        let (file, device) = found.device(name)?;
        let fault = |why: String| invalid(format!("{name}: {}: {why}", found.files[file].path.display()));
        let file_edits = &found.files[file].content.container_edits;
        let wanted = (!used.contains(&file)).then_some(file_edits);
        used.push(file);
        for wanted in wanted.into_iter().chain([&device.container_edits]) {
            edits.apply(wanted, owner, devices).map_err(fault)?;
        }
    }
    Ok(edits)
}

/// A file that could be read.
struct Loaded {
    path: PathBuf,
    content: format::File,
}

/// All files of the folders, and what is in them.
struct Found {
    files: Vec<Loaded>,
    /// By qualified name: the file, and the device's number in it; `None` when two files of one folder have it.
    devices: BTreeMap<String, Option<(usize, usize)>>,
    /// Files that could not be read, with why.
    broken: Vec<String>,
}

impl Found {
    fn read(dirs: &[PathBuf]) -> Self {
        let mut all = Self {
            files: Vec::new(),
            devices: BTreeMap::new(),
            broken: Vec::new(),
        };
        for dir in dirs {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            let mut here = BTreeMap::new();
            for path in paths {
                let is_json = match path.extension().and_then(|extension| extension.to_str()) {
                    Some("json") => true,
                    Some("yaml" | "yml") => false,
                    _ => continue,
                };
                match load(&path, is_json) {
                    Ok(content) => {
                        let file = all.files.len();
                        for (number, device) in content.devices.iter().enumerate() {
                            let name = format!("{}={}", content.kind, device.name);
                            let only = |known: &mut Option<_>| *known = None;
                            here.entry(name).and_modify(only).or_insert(Some((file, number)));
                        }
                        all.files.push(Loaded { path, content });
                    }
                    Err(why) => all.broken.push(format!("{}: {why}", path.display())),
                }
            }
            all.devices.extend(here);
        }
        all
    }

    fn device(&self, name: &str) -> Result<(usize, &format::Device), SpecError> {
        match self.devices.get(name) {
            Some(Some((file, number))) => Ok((*file, &self.files[*file].content.devices[*number])),
            Some(None) => Err(invalid(format!("{name} is defined by more than one file"))),
            None if self.broken.is_empty() => Err(invalid(format!("no CDI device {name:?}"))),
            None => {
                let broken = self.broken.join("; ");
                Err(invalid(format!("no CDI device {name:?} (not readable: {broken})")))
            }
        }
    }
}

fn load(path: &Path, is_json: bool) -> Result<format::File, String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.len() > MOST {
        return Err("no file of at most 4 MiB".into());
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let content = format::parse(&text, is_json)?;
    let version = &content.cdi_version;
    if !version.starts_with("0.") && !version.starts_with("1.") {
        return Err(format!("cdiVersion {version:?} is not known"));
    }
    if content.kind.split('/').filter(|part| !part.is_empty()).count() != 2 {
        return Err(format!("kind {:?} is not vendor/class", content.kind));
    }
    Ok(content)
}

impl CdiEdits {
    /// Adds what one list of edits says. The error names the edit.
    fn apply(&mut self, edits: &format::Edits, owner: CdiOwner<'_>, devices: &mut Devices) -> Result<(), String> {
        if let Some(hook) = edits.hooks.first() {
            return Err(format!("hooks: {} hooks cannot be run", hook.hook_name));
        }
        if !edits.net_devices.is_empty() {
            return Err("netDevices cannot be moved".into());
        }
        if edits.intel_rdt.is_some() {
            return Err("intelRdt cannot be set".into());
        }
        for variable in &edits.env {
            let (key, value) = variable
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| format!("env: {variable:?} is not NAME=value"))?;
            self.env.push((key.into(), value.into()));
        }
        for node in &edits.device_nodes {
            let (node, access) =
                device(node, owner).map_err(|why| format!("deviceNodes: {}: {why}", node.path.display()))?;
            let letter = match node.kind {
                DeviceKind::Block => Some('b'),
                DeviceKind::Char => Some('c'),
                DeviceKind::Fifo => None,
            };
            let numbers = (Some(node.major.into()), Some(node.minor.into()));
            match letter {
                Some(letter) => devices
                    .add(node, rule(true, letter, numbers.0, numbers.1, &access))
                    .map_err(|error| format!("deviceNodes: {error}"))?,
                None => devices.nodes.push(node),
            }
        }
        for wanted in &edits.mounts {
            let mount = mount(wanted).map_err(|why| format!("mounts: {}: {why}", wanted.container_path.display()))?;
            self.mounts.push(mount);
        }
        self.gids.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }
}

fn device(node: &format::Node, owner: CdiOwner<'_>) -> Result<(DeviceNode, String), String> {
    plain(&node.path)?;
    let host = node.host_path.as_deref().unwrap_or(&node.path);
    let complete = node.r#type.is_some() && node.major.is_some() && node.minor.is_some();
    let meta = match fs::metadata(host) {
        Ok(meta) => Some(meta),
        Err(_) if complete => None,
        Err(error) => return Err(format!("{}: {error}", host.display())),
    };
    let on_host = |kind: &std::fs::Metadata| match kind.file_type() {
        kind if kind.is_block_device() => Some(DeviceKind::Block),
        kind if kind.is_char_device() => Some(DeviceKind::Char),
        kind if kind.is_fifo() => Some(DeviceKind::Fifo),
        _ => None,
    };
    let kind = match node.r#type.as_deref() {
        Some("b") => DeviceKind::Block,
        Some("c" | "u") => DeviceKind::Char,
        Some("p") => DeviceKind::Fifo,
        Some(other) => return Err(format!("type {other:?} is not known")),
        None => meta.as_ref().and_then(on_host).ok_or("is no device on the host")?,
    };
    let access = node.permissions.clone().unwrap_or_else(|| "rwm".into());
    if access.is_empty() || !access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
        return Err(format!("permissions {access:?} are not a subset of rwm"));
    }
    let of_host = |get: fn(&std::fs::Metadata) -> u32| meta.as_ref().map_or(0, get);
    let id = |asked: Option<u32>, user: u32, ids: Option<crate::model::IdRange>, host: u32| match (asked, user) {
        (None, 0) => Ok(host),
        (asked, user) => {
            let inside = asked.unwrap_or(user);
            let outside = ids.map_or(Some(inside), |ids| ids.to_host(inside));
            outside.ok_or_else(|| format!("the pod's user namespace does not map id {inside}"))
        }
    };
    let made = DeviceNode {
        place: node.path.clone(),
        kind,
        major: node
            .major
            .unwrap_or_else(|| of_host(|meta| rustix::fs::major(meta.rdev()))),
        minor: node
            .minor
            .unwrap_or_else(|| of_host(|meta| rustix::fs::minor(meta.rdev()))),
        mode: node
            .file_mode
            .unwrap_or_else(|| meta.as_ref().map_or(0o666, |meta| meta.mode()))
            & 0o777,
        uid: id(
            node.uid,
            owner.user.0,
            owner.namespace.map(|ns| ns.uids),
            of_host(MetadataExt::uid),
        )?,
        gid: id(
            node.gid,
            owner.user.1,
            owner.namespace.map(|ns| ns.gids),
            of_host(MetadataExt::gid),
        )?,
    };
    Ok((made, access))
}

fn mount(wanted: &format::Mount) -> Result<Mount, String> {
    plain(&wanted.container_path)?;
    plain(&wanted.host_path)?;
    if !matches!(wanted.r#type.as_deref(), None | Some("" | "bind")) {
        return Err(format!(
            "type {:?} is not bind",
            wanted.r#type.as_deref().unwrap_or_default()
        ));
    }
    // A vendor's missing library is an error, where a client's missing folder is made.
    fs::symlink_metadata(&wanted.host_path).map_err(|error| format!("{}: {error}", wanted.host_path.display()))?;
    let mut mount = Mount {
        container_path: wanted.container_path.clone(),
        source: MountSource::Host(wanted.host_path.clone()),
        access: Access::ReadWrite,
        propagation: Propagation::Private,
        options: Vec::new(),
    };
    for option in &wanted.options {
        match option.as_str() {
            "bind" | "rbind" | "private" | "rprivate" | "suid" | "dev" | "exec" => {}
            "ro" => mount.access = Access::ReadOnly,
            "rw" => mount.access = Access::ReadWrite,
            "slave" | "rslave" => mount.propagation = Propagation::HostToContainer,
            "shared" | "rshared" => mount.propagation = Propagation::Bidirectional,
            "noexec" | "nodev" | "nosuid" => mount.options.push(option.clone()),
            other => return Err(format!("option {other:?} cannot be applied")),
        }
    }
    Ok(mount)
}

fn plain(path: &Path) -> Result<(), String> {
    if path.is_absolute() && !path.components().any(|part| part == Component::ParentDir) {
        Ok(())
    } else {
        Err(format!("{} is not an absolute path without `..`", path.display()))
    }
}

fn invalid(why: String) -> SpecError {
    SpecError::Invalid {
        field: "config.CDI_devices",
        why,
    }
}

/// Bytes of a file.
const MOST: u64 = 4 << 20;

#[cfg(test)]
mod test;
