//! Loading a seccomp filter. libseccomp and `seccompiler::apply_filter` force no_new_privs; the call itself does not.

use std::io;

/// One BPF instruction as the kernel takes it. Source: linux/filter.h, `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

impl Instruction {
    /// Its eight bytes.
    pub fn to_bytes(self) -> [u8; 8] {
        let mut out = [0; 8];
        out[..2].copy_from_slice(&self.code.to_ne_bytes());
        (out[2], out[3]) = (self.jt, self.jf);
        out[4..].copy_from_slice(&self.k.to_ne_bytes());
        out
    }

    /// From its eight bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [a, b, jt, jf, c, d, e, f] = bytes;
        Self {
            code: u16::from_ne_bytes([a, b]),
            jt,
            jf,
            k: u32::from_ne_bytes([c, d, e, f]),
        }
    }
}

/// Installs a filter for the calling thread and all it becomes. Source: seccomp(2), SECCOMP_SET_MODE_FILTER.
///
/// # Errors
/// EACCES without no_new_privs and CAP_SYS_ADMIN; EINVAL for a bad program.
pub fn load(program: &[Instruction]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: libc::c_ushort,
        instructions: *const Instruction,
    }
    let length = program
        .len()
        .try_into()
        .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = Program {
        length,
        instructions: program.as_ptr(),
    };
    // SAFETY: the program and its instructions live through the call; the layout is `struct sock_fprog`'s.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
