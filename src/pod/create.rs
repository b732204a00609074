//! CreateContainer: everything up to an init that waits to be started.

mod images;
mod surroundings;

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use super::{
    Inner, PodError, Pods, blocking, in_place,
    index::{Container, Sandbox},
    log,
    pins::{self, io_error},
    records::{ContainerPlan, ContainerSpec, ContainerStatus},
    userns,
    vendor::VendorPlan,
    volumes::{self, Volumes},
};
use crate::{
    image::snapshot::Mapped,
    lockdown::{self, capabilities, seccomp},
    model::{
        ContainerConfig, ContainerId, ContainerState, ImageView, LayerUsage, Moment, NamespaceMode, SandboxState,
        Security, Stages, Stopwatch, Timestamp, User, UserNamespace,
    },
    shim::Shim,
    spec::{self, Left, SpecInput, StagedMount},
    store::{Folder, Name},
    zygote::{self, BeginRequest, Beginning, ClosedPaths, CreateRequest, Halt, Hold, HookState, NamespaceFds},
};

impl Pods {
    /// Makes a container in a ready sandbox. The same metadata again gives the same container.
    ///
    /// # Errors
    /// [`PodError::NoSandbox`], [`PodError::SandboxNotReady`], [`PodError::NoImage`]; [`PodError::Exists`] when the
    /// metadata names a container that was asked for differently; [`PodError::Untrusted`] when the policy does not let
    /// the pod have an image; those of the mechanisms. Nothing is left behind.
    ///
    /// `watch` takes its times.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        watch: Stopwatch,
    ) -> Result<ContainerId, PodError> {
        let sandbox = self.inner.index.sandbox(sandbox)?;
        let key = (sandbox.plan.id.clone(), config.metadata.clone());
        self.inner
            .creates
            .join(&key, || self.inner.clone().create_container(sandbox, config, watch))
            .await
    }
}

/// Of an artifact nothing can be run.
fn check_runs(image: &ImageView, config: &ContainerConfig) -> Result<(), PodError> {
    match &image.artifact {
        None => Ok(()),
        Some(kind) => Err(PodError::Invalid {
            field: "config.image.image",
            why: format!(
                "{} is an artifact of type {kind:?}, not an image: it can be mounted as an image volume, not run",
                config.image
            ),
        }),
    }
}

/// What the daemon prepares before the zygote is asked.
struct Prepared {
    request: CreateRequest,
    /// Our end, when init is to halt.
    halt: Option<Halt>,
    vendor: VendorPlan,
    spec: ContainerSpec,
    stages: Stages,
}

impl Inner {
    async fn create_container(
        self: Arc<Self>,
        sandbox: Arc<Sandbox>,
        mut config: ContainerConfig,
        mut watch: Stopwatch,
    ) -> Result<ContainerId, PodError> {
        check_ready(&sandbox)?;
        let limit = self.config().pids_limit;
        if config.resources.pids_limit.is_none() && limit > 0 {
            config.resources.pids_limit = Some(limit);
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
        check_runs(&image, &config)?;
        userns::check(&sandbox.plan.config.namespaces, &config.security.namespaces)?;
        let volumes = self.volume_images(&config)?;
        self.admit_images(&sandbox, &config, &image, &volumes).await?;
        // A registry may have been asked, and the sandbox stopped meanwhile.
        check_ready(&sandbox)?;
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
            volume_images: volumes.iter().map(|image| image.id.clone()).collect(),
            created_at: Timestamp::now(),
        };
        let folder = self.containers.folder(id.as_str());
        self.hold_images(&plan);
        let images = (image, volumes);
        watch.lap("reserve");
        match self
            .clone()
            .make_container(&plan, &folder, &sandbox, images, watch)
            .await
        {
            Ok((spec, shim, stages)) => {
                self.tell_stages("CreateContainer", &stages);
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
                self.discard(&folder);
                Err(error)
            }
        }
    }

