//! The worker's cage: what it may still do when whatever is parsed in it has taken it over.
//!
//! Each wall stands without the others. The folder is the process's root, so no path leads out of it; Landlock says the
//! same again; a short list of system calls has no way to a socket, another process, a mount or a program; and of root's
//! capabilities there are those that files need. Landlock alone would not do: it does not see modes, owners, times and
//! extended attributes (kernel "Landlock", "Current limitations"), for which the worker has the capabilities. Nor would the
//! root: the worker makes device nodes, and the node of a disk is a way to all of it, so that none can be opened.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};
use rustix::{
    fs::CWD,
    mount::{MountAttrFlags, OpenTreeFlags, open_tree},
    process::{Pid, Resource, Rlimit, chroot, fchdir, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs},
};

use crate::sys::{
    capset,
    mount::set_attributes,
    seccomp::{self, Instruction},
};

/// What ownership, modes, device nodes and file capabilities of a layer need; nothing else.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Most of everything. Address space: a zstd window of 128 MiB, names and inodes of an image as large, and some; descriptors: two for each folder of a tree
/// as deep as a layer may be.
const LIMITS: [(Resource, u64); 7] = [
    (Resource::As, 448 << 20),
    (Resource::Core, 0),
    (Resource::Cpu, 3600),
    (Resource::Fsize, 256 << 30),
    (Resource::Memlock, 0),
    (Resource::Nofile, 1200),
    (Resource::Nproc, 0),
];

/// Locks the calling thread up for good: only `folder` can be touched, nothing can be gained. Returns the folder as it is
/// to be used from then on; whoever has another descriptor of it opens devices through that one.
///
/// # Errors
/// When the kernel refuses a part that it has; a kernel without Landlock (before 5.13) does without it.
pub fn enter(folder: &Path) -> io::Result<File> {
    // A mount of its own of the folder: no other process sees it, and it ends with this one.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let place = open_tree(CWD, folder, flags)?;
    let without = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    set_attributes(place.as_fd(), without | MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    rustix::process::umask(rustix::fs::Mode::empty());
    set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    for (resource, most) in LIMITS {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    confine(place.as_fd()).map_err(io::Error::other)?;
    fchdir(&place)?;
    chroot(".")?;
    let inside = File::open("/")?;
    capset::limit_bounding(KEPT.bits())?;
    capset::set_ambient(0)?;
    let none = CapabilitySet::empty();
    set_capabilities(
        None::<Pid>,
        CapabilitySets {
            effective: KEPT,
            permitted: KEPT,
            inheritable: none,
        },
    )?;
    seccomp::load(&filter())?;
    Ok(inside)
}

fn confine(folder: BorrowedFd<'_>) -> Result<(), landlock::RulesetError> {
    let abi = ABI::V6;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rule(PathBeneath::new(folder, AccessFs::from_all(abi)))?
        .restrict_self()?;
    Ok(())
}

/// Every system call of extraction, of the memory and locks under it, and of an end in panic.
const CALLS: [libc::c_long; 41] = [
    // The stream and the answer.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    // Files, by descriptor of their folder.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    // What a program does without asking anybody.
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Allows [`CALLS`], no memory that is executed, and answers EPERM to anything else: a C library that asks for more than
/// it needs goes on without it.
///
/// Sources: seccomp(2); linux/filter.h, linux/bpf_common.h; `struct seccomp_data`.
fn filter() -> Vec<Instruction> {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const BITS: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    /// The third argument's lower half, on a little-endian machine.
    const PROTECTION: u32 = 32;
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let instruction = |code, k, jt: usize, jf: usize| Instruction {
        code,
        // No jump is longer than the list.
        jt: u8::try_from(jt).unwrap_or(u8::MAX),
        jf: u8::try_from(jf).unwrap_or(u8::MAX),
        k,
    };
    let mut filter = vec![
        instruction(LOAD, ARCHITECTURE, 0, 0),
        instruction(EQUAL, NATIVE, 1, 0),
        instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        instruction(LOAD, NUMBER, 0, 0),
    ];
    for (at, call) in CALLS.into_iter().enumerate() {
        // After the list: refuse; look at the protection, refuse or go on; allow.
        let left = CALLS.len() - 1 - at;
        let target = match call {
            libc::SYS_mmap | libc::SYS_mprotect => left + 1,
            _ => left + 4,
        };
        let number = u32::try_from(call).unwrap_or(u32::MAX);
        filter.push(instruction(EQUAL, number, target, 0));
    }
    filter.extend([
        instruction(RETURN, refused, 0, 0),
        instruction(LOAD, PROTECTION, 0, 0),
        instruction(BITS, libc::PROT_EXEC.cast_unsigned(), 0, 1),
        instruction(RETURN, refused, 0, 0),
        instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ]);
    filter
}

/// Source: linux/audit.h, `AUDIT_ARCH_*`: the machine, 64 bits, little-endian.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
