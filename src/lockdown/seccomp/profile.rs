//! A profile's JSON, resolved for this host: which rule of which system call number does what.
//!
//! Source: OCI runtime-spec, "Seccomp", with the conditions (`includes`, `excludes`) that engines add to it.

use std::collections::BTreeMap;

use caps::Capability;
use serde::Deserialize;

/// Rules by architecture.
#[derive(Debug)]
pub struct Rules {
    /// The kernel's action for a system call that no rule names.
    pub default: u32,
    pub architectures: Vec<Architecture>,
}

/// One architecture's rules.
#[derive(Debug)]
pub struct Architecture {
    /// AUDIT_ARCH_*.
    pub audit: u32,
    /// By system call number; the first that matches wins.
    pub rules: BTreeMap<u32, Vec<Rule>>,
}

/// An action under conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub conditions: Vec<Condition>,
    pub action: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Argument 0 to 5.
    pub argument: u32,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// `argument & mask == value`.
    Masked {
        mask: u64,
        value: u64,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileJson {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMapJson>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<SyscallJson>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMapJson {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SyscallJson {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<ArgJson>>,
    #[serde(default)]
    includes: Option<FilterJson>,
    #[serde(default)]
    excludes: Option<FilterJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArgJson {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct FilterJson {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
pub const AUDIT_ARCH_I386: u32 = 0x4000_0003;
pub const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;

/// Resolves a profile for a container with the capabilities of `bounding`. The error names the key at fault.
pub fn parse(text: &str, bounding: u64) -> Result<Rules, String> {
    let json: ProfileJson = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if json.listener_path.is_some() {
        return Err("listenerPath: notification is not supported".into());
    }
    let errno = json.default_errno_ret;
    let default = action(&json.default_action, errno).map_err(|why| format!("defaultAction: {why}"))?;
    let mut architectures = architectures(&json);
    for (at, syscall) in json.syscalls.iter().flatten().enumerate() {
        let at = |key: &str, why: String| format!("syscalls[{at}].{key}: {why}");
        if !applies(syscall, bounding).map_err(|why| at("includes", why))? {
            continue;
        }
        let does = action(&syscall.action, syscall.errno_ret).map_err(|why| at("action", why))?;
        let args = syscall.args.iter().flatten();
        let conditions: Vec<_> = args
            .map(condition)
            .collect::<Result<_, _>>()
            .map_err(|why| at("args", why))?;
        let rule = Rule {
            conditions,
            action: does,
        };
        for name in syscall.name.iter().chain(&syscall.names) {
            for (architecture, lookup) in &mut architectures {
                // A name that this architecture does not have is passed over, as libseccomp does.
                if let Some(number) = lookup(name) {
                    architecture.rules.entry(number).or_default().push(rule.clone());
                }
            }
        }
    }
    Ok(Rules {
        default,
        architectures: architectures
            .into_iter()
            .map(|(architecture, _)| architecture)
            .collect(),
    })
}

type Lookup = fn(&str) -> Option<u32>;

/// The native architecture, and on x86_64 the 32-bit one when the profile covers it.
fn architectures(json: &ProfileJson) -> Vec<(Architecture, Lookup)> {
    let arch = |audit| Architecture {
        audit,
        rules: BTreeMap::new(),
    };
    let number = |found: Option<i32>| found.map(i32::cast_unsigned);
    if cfg!(target_arch = "aarch64") {
        let lookup: Lookup = |name| {
            name.parse::<syscalls::aarch64::Sysno>()
                .ok()
                .map(|s| s.id().cast_unsigned())
        };
        return vec![(arch(AUDIT_ARCH_AARCH64), lookup)];
    }
    let _ = number;
    let native: Lookup = |name| {
        name.parse::<syscalls::x86_64::Sysno>()
            .ok()
            .map(|s| s.id().cast_unsigned())
    };
    let narrow: Lookup = |name| {
        name.parse::<syscalls::x86::Sysno>()
            .ok()
            .map(|s| s.id().cast_unsigned())
    };
    let mapped = json.arch_map.iter().flatten().any(|map| {
        map.architecture == "SCMP_ARCH_X86_64"
            && map.sub_architectures.iter().flatten().any(|sub| sub == "SCMP_ARCH_X86")
    });
    let mut all = vec![(arch(AUDIT_ARCH_X86_64), native)];
    if mapped || json.architectures.iter().any(|name| name == "SCMP_ARCH_X86") {
        all.push((arch(AUDIT_ARCH_I386), narrow));
    }
    all
}

fn applies(syscall: &SyscallJson, bounding: u64) -> Result<bool, String> {
    let has = |name: &String| -> Result<bool, String> {
        let capability: Capability = name.parse().map_err(|_| format!("{name:?} is not a capability"))?;
        Ok(bounding & capability.bitmask() != 0)
    };
    let native = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    if let Some(includes) = &syscall.includes {
        for name in includes.caps.iter().flatten() {
            if !has(name)? {
                return Ok(false);
            }
        }
        if includes
            .arches
            .as_ref()
            .is_some_and(|list| !list.is_empty() && !list.iter().any(|a| a == native))
        {
            return Ok(false);
        }
        if includes
            .min_kernel
            .as_deref()
            .is_some_and(|version| !kernel_is_at_least(version))
        {
            return Ok(false);
        }
    }
    if let Some(excludes) = &syscall.excludes {
        for name in excludes.caps.iter().flatten() {
            if has(name)? {
                return Ok(false);
            }
        }
        if excludes.arches.iter().flatten().any(|a| a == native) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn kernel_is_at_least(version: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(['.', '-', '+'])
            .map_while(|part| part.parse().ok())
            .take(2)
            .collect()
    };
    numbers(&rustix::system::uname().release().to_string_lossy()) >= numbers(version)
}

/// The kernel's return value for an action. Source: seccomp(2), "Filters".
fn action(name: &str, errno: Option<u32>) -> Result<u32, String> {
    let data = errno.unwrap_or(libc::EPERM.cast_unsigned()) & 0xffff;
    Ok(match name {
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | data,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_NOTIFY" => return Err("SCMP_ACT_NOTIFY is not supported".into()),
        other => return Err(format!("{other:?} is not an action")),
    })
}

fn condition(arg: &ArgJson) -> Result<Condition, String> {
    if arg.index > 5 {
        return Err(format!("index {} is above 5", arg.index));
    }
    let test = match arg.op.as_str() {
        "SCMP_CMP_EQ" => Test::Equal(arg.value),
        "SCMP_CMP_NE" => Test::NotEqual(arg.value),
        "SCMP_CMP_LT" => Test::Less(arg.value),
        "SCMP_CMP_LE" => Test::LessOrEqual(arg.value),
        "SCMP_CMP_GT" => Test::Greater(arg.value),
        "SCMP_CMP_GE" => Test::GreaterOrEqual(arg.value),
        "SCMP_CMP_MASKED_EQ" => Test::Masked {
            mask: arg.value,
            value: arg.value_two,
        },
        other => return Err(format!("{other:?} is not a comparison")),
    };
    Ok(Condition {
        argument: arg.index,
        test,
    })
}
