//! CreateContainer: everything up to an init that waits to be started.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};

use super::{
    Inner, PodError, Pods, blocking,
    index::{Container, Sandbox},
    log,
    pins::{self, io_error},
    records::{ContainerPlan, ContainerSpec, ContainerStatus},
};
use crate::{
    lockdown::{self, capabilities, seccomp},
    model::{
        Access, ContainerConfig, ContainerId, ContainerState, ImageConfig, ImageView, LayerUsage, Mount, NamespaceMode,
        SandboxState, Security, Stages, Stopwatch, Timestamp,
    },
    shim::Shim,
    spec::{self, CgroupMount, SpecInput, StagedMount},
    store::{Folder, Name},
    sys::mount::set_readonly,
    zygote::{self, CreateRequest, NamespaceFds, NamespaceKind},
};

impl Pods {
    /// Makes a container in a ready sandbox. The same metadata again gives the same container.
    ///
    /// # Errors
    /// [`PodError::NoSandbox`], [`PodError::SandboxNotReady`], [`PodError::NoImage`]; [`PodError::Exists`] when the
    /// metadata names a container that was asked for differently; those of the mechanisms. Nothing is left behind.
    pub async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<ContainerId, PodError> {
        let sandbox = self.inner.index.sandbox(sandbox)?;
        let key = (sandbox.plan.id.clone(), config.metadata.clone());
        self.inner
            .creates
            .join(&key, || self.inner.clone().create_container(sandbox, config))
            .await
    }
}