    async fn make_container(
        self: Arc<Self>,
        plan: &ContainerPlan,
        folder: &Folder,
        sandbox: &Arc<Sandbox>,
        (image, volumes): (ImageView, Vec<ImageView>),
        mut watch: Stopwatch,
    ) -> Result<(ContainerSpec, Shim, Stages), PodError> {
        folder.create()?;
        folder.write(Name::Plan, plan)?;
        watch.lap("plan");
        let hold = self.hold_cgroup().await?;
        watch.lap("hold");
        let prepared = {
            let (inner, plan, folder, sandbox) = (self.clone(), plan.clone(), folder.clone(), sandbox.clone());
            blocking(move || inner.prepare(&plan, &folder, &sandbox, hold, &image, &volumes))
        };
        // Sent by this thread, which rests then: the zygote takes the processor of who wakes it, not that of the other.
        let begun = match in_place(|| plan.log.as_deref().map(log::open).transpose()) {
            Ok(log) => self.begin(plan, folder, sandbox, log).await,
            Err(error) => Err(error),
        };
        let (beginning, prepared) = match (begun, prepared.await) {
            (Ok(beginning), Ok(prepared)) => (beginning, prepared),
            (Ok(beginning), Err(error)) => {
                beginning.give_up().await;
                return Err(error);
            }
            (Err(error), _) => return Err(error),
        };
        watch.lap_with(prepared.stages, "hand-over");
        let (halt, vendor) = (prepared.halt, &prepared.vendor);
        // On v1 the shim listens while its init is made.
        let (created, early) = tokio::join!(
            self.create_with_vendor(beginning, prepared.request, halt, vendor, folder),
            async { Shim::connect(folder.path()) }
        );
        let created = created?;
        watch.lap_with(created.stages, "answer");
        let spec = ContainerSpec {
            init: created.init_pid,
            init_exe: init_exe(created.init_pid),
            ..prepared.spec
        };
        folder.write(Name::Spec, &spec)?;
        let shim = early.or_else(|_| Shim::connect(folder.path()))?;
        watch.lap("shim ready");
        folder.write(
            Name::Status,
            &ContainerStatus {
                state: ContainerState::Created,
            },
        )?;
        watch.lap("record");
        Ok((spec, shim, watch.stages()))
    }

    /// Has the container's processes forked; they wait for the rest.
    async fn begin(
        &self,
        plan: &ContainerPlan,
        folder: &Folder,
        sandbox: &Sandbox,
        log: Option<OwnedFd>,
    ) -> Result<Beginning, PodError> {
        let (config, pod) = (&plan.config, &sandbox.plan.config);
        let request = BeginRequest {
            id: plan.id.clone(),
            dir: folder.path().to_owned(),
            stdio: zygote::Stdio {
                terminal: config.stdio.tty,
                stdin: config.stdio.stdin,
                stdin_once: config.stdio.stdin_once,
            },
            log,
            first_pid: config.security.namespaces.pid == NamespaceMode::Container && pod.namespaces.user.is_none(),
            born_in_cgroup: self.with.cgroups.is_v2(),
        };
        Ok(self.with.zygote.begin(request).await?)
    }

    /// Snapshot, user, cgroup, mounts, filter and spec: all that may touch a disk.
    fn prepare(
        &self,
        plan: &ContainerPlan,
        folder: &Folder,
        sandbox: &Sandbox,
        hold: Option<Hold>,
        image: &ImageView,
        volumes: &[ImageView],
    ) -> Result<Prepared, PodError> {
        let security = &plan.config.security;
        let mut watch = Stopwatch::start();
        // What systemd has to do for it, it does beside all that follows.
        let first = hold.as_ref().map(|hold| hold.pid);
        let making = self.with.cgroups.begin(&plan.cgroup, &plan.config.resources, first)?;
        let pinned = pins::open_namespaces(sandbox.folder.path())?;
        let ids = sandbox.plan.config.namespaces.user;
        let root = ids.as_ref().map_or((0, 0), UserNamespace::root);
        let mapped = pinned.user.as_ref().zip(ids);
        let mapped = mapped.map(|(namespace, ids)| Mapped {
            namespace: namespace.as_fd(),
            ids,
        });
        let rootfs = self.with.snapshots.prepare(&plan.id, &image.layers, mapped)?;
        watch.lap("snapshot");
        lockdown::rootfs::check(rootfs.as_fd())?;
        let mut user = lockdown::user::resolve(rootfs.as_fd(), &image.config.user, security)?;
        let mut devices = spec::resolve_devices(&plan.config.devices, security.privileged)?;
        let (config, edits) = self.with_cdi(&plan.config, ids.as_ref(), &mut user, &mut devices)?;
        let config = &config;
        let mut vendor = self.plan_vendor(plan, edits, pinned.net.as_ref().map(AsFd::as_fd))?;
        let place = vendor.place(&self.state);
        let owner = userns::host_ids(ids.as_ref(), &user)?;
        let capabilities = capabilities::resolve(security)?;
        watch.lap("root and user");
        // In a user namespace it could not leave it.
        let keeps_project = self.with.snapshots.are_limited() && mapped.is_none();
        let filter = seccomp::compile(security, &capabilities, keeps_project)?;
        let apparmor = self.with.apparmor.resolve(security)?;
        watch.lap("profiles");
        let volumes = Volumes {
            container: &plan.id,
            snapshots: &self.with.snapshots,
            images: volumes,
            mapped,
        };
        let volumes::Opened {
            complete,
            trees: mounts,
            staged,
        } = volumes.open(&config.mounts, &place)?;
        let mut files = volumes::pod_files(sandbox, config)?;
        files.extend(complete);
        watch.lap("volumes");
        let (namespaces, namespace_fds) = self.namespaces(sandbox, pinned, security)?;
        let left = left_to_libcontainer(&namespace_fds, config, &staged);
        let hostname = fs::read_to_string(sandbox.folder.path().join("hostname")).unwrap_or_default();
        let generated = spec::generate(&SpecInput {
            config,
            sandbox: &sandbox.plan.config,
            image: &image.config,
            user: &user,
            capabilities,
            capability_names: capabilities::names,
            rootfs: place.root_of_spec(),
            staged: &staged,
            left,
            namespaces,
            hostname: hostname.trim_end(),
            halt: vendor.halts().then_some(zygote::HALT_PROGRAM),
        })?;
        vendor.state = hook_state(plan, folder, &generated);
        let process = generated.process().clone().unwrap_or_default();
        lockdown::rootfs::ensure_dir(rootfs.as_fd(), process.cwd(), root)?;
        let path = folder.path().join("config.json");
        let text = serde_json::to_vec(&generated).map_err(spec::SpecError::from)?;
        fs::write(&path, text).map_err(|source| io_error("write", &path, source))?;

        watch.lap("spec");
        making.finish(&devices.rules)?;
        let cgroups = self.cgroup_view(plan)?;
        watch.lap("cgroup");
        self.begin_vendor(&vendor, folder, namespace_fds.net.as_ref().map(AsFd::as_fd))?;
        let (halt, halt_request) = self.halt_for(&vendor)?;

        let memfd = filter.map(|filter| filter.to_memfd()).transpose();
        let request = CreateRequest {
            rootfs,
            root,
            base: spec::base_mounts(security, ids.as_ref(), &config.mounts, !left.proc),
            devices: devices.nodes,
            files,
            closed: closed(security, left),
            volumes: volumes::declared_by(&image.config, config),
            mounts,
            cgroups,
            namespaces: namespace_fds,
            cgroup: self.cgroup_join(&plan.cgroup, hold)?,
            apparmor: apparmor.clone(),
            seccomp: memfd.map_err(|source| io_error("make a filter for", folder.path(), source))?,
            capabilities,
            owner,
            cwd: process.cwd().clone(),
            oom_score_adj: config.resources.oom_score_adj,
            place,
            halt: halt_request,
            start_hooks: vendor.hooks_at(&[Moment::StartContainer]),
            state: HookState {
                status: "created".into(),
                ..vendor.state.clone()
            },
        };
        let spec = ContainerSpec {
            oom_kills_before: self.with.cgroups.oom_kills_in_slice(&plan.cgroup),
            stop_signal: spec::stop_signal(config, &image.config),
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().clone(),
            capabilities,
            keeps_project,
            apparmor,
            user,
            owner,
            init: 0,
            init_exe: None,
        };
        watch.lap("descriptors");
        Ok(Prepared {
            request,
            halt,
            vendor,
            spec,
            stages: watch.stages(),
        })
    }

