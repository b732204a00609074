//! Init: libcontainer's, in a process that is forked here.
//!
//! libcontainer's own builder comes to the same place by a longer way: the spec and two records through files, a process in
//! between whose cgroup manager reads the mount table a dozen times to manage nothing, and messages between the three. Here
//! the spec is ours, the cgroup has been joined, and H itself becomes init; only where it must enter a user namespace, or the
//! pid namespace of others, does it fork once more. See `docs/decisions/0014-init.md`.

use std::{
    cell::Cell,
    error::Error,
    fs, io,
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd},
    path::PathBuf,
    rc::Rc,
};

use libcgroups::common::CgroupConfig;
use libcontainer::{
    container::{Container, ContainerStatus, State},
    namespaces::Namespaces,
    notify_socket::{NOTIFY_FILE, NotifyListener},
    process::{
        args::{ContainerArgs, ContainerType},
        channel::{init_channel, main_channel},
        init::container_init_process,
    },
    syscall::syscall::SyscallType,
};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::{
    fs::{Gid, Uid},
    thread::{set_name, set_thread_res_gid, set_thread_res_uid},
};

use super::{
    diary::Diary,
    error::{Failure, Stage},
    executor::LastStep,
    protocol::{Reply, send},
};
use crate::{
    model::Stopwatch,
    sys::{
        fork::{Side, exit, fork_sibling},
        process,
    },
};

/// What init is made of.
pub(super) struct Init {
    pub id: String,
    pub spec: Spec,
    /// The container's folder, where the socket is made on which init waits for its start.
    pub dir: PathBuf,
    /// Absolute, without links.
    pub rootfs: PathBuf,
    pub stdio: Streams,
    pub last_step: LastStep,
}

/// Whether init comes into its namespaces of users and pids only by one more fork: into the pod's users, or the pids of others.
/// Else it is where it was forked, in the node's pid namespace or as the first of a new one.
fn must_fork(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let find = |kind| namespaces?.iter().find(|namespace| namespace.typ() == kind);
    let joins_pids = find(LinuxNamespaceType::Pid).is_some_and(|pids| pids.path().is_some());
    joins_pids || find(LinuxNamespaceType::User).is_some()
}

/// What init's standard streams become: all above 2.
pub(super) enum Streams {
    /// Its input, output and error.
    Files([OwnedFd; 3]),
    /// The socket that its terminal goes to.
    Console(OwnedFd),
}

impl Init {
    /// Makes the calling process init, or a sibling that it forks and ends for; returns only when that failed. The caller
    /// must have one thread, and be in the container's cgroup and in the pod's namespaces; in a new pid namespace too, where
    /// that is the way.
    pub fn run(self, diary: &Diary) -> Failure {
        match self.become_init() {
            Ok(()) => Failure::said(Stage::Build, "init came back"),
            Err(error) => diary.explain(&*error),
        }
    }

    fn become_init(self) -> Result<(), Box<dyn Error>> {
        let (must_fork, ready) = (must_fork(&self.spec), self.last_step.ready.clone());
        // Not dropped when init fails: the last step closes some of its descriptors by number.
        let arguments = ManuallyDrop::new(self.arguments()?);
        // After everything that needs a path: the root of a pod's own users may not even look into the container's folder.
        if must_fork {
            enter_by_forking(&arguments.spec)?;
        }
        let _ = set_name(c"inro-init");
        ready.pid.set(own_pid()?);

        // libcontainer expects somebody on the other side, who is only ever asked whether hooks are done.
        let (mut to_nobody, _from_init) = main_channel()?;
        let (mut from_nobody, mut of_init) = init_channel()?;
        from_nobody.hook_done()?;
        Ok(container_init_process(&arguments, &mut to_nobody, &mut of_init)?)
    }

    /// In libcontainer's words. Descriptors are numbers there: `arguments` must not outlive those that it was made of, which
    /// is why they are given away.
    fn arguments(self) -> Result<ContainerArgs, Box<dyn Error>> {
        let (mut files, mut console) = ([None; 3], None);
        match self.stdio {
            Streams::Files(streams) => files = streams.map(|fd| Some(fd.into_raw_fd())),
            Streams::Console(socket) => console = Some(socket.into_raw_fd()),
        }
        let [stdin, stdout, stderr] = files;
        // libcontainer runs no hook without one; what hooks are told is the daemon's.
        let state = State::new(&self.id, ContainerStatus::Creating, None, self.dir.clone());
        Ok(ContainerArgs {
            container_type: ContainerType::InitContainer,
            syscall: SyscallType::default(),
            spec: Rc::new(self.spec),
            rootfs: self.rootfs,
            console_socket: console,
            notify_listener: NotifyListener::new(&self.dir.join(NOTIFY_FILE))?,
            preserve_fds: 0,
            container: Some(Container { state, root: self.dir }),
            user_ns_config: None,
            cgroup_config: CgroupConfig {
                cgroup_path: PathBuf::new(),
                systemd_cgroup: false,
                container_name: self.id,
            },
            detached: true,
            executor: Box::new(self.last_step),
            no_pivot: false,
            stdin,
            stdout,
            stderr,
            as_sibling: true,
            pid_file: None,
        })
    }
}

/// Tells those who wait for it that init is complete.
pub(super) struct Ready {
    /// To the daemon.
    pub reply: Rc<OwnedFd>,
    /// To the shim.
    pub shim: OwnedFd,
    pub oom_score_adj_refused: bool,
    /// Taken when it is told.
    pub clock: Cell<Option<Stopwatch>>,
    /// Init's, as the node counts.
    pub pid: Cell<u32>,
}

impl Ready {
    /// Tells the shim, then the daemon; and hangs up, since init may wait for its start for days.
    pub fn tell(&self) -> Result<(), Failure> {
        let init_pid = self.pid.get();
        let told = rustix::io::write(&self.shim, format!("{init_pid}\n").as_bytes());
        told.map_err(|error| Failure::new(Stage::Shim, "tell it the first process", error))?;
        let mut clock = self.clock.take();
        if let Some(clock) = &mut clock {
            clock.lap("init");
        }
        let reply = Reply::Created {
            init_pid,
            stages: clock.map(Stopwatch::stages).unwrap_or_default(),
            oom_score_adj_refused: self.oom_score_adj_refused,
        };
        // A daemon that is gone does not care.
        let _ = send(self.reply.as_fd(), &reply, &[]);
        for number in [self.reply.as_raw_fd(), self.shim.as_raw_fd()] {
            process::close_numbers(number, number);
        }
        Ok(())
    }
}

/// Goes on as a sibling, in the namespaces that only a new process is in. The pid namespace is the user namespace's.
fn enter_by_forking(spec: &Spec) -> Result<(), Box<dyn Error>> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let namespaces = Namespaces::try_from(namespaces)?;
    if let Some(user) = namespaces.get(LinuxNamespaceType::User)? {
        namespaces.unshare_or_setns(user)?;
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    }
    if let Some(pid) = namespaces.get(LinuxNamespaceType::Pid)? {
        namespaces.unshare_or_setns(pid)?;
    }
    match fork_sibling()? {
        Side::Parent(_) => exit(0),
        Side::Child => Ok(()),
    }
}

/// Our pid as the /proc here counts, which is the node's.
fn own_pid() -> io::Result<u32> {
    let link = fs::read_link("/proc/self")?;
    let pid = link.to_str().and_then(|pid| pid.parse().ok());
    pid.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