/// A namespace of the spec: its OCI name, and the path of one to join; without a path a new one.
type SpecNamespace = (&'static str, Option<PathBuf>);

/// What the daemon prepares before the zygote is asked.
struct Prepared {
    request: CreateRequest,
    spec: ContainerSpec,
    stages: Stages,
}

impl Inner {
    async fn create_container(
        self: Arc<Self>,
        sandbox: Arc<Sandbox>,
        mut config: ContainerConfig,
    ) -> Result<ContainerId, PodError> {
        if sandbox.status.borrow().state != SandboxState::Ready {
            return Err(PodError::SandboxNotReady(sandbox.plan.id.clone()));
        }
        if config.resources.pids_limit.is_none() && self.config.pids_limit > 0 {
            config.resources.pids_limit = Some(self.config.pids_limit);
        }
        if let Some(existing) = self.index.container_named(&sandbox.plan.id, &config.metadata) {
            let same = *existing.plan.config == config;
            let id = existing.plan.id.clone();
            return if same {
                Ok(id)
            } else {
                Err(PodError::Exists {
                    what: "container",
                    id: id.to_string(),
                })
            };
        }
        let image = self
            .with
            .images
            .status(&config.image)?
            .ok_or_else(|| PodError::NoImage(config.image.clone()))?;
        let id = ContainerId::random();
        let plan = ContainerPlan {
            id: id.clone(),
            sandbox: sandbox.plan.id.clone(),
            log: config
                .log_path
                .as_ref()
                .and_then(|log| Some(sandbox.plan.config.log_directory.as_ref()?.join(log))),
            cgroup: self.cgroup_path(&sandbox.plan.config, id.as_str()),
            config: Arc::new(config),
            image_id: image.id.clone(),
            created_at: Timestamp::now(),
        };
        let folder = self.containers.folder(id.as_str());
        self.with.images.hold(&image.id, &id);
        match self.clone().make_container(&plan, &folder, &sandbox, image).await {
            Ok((spec, shim, stages)) => {
                // Nothing of the container's is in its layer yet.
                let layer = LayerUsage {
                    at: plan.created_at,
                    used_bytes: 0,
                    inodes: 0,
                };
                let container = Arc::new(Container {
                    stages,
                    layer: Some(layer).into(),
                    ..Container::new(plan, spec, folder, ContainerState::Created)
                });
                self.index.insert_container(container.clone());
                self.watch(container, Arc::new(shim));
                Ok(id)
            }
            Err(error) => {
                self.tear_down_container(&plan, &folder).await;
                self.discard(&folder).await;
                Err(error)
            }
        }
    }

    async fn make_container(
        self: Arc<Self>,
        plan: &ContainerPlan,
        folder: &Folder,
        sandbox: &Arc<Sandbox>,
        image: ImageView,
    ) -> Result<(ContainerSpec, Shim, Stages), PodError> {
        let mut watch = Stopwatch::start();
        folder.create()?;
        folder.write(Name::Plan, plan)?;
        watch.lap("plan");
        let prepared = {
            let (inner, plan, folder, sandbox) = (self.clone(), plan.clone(), folder.clone(), sandbox.clone());
            blocking(move || inner.prepare(&plan, &folder, &sandbox, &image)).await?
        };
        watch.lap_with(prepared.stages, "hand-over");
        let created = self.with.zygote.create(prepared.request).await?;
        watch.lap_with(created.stages, "answer");
        let spec = ContainerSpec {
            init: created.init_pid,
            init_exe: init_exe(created.init_pid),
            ..prepared.spec
        };
        folder.write(Name::Spec, &spec)?;
        let shim = Shim::connect(folder.path())?;
        folder.write(
            Name::Status,
            &ContainerStatus {
                state: ContainerState::Created,
            },
        )?;
        watch.lap("record");
        Ok((spec, shim, watch.stages()))
    }

    /// Snapshot, user, cgroup, mounts, filter and spec: all that may touch a disk.
    fn prepare(
        &self,
        plan: &ContainerPlan,
        folder: &Folder,
        sandbox: &Sandbox,
        image: &ImageView,
    ) -> Result<Prepared, PodError> {
        let (config, security) = (&plan.config, &plan.config.security);
        let mut watch = Stopwatch::start();
        let rootfs = self.with.snapshots.prepare(&plan.id, &image.layers)?;
        watch.lap("snapshot");
        lockdown::rootfs::check(rootfs.as_fd())?;
        let user = lockdown::user::resolve(rootfs.as_fd(), &image.config.user, security)?;
        let capabilities = capabilities::resolve(security)?;
        watch.lap("root and user");
        let filter = seccomp::compile(security, &capabilities)?;
        watch.lap("seccomp");
        let devices = spec::resolve_devices(&config.devices, security.privileged)?;
        self.with
            .cgroups
            .create(&plan.cgroup, &config.resources, &devices.rules)?;
        watch.lap("cgroup");

        let mut stage = Stage::default();
        let staged = config
            .mounts
            .iter()
            .map(|mount| stage.volume(mount))
            .collect::<Result<Vec<_>, _>>()?;
        let files = pod_files(sandbox, config)?;
        let (cgroup, cgroups) = self.cgroup_view(plan)?;
        watch.lap("volumes");
        let (namespaces, namespace_fds) = self.namespaces(sandbox, security)?;
        let hostname = fs::read_to_string(sandbox.folder.path().join("hostname")).unwrap_or_default();
        let generated = spec::generate(&SpecInput {
            config,
            sandbox: &sandbox.plan.config,
            image: &image.config,
            user: &user,
            capabilities,
            capability_names: capabilities::names,
            rootfs: zygote::staged_rootfs(),
            cgroup,
            staged: &staged,
            devices: devices.nodes,
            namespaces,
            hostname: hostname.trim_end(),
        })?;
        let process = generated.process().clone().unwrap_or_default();
        lockdown::rootfs::ensure_dir(rootfs.as_fd(), process.cwd())?;
        let path = folder.path().join("config.json");
        let text = serde_json::to_vec(&generated).map_err(spec::SpecError::from)?;
        fs::write(&path, text).map_err(|source| io_error("write", &path, source))?;

        watch.lap("spec");

        let memfd = filter.map(|filter| filter.to_memfd()).transpose();
        let request = CreateRequest {
            id: plan.id.clone(),
            dir: folder.path().to_owned(),
            rootfs,
            base: spec::base_mounts(security, &config.mounts),
            files,
            volumes: image_volumes(&image.config, config),
            mounts: stage.mounts,
            cgroups,
            namespaces: namespace_fds,
            cgroup: self.cgroup_join(&plan.cgroup)?,
            seccomp: memfd.map_err(|source| io_error("make a filter for", folder.path(), source))?,
            log: plan.log.as_deref().map(log::open).transpose()?,
            capabilities,
            stdio: zygote::Stdio {
                terminal: config.stdio.tty,
                stdin: config.stdio.stdin,
                stdin_once: config.stdio.stdin_once,
            },
            owner: (user.uid, user.gid),
            cwd: process.cwd().clone(),
            oom_score_adj: config.resources.oom_score_adj,
        };
        let spec = ContainerSpec {
            stop_signal: spec::stop_signal(config, &image.config),
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().clone(),
            capabilities,
            user,
            init: 0,
            init_exe: None,
        };
        watch.lap("descriptors");
        Ok(Prepared {
            request,
            spec,
            stages: watch.stages(),
        })
    }

    /// On v1 a container sees its own folder of each hierarchy, as with the peers; only a privileged one writes there.
    fn cgroup_view(&self, plan: &ContainerPlan) -> Result<(CgroupMount, Vec<(String, OwnedFd)>), PodError> {
        let covered = plan
            .config
            .mounts
            .iter()
            .any(|mount| mount.container_path == Path::new("/sys/fs/cgroup"));
        if covered {
            return Ok((CgroupMount::Elsewhere, Vec::new()));
        }
        if self.with.cgroups.is_v2() {
            return Ok((CgroupMount::V2, Vec::new()));
        }
        let views = self.with.cgroups.views(&plan.cgroup).into_iter();
        let trees = views.map(|(name, folder)| {
            let tree = detached(&folder)?;
            if !plan.config.security.privileged {
                set_readonly(tree.as_fd(), true)
                    .map_err(|source| io_error("make recursively read-only", &folder, source))?;
            }
            Ok::<_, PodError>((name, tree))
        });
        Ok((CgroupMount::Elsewhere, trees.collect::<Result<_, _>>()?))
    }

    /// Which namespaces the container joins, which are its own, and the descriptors of the former.
    fn namespaces(
        &self,
        sandbox: &Sandbox,
        security: &Security,
    ) -> Result<(Vec<SpecNamespace>, NamespaceFds), PodError> {
        let pinned = pins::open_namespaces(sandbox.folder.path())?;
        let mut spec = vec![("mount", None)];
        let mut fds = NamespaceFds {
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

/// Detached mounts for the helper, numbered as it attaches them.
#[derive(Default)]
struct Stage {
    mounts: Vec<OwnedFd>,
}

impl Stage {
    /// Clones the tree at a host path and answers where the container's helper will have it.
    fn add(&mut self, source: &Path) -> Result<PathBuf, PodError> {
        self.mounts.push(detached(source)?);
        Ok(zygote::staged_mount(self.mounts.len() - 1))
    }

    /// A volume of the CRI. A host path that is missing becomes a folder, as with both peers.
    fn volume(&mut self, mount: &Mount) -> Result<StagedMount, PodError> {
        if !mount.host_path.exists() {
            fs::create_dir_all(&mount.host_path).map_err(|source| io_error("make", &mount.host_path, source))?;
        }
        let source = self.add(&mount.host_path)?;
        if mount.access == Access::RecursiveReadOnly {
            let tree = self.mounts.last().expect("just added").as_fd();
            set_readonly(tree, true)
                .map_err(|source| io_error("make recursively read-only", &mount.host_path, source))?;
        }
        Ok(StagedMount {
            mount: mount.clone(),
            source,
        })
    }
}

/// The pod's shared memory and files, and where in the container they go unless a volume takes their place.
fn pod_files(sandbox: &Sandbox, config: &ContainerConfig) -> Result<Vec<(PathBuf, OwnedFd)>, PodError> {
    let folder = sandbox.folder.path();
    let shm = match config.security.namespaces.ipc {
        NamespaceMode::Node => PathBuf::from("/dev/shm"),
        _ => folder.join("shm"),
    };
    let texts = ["resolv.conf", "hosts", "hostname"].map(|name| (folder.join(name), Path::new("/etc").join(name)));
    let all = std::iter::once((shm, PathBuf::from("/dev/shm"))).chain(texts);
    all.filter(|(_, place)| !spec::covers(&config.mounts, place))
        .map(|(source, place)| {
            let tree = detached(&source)?;
            if config.security.readonly_rootfs && place.starts_with("/etc") {
                set_readonly(tree.as_fd(), false).map_err(|e| io_error("make read-only", &source, e))?;
            }
            Ok((place, tree))
        })
        .collect()
}

/// The image's `Volumes`, but for those whose place a volume of the client's takes. They live in the container's
/// writable layer and go with it, as both peers' do; an image cannot reach a pod's files or devices with them.
fn image_volumes(image: &ImageConfig, config: &ContainerConfig) -> Vec<PathBuf> {
    let own = |place: &Path| ["/proc", "/sys", "/dev"].iter().any(|base| place.starts_with(base));
    let places = image.volumes.iter().map(|volume| Path::new("/").join(volume));
    places
        .filter(|place| place.parent().is_some() && !own(place) && !spec::covers(&config.mounts, place))
        .collect()
}

/// A copy of the mounts at a host path, attached nowhere.
fn detached(source: &Path) -> Result<OwnedFd, PodError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, source, flags).map_err(|errno| io_error("mount", source, errno.into()))
}

fn pid_namespace(pid: u32) -> Result<OwnedFd, PodError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/pid"));
    fs::File::open(&path)
        .map(OwnedFd::from)
        .map_err(|source| io_error("open", &path, source))
}

/// Device and inode of the program that init runs from until it is started: tells a recovering daemon whether the
/// start message was sent.
pub(super) fn init_exe(pid: u32) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}/exe"))
        .ok()
        .map(|meta| (meta.dev(), meta.ino()))
}

/// Used by exec too: the filter of a container, from the cache.
pub(super) fn filter_of(plan: &ContainerPlan, spec: &ContainerSpec) -> Result<Option<OwnedFd>, PodError> {
    let filter = seccomp::compile(&plan.config.security, &spec.capabilities)?;
    let memfd = filter.map(|filter| filter.to_memfd()).transpose();
    memfd.map_err(|source| io_error("make a filter for", Path::new(plan.id.as_str()), source))
}
