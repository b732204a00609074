//! Device control on cgroup v2: a small BPF program, attached to the cgroup.
//!
//! Sources: kernel "Control Group v2", "Device controller"; bpf(2); linux/bpf.h, `struct bpf_cgroup_dev_ctx`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use crate::model::DeviceRule;

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Others may attach theirs, here and below: a systemd in the container, or the host's. All have to allow.
const ALLOW_MULTI: u32 = 2;

/// One eBPF instruction.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Allows exactly what `rules` allow, the last that matches winning, and nothing when none does.
///
/// # Errors
/// Those of bpf(2).
pub fn attach_device_rules(cgroup: impl AsFd, rules: &[DeviceRule]) -> io::Result<()> {
    let program = load(&compile(rules))?;
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let attach = Attach {
        target: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the attributes live through the call and their size goes with them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let attributes = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes and what they point to live through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a non-negative result is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The program: registers 2 to 5 hold type, access, major and minor; rules are tried from the last to the first.
fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let op = |code, registers, offset, immediate| Instruction {
        code,
        registers,
        offset,
        immediate,
    };
    // ldx w2 = ctx->access_type; w3 = w2 >> 16; w2 &= 0xffff; w4 = major; w5 = minor.
    let mut program = vec![
        op(0x61, 0x12, 0, 0),
        op(0xbc, 0x23, 0, 0),
        op(0x54, 0x02, 0, 0xffff),
        op(0x74, 0x03, 0, 16),
        op(0x61, 0x14, 4, 0),
        op(0x61, 0x15, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let access = access_bits(&rule.access);
        let mut tests = Vec::new();
        if rule.kind != 'a' {
            tests.push(op(0x56, 0x02, 0, if rule.kind == 'b' { 1 } else { 2 }));
        }
        if access != 7 {
            // An allowing rule must cover all that is asked for; a denying one any of it.
            tests.push(op(0xbc, 0x31, 0, 0));
            tests.push(op(0x54, 0x01, 0, if rule.allow { !access & 7 } else { access }));
            tests.push(op(if rule.allow { 0x56 } else { 0x16 }, 0x01, 0, 0));
        }
        if let Some(major) = rule.major {
            tests.push(op(0x56, 0x04, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            tests.push(op(0x56, 0x05, 0, minor as i32));
        }
        let length = tests.len();
        for (at, test) in tests.iter_mut().enumerate() {
            // Conditional jumps leave the rule: over the tests still to come and its two last instructions.
            if matches!(test.code, 0x56 | 0x16) {
                test.offset = (length - at - 1 + 2) as i16;
            }
        }
        program.extend(tests);
        program.extend([op(0xb4, 0x00, 0, i32::from(rule.allow)), op(0x95, 0, 0, 0)]);
        if length == 0 {
            // It matches everything: the verifier refuses what can never be reached.
            return program;
        }
    }
    program.extend([op(0xb4, 0x00, 0, 0), op(0x95, 0, 0, 0)]);
    program
}

/// Source: linux/bpf.h, BPF_DEVCG_ACC_MKNOD 1, READ 2, WRITE 4.
fn access_bits(access: &str) -> i32 {
    access.bytes().fold(0, |bits, letter| {
        bits | match letter {
            b'm' => 1,
            b'r' => 2,
            b'w' => 4,
            _ => 0,
        }
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_kernel_verifies_a_program_of_every_kind_of_rule() {
        let rule = |allow, kind, major, minor, access: &str| DeviceRule {
            allow,
            kind,
            major,
            minor,
            access: access.into(),
        };
        let rules = [
            rule(false, 'a', None, None, "rwm"),
            rule(true, 'c', None, None, "m"),
            rule(true, 'c', Some(1), Some(3), "rw"),
            rule(false, 'b', Some(8), None, "w"),
        ];
        match load(&compile(&rules)) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                eprintln!("skipped: bpf(2) is not allowed here: {error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
