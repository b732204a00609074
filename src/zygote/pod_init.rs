//! The first process of a pid namespace shared by a pod's containers: the shim binary as a reaper.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, open},
    mount::{MountAttrFlags, UnmountFlags, unmount},
    process::{Pid, PidfdFlags, Signal, chdir, kill_process, pidfd_open, pivot_root, setsid},
    thread::{
        LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_name, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use super::{
    confine::confine,
    error::{Failure, Stage},
    home::{attach, file_system},
    protocol::{CgroupJoin, Incoming, JoinWire, Reply},
    server::{Context, c, fork_in, join_v1},
};
use crate::{
    model::CapabilitySets,
    sys::{
        fork::{Side, exit, unshare},
        process,
    },
};

/// The worker, from its first instruction on. `joined`: net, ipc and uts, and last the user namespace, which lets go of
/// the rights over the others.
pub(super) fn work(context: Context, cgroup: &JoinWire, joined: &[usize], fds: Incoming) -> ! {
    let _ = set_name(c"inro-pod-init");
    match make(&context, cgroup, joined, fds) {
        Ok(()) => exit(0),
        Err(failure) => {
            context.answer(&Reply::Failed(failure), &[]);
            exit(1)
        }
    }
}

fn make(context: &Context, cgroup: &JoinWire, joined: &[usize], mut fds: Incoming) -> Result<(), Failure> {
    let step = |what: &'static str| move |error: std::io::Error| Failure::new(Stage::Namespaces, what, error);
    process::ignore_signals(true, false);
    let cgroup = fds.join(cgroup)?;
    for &index in joined {
        let fd = fds.take(index)?;
        move_into_link_name_space(fd.as_fd(), None::<LinkNameSpaceType>)
            .map_err(|e| step("join the pod's")(e.into()))?;
    }
    unshare(UnshareFlags::NEWPID).map_err(step("new pid namespace"))?;

    // The end of this pipe tells that the reaper has been executed; before it, that it was not.
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| step("a pipe")(e.into()))?;
    let reaper = match fork_in(Some(&cgroup), false)? {
        Side::Parent(pid) => pid,
        Side::Child => {
            drop(read);
            let failure = reap(context, &cgroup, &write);
            let _ = rustix::io::write(&write, &serde_json::to_vec(&failure).unwrap_or_default());
            exit(1)
        }
    };
    drop(write);
    let found = wait_for_exec(&read).and_then(|()| handles(reaper));
    match found {
        Ok((pid_ns, pidfd)) => {
            let pid = reaper.as_raw_nonzero().get().unsigned_abs();
            context.answer(&Reply::PodInit { pid }, &[pid_ns.as_fd(), pidfd.as_fd()]);
            Ok(())
        }
        Err(failure) => {
            let _ = kill_process(reaper, Signal::KILL);
            Err(failure)
        }
    }
}

fn handles(reaper: Pid) -> Result<(OwnedFd, OwnedFd), Failure> {
    let step = |what: &'static str| move |error: rustix::io::Errno| Failure::new(Stage::Namespaces, what, error);
    let ns = open(
        "/proc/self/ns/pid_for_children",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    Ok((
        ns.map_err(step("open the pid namespace"))?,
        pidfd_open(reaper, PidfdFlags::empty()).map_err(step("open its first process"))?,
    ))
}

/// Pid 1 of the namespace, until it is the reaper. It is in sight of the pod's containers, so it owns nothing that
/// they could want: no mounts, no capabilities, nobody's user.
fn reap(context: &Context, cgroup: &CgroupJoin, write: &OwnedFd) -> Failure {
    let attempt = || -> Result<std::convert::Infallible, Failure> {
        let step = |what: &'static str| move |error: std::io::Error| Failure::new(Stage::Shim, what, error);
        let small = |what: &'static str| move |error: rustix::io::Errno| Failure::new(Stage::Shim, what, error);
        join_v1(cgroup)?;
        setsid().map_err(small("new session"))?;
        let null = process::lift(
            open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(small("/dev/null"))?,
        )
        .map_err(step("/dev/null"))?;
        let write = process::lift(write.try_clone().map_err(step("a pipe"))?).map_err(step("a pipe"))?;

        unshare(UnshareFlags::NEWNS).map_err(step("new mount namespace"))?;
        let empty = file_system(
            "tmpfs",
            &[("mode", "0555"), ("size", "4k")],
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        )
        .map_err(step("an empty root"))?;
        attach(&empty, "/stage").map_err(step("an empty root"))?;
        chdir("/stage").map_err(small("an empty root"))?;
        pivot_root(".", ".").map_err(small("an empty root"))?;
        unmount(".", UnmountFlags::DETACH).map_err(small("an empty root"))?;
        chdir("/").map_err(small("an empty root"))?;

        for number in 0..3 {
            process::place(null.as_fd(), number).map_err(step("arrange descriptors"))?;
        }
        process::close_on_exec_from(3).map_err(step("arrange descriptors"))?;
        // Bounding first, as the user's capabilities go with root.
        crate::sys::capset::limit_bounding(0).map_err(step("drop capabilities"))?;
        set_thread_groups(&[]).map_err(small("set groups"))?;
        become_nobody().map_err(small("set user and group"))?;
        confine(&CapabilitySets::default(), None, true)?;
        drop(write);
        process::ignore_signals(false, false);
        process::exec_fd(context.shim.as_fd(), &[c("inro-shim")?, c("reaper")?], &[])
            .map_err(step("execute the reaper"))
    };
    match attempt() {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

/// The root of a user namespace too small to have a nobody: it has no capability, and that root no rights outside.
fn become_nobody() -> rustix::io::Result<()> {
    let set = |id: u32| {
        let (gid, uid) = (rustix::process::Gid::from_raw(id), rustix::process::Uid::from_raw(id));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    };
    match set(NOBODY) {
        Err(rustix::io::Errno::INVAL) => set(0),
        done => done,
    }
}

/// Waits until the other end of the pipe is closed by exec; anything written is why there was none.
fn wait_for_exec(read: &OwnedFd) -> Result<(), Failure> {
    let mut told = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match rustix::io::read(read, &mut buffer) {
            Ok(0) if told.is_empty() => return Ok(()),
            Ok(0) => break,
            Ok(count) => told.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::new(Stage::Shim, "wait for its exec", error)),
        }
    }
    Err(serde_json::from_slice(&told).unwrap_or_else(|_| Failure::said(Stage::Shim, "it failed before exec")))
}

/// The user of the reaper; as the pause images of other runtimes.
const NOBODY: u32 = 65535;
