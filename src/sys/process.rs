//! What a process does to itself between fork and exec.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use rustix::io::fcntl_dupfd_cloexec;

/// Every signal back to its default action and none blocked, but for those that [`ignore_signals`] says.
pub fn reset_signals(ignore_pipe: bool, ignore_child: bool) {
    for signal in 1..=64 {
        set_action(signal, libc::SIG_DFL);
    }
    ignore_signals(ignore_pipe, ignore_child);
    // SAFETY: `none` is initialised by sigemptyset before it is read.
    unsafe {
        let mut none = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// Whether SIGPIPE and SIGCHLD are ignored: enough for a child of who has called [`reset_signals`].
pub fn ignore_signals(pipe: bool, child: bool) {
    for (signal, ignored) in [(libc::SIGPIPE, pipe), (libc::SIGCHLD, child)] {
        set_action(signal, if ignored { libc::SIG_IGN } else { libc::SIG_DFL });
    }
}

/// Sets what is no handler.
fn set_action(signal: i32, action: libc::sighandler_t) {
    // `struct kernel_sigaction`: handler, flags, restorer, mask. Not through libc, which keeps some signals from
    // its callers; a process started by a careless parent has those ignored.
    let action = [action, 0, 0, 0];
    // SAFETY: installs no handler, so no code can run by it; the kernel reads the 32 bytes that `action` has.
    // Refusals (SIGKILL, SIGSTOP) do not matter.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            action.as_ptr(),
            ptr::null_mut::<usize>(),
            8,
        )
    };
}

/// Executes the program behind `program`; returns only on failure.
pub fn exec_fd(program: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in NULL and their strings outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

/// execve(2); returns only on failure.
pub fn exec(path: &CStr, args: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in NULL and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Makes descriptor `number` a copy of `fd` that survives exec. Whatever had the number before is closed.
///
/// The number is from then on nobody's `OwnedFd`: use it only for the numbers agreed with a program about to be executed.
pub fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: callers move every descriptor they own above the agreed numbers first (`lift`), so no owner loses one.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The inherited descriptor `number`, close-on-exec from now on. EBADF when there is none.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: for a number agreed with who executed us, taken once: nothing else in this program owns it.
    let fd = unsafe {
        if libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(number)
    };
    Ok(fd)
}

/// Moves a descriptor out of the way of the numbers that [`place`] uses.
pub fn lift(fd: OwnedFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(fd, LIFTED)?)
}

/// Closes all descriptors from `first` to `last`.
pub fn close_numbers(first: RawFd, last: RawFd) {
    // SAFETY: used at start-up, before any descriptor is owned, and right before exec or exit, after which no owner runs.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Marks all descriptors from `first` on close-on-exec.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: changes a flag of descriptors, no memory.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, RawFd::MAX, CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Installs a seccomp filter: an array of `struct sock_filter` as bytes. Does not set no_new_privs.
///
/// Source: seccomp(2), SECCOMP_SET_MODE_FILTER.
pub fn install_seccomp(program: &[u8]) -> io::Result<()> {
    if program.is_empty() || !program.len().is_multiple_of(size_of::<libc::sock_filter>()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let filter: Vec<libc::sock_filter> = program
        .chunks_exact(size_of::<libc::sock_filter>())
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel copies and checks them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// Above every number that [`place`] is used with.
const LIFTED: RawFd = 200;

const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
