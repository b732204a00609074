//! What of the node and of its pod a container is in: namespaces, and its view of cgroups.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::{
    model::{NamespaceMode, Security},
    pod::{Inner, PodError, index::Sandbox, pins::io_error, records::ContainerPlan, volumes::detached},
    sys::mount::set_readonly,
    zygote::{self, NamespaceFds, NamespaceKind, PodNamespaces},
};

/// A namespace of the spec: its OCI name, and the path of one to join; without a path a new one.
type SpecNamespace = (&'static str, Option<PathBuf>);

impl Inner {
    /// A container sees its own folder of each hierarchy, as with the peers; only a privileged one writes there. On v2,
    /// where a privileged one stays in the host's cgroup namespace, it sees the host's whole tree.
    ///
    /// A mount of the host's and never a new one: cgroup2 mounted anew from the host's cgroup namespace takes the host's
    /// options (`nsdelegate`, `memory_recursiveprot`) away (kernel 6.12, `apply_cgroup_root_flags`).
    pub(super) fn cgroup_view(&self, plan: &ContainerPlan) -> Result<Vec<(String, OwnedFd)>, PodError> {
        let covered = plan
            .config
            .mounts
            .iter()
            .any(|mount| mount.container_path == Path::new("/sys/fs/cgroup"));
        if covered {
            return Ok(Vec::new());
        }
        let whole = self.with.cgroups.is_v2() && plan.config.security.privileged;
        let views = self
            .with
            .cgroups
            .views(if whole { "/" } else { &plan.cgroup })
            .into_iter();
        let trees = views.map(|(name, folder)| {
            let tree = detached(&folder)?;
            if !plan.config.security.privileged {
                set_readonly(tree.as_fd(), true)
                    .map_err(|source| io_error("make recursively read-only", &folder, source))?;
            }
            Ok::<_, PodError>((name, tree))
        });
        trees.collect()
    }

    /// Which namespaces the container joins, which are its own, and the descriptors of the former.
    pub(super) fn namespaces(
        &self,
        sandbox: &Sandbox,
        pinned: PodNamespaces,
        security: &Security,
    ) -> Result<(Vec<SpecNamespace>, NamespaceFds), PodError> {
        // The helper's own, but for a user namespace, whose root must own it.
        let own = pinned.user.is_none().then(|| PathBuf::from("/proc/self/ns/mnt"));
        let mut spec = vec![("mount", own)];
        if pinned.user.is_some() {
            spec.push(("user", Some(zygote::namespace_path(NamespaceKind::User))));
        }
        if self.with.cgroups.is_v2() && !security.privileged {
            spec.push(("cgroup", None));
        }
        let mut fds = NamespaceFds {
            user: pinned.user,
            net: pinned.net,
            ipc: pinned.ipc,
            uts: pinned.uts,
            ..NamespaceFds::default()
        };
        match &security.namespaces.pid {
            NamespaceMode::Container => spec.push(("pid", None)),
            NamespaceMode::Node => {}
            NamespaceMode::Pod => {
                let reaper = sandbox.status.borrow().reaper;
                let pid = reaper.ok_or(PodError::Invalid {
                    field: "linux.security_context.namespace_options.pid",
                    why: "the sandbox was made without a shared PID namespace".into(),
                })?;
                fds.pid = Some(pid_namespace(pid)?);
            }
            NamespaceMode::Target(target) => {
                let target = self.index.container(target.as_str())?;
                if target.plan.sandbox != sandbox.plan.id {
                    return Err(PodError::NoContainer(target.plan.id.to_string()));
                }
                fds.pid = Some(pid_namespace(target.spec.init)?);
            }
        }
        if fds.pid.is_some() {
            spec.push(("pid", Some(zygote::namespace_path(NamespaceKind::Pid))));
        }
        Ok((spec, fds))
    }
}

fn pid_namespace(pid: u32) -> Result<OwnedFd, PodError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/pid"));
    fs::File::open(&path)
        .map(OwnedFd::from)
        .map_err(|source| io_error("open", &path, source))
}
