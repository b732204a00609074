//! A container's spec.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::json;

use super::{
    SpecError, StagedMount,
    mounts::{mounts, root_propagation},
};
use crate::model::{CapabilitySets, ContainerConfig, ImageConfig, SandboxConfig, User};

/// The PATH of an image that has none, as both peers have it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGTERM: i32 = 15;
/// SYS_ADMIN for the filter without no_new_privs, SETPCAP for the bounding set.
const KEPT_FOR_EXECUTOR: u64 = (1 << 21) | (1 << 8);

/// Everything that a container's spec follows from.
pub struct SpecInput<'a> {
    pub config: &'a ContainerConfig,
    pub sandbox: &'a SandboxConfig,
    pub image: &'a ImageConfig,
    pub user: &'a User,
    /// The final sets; the executor's additions are made here.
    pub capabilities: CapabilitySets,
    /// Names of `capabilities | kept for the executor` come from here.
    pub capability_names: fn(u64) -> Vec<String>,
    /// Where the root file system is attached.
    pub rootfs: PathBuf,
    /// The volumes that libcontainer attaches, in their order.
    pub staged: &'a [StagedMount],
    /// What libcontainer has to do because the helper is not in the container's pid namespace, or not the last to attach.
    pub left: Left,
    /// OCI name (`network`, `ipc`, `uts`, `pid`, `mount`, `cgroup`, `user`) and the path of one to join; without a path a new one.
    pub namespaces: Vec<(&'static str, Option<PathBuf>)>,
    /// The host's name in the container, for `HOSTNAME`.
    pub hostname: &'a str,
    /// A program, with its arguments, that init waits for before it changes its root.
    pub halt: Option<(&'static str, [&'static str; 2])>,
}

/// Parts of the root that are libcontainer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// /proc is mounted.
    pub proc: bool,
    /// Paths are masked, or made read-only.
    pub paths: bool,
}

/// The derived spec.
///
/// # Errors
/// [`SpecError::Invalid`] when there is no command.
pub fn generate(input: &SpecInput<'_>) -> Result<Spec, SpecError> {
    let (config, security) = (input.config, &input.config.security);
    let namespaces: Vec<_> = input
        .namespaces
        .iter()
        .map(|(kind, path)| match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        })
        .collect();
    let caps = |mask: u64| (input.capability_names)(mask | KEPT_FOR_EXECUTOR);
    let sets = input.capabilities;
    let mut process = json!({
        "terminal": config.stdio.tty,
        "user": {"uid": input.user.uid, "gid": input.user.gid, "additionalGids": input.user.groups},
        "args": args(config, input.image)?,
        "env": env(input),
        "cwd": cwd(config, input.image),
        "capabilities": {
            "bounding": caps(sets.bounding), "effective": caps(sets.effective), "permitted": caps(sets.permitted),
            "inheritable": [], "ambient": [],
        },
    });
    if security.no_new_privs {
        // libcontainer takes `false` for a wish too.
        process["noNewPrivileges"] = json!(true);
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "rootfsPropagation": root_propagation(&config.mounts),
    });
    if input.left.paths && !security.privileged {
        linux["maskedPaths"] = json!(security.masked_paths);
        linux["readonlyPaths"] = json!(security.readonly_paths);
    }
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": input.rootfs, "readonly": security.readonly_rootfs},
        "mounts": mounts(input.staged, input.left.proc),
        "linux": linux,
        "annotations": {
            "io.kubernetes.cri.container-name": config.metadata.name,
            "io.kubernetes.cri.image-name": config.image,
            "io.kubernetes.cri.sandbox-name": input.sandbox.metadata.name,
            "io.kubernetes.cri.sandbox-namespace": input.sandbox.metadata.namespace,
            "io.kubernetes.cri.sandbox-uid": input.sandbox.metadata.uid,
        },
    });
    if let Some((path, args)) = input.halt {
        spec["hooks"] = json!({"createContainer": [{"path": path, "args": args}]});
    }
    Ok(serde_json::from_value(spec)?)
}

/// The signal that asks the container to end: the request's, the image's, SIGTERM.
pub fn stop_signal(config: &ContainerConfig, image: &ImageConfig) -> i32 {
    config.stop_signal.or(image.stop_signal).unwrap_or(SIGTERM)
}

/// The CRI's `command` takes the place of the entrypoint and drops the image's arguments; `args` alone replaces those.
fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, SpecError> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    if all.first().is_none_or(String::is_empty) {
        return Err(SpecError::Invalid {
            field: "command",
            why: "neither the request nor the image names one".into(),
        });
    }
    Ok(all)
}

/// PATH, HOSTNAME, TERM and HOME of ours, then the image's, then the request's: later ones win.
fn env(input: &SpecInput<'_>) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={}", input.hostname)];
    if input.config.stdio.tty {
        env.push("TERM=xterm".into());
    }
    // Always set: libcontainer would look it up with the C library inside the image.
    env.push(format!("HOME={}", input.user.home));
    let asked = input.config.envs.iter().map(|(key, value)| format!("{key}={value}"));
    for entry in input.image.env.iter().cloned().chain(asked) {
        let key = entry.split('=').next().unwrap_or_default();
        match env.iter_mut().find(|known| known.split('=').next() == Some(key)) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
    }
    env.retain(|entry| entry.contains('='));
    if let Some(home) = env.iter_mut().find(|entry| *entry == "HOME=") {
        *home = "HOME=/".into();
    }
    env
}

fn cwd(config: &ContainerConfig, image: &ImageConfig) -> PathBuf {
    let chosen = config
        .working_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(&image.working_dir));
    Path::new("/").join(chosen)
}
