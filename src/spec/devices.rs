//! Device nodes of a container and the rules of its device controller.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::SpecError;
use crate::model::{Device, DeviceKind, DeviceNode, DeviceRule};

/// What a container has in /dev beyond the default nodes, and what it may open.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    /// Made by the helper, with the host's owners: what a user namespace does not map stays nobody's in it.
    pub nodes: Vec<DeviceNode>,
    /// In order; the first denies all unless the container is privileged.
    pub rules: Vec<DeviceRule>,
}

/// Looks the devices up on the host. A privileged container gets every node of the host's /dev.
///
/// # Errors
/// [`SpecError::Device`] with the host path that is no device.
pub fn resolve(asked: &[Device], privileged: bool) -> Result<Devices, SpecError> {
    let mut devices = Devices::default();
    if privileged {
        devices.rules.push(rule(true, 'a', None, None, "rwm"));
        walk(Path::new("/dev"), &mut |path| {
            if let Ok(Some((node, _))) = node(path, path, "rwm")
                && !DEFAULT.iter().any(|place| path == Path::new(place))
            {
                devices.nodes.push(node);
            }
        });
    } else {
        devices.rules = default_rules();
    }
    for device in asked {
        let fail = |source| SpecError::Device {
            path: device.host_path.clone(),
            source,
        };
        let meta = fs::metadata(&device.host_path).map_err(fail)?;
        if meta.is_dir() {
            // A folder stands for every device below it, at the same places below the container's path.
            let mut found = Ok(());
            walk(&device.host_path, &mut |path| {
                let below = path.strip_prefix(&device.host_path).unwrap_or(path);
                let added = add(
                    &mut devices,
                    path,
                    &device.container_path.join(below),
                    &device.permissions,
                );
                if let (Err(error), Ok(())) = (added, &found) {
                    found = Err(error);
                }
            });
            found?;
        } else if !add(
            &mut devices,
            &device.host_path,
            &device.container_path,
            &device.permissions,
        )? {
            return Err(fail(io::Error::from_raw_os_error(libc::ENODEV)));
        }
    }
    Ok(devices)
}

fn add(devices: &mut Devices, host: &Path, container: &Path, access: &str) -> Result<bool, SpecError> {
    let found = node(host, container, access).map_err(|source| SpecError::Device {
        path: host.to_owned(),
        source,
    })?;
    let Some((node, rule)) = found else { return Ok(false) };
    devices.add(node, rule)?;
    Ok(true)
}

impl Devices {
    /// A further node; it wins over one that was to be at its place before.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] for another device at the place of one that every container has.
    pub(super) fn add(&mut self, node: DeviceNode, rule: DeviceRule) -> Result<(), SpecError> {
        if let Some(place) = DEFAULT.iter().find(|place| node.place == Path::new(place)) {
            let same = fs::metadata(place).is_ok_and(|meta| meta.rdev() == rustix::fs::makedev(node.major, node.minor));
            return if same {
                Ok(())
            } else {
                let why = format!("{place} is what it is in every container");
                Err(SpecError::Invalid {
                    field: "config.devices.container_path",
                    why,
                })
            };
        }
        self.nodes.retain(|known| known.place != node.place);
        self.nodes.push(node);
        self.rules.push(rule);
        Ok(())
    }
}

fn node(host: &Path, container: &Path, access: &str) -> io::Result<Option<(DeviceNode, DeviceRule)>> {
    let meta = fs::metadata(host)?;
    let (kind, letter) = match meta.file_type() {
        kind if kind.is_char_device() => (DeviceKind::Char, 'c'),
        kind if kind.is_block_device() => (DeviceKind::Block, 'b'),
        _ => return Ok(None),
    };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let node = DeviceNode {
        place: container.to_owned(),
        kind,
        major,
        minor,
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    };
    let rule = rule(true, letter, Some(major.into()), Some(minor.into()), access);
    Ok(Some((node, rule)))
}

/// Every file below `folder`, but for what a container has its own of.
fn walk(folder: &Path, found: &mut dyn FnMut(&Path)) {
    const OWN: [&str; 6] = ["pts", "shm", "mqueue", "fd", "console", "ptmx"];
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for path in entries {
        let own =
            folder == Path::new("/dev") && path.file_name().is_some_and(|name| OWN.iter().any(|own| name == *own));
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if own || meta.is_symlink() {
            continue;
        }
        if meta.is_dir() {
            walk(&path, found)
        } else {
            found(&path)
        }
    }
}

/// The nodes that libcontainer makes in every container.
const DEFAULT: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/tty",
    "/dev/random",
    "/dev/urandom",
];

/// Deny all, then what every container may: make any node, use the default ones and ptys.
fn default_rules() -> Vec<DeviceRule> {
    let mut rules = vec![
        rule(false, 'a', None, None, "rwm"),
        rule(true, 'c', None, None, "m"),
        rule(true, 'b', None, None, "m"),
    ];
    // null, zero, full, tty, random, urandom, console, ptmx; /dev/pts/*.
    let nodes = [(1, 3), (1, 5), (1, 7), (5, 0), (1, 8), (1, 9), (5, 1), (5, 2)];
    rules.extend(nodes.map(|(major, minor)| rule(true, 'c', Some(major), Some(minor), "rwm")));
    rules.push(rule(true, 'c', Some(136), None, "rwm"));
    rules
}

pub(super) fn rule(allow: bool, kind: char, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
    DeviceRule {
        allow,
        kind,
        major,
        minor,
        access: access.to_owned(),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_device_gets_a_node_and_a_rule_and_a_file_is_refused() {
        let device = |host: &str| Device {
            container_path: "/dev/mine".into(),
            host_path: host.into(),
            permissions: "rw".into(),
        };
        let devices = resolve(&[device("/dev/null")], false).unwrap();
        assert_eq!(devices.nodes[0].place, Path::new("/dev/mine"));
        assert_eq!(devices.rules.last().unwrap(), &rule(true, 'c', Some(1), Some(3), "rw"));
        assert!(!devices.rules[0].allow);
        let default = |host: &str| Device {
            container_path: "/dev/null".into(),
            ..device(host)
        };
        assert!(resolve(&[default("/dev/null")], false).unwrap().nodes.is_empty());
        assert!(resolve(&[default("/dev/zero")], false).is_err());
        let error = resolve(&[device("/etc/passwd")], false).unwrap_err();
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
    }
}
