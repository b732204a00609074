//! Rules by which a container's files stay in the project that limits its writable layer.
//!
//! For a file's project, and whether a folder hands it on, the kernel asks only who owns the file and whether that is somebody in
//! the first user namespace. Source: ioctl_fs(2) FS_IOC_FSSETXATTR, FS_IOC_SETFLAGS; file_setattr(2); kernel fs/file_attr.c,
//! `fileattr_set_prepare`.

use std::collections::BTreeMap;

use super::profile::{
    AUDIT_ARCH_AARCH64, AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, Architecture, Condition, Rule, Rules, Test,
};

/// FS_IOC_FSSETXATTR, FS_IOC_SETFLAGS, and FS_IOC32_SETFLAGS.
const COMMANDS: [u64; 3] = [0x401c_5820, 0x4008_6602, 0x4004_6602];
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;
/// In the numbers of an ABI of x86_64 that has its own ioctl(2).
const X32: u32 = 0x4000_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// What an architecture calls them.
struct Numbers {
    audit: u32,
    ioctl: &'static [u32],
    file_setattr: &'static [u32],
}

const fn numbers(audit: u32, ioctl: &'static [u32], file_setattr: &'static [u32]) -> Numbers {
    Numbers {
        audit,
        ioctl,
        file_setattr,
    }
}

const X86: [Numbers; 2] = [
    numbers(AUDIT_ARCH_X86_64, &[16, X32 + 16, X32 + 514], &[469, X32 + 469]),
    numbers(AUDIT_ARCH_I386, &[54], &[469]),
];
const ARM: [Numbers; 2] = [
    numbers(AUDIT_ARCH_AARCH64, &[29], &[469]),
    numbers(AUDIT_ARCH_ARM, &[54], &[469]),
];

/// Puts these rules before all others, for every architecture whose programs this kernel may run.
pub fn keep_projects(rules: &mut Rules) {
    for numbers in if cfg!(target_arch = "aarch64") { ARM } else { X86 } {
        let architecture = architecture(rules, numbers.audit);
        for number in numbers.ioctl {
            let rules = architecture.rules.entry(*number).or_default();
            rules.splice(0..0, COMMANDS.map(refuse_command));
        }
        for number in numbers.file_setattr {
            // Who finds that there is no such call goes back to the older one.
            let refuse = Rule {
                conditions: Vec::new(),
                action: ENOSYS,
            };
            architecture.rules.insert(*number, vec![refuse]);
        }
    }
}

fn refuse_command(command: u64) -> Rule {
    let is_command = Condition {
        argument: 1,
        // The kernel looks at no more of it.
        test: Test::Masked {
            mask: u64::from(u32::MAX),
            value: command,
        },
    };
    Rule {
        conditions: vec![is_command],
        action: EPERM,
    }
}

/// One without rules gives the default action to every call, as it does when it is not there.
fn architecture(rules: &mut Rules, audit: u32) -> &mut Architecture {
    let known = rules.architectures.iter().position(|known| known.audit == audit);
    let at = known.unwrap_or_else(|| {
        rules.architectures.push(Architecture {
            audit,
            rules: BTreeMap::new(),
        });
        rules.architectures.len() - 1
    });
    &mut rules.architectures[at]
}