    /// What was asked for, with what its CDI devices bring; and the rest of that.
    fn with_cdi(
        &self,
        config: &ContainerConfig,
        namespace: Option<&UserNamespace>,
        user: &mut User,
        devices: &mut spec::Devices,
    ) -> Result<(ContainerConfig, spec::CdiEdits), PodError> {
        let owner = spec::CdiOwner {
            user: (user.uid, user.gid),
            namespace,
        };
        let mut edits = spec::resolve_cdi(&self.config().cdi_spec_dirs, &config.cdi_devices, owner, devices)?;
        user.groups.append(&mut edits.gids);
        user.groups.sort_unstable();
        user.groups.dedup();
        let mut config = config.clone();
        config.mounts.append(&mut edits.mounts);
        config.envs.append(&mut edits.env);
        Ok((config, edits))
    }
}

fn check_ready(sandbox: &Sandbox) -> Result<(), PodError> {
    let state = sandbox.status.borrow().state;
    match state == SandboxState::Ready {
        true => Ok(()),
        false => Err(PodError::SandboxNotReady(sandbox.plan.id.clone())),
    }
}

/// The helper makes /proc when it is in the container's pid namespace, and closes paths when it is the last who attaches
/// anything.
fn left_to_libcontainer(joined: &NamespaceFds, config: &ContainerConfig, staged: &[StagedMount]) -> Left {
    let inside = joined.user.is_none() && joined.pid.is_none();
    Left {
        proc: !inside && !spec::covers(&config.mounts, "/proc"),
        paths: !inside || !staged.is_empty(),
    }
}

/// What the helper hides and makes read-only.
fn closed(security: &Security, left: Left) -> ClosedPaths {
    if security.privileged || left.paths {
        return ClosedPaths::default();
    }
    ClosedPaths {
        masked: security.masked_paths.clone(),
        readonly: security.readonly_paths.clone(),
    }
}

fn hook_state(plan: &ContainerPlan, folder: &Folder, spec: &oci_spec::runtime::Spec) -> HookState {
    let annotations = spec.annotations().iter().flatten();
    HookState {
        oci_version: spec.version().clone(),
        id: plan.id.to_string(),
        bundle: folder.path().to_owned(),
        annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
        ..HookState::default()
    }
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
    let filter = seccomp::compile(&plan.config.security, &spec.capabilities, spec.keeps_project)?;
    let memfd = filter.map(|filter| filter.to_memfd()).transpose();
    memfd.map_err(|source| io_error("make a filter for", Path::new(plan.id.as_str()), source))
}
