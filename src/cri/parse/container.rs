//! CreateContainer's configuration.

use std::path::{Component, Path, PathBuf};

use inro_proto as wire;

use super::{
    Parsed, absolute, non_empty, required,
    security::{id_range, security},
};
use crate::{
    cri::{error::Fault, signal_number},
    model::{
        Access, ContainerConfig, ContainerMetadata, Device, IdRange, ImageMount, Mount, MountSource, Propagation,
        Resources, Stdio, UserNamespace,
    },
};

/// Source: CRI `ContainerConfig`.
pub fn container(config: Option<wire::ContainerConfig>) -> Parsed<ContainerConfig> {
    let config = required(config, "config")?;
    let metadata = required(config.metadata, "config.metadata")?;
    let image = required(config.image, "config.image")?;
    let linux = config.linux.unwrap_or_default();
    if config.command.iter().chain(&config.args).any(|arg| arg.contains('\0')) {
        return Err(Fault::new("config.command", "has a NUL byte in it"));
    }
    let working_dir = match config.working_dir.as_str() {
        "" => None,
        dir => Some(absolute(dir, "config.working_dir")?),
    };
    let log_path = match config.log_path.as_str() {
        "" => None,
        path => Some(below(path, "config.log_path", "the log folder")?),
    };
    let security = security(linux.security_context.unwrap_or_default())?;
    mapped_as_the_pod(&config.mounts, security.namespaces.user.as_ref())?;
    Ok(ContainerConfig {
        metadata: ContainerMetadata {
            name: non_empty(metadata.name, "config.metadata.name")?,
            attempt: metadata.attempt,
        },
        image: non_empty(image.image, "config.image.image")?,
        user_specified_image: image.user_specified_image,
        command: config.command,
        args: config.args,
        working_dir,
        envs: config
            .envs
            .into_iter()
            .enumerate()
            .map(variable)
            .collect::<Parsed<_>>()?,
        mounts: config
            .mounts
            .into_iter()
            .enumerate()
            .map(mount)
            .collect::<Parsed<_>>()?,
        devices: config
            .devices
            .into_iter()
            .enumerate()
            .map(device)
            .collect::<Parsed<_>>()?,
        cdi_devices: config
            .cdi_devices
            .into_iter()
            .enumerate()
            .map(|(at, device)| non_empty(device.name, &format!("config.CDI_devices[{at}].name")))
            .collect::<Parsed<_>>()?,
        labels: config.labels.into_iter().collect(),
        annotations: config.annotations.into_iter().collect(),
        log_path,
        stdio: Stdio {
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
        },
        resources: resources(linux.resources, "config.linux.resources")?,
        security,
        stop_signal: stop_signal(config.stop_signal)?,
    })
}

/// Source: CRI `LinuxContainerResources`; zero means "not asked for".
pub fn resources(resources: Option<wire::LinuxContainerResources>, field: &str) -> Parsed<Resources> {
    let Some(wire) = resources else {
        return Ok(Resources::default());
    };
    let positive = |value: i64, name: &str| match value {
        0 => Ok(None),
        value => u64::try_from(value)
            .map(Some)
            .map_err(|_| Fault::new(format!("{field}.{name}"), format!("{value} is negative"))),
    };
    let list = |text: String, name: &str| match text.as_str() {
        "" => Ok(None),
        text if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b'-')) => Ok(Some(text.to_owned())),
        text => Err(Fault::new(
            format!("{field}.{name}"),
            format!("{text:?} is not a list such as 0-3,5"),
        )),
    };
    let adj = i32::try_from(wire.oom_score_adj)
        .ok()
        .filter(|adj| (-1000..=1000).contains(adj));
    for key in wire.unified.keys() {
        let plain = key
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.'));
        if !plain || key.starts_with('.') || key.is_empty() {
            return Err(Fault::new(
                format!("{field}.unified"),
                format!("{key:?} is not the name of a cgroup file"),
            ));
        }
    }
    let mut hugepage_limits = std::collections::BTreeMap::new();
    for limit in wire.hugepage_limits {
        if limit.page_size.is_empty() || !limit.page_size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Fault::new(
                format!("{field}.hugepage_limits"),
                format!("{:?} is not a page size", limit.page_size),
            ));
        }
        // The kubelet sends a zero for every size the host has: only real limits need the controller.
        if limit.limit > 0 {
            hugepage_limits.insert(limit.page_size, limit.limit);
        }
    }
    let memory = |value: i64, name: &str| match value {
        0 => Ok(None),
        value if value >= -1 => Ok(Some(value)),
        value => Err(Fault::new(
            format!("{field}.{name}"),
            format!("{value} is neither a size nor -1, which is no limit"),
        )),
    };
    let memory_limit_bytes = memory(wire.memory_limit_in_bytes, "memory_limit_in_bytes")?;
    let memory_swap_limit_bytes = memory(wire.memory_swap_limit_in_bytes, "memory_swap_limit_in_bytes")?;
    if let (Some(limit), Some(sum @ 1..)) = (memory_limit_bytes, memory_swap_limit_bytes)
        && (limit < 0 || sum < limit)
    {
        return Err(Fault::new(
            format!("{field}.memory_swap_limit_in_bytes"),
            format!("{sum} is memory and swap together, and less than the memory limit"),
        ));
    }
    Ok(Resources {
        cpu_quota_us: (wire.cpu_quota != 0).then_some(wire.cpu_quota),
        cpu_period_us: positive(wire.cpu_period, "cpu_period")?,
        cpu_shares: positive(wire.cpu_shares, "cpu_shares")?,
        cpuset_cpus: list(wire.cpuset_cpus, "cpuset_cpus")?,
        cpuset_mems: list(wire.cpuset_mems, "cpuset_mems")?,
        memory_limit_bytes,
        memory_swap_limit_bytes,
        oom_score_adj: Some(adj.ok_or_else(|| {
            Fault::new(
                format!("{field}.oom_score_adj"),
                format!("{} is not between -1000 and 1000", wire.oom_score_adj),
            )
        })?),
        pids_limit: None,
        hugepage_limits,
        unified: wire.unified.into_iter().collect(),
    })
}

