//! RunPodSandbox: namespaces, network, shared memory and files of a pod; no process unless its PID namespace is shared.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use super::{
    Inner, PodError, Pods, blocking, in_place,
    index::Sandbox,
    pins::{self, io_error},
    records::{SandboxPlan, SandboxStatus},
};
use crate::{
    cgroup::{Cgroups, Driver},
    model::{
        NamespaceMode, Resources, SandboxConfig, SandboxId, SandboxState, Stages, Stopwatch, Timestamp, UserNamespace,
    },
    net::{Inside, Network, Reservation, Way},
    spec,
    store::{Folder, Name},
    zygote::{CgroupJoin, Hold, NamespacesRequest, PodInitRequest, PodNamespaces},
};

impl Pods {
    /// Makes a sandbox and its namespaces. The same metadata again gives the same sandbox.
    ///
    /// # Errors
    /// [`PodError::NoHandler`]; [`PodError::Exists`] when the metadata names a sandbox that was asked for differently
    /// or is stopped; those of the mechanisms. Nothing is left behind.
    ///
    /// `watch` takes its times.
    pub async fn run_sandbox(&self, mut config: SandboxConfig, watch: Stopwatch) -> Result<SandboxId, PodError> {
        if !config.cgroup_parent.is_empty() {
            const FIELD: &str = "config.linux.cgroup_parent";
            config.cgroup_parent = cgroup_parent(&self.inner.with.cgroups, &config.cgroup_parent, FIELD)?;
        }
        let metadata = config.metadata.clone();
        self.inner
            .runs
            .join(&metadata, || self.inner.clone().run_sandbox(config, watch))
            .await
    }
}

impl Inner {
    async fn run_sandbox(self: Arc<Self>, config: SandboxConfig, mut watch: Stopwatch) -> Result<SandboxId, PodError> {
        self.check_handler(&config.runtime_handler)?;
        self.check_user_namespace(&config.namespaces)?;
        if let Some(existing) = self.index.sandbox_named(&config.metadata) {
            return again(&existing, &config);
        }
        let id = SandboxId::random();
        let shared = config.namespaces.pid == NamespaceMode::Pod;
        let plan = SandboxPlan {
            id: id.clone(),
            cgroup: shared.then(|| self.cgroup_path(&config, id.as_str())),
            config: Arc::new(config),
            created_at: Timestamp::now(),
            boot_id: self.boot_id.clone(),
        };
        let folder = self.sandboxes.folder(id.as_str());
        watch.lap("reserve");
        match self.make_sandbox(&plan, &folder, watch).await {
            Ok((status, stages)) => {
                self.tell_stages("RunPodSandbox", &stages);
                let (status, turn) = (tokio::sync::watch::Sender::new(status), tokio::sync::Mutex::default());
                self.index.insert_sandbox(Arc::new(Sandbox {
                    plan,
                    folder,
                    status,
                    changes: tokio::sync::watch::Sender::default(),
                    turn,
                    stages,
                }));
                Ok(id)
            }
            Err(error) => {
                self.tear_down_sandbox(&plan, &folder);
                self.discard(&folder);
                Err(error)
            }
        }
    }

    async fn make_sandbox(
        &self,
        plan: &SandboxPlan,
        folder: &Folder,
        mut watch: Stopwatch,
    ) -> Result<(SandboxStatus, Stages), PodError> {
        let network = &self.with.network;
        let way = match plan.config.namespaces.network {
            NamespaceMode::Node => None,
            _ => Some(in_place(|| network.way(&plan.config.runtime_handler))?),
        };
        let mut wanted = namespaces_wanted(&plan.config);
        if let Some(way) = &way {
            wanted.defaults = network.sysctls(way, &plan.config);
        }
        // At the same time: new namespaces are nowhere but in their descriptors, so they need no plan.
        let (namespaces, prepared) = tokio::join!(
            self.with.zygote.namespaces(wanted),
            prepare(plan.clone(), folder.clone(), network.clone(), way)
        );
        let reserved = prepared?;
        watch.lap("namespaces and files");
        let mut namespaces = namespaces?;
        let ips = in_place(|| self.furnish(plan, folder, reserved, &mut namespaces))?;
        watch.lap("network");
        let reaper = self.start_reaper(plan, folder, &namespaces).await?;
        let status = SandboxStatus {
            state: SandboxState::Ready,
            ips,
            reaper,
        };
        folder.write(Name::Status, &status)?;
        watch.lap("record");
        Ok((status, watch.stages()))
    }

