//! The last steps before exec: seccomp filter and final capability sets, in the order that lets both be applied.

use rustix::thread::set_no_new_privs;

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

const SYS_ADMIN: u64 = 1 << 21;
