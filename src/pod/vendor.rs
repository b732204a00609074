//! What a container's devices want beside nodes and mounts, from its creation to its removal: hooks, interfaces of the
//! host, a class of cache and memory bandwidth. It is recorded before any of it is done.
//!
//! | hook | runs | as |
//! |---|---|---|
//! | prestart, createRuntime | while init halts before its root is changed | a child of the daemon |
//! | createContainer | right after those | a child of init, with the host's files |
//! | startContainer | right before the program | a child of init, confined as the program |
//! | poststart | before StartContainer answers | a child of the daemon |
//! | poststop | when the container is taken apart, also after a failed create | a child of the daemon |

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Inner, PodError, blocking,
    index::{Container, Sandbox},
    pins,
    records::ContainerPlan,
    volumes::detached,
};
use crate::{
    model::{ContainerId, Hook, Moment, NetDevice, SandboxId, SandboxState, chain},
    net::MovedDevice,
    resctrl,
    spec::CdiEdits,
    store::{Folder, Name},
    sys::program::{self, Program},
    zygote::{Beginning, CreateRequest, Created, Halt, HaltRequest, HookState, Place},
};

/// The record.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VendorPlan {
    pub hooks: Vec<Hook>,
    /// What hooks are told, but for status and pid.
    pub state: HookState,
    pub net_devices: Vec<MovedDevice>,
    pub class: Option<resctrl::Group>,
}

impl VendorPlan {
    pub fn is_empty(&self) -> bool {
        self.hooks.is_empty() && self.net_devices.is_empty() && self.class.is_none()
    }

    /// The hooks of these moments, in the order of those.
    pub fn hooks_at(&self, moments: &[Moment]) -> Vec<Hook> {
        let at = |moment| self.hooks.iter().filter(move |hook| hook.moment == moment);
        moments.iter().copied().flat_map(at).cloned().collect()
    }

    /// Whether init has to stop on its way.
    pub fn halts(&self) -> bool {
        !self
            .hooks_at(&[Moment::Prestart, Moment::CreateRuntime, Moment::CreateContainer])
            .is_empty()
    }

    /// Where the container is put together.
    pub fn place(&self, state: &Path) -> Place {
        match self.halts() {
            true => Place::on_host(state),
            false => Place::small(),
        }
    }

    /// How long StartContainer may wait for hooks.
    pub fn start_limit(&self) -> Duration {
        let hooks = self.hooks_at(&[Moment::StartContainer]);
        hooks.iter().map(Hook::limit).sum()
    }

    fn told(&self, status: &str, pid: Option<u32>) -> HookState {
        HookState {
            status: status.to_owned(),
            pid,
            ..self.state.clone()
        }
    }
}