/// A variable. The wire has bytes; the OCI spec, which goes through JSON, has text only.
fn variable((at, env): (usize, wire::KeyValue)) -> Parsed<(String, String)> {
    let fault = |why: &str| Fault::new(format!("config.envs[{at}]"), format!("{:?} {why}", env.key));
    if env.key.is_empty() || env.key.contains(['=', '\0']) || env.value.contains(&0) {
        return Err(fault("is not a variable"));
    }
    match String::from_utf8(env.value.clone()) {
        Ok(value) => Ok((env.key, value)),
        Err(_) => Err(fault("has a value that is not UTF-8, which is not supported yet")),
    }
}

fn mount((at, mount): (usize, wire::Mount)) -> Parsed<Mount> {
    let field = |name: &str| format!("config.mounts[{at}].{name}");
    let source = source(&mount, &field)?;
    let propagation = match wire::MountPropagation::try_from(mount.propagation) {
        Ok(wire::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(wire::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(wire::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => {
            return Err(Fault::new(
                field("propagation"),
                format!("{} is unknown", mount.propagation),
            ));
        }
    };
    let access = match (mount.recursive_read_only, mount.readonly) {
        (true, false) => return Err(Fault::new(field("recursive_read_only"), "needs readonly")),
        (true, true) if propagation != Propagation::Private => {
            return Err(Fault::new(field("recursive_read_only"), "needs private propagation"));
        }
        (true, true) => Access::RecursiveReadOnly,
        (false, true) => Access::ReadOnly,
        (false, false) => Access::ReadWrite,
    };
    if let Some(option) = mount
        .mount_options
        .iter()
        .find(|o| !matches!(o.as_str(), "noexec" | "nodev" | "nosuid"))
    {
        return Err(Fault::new(
            field("mount_options"),
            format!("{option:?} is none of noexec, nodev, nosuid"),
        ));
    }
    Ok(Mount {
        container_path: absolute(&mount.container_path, &field("container_path"))?,
        source,
        access,
        propagation,
        options: mount.mount_options,
    })
}

/// The host's path or the image that a mount shows. An image is always read-only.
fn source(mount: &wire::Mount, field: &dyn Fn(&str) -> String) -> Parsed<MountSource> {
    let Some(image) = &mount.image else {
        if !mount.image_sub_path.is_empty() {
            return Err(Fault::new(field("image_sub_path"), "is for images"));
        }
        return Ok(MountSource::Host(absolute(&mount.host_path, &field("host_path"))?));
    };
    if !mount.host_path.is_empty() {
        return Err(Fault::new(field("host_path"), "a mount shows an image or a host path"));
    }
    if !mount.readonly {
        return Err(Fault::new(field("readonly"), "an image can be mounted read-only only"));
    }
    Ok(MountSource::Image(ImageMount {
        image: non_empty(image.image.clone(), &field("image.image"))?,
        user_specified_image: image.user_specified_image.clone(),
        sub_path: below(&mount.image_sub_path, &field("image_sub_path"), "the image's root")?,
    }))
}

/// The ids of a volume's mapping. There is one mapping for a pod and everything in it: a volume's can only repeat it.
fn mapped_as_the_pod(mounts: &[wire::Mount], pod: Option<&UserNamespace>) -> Parsed<()> {
    for (at, mount) in mounts.iter().enumerate() {
        let range = |mappings: &[wire::IdMapping], name: &str, pods: Option<IdRange>| {
            let field = format!("config.mounts[{at}].{name}");
            match (mappings, pods) {
                ([], _) => Ok(()),
                (mappings, Some(pods)) if id_range(mappings, &field)? == pods => Ok(()),
                (_, Some(_)) => Err(Fault::new(field, "is not the mapping of the pod's user namespace")),
                (_, None) => Err(Fault::new(field, "needs a user namespace")),
            }
        };
        range(&mount.uid_mappings, "uid_mappings", pod.map(|pod| pod.uids))?;
        range(&mount.gid_mappings, "gid_mappings", pod.map(|pod| pod.gids))?;
    }
    Ok(())
}

fn device((at, device): (usize, wire::Device)) -> Parsed<Device> {
    let field = |name: &str| format!("config.devices[{at}].{name}");
    let access = if device.permissions.is_empty() {
        "rwm".to_owned()
    } else {
        device.permissions
    };
    if !access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
        return Err(Fault::new(
            field("permissions"),
            format!("{access:?} is not a subset of rwm"),
        ));
    }
    Ok(Device {
        container_path: absolute(&device.container_path, &field("container_path"))?,
        host_path: absolute(&device.host_path, &field("host_path"))?,
        permissions: access,
    })
}

/// A path below a folder: relative, without `..`.
fn below(path: &str, field: &str, folder: &str) -> Parsed<PathBuf> {
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if plain && !path.contains('\0') {
        Ok(PathBuf::from(path))
    } else {
        Err(Fault::new(field, format!("{path:?} is not a path below {folder}")))
    }
}

fn stop_signal(value: i32) -> Parsed<Option<i32>> {
    let unknown = || Fault::new("config.stop_signal", format!("{value} is unknown"));
    match wire::Signal::try_from(value).map_err(|_| unknown())? {
        wire::Signal::RuntimeDefault => Ok(None),
        named => signal_number(named).map(Some).ok_or_else(unknown),
    }
}
