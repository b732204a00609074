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
    time::Duration,
};

use super::{SpecError, devices::Devices, devices::rule};
use crate::model::{
    Access, DeviceKind, DeviceNode, Hook, Mount, MountSource, NetDevice, Propagation, Rdt, UserNamespace,
};

/// What a container gets for its CDI devices.
#[derive(Debug, Clone, Default)]
pub struct CdiEdits {
    /// Win over those of the image and the request.
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// Further groups of its processes.
    pub gids: Vec<u32>,
    /// In the order in which those of one moment run.
    pub hooks: Vec<Hook>,
    pub net_devices: Vec<NetDevice>,
    /// That of the last device that has one.
    pub rdt: Option<Rdt>,
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
            edits.apply(name, wanted, owner, devices).map_err(fault)?;
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
    /// Adds what one list of edits says, for the device `name`. The error names the edit.
    fn apply(
        &mut self,
        name: &str,
        edits: &format::Edits,
        owner: CdiOwner<'_>,
        devices: &mut Devices,
    ) -> Result<(), String> {
        for wanted in &edits.hooks {
            let hook = hook(name, wanted).map_err(|why| format!("hooks: {}: {why}", wanted.path.display()))?;
            self.hooks.push(hook);
        }
        for wanted in &edits.net_devices {
            let moved = net_device(name, wanted, &self.net_devices)
                .map_err(|why| format!("netDevices: {:?}: {why}", wanted.host_interface_name))?;
            self.net_devices.push(moved);
        }
        if let Some(wanted) = &edits.intel_rdt {
            self.rdt = Some(rdt(wanted).map_err(|why| format!("intelRdt: {why}"))?);
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

fn hook(device: &str, wanted: &format::Hook) -> Result<Hook, String> {
    plain(&wanted.path)?;
    if let Some(bad) = wanted.env.iter().find(|variable| !variable.contains('=')) {
        return Err(format!("env: {bad:?} is not NAME=value"));
    }
    if wanted.timeout == Some(0) {
        return Err("timeout: 0 leaves it no time".into());
    }
    Ok(Hook {
        device: device.to_owned(),
        moment: wanted.hook_name,
        path: wanted.path.clone(),
        args: wanted.args.clone(),
        env: wanted.env.clone(),
        timeout: wanted.timeout.map(|seconds| Duration::from_secs(seconds.into())),
    })
}

fn net_device(device: &str, wanted: &format::NetDevice, others: &[NetDevice]) -> Result<NetDevice, String> {
    for name in [&wanted.host_interface_name, &wanted.name] {
        // Source: the kernel's dev_valid_name(); a `%` would have it make up a number.
        let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace();
        if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
            return Err(format!("{name:?} is no interface name"));
        }
    }
    if let Some(other) = others.iter().find(|other| other.name == wanted.name) {
        return Err(format!(
            "name: {:?} is the name of {:?} already",
            other.name, other.host_name
        ));
    }
    if others.iter().any(|other| other.host_name == wanted.host_interface_name) {
        return Err("is moved already".into());
    }
    Ok(NetDevice {
        device: device.to_owned(),
        host_name: wanted.host_interface_name.clone(),
        name: wanted.name.clone(),
    })
}

/// Source: OCI runtime specification, "IntelRdt": what `schemata` says comes after what the two older fields say.
fn rdt(wanted: &format::IntelRdt) -> Result<Rdt, String> {
    if let Some(class) = &wanted.class
        && (class.is_empty() || class.starts_with('.') || class.contains('/') || RESERVED.contains(&class.as_str()))
    {
        return Err(format!("closID: {class:?} is no name of a class"));
    }
    let cache = wanted.l3_cache_schema.iter().flat_map(|text| text.lines());
    // The older runtimes drop lines of the other kind from this field, so that no cache is set by two fields.
    let cache = cache.filter(|line| !line.trim_start().starts_with("MB:"));
    let lines = cache
        .chain(wanted.mem_bw_schema.iter().flat_map(|text| text.lines()))
        .chain(wanted.schemata.iter().map(String::as_str));
    let schemata: Vec<String> = lines
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    match schemata.iter().find(|line| !line.contains(':') || line.contains('\n')) {
        Some(bad) => Err(format!("{bad:?} is no line of schemata")),
        None => Ok(Rdt {
            class: wanted.class.clone(),
            schemata,
            monitoring: wanted.enable_monitoring || wanted.enable_cmt || wanted.enable_mbm,
        }),
    }
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

/// Folders of the kernel's beside those of classes.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];
/// Bytes of a file.
const MOST: u64 = 4 << 20;

#[cfg(test)]
mod test;
