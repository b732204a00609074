//! What confines a container, as the CRI says it.

use std::path::Path;

use inro_proto as wire;
use wire::security_profile::ProfileType;

use super::{Parsed, absolute};
use crate::{
    cri::error::Fault,
    model::{
        CapabilityChanges, GroupsPolicy, IdRange, NamespaceMode, Namespaces, Profile, RunAs, Security, UserNamespace,
    },
};

const CONTEXT: &str = "config.linux.security_context";
/// There where a kernel with SELinux has it mounted.
const ENFORCING: &str = "/sys/fs/selinux/enforce";

/// Source: CRI `LinuxContainerSecurityContext`.
#[expect(deprecated, reason = "older kubelets set the old fields of seccomp and AppArmor")]
pub fn security(context: wire::LinuxContainerSecurityContext) -> Parsed<Security> {
    let field = |name: &str| format!("{CONTEXT}.{name}");
    let capabilities = context.capabilities.unwrap_or_default();
    no_selinux(context.selinux_options.as_ref(), CONTEXT)?;
    let run_as = match (context.run_as_user, context.run_as_username.as_str()) {
        (Some(uid), "") => Some(RunAs::Uid(id(uid.value, &field("run_as_user"))?)),
        (Some(_), _) => return Err(Fault::new(field("run_as_username"), "run_as_user is there too")),
        (None, "") => None,
        (None, name) if name.contains(['\n', ':', '\0']) => {
            return Err(Fault::new(
                field("run_as_username"),
                format!("{name:?} is not a user name"),
            ));
        }
        (None, name) => Some(RunAs::Name(name.to_owned())),
    };
    let run_as_group = context
        .run_as_group
        .map(|gid| id(gid.value, &field("run_as_group")))
        .transpose()?;
    if run_as_group.is_some() && run_as.is_none() {
        return Err(Fault::new(
            field("run_as_group"),
            "needs run_as_user or run_as_username",
        ));
    }
    let groups = context.supplemental_groups.into_iter();
    let paths = |paths: Vec<String>, name: &str| {
        paths
            .iter()
            .map(|path| absolute(path, &field(name)))
            .collect::<Parsed<Vec<_>>>()
    };
    Ok(Security {
        privileged: context.privileged,
        run_as,
        run_as_group,
        supplemental_groups: groups
            .map(|gid| id(gid, &field("supplemental_groups")))
            .collect::<Parsed<_>>()?,
        groups_policy: match wire::SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy) {
            Ok(wire::SupplementalGroupsPolicy::Merge) => GroupsPolicy::Merge,
            Ok(wire::SupplementalGroupsPolicy::Strict) => GroupsPolicy::Strict,
            Err(_) => return Err(Fault::new(field("supplemental_groups_policy"), "is unknown")),
        },
        capabilities: CapabilityChanges {
            add: capabilities.add_capabilities,
            drop: capabilities.drop_capabilities,
            add_ambient: capabilities.add_ambient_capabilities,
        },
        no_new_privs: context.no_new_privs,
        readonly_rootfs: context.readonly_rootfs,
        seccomp: seccomp(context.seccomp, &context.seccomp_profile_path)?,
        apparmor: apparmor(context.apparmor, &context.apparmor_profile)?,
        masked_paths: paths(context.masked_paths, "masked_paths")?,
        readonly_paths: paths(context.readonly_paths, "readonly_paths")?,
        namespaces: namespaces(context.namespace_options, CONTEXT)?,
    })
}

/// Source: CRI `NamespaceOption`.
pub fn namespaces(options: Option<wire::NamespaceOption>, context: &str) -> Parsed<Namespaces> {
    let options = options.unwrap_or_default();
    let field = |name: &str| format!("{context}.namespace_options.{name}");
    let shared = |mode: i32, name: &str| match wire::NamespaceMode::try_from(mode) {
        Ok(wire::NamespaceMode::Pod) => Ok(NamespaceMode::Pod),
        Ok(wire::NamespaceMode::Node) => Ok(NamespaceMode::Node),
        _ => Err(Fault::new(field(name), "only POD and NODE are possible")),
    };
    let pid = match wire::NamespaceMode::try_from(options.pid) {
        Ok(wire::NamespaceMode::Pod) => NamespaceMode::Pod,
        Ok(wire::NamespaceMode::Container) => NamespaceMode::Container,
        Ok(wire::NamespaceMode::Node) => NamespaceMode::Node,
        Ok(wire::NamespaceMode::Target) => NamespaceMode::Target(
            options
                .target_id
                .parse()
                .map_err(|_| Fault::new(field("target_id"), "is not a container id"))?,
        ),
        Err(_) => return Err(Fault::new(field("pid"), format!("{} is unknown", options.pid))),
    };
    Ok(Namespaces {
        user: user_namespace(options.userns_options, &field("userns_options"))?,
        network: shared(options.network, "network")?,
        pid,
        ipc: shared(options.ipc, "ipc")?,
    })
}