    /// Pins the namespaces and attaches the network.
    fn furnish(
        &self,
        plan: &SandboxPlan,
        folder: &Folder,
        reserved: Option<Reservation>,
        namespaces: &mut PodNamespaces,
    ) -> Result<Vec<std::net::IpAddr>, PodError> {
        pins::pin_namespaces(folder.path(), namespaces)?;
        match (&namespaces.net, namespaces.route.take(), reserved) {
            (Some(netns), Some(route), Some(reserved)) => {
                let inside = Inside {
                    netns: netns.as_fd(),
                    path: &pins::network(folder.path()),
                    route,
                    cgroup: &plan.config.cgroup_parent,
                };
                Ok(self.with.network.attach(&plan.id, reserved, inside, &plan.config)?.ips)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Pid 1 of a PID namespace that the pod's containers share.
    async fn start_reaper(
        &self,
        plan: &SandboxPlan,
        folder: &Folder,
        namespaces: &PodNamespaces,
    ) -> Result<Option<u32>, PodError> {
        let Some(path) = &plan.cgroup else { return Ok(None) };
        let hold = self.hold_cgroup().await?;
        let first = hold.as_ref().map(|hold| hold.pid);
        let cgroups = &self.with.cgroups;
        in_place(|| cgroups.begin(path, &Resources::default(), first)?.finish(&[]))?;
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        let fail = |source| io_error("duplicate the namespaces of", folder.path(), source);
        let request = PodInitRequest {
            cgroup: self.cgroup_join(path, hold)?,
            user: copy(&namespaces.user).map_err(fail)?,
            net: copy(&namespaces.net).map_err(fail)?,
            ipc: copy(&namespaces.ipc).map_err(fail)?,
            uts: copy(&namespaces.uts).map_err(fail)?,
        };
        Ok(Some(self.with.zygote.pod_init(request).await?.pid))
    }

    fn check_handler(&self, name: &str) -> Result<(), PodError> {
        let known = name.is_empty() || self.config().runtime_handlers.iter().any(|known| known == name);
        if known {
            Ok(())
        } else {
            Err(PodError::NoHandler(name.to_owned()))
        }
    }

    /// The cgroup of `name` (a sandbox's or container's id) in a pod.
    pub(super) fn cgroup_path(&self, config: &SandboxConfig, name: &str) -> String {
        let parent = match config.cgroup_parent.as_str() {
            "" => &self.cgroup_parent,
            parent => parent,
        };
        self.with.cgroups.path(parent, name)
    }

    /// A first process for a new cgroup, where it needs one.
    pub(super) async fn hold_cgroup(&self) -> Result<Option<Hold>, PodError> {
        match self.with.cgroups.driver() {
            Driver::Cgroupfs => Ok(None),
            Driver::Systemd => Ok(Some(self.with.zygote.hold().await?)),
        }
    }

    /// How to get into a cgroup; `hold` goes when that is done.
    pub(super) fn cgroup_join(&self, path: &str, hold: Option<Hold>) -> Result<CgroupJoin, PodError> {
        if !self.with.cgroups.is_v2() {
            return Ok(CgroupJoin::V1(self.with.cgroups.join_fds(path)?));
        }
        let dir = self.with.cgroups.v2_dir(path)?;
        Ok(match hold {
            None => CgroupJoin::V2(dir),
            Some(hold) => CgroupJoin::V2Held { dir, hold: hold.line },
        })
    }
}

/// The path of a configured parent.
pub(super) fn cgroup_parent(cgroups: &Cgroups, told: &str, field: &'static str) -> Result<String, PodError> {
    cgroups.parent(told).map_err(|error| PodError::Invalid {
        field,
        why: error.to_string(),
    })
}

fn again(existing: &Sandbox, config: &SandboxConfig) -> Result<SandboxId, PodError> {
    let ready = existing.status.borrow().state == SandboxState::Ready;
    if ready && *existing.plan.config == *config {
        Ok(existing.plan.id.clone())
    } else {
        Err(PodError::Exists {
            what: "sandbox",
            id: existing.plan.id.to_string(),
        })
    }
}

/// A pod on the host's network keeps the host's name too, as both peers have it.
fn namespaces_wanted(config: &SandboxConfig) -> NamespacesRequest {
    let own_net = config.namespaces.network != NamespaceMode::Node;
    NamespacesRequest {
        user: config.namespaces.user,
        net: own_net,
        ipc: config.namespaces.ipc != NamespaceMode::Node,
        uts: own_net,
        hostname: config.hostname.clone(),
        sysctls: config.sysctls.clone(),
        ..Default::default()
    }
}

/// Writes the plan, and then makes what needs no namespace: the pod's addresses, its shared memory and its files.
async fn prepare(
    plan: SandboxPlan,
    folder: Folder,
    network: Network,
    way: Option<Way>,
) -> Result<Option<Reservation>, PodError> {
    let namespaces = &plan.config.namespaces;
    let root = namespaces.user.as_ref().map_or((0, 0), UserNamespace::root);
    let own_ipc = namespaces.ipc != NamespaceMode::Node;
    blocking(move || {
        folder.create()?;
        folder.write(Name::Plan, &plan)?;
        let reserved = way.map(|way| network.reserve(&plan.id, way)).transpose()?;
        if own_ipc {
            pins::mount_shm(folder.path(), root)?;
        }
        write_files(folder.path(), &plan.config, root)?;
        Ok::<_, PodError>(reserved)
    })
    .await
}

/// The files that every container of the pod gets unless its mounts bring their own. The pod's root may write them.
fn write_files(folder: &Path, config: &SandboxConfig, (uid, gid): (u32, u32)) -> Result<(), PodError> {
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let hostname = match config.hostname.as_str() {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        name => name.to_owned(),
    };
    let files = [
        ("resolv.conf", spec::resolv_conf(&config.dns, &host("/etc/resolv.conf"))),
        ("hosts", host("/etc/hosts")),
        ("hostname", format!("{hostname}\n")),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|source| io_error("write", &path, source))?;
        std::os::unix::fs::chown(&path, Some(uid), Some(gid))
            .map_err(|source| io_error("set the owner of", &path, source))?;
    }
    Ok(())
}
