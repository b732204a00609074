//! Pods with a user namespace of their own: whether this node can have them, and whether what is asked for fits in.

use std::os::fd::AsFd;

use super::{Inner, PodError, Pods, blocking};
use crate::{
    image::snapshot::Mapped,
    model::{IdRange, NamespaceMode, Namespaces, User, UserNamespace, chain},
    zygote::NamespacesRequest,
};

impl Pods {
    /// Finds out whether pods can have user namespaces: makes one, and a root file system for it on the disk where they
    /// will be. To be called once, before serving.
    pub async fn probe_user_namespaces(&self) {
        let why_not = self.inner.probe().await.err().map(|error| chain(&error));
        if let Some(why) = &why_not {
            tracing::warn!(why, "pods cannot have user namespaces of their own");
        }
        let _ = self.inner.no_user_namespaces.set(why_not);
    }

    /// Whether pods can have user namespaces, as far as it was probed.
    pub fn user_namespaces(&self) -> bool {
        matches!(self.inner.no_user_namespaces.get(), Some(None))
    }
}

impl Inner {
    async fn probe(&self) -> Result<(), PodError> {
        let range = IdRange {
            host: PROBED,
            size: PROBED,
        };
        let ids = UserNamespace {
            uids: range,
            gids: range,
        };
        let request = NamespacesRequest {
            user: Some(ids),
            ..NamespacesRequest::default()
        };
        let made = self.with.zygote.namespaces(request).await?.user;
        let snapshots = self.with.snapshots.clone();
        blocking(move || match &made {
            Some(namespace) => Ok(snapshots.probe(Mapped {
                namespace: namespace.as_fd(),
                ids,
            })?),
            None => Err(PodError::NoUserNamespaces("the zygote made none".into())),
        })
        .await
    }

    /// Refuses a pod that wants what this node cannot give, or what contradicts itself.
    pub(super) fn check_user_namespace(&self, namespaces: &Namespaces) -> Result<(), PodError> {
        match self.no_user_namespaces.get() {
            Some(Some(why)) if namespaces.user.is_some() => Err(PodError::NoUserNamespaces(why.clone())),
            _ => check(namespaces, namespaces),
        }
    }
}

/// Whether a container's wishes fit to its pod's user namespace.
pub(super) fn check(pod: &Namespaces, container: &Namespaces) -> Result<(), PodError> {
    if container.user.is_some() && container.user != pod.user {
        return Err(PodError::Invalid {
            field: "config.linux.security_context.namespace_options.userns_options",
            why: "is not the pod's".into(),
        });
    }
    if pod.user.is_some() && container.pid == NamespaceMode::Node {
        return Err(PodError::Invalid {
            field: "config.linux.security_context.namespace_options.pid",
            why: "a user namespace has no right to show the node's processes".into(),
        });
    }
    Ok(())
}

/// The host's ids of a container's user; without a user namespace they are the same.
///
/// # Errors
/// [`PodError::Invalid`] with the id that the namespace does not map.
pub(super) fn host_ids(namespace: Option<&UserNamespace>, user: &User) -> Result<(u32, u32), PodError> {
    let Some(namespace) = namespace else {
        return Ok((user.uid, user.gid));
    };
    let map = |field, ids: IdRange, id| {
        ids.to_host(id).ok_or_else(|| PodError::Invalid {
            field,
            why: format!("the pod's user namespace maps ids below {}, not {id}", ids.size),
        })
    };
    for &group in &user.groups {
        map(
            "config.linux.security_context.supplemental_groups",
            namespace.gids,
            group,
        )?;
    }
    Ok((
        map("config.linux.security_context.run_as_user", namespace.uids, user.uid)?,
        map("config.linux.security_context.run_as_group", namespace.gids, user.gid)?,
    ))
}

/// The range that the kubelet gives its first pod.
const PROBED: u32 = 65536;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_user_outside_of_the_namespace_is_named() {
        let range = IdRange {
            host: 100_000,
            size: 1000,
        };
        let namespace = UserNamespace {
            uids: range,
            gids: range,
        };
        let user = |uid, gid, groups| User {
            uid,
            gid,
            groups,
            home: "/".into(),
        };
        assert_eq!(
            host_ids(Some(&namespace), &user(7, 8, vec![8])).unwrap(),
            (100_007, 100_008)
        );
        assert_eq!(host_ids(None, &user(7000, 8000, vec![9])).unwrap(), (7000, 8000));
        for (user, field) in [
            (user(1000, 0, vec![]), "run_as_user"),
            (user(0, 1000, vec![]), "run_as_group"),
            (user(0, 0, vec![5, 65534]), "supplemental_groups"),
        ] {
            let error = host_ids(Some(&namespace), &user).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