impl Inner {
    /// What the edits mean here. Changes nothing.
    ///
    /// # Errors
    /// [`PodError::Net`], [`PodError::Resctrl`]; [`PodError::Invalid`] for an interface in a pod of the host's network.
    pub(super) fn plan_vendor(
        &self,
        plan: &ContainerPlan,
        edits: CdiEdits,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<VendorPlan, PodError> {
        let mut net_devices = Vec::new();
        // A container of this pod that is gone, or about to be, may have brought some.
        let brought = match edits.net_devices.is_empty() {
            true => Vec::new(),
            false => self.brought(&plan.sandbox, None),
        };
        for device in edits.net_devices {
            let netns = netns.ok_or_else(|| PodError::Invalid {
                field: "config.CDI_devices",
                why: format!(
                    "{}: netDevices: {:?}: the pod is on the host's network",
                    device.device, device.host_name
                ),
            })?;
            let ours = brought.contains(&device);
            net_devices.push(MovedDevice::plan(netns, device, ours)?);
        }
        let class = match &edits.rdt {
            Some(rdt) => Some(resctrl::Group::plan(&resctrl::mounted()?, &plan.id, rdt)?),
            None => None,
        };
        Ok(VendorPlan {
            hooks: edits.hooks,
            state: HookState::default(),
            net_devices,
            class,
        })
    }

    /// The interfaces that containers of a pod, all but one, have brought into it.
    fn brought(&self, sandbox: &SandboxId, but: Option<&ContainerId>) -> Vec<NetDevice> {
        let containers = self.index.containers_of(sandbox);
        let others = containers.iter().filter(|container| Some(&container.plan.id) != but);
        others
            .filter_map(|container| vendor_plan(container))
            .flat_map(|plan| plan.net_devices)
            .map(|moved| moved.device)
            .collect()
    }

    /// Records the plan, and moves the interfaces. Nothing of it is there for most containers.
    pub(super) fn begin_vendor(
        &self,
        vendor: &VendorPlan,
        folder: &Folder,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<(), PodError> {
        if vendor.is_empty() {
            return Ok(());
        }
        folder.write(Name::Vendor, vendor)?;
        for (moved, netns) in vendor.net_devices.iter().zip(netns.into_iter().cycle()) {
            moved.take(netns)?;
        }
        Ok(())
    }

    /// Both ends of a halt, when one is needed.
    pub(super) fn halt_for(&self, vendor: &VendorPlan) -> Result<(Option<Halt>, Option<HaltRequest>), PodError> {
        if !vendor.halts() {
            return Ok((None, None));
        }
        let root = Path::new("/");
        let (ours, socket) = Halt::pair().map_err(|source| pins::io_error("make a socket below", root, source))?;
        let host = detached(root)?;
        Ok((Some(ours), Some(HaltRequest { socket, host })))
    }

    /// Has the zygote make the container, runs the hooks that belong there, and puts init into its class.
    pub(super) async fn create_with_vendor(
        &self,
        beginning: Beginning,
        request: CreateRequest,
        halt: Option<Halt>,
        vendor: &VendorPlan,
        folder: &Folder,
    ) -> Result<Created, PodError> {
        let attended = halt.map(|halt| {
            let (vendor, folder, place) = (vendor.clone(), folder.clone(), request.place.clone());
            tokio::task::spawn_blocking(move || attend(&halt, &vendor, &place, &folder))
        });
        let created = beginning.create(request).await;
        if let Some(attended) = attended {
            // What a hook says is nearer to the cause than what libcontainer says of it.
            attended.await??;
        }
        let created = created?;
        if let Some(class) = vendor.class.clone() {
            let pid = created.init_pid;
            blocking(move || class.apply(pid)).await?;
        }
        Ok(created)
    }

    /// Runs the hooks of a container whose program runs. What fails is logged: it runs all the same.
    pub(super) async fn started_with_vendor(&self, container: &Container) {
        let Some(vendor) = vendor_plan(container) else { return };
        let state = vendor.told("running", Some(container.spec.init));
        let work = move || run_and_log(&vendor.hooks_at(&[Moment::Poststart]), &state);
        let _ = tokio::task::spawn_blocking(work).await;
    }

    /// Takes back what devices brought: the last step of a container's end. Nothing to do for most.
    ///
    /// # Errors
    /// [`PodError::Store`], [`PodError::Net`], [`PodError::Resctrl`]. A hook that fails is logged, and not run again.
    pub(super) async fn end_vendor(&self, plan: &ContainerPlan, folder: &Folder) -> Result<(), PodError> {
        if plan.config.cdi_devices.is_empty() {
            return Ok(());
        }
        let Some(vendor) = folder.read::<VendorPlan>(Name::Vendor)? else {
            return Ok(());
        };
        let used = self.brought(&plan.sandbox, Some(&plan.id));
        // A pod that was stopped has no network any more: its end brought them back.
        let pod = self.index.sandbox(plan.sandbox.as_str()).ok();
        let pod = pod.filter(|pod| pod.status.borrow().state == SandboxState::Ready);
        let folder = folder.clone();
        blocking(move || {
            let idle = vendor.net_devices.iter().filter(|moved| !used.contains(&moved.device));
            let returned = pod.map_or(Ok(()), |pod| bring_back(idle, pod.folder.path()));
            let removed = vendor.class.as_ref().map_or(Ok(()), resctrl::Group::remove);
            let hooks = vendor.hooks_at(&[Moment::Poststop]);
            if !hooks.is_empty() {
                run_and_log(&hooks, &vendor.told("stopped", None));
                let rest = VendorPlan {
                    hooks: Vec::new(),
                    ..vendor
                };
                folder.write(Name::Vendor, &rest)?;
            }
            removed?;
            returned
        })
        .await
    }

    /// Brings the interfaces of a pod's containers back before its network goes.
    pub(super) fn release_devices(&self, sandbox: &Sandbox) -> Result<(), PodError> {
        let containers = self.index.containers_of(&sandbox.plan.id);
        let plans: Vec<_> = containers
            .iter()
            .filter_map(|container| vendor_plan(container))
            .collect();
        bring_back(plans.iter().flat_map(|plan| &plan.net_devices), sandbox.folder.path())
    }
}

/// A container's record; without devices there is none to look for. One that cannot be read counts as none where it only
/// adds to something else.
pub(super) fn vendor_plan(container: &Container) -> Option<VendorPlan> {
    if container.plan.config.cdi_devices.is_empty() {
        return None;
    }
    let read = container.folder.read::<VendorPlan>(Name::Vendor);
    read.unwrap_or_else(|error| {
        tracing::warn!(error = %chain(&error), "cannot read what devices want");
        None
    })
}

fn bring_back<'a>(devices: impl Iterator<Item = &'a MovedDevice>, pins: &Path) -> Result<(), PodError> {
    let mut devices = devices.peekable();
    if devices.peek().is_none() {
        return Ok(());
    }
    let Some(netns) = pins::open_namespaces(pins)?.net else {
        return Ok(());
    };
    let all = devices.map(|moved| moved.bring_back(netns.as_fd()));
    Ok(all.fold(Ok(()), Result::and)?)
}

/// The daemon's part of a halt: the node's hooks, then init's. Blocks.
fn attend(halt: &Halt, vendor: &VendorPlan, place: &Place, folder: &Folder) -> Result<(), PodError> {
    let talk = |source| pins::io_error("talk with the first process of", folder.path(), source);
    let Some(init) = halt.wait().map_err(talk)? else {
        // The create failed before it came to that; its own answer says why.
        return Ok(());
    };
    let on_node = HookState {
        bundle: place.bundle_of(init),
        ..vendor.told("creating", Some(init))
    };
    for hook in vendor.hooks_at(&[Moment::Prestart, Moment::CreateRuntime]) {
        run(&hook, &on_node, folder.path()).map_err(|why| failed(&hook, why))?;
    }
    let hooks = vendor.hooks_at(&[Moment::CreateContainer]);
    let inside = HookState {
        bundle: place.bundle(),
        ..vendor.told("creating", None)
    };
    match halt.run(hooks.clone(), inside).map_err(talk)? {
        None | Some(Ok(())) => Ok(()),
        Some(Err((number, why))) => Err(match hooks.get(number) {
            Some(hook) => failed(hook, why),
            None => talk(std::io::ErrorKind::InvalidData.into()),
        }),
    }
}

/// Runs a hook on the node.
fn run(hook: &Hook, state: &HookState, cwd: &Path) -> Result<(), String> {
    let input = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    let ran = program::run(&Program {
        path: &hook.path,
        args: &hook.args,
        env: &hook.env,
        cwd,
        input: &input,
        most_output: 0,
        limit: hook.limit(),
    });
    ran.map(drop).map_err(|why| why.to_string())
}

fn run_and_log(hooks: &[Hook], state: &HookState) {
    for hook in hooks {
        if let Err(why) = run(hook, state, &state.bundle) {
            tracing::warn!(container = state.id, %hook, why, "a hook failed");
        }
    }
}

fn failed(hook: &Hook, why: String) -> PodError {
    PodError::Hook {
        hook: hook.to_string(),
        why,
    }
}
