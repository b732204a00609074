//! The last steps before exec: seccomp filter and final capability sets, in the order that lets both be applied.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, open, openat2},
    thread::set_no_new_privs,
};

use super::error::{Failure, Stage};
use crate::{
    model::CapabilitySets,
    sys::{capset, process::install_seccomp},
};

/// Confines the calling process. It must hold SYS_ADMIN and SETPCAP as permitted capabilities.
///
/// Without no_new_privs a filter needs SYS_ADMIN, so that goes after it: one capset(2) which the profile must allow,
/// as every profile written for other runtimes does. With no_new_privs the filter is really the last thing.
pub(super) fn confine(sets: &CapabilitySets, seccomp: Option<&[u8]>, no_new_privs: bool) -> Result<(), Failure> {
    let step = |what: &'static str| move |error| Failure::new(Stage::Confine, what, error);
    let (_, permitted, _) = capset::current().map_err(step("read capabilities"))?;
    let keep = if seccomp.is_some() && !no_new_privs {
        SYS_ADMIN
    } else {
        0
    };

    // Whatever user we are by now: what is permitted is effective, for the steps that need it.
    capset::set(permitted, permitted, 0).map_err(step("raise capabilities"))?;
    capset::limit_bounding(sets.bounding).map_err(step("limit the bounding set"))?;
    capset::set(
        (sets.effective | keep) & permitted,
        (sets.permitted | keep) & permitted,
        sets.inheritable,
    )
    .map_err(step("set capabilities"))?;
    capset::set_ambient(sets.ambient).map_err(step("set ambient capabilities"))?;
    if no_new_privs {
        set_no_new_privs(true).map_err(|e| step("set no_new_privs")(e.into()))?;
    }
    if let Some(program) = seccomp {
        install_seccomp(program).map_err(step("install the seccomp filter"))?;
    }
    if keep != 0 {
        capset::set(sets.effective & permitted, sets.permitted & permitted, sets.inheritable)
            .map_err(step("set capabilities under the seccomp filter"))?;
    }
    Ok(())
}

/// Lets the next exec of the calling thread change to an AppArmor profile. Comes before [`confine`], whose filter and
/// no_new_privs would be in its way.
///
/// `proc` is a /proc that can be trusted; nothing that is mounted below it is written to (CVE-2019-16884).
pub(super) fn change_profile(proc: BorrowedFd<'_>, profile: &str) -> Result<(), Failure> {
    let step = |error: io::Error| Failure::new(Stage::Confine, format!("AppArmor profile {profile:?}"), error);
    let open = |path: &str| {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        openat2(
            proc,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS,
        )
    };
    // The second is of kernels before 5.8, where AppArmor has it unless another module is there too.
    let file = open("thread-self/attr/apparmor/exec").or_else(|_| open("thread-self/attr/exec"));
    let mut file = File::from(file.map_err(|errno| step(errno.into()))?);
    file.write_all(format!("exec {profile}").as_bytes()).map_err(step)
}

/// The /proc of the calling process' own mount namespace, if it really is one: a container's is what its image and its
/// volumes made of it.
pub(super) fn own_proc() -> Result<OwnedFd, Failure> {
    let step = |error: io::Error| Failure::new(Stage::Confine, "/proc", error);
    let proc = open(
        "/proc",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let proc = proc.map_err(|errno| step(errno.into()))?;
    let whole = fstatfs(&proc).and_then(|system| Ok(system.f_type == PROC_SUPER_MAGIC && fstat(&proc)?.st_ino == ROOT));
    match whole.map_err(|errno| step(errno.into()))? {
        true => Ok(proc),
        false => Err(Failure::said(
            Stage::Confine,
            "/proc of the container is not the kernel's",
        )),
    }
}

/// `PROC_ROOT_INO` of the kernel.
const ROOT: u64 = 1;
const SYS_ADMIN: u64 = 1 << 21;
