//! The worker's cage.

use std::{io, path::Path};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use rustix::{
    process::{Pid, Resource, Rlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs},
};

/// What ownership, modes, device nodes and file capabilities of a layer need; nothing else.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);
/// Bytes of address space: a zstd window of 128 MiB and some.
const MEMORY: u64 = 512 << 20;

/// Locks the process up for good: only `folder` can be touched, nothing can be gained.
///
/// # Errors
/// When the kernel refuses a part that it has; a kernel without Landlock (before 5.13) does without it.
pub fn enter(folder: &Path) -> io::Result<()> {
    rustix::process::umask(rustix::fs::Mode::empty());
    set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let limit = |bytes| Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    setrlimit(Resource::As, limit(MEMORY))?;
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Nofile, limit(64))?;
    setrlimit(Resource::Nproc, limit(0))?;
    confine(folder).map_err(io::Error::other)?;
    let none = CapabilitySet::empty();
    set_capabilities(
        None::<Pid>,
        CapabilitySets {
            effective: KEPT,
            permitted: KEPT,
            inheritable: none,
        },
    )?;
    Ok(())
}

fn confine(folder: &Path) -> Result<(), landlock::RulesetError> {
    let abi = ABI::V6;
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    let Ok(target) = PathFd::new(folder) else { return Ok(()) };
    rules
        .add_rule(PathBeneath::new(target, AccessFs::from_all(abi)))?
        .restrict_self()?;
    Ok(())
}