/// Source: CRI `UserNamespace`; the kubelet gives each pod one range, which is all that the CRI allows so far.
fn user_namespace(options: Option<wire::UserNamespace>, field: &str) -> Parsed<Option<UserNamespace>> {
    let Some(options) = options else { return Ok(None) };
    match wire::NamespaceMode::try_from(options.mode) {
        Ok(wire::NamespaceMode::Pod) => Ok(Some(UserNamespace {
            uids: id_range(&options.uids, &format!("{field}.uids"))?,
            gids: id_range(&options.gids, &format!("{field}.gids"))?,
        })),
        Ok(wire::NamespaceMode::Node) if options.uids.is_empty() && options.gids.is_empty() => Ok(None),
        Ok(wire::NamespaceMode::Node) => Err(Fault::new(
            if options.uids.is_empty() {
                format!("{field}.gids")
            } else {
                format!("{field}.uids")
            },
            "is for mode POD",
        )),
        _ => Err(Fault::new(format!("{field}.mode"), "only POD and NODE are possible")),
    }
}

/// The one range of a mapping; it has to have id 0 in it.
pub(super) fn id_range(mappings: &[wire::IdMapping], field: &str) -> Parsed<IdRange> {
    let [mapping] = mappings else {
        let why = format!("has {} mappings: exactly one is possible", mappings.len());
        return Err(Fault::new(field, why));
    };
    if mapping.container_id != 0 {
        return Err(Fault::new(field, "does not map id 0"));
    }
    // The last id of all, 2^32 - 1, means "none" to the kernel.
    if mapping.length == 0 || mapping.host_id.checked_add(mapping.length).is_none() {
        return Err(Fault::new(field, "is empty or leaves the range of ids"));
    }
    Ok(IdRange {
        host: mapping.host_id,
        size: mapping.length,
    })
}

/// A label that this host would enforce and we do not apply is an error. Where the kernel has none, as is usual, there is
/// nothing to apply, and pods name them all the same (`docs/decisions/0013-selinux.md`).
pub fn no_selinux(options: Option<&wire::SeLinuxOption>, context: &str) -> Parsed<()> {
    let asked = options.is_some_and(|o| {
        [&o.user, &o.role, &o.r#type, &o.level]
            .iter()
            .any(|part| !part.is_empty())
    });
    if asked && Path::new(ENFORCING).exists() {
        return Err(Fault::unimplemented(format!("{context}.selinux_options")));
    }
    Ok(())
}

/// The new field wins over the deprecated one; neither means unconfined; an empty profile is the runtime's default.
fn seccomp(profile: Option<wire::SecurityProfile>, deprecated: &str) -> Parsed<Profile> {
    let field = format!("{CONTEXT}.seccomp");
    match profile {
        Some(profile) => named(profile, &field),
        None => match deprecated {
            "" | "unconfined" => Ok(Profile::Unconfined),
            "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
            other => match other.strip_prefix("localhost/") {
                Some(path) if !path.is_empty() => Ok(Profile::Localhost(path.to_owned())),
                _ => Err(Fault::new(
                    format!("{CONTEXT}.seccomp_profile_path"),
                    format!("{other:?} is not a profile"),
                )),
            },
        },
    }
}

/// The new field wins over the deprecated one. Some clients write a name as the old field has it.
fn apparmor(profile: Option<wire::SecurityProfile>, deprecated: &str) -> Parsed<Option<Profile>> {
    if let Some(profile) = profile {
        return Ok(Some(match named(profile, &format!("{CONTEXT}.apparmor"))? {
            Profile::Localhost(name) => Profile::Localhost(name.strip_prefix("localhost/").unwrap_or(&name).to_owned()),
            other => other,
        }));
    }
    match deprecated {
        "" => Ok(None),
        "unconfined" => Ok(Some(Profile::Unconfined)),
        "runtime/default" => Ok(Some(Profile::RuntimeDefault)),
        other => match other.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => Ok(Some(Profile::Localhost(name.to_owned()))),
            _ => Err(Fault::new(
                format!("{CONTEXT}.apparmor_profile"),
                format!("{other:?} is not a profile"),
            )),
        },
    }
}

fn named(profile: wire::SecurityProfile, field: &str) -> Parsed<Profile> {
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => Ok(Profile::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(Profile::Unconfined),
        Ok(ProfileType::Localhost) if profile.localhost_ref.is_empty() => Err(Fault::new(
            format!("{field}.localhost_ref"),
            "is required for a localhost profile",
        )),
        Ok(ProfileType::Localhost) => Ok(Profile::Localhost(profile.localhost_ref)),
        Err(_) => Err(Fault::new(format!("{field}.profile_type"), "is unknown")),
    }
}

/// The users and groups of a sandbox: no process of ours runs as them, but what is no id is no id.
pub fn ids(context: &wire::LinuxSandboxSecurityContext) -> Parsed<()> {
    let field = |name: &str| format!("{CONTEXT}.{name}");
    for (value, name) in [
        (&context.run_as_user, "run_as_user"),
        (&context.run_as_group, "run_as_group"),
    ] {
        if let Some(value) = value {
            id(value.value, &field(name))?;
        }
    }
    for group in &context.supplemental_groups {
        id(*group, &field("supplemental_groups"))?;
    }
    Ok(())
}

fn id(value: i64, field: &str) -> Parsed<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id <= i32::MAX.cast_unsigned())
        .ok_or_else(|| Fault::new(field, format!("{value} is not a user or group id")))
}
