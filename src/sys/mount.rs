//! The one call of the new mount API that rustix lacks.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use procfs::process::Process;
use rustix::{
    fs::{AtFlags, StatxFlags, statx},
    mount::{MountAttrFlags, MountPropagationFlags},
};

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Makes the mount behind `fd` read-only, and with `recursive` those below it too (since Linux 5.12).
///
/// # Errors
/// Those of mount_setattr(2).
pub fn set_readonly(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    add(fd, recursive, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Shows the files of the detached tree behind `fd` as the user namespace behind `userns` maps their owners: what
/// belongs to id 0 on the disk belongs to its root.
///
/// # Errors
/// Those of mount_setattr(2): EINVAL when a file system of the tree cannot be id-mapped.
pub fn set_idmap(fd: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        userns_fd: u64::from(userns.as_raw_fd().unsigned_abs()),
        ..MountAttr::default()
    };
    set(fd, true, &attr)
}

/// Gives the mount behind `fd` the attributes `MOUNT_ATTR_*`, beside those it has.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn set_attributes(fd: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<()> {
    add(fd, false, attributes)
}

/// Sets how mounts and unmounts travel to and from the whole tree behind `fd`.
///
/// # Errors
/// Those of mount_setattr(2).
pub fn set_propagation(fd: BorrowedFd<'_>, propagation: MountPropagationFlags) -> io::Result<()> {
    let attr = MountAttr {
        propagation: propagation.bits().into(),
        ..MountAttr::default()
    };
    set(fd, true, &attr)
}

/// The type of the file system that `fd` is on, as mount(8) calls it; `None`: this namespace does not have its mount.
///
/// Source: statx(2), STATX_MNT_ID (since Linux 5.8); proc_pid_mountinfo(5).
pub fn file_system(fd: BorrowedFd<'_>) -> Option<String> {
    let mount = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let mut mounts = Process::myself().and_then(|me| me.mountinfo()).ok()?.0.into_iter();
    let found = mounts.find(|one| u64::try_from(one.mnt_id) == Ok(mount.stx_mnt_id))?;
    Some(found.fs_type)
}

fn add(fd: BorrowedFd<'_>, recursive: bool, attributes: MountAttrFlags) -> io::Result<()> {
    let attr = MountAttr {
        set: attributes.bits().into(),
        ..MountAttr::default()
    };
    set(fd, recursive, &attr)
}

fn set(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    // SAFETY: the path is empty and NUL-terminated, `attr` has the size told, the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 },
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Since Linux 5.12; overlayfs over such layers since 5.19, tmpfs since 6.3.
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

#[cfg(test)]
mod test {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    #[test]
    fn a_file_system_is_named_as_it_is_mounted() {
        for (folder, name) in [("/proc", "proc"), ("/sys", "sysfs")] {
            let folder = File::open(folder).unwrap();
            assert_eq!(file_system(folder.as_fd()).as_deref(), Some(name));
        }
    }
}
