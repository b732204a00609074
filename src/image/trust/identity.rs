//! Whose image a signature is for: the name in what was signed against the name that was asked for.
//!
//! Source: containers-policy.json(5), "signedIdentity".

use serde::Deserialize;

use crate::image::reference::Reference;

/// Which names in a signature stand for the image that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Identity {
    /// The same repository with the same tag or digest.
    MatchExact {},
    /// The same; of an image asked for by digest any tag or digest of the same repository.
    MatchRepoDigestOrExact {},
    /// Anything of the same repository.
    MatchRepository {},
    /// This name with its tag or digest, whatever was asked for.
    ExactReference { docker_reference: Exact },
    /// Anything of this repository, whatever was asked for.
    ExactRepository { docker_repository: Repository },
    /// [`Identity::MatchRepoDigestOrExact`] once `prefix` of the name asked for is `signed_prefix`: for copies.
    #[serde(rename = "remapIdentity")]
    Remap { prefix: Prefix, signed_prefix: Prefix },
}

impl Default for Identity {
    fn default() -> Self {
        Self::MatchRepoDigestOrExact {}
    }
}

impl Identity {
    /// Whether a signature for `signed` is one for `asked`.
    ///
    /// # Errors
    /// That it is not.
    pub fn check(&self, asked: &Reference, signed: &str) -> Result<(), String> {
        match self.accepts(asked, signed) {
            true => Ok(()),
            false => Err(format!("a signature is for {signed:?}, not for this name")),
        }
    }

    /// Whether a signature that names no repository is one for `asked`, which the policy has under `scope`.
    ///
    /// It is good wherever the image is, so it is the policy that has to bind its signer to a repository: by a scope that
    /// is one, or less. It speaks for no tag, so it cannot say that this one is meant. See
    /// `docs/decisions/0019-trust.md`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check_unnamed(&self, asked: &Reference, scope: &str) -> Result<(), String> {
        let name = asked.name();
        let is_tag_free = match self {
            Self::MatchRepository {} => true,
            Self::MatchExact {} | Self::MatchRepoDigestOrExact {} => asked.digest.is_some(),
            Self::ExactReference { .. } | Self::ExactRepository { .. } | Self::Remap { .. } => {
                return Err(
                    "a bundle names no repository, and signedIdentity demands another than the one asked for".into(),
                );
            }
        };
        // Of the scopes that have an image in them all others are shorter.
        if !scope.starts_with(&name) {
            return Err(format!(
                "a bundle names no repository, so it counts under the scope {name:?} only"
            ));
        }
        match is_tag_free {
            true => Ok(()),
            false => Err(
                "a bundle names no tag, so it counts for a digest or with signedIdentity matchRepository only".into(),
            ),
        }
    }

    fn accepts(&self, asked: &Reference, signed: &str) -> bool {
        // As it is written: a name without a tag is no other name of `latest` here.
        let Ok(signed) = Reference::as_written(signed) else {
            return false;
        };
        match self {
            Self::MatchExact {} => are_same(asked, &signed),
            Self::MatchRepoDigestOrExact {} => is_exact_or_by_digest(asked, &signed),
            Self::MatchRepository {} => asked.name() == signed.name(),
            Self::ExactReference { docker_reference } => are_same(&docker_reference.0, &signed),
            Self::ExactRepository { docker_repository } => docker_repository.0 == signed.name(),
            Self::Remap { prefix, signed_prefix } => {
                remapped(asked, &prefix.0, &signed_prefix.0).is_some_and(|asked| is_exact_or_by_digest(&asked, &signed))
            }
        }
    }
}

/// Repository and tag or digest, and with a digest the tag says nothing; `None` of a mere repository.
fn exact(reference: &Reference) -> Option<String> {
    let name = reference.name();
    match (&reference.tag, &reference.digest) {
        (_, Some(digest)) => Some(format!("{name}@{digest}")),
        (Some(tag), None) => Some(format!("{name}:{tag}")),
        (None, None) => None,
    }
}

/// A mere repository is the same as nothing, not even as itself.
fn are_same(one: &Reference, other: &Reference) -> bool {
    exact(one).is_some_and(|one| exact(other) == Some(one))
}

fn is_exact_or_by_digest(asked: &Reference, signed: &Reference) -> bool {
    match &asked.digest {
        // That the digests are one is seen when the payload's is compared with the manifest's.
        Some(_) => exact(signed).is_some() && asked.name() == signed.name(),
        None => are_same(asked, signed),
    }
}

/// The reference by its other name; as it is when it does not begin with `prefix`, `None` when that is no name.
fn remapped(asked: &Reference, prefix: &str, signed_prefix: &str) -> Option<Reference> {
    let name = asked.name();
    let rest = match name.strip_prefix(prefix) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => return Some(asked.clone()),
    };
    let renamed = Reference::as_written(&format!("{signed_prefix}{rest}")).ok()?;
    Some(Reference {
        registry: renamed.registry,
        repository: renamed.repository,
        ..asked.clone()
    })
}

/// A name with a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Exact(Reference);

impl TryFrom<String> for Exact {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let reference = Reference::as_written(&text)?;
        match exact(&reference) {
            Some(_) => Ok(Self(reference)),
            None => Err(format!("{text:?} has neither tag nor digest")),
        }
    }
}

/// `registry/repository` in full.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Repository(String);

impl TryFrom<String> for Repository {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let reference = Reference::as_written(&text)?;
        match exact(&reference) {
            Some(_) => Err(format!("{text:?} is more than a repository")),
            None => Ok(Self(reference.name())),
        }
    }
}

/// A registry, or one with the beginning of a repository's path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix(String);

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let below = format!("{text}/x");
        match Reference::as_written(&below) {
            Ok(reference) if reference.name() == below => Ok(Self(text)),
            _ => Err(format!(
                "{text:?} is not a registry, or one with the beginning of a path"
            )),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    const EXACT: &str = r#"{"type": "matchExact"}"#;
    const EITHER: &str = r#"{"type": "matchRepoDigestOrExact"}"#;
    const REPOSITORY: &str = r#"{"type": "matchRepository"}"#;

    fn identity(json: &str) -> Identity {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn a_name_stands_for_another_as_the_policy_says() {
        let by_digest = format!("r.test/x@{DIGEST}");
        let both = format!("r.test/x:1@{DIGEST}");
        let one = r#"{"type": "exactReference", "dockerReference": "r.test/y:2"}"#;
        let all = r#"{"type": "exactRepository", "dockerRepository": "r.test/y"}"#;
        let copies = r#"{"type": "remapIdentity", "prefix": "r.test", "signedPrefix": "vendor.test/of"}"#;
        let table: &[(&str, &str, &str, bool)] = &[
            (EXACT, "r.test/x:1", "r.test/x:1", true),
            (EXACT, "r.test/x:1", "r.test/x:2", false),
            (EXACT, "r.test/x:1", "r.test/x", false),
            (EXACT, "r.test/x", "r.test/x", false),
            (EXACT, &by_digest, &by_digest, true),
            (EXACT, &by_digest, "r.test/x:1", false),
            (EXACT, "busybox", "docker.io/library/busybox:latest", true),
            (EITHER, "r.test/x:1", "r.test/x:1", true),
            (EITHER, "r.test/x:1", "r.test/x:2", false),
            (EITHER, &by_digest, "r.test/x:2", true),
            (EITHER, &both, "r.test/x:2", true),
            (EITHER, &by_digest, "r.test/x", false),
            (EITHER, &by_digest, "r.test/y:2", false),
            (REPOSITORY, "r.test/x:1", "r.test/x", true),
            (REPOSITORY, "r.test/x:1", "r.test/x:2", true),
            (REPOSITORY, "r.test/x:1", "r.test/x/y", false),
            (REPOSITORY, "r.test/x:1", "other.test/x", false),
            (REPOSITORY, "r.test/x:1", "not a name", false),
            (one, "r.test/x:1", "r.test/y:2", true),
            (one, "r.test/x:1", "r.test/x:1", false),
            (all, "r.test/x:1", "r.test/y", true),
            (all, "r.test/x:1", "r.test/x:1", false),
            (copies, "r.test/x:1", "vendor.test/of/x:1", true),
            (copies, "r.test/x:1", "r.test/x:1", false),
            (copies, "r.test:5000/x:1", "vendor.test/of:5000/x:1", false),
            (copies, "other.test/x:1", "other.test/x:1", true),
        ];
        for (json, asked, signed, accepted) in table {
            let asked: Reference = asked.parse().unwrap();
            assert_eq!(
                identity(json).accepts(&asked, signed),
                *accepted,
                "{json} {asked} {signed}"
            );
        }
    }

    #[test]
    fn a_signature_without_a_name_counts_where_the_policy_binds_its_signer_to_the_repository() {
        let by_digest = format!("r.test/x@{DIGEST}");
        let one = r#"{"type": "exactReference", "dockerReference": "r.test/x:1"}"#;
        let all = r#"{"type": "exactRepository", "dockerRepository": "r.test/x"}"#;
        let copies = r#"{"type": "remapIdentity", "prefix": "r.test", "signedPrefix": "r.test"}"#;
        let table: &[(&str, &str, &str, &str)] = &[
            (REPOSITORY, "r.test/x:1", "r.test/x", ""),
            (REPOSITORY, "r.test/x:1", "r.test/x:1", ""),
            (REPOSITORY, &by_digest, &by_digest, ""),
            (REPOSITORY, "r.test/x:1", "r.test", r#"the scope "r.test/x" only"#),
            (REPOSITORY, "r.test/x:1", "*.test", "the scope"),
            (REPOSITORY, "r.test/x:1", "", "the scope"),
            (REPOSITORY, "r.test/x:1", "default", "the scope"),
            (REPOSITORY, "r.test/x/y:1", "r.test/x", "the scope"),
            (EITHER, &by_digest, "r.test/x", ""),
            (EITHER, &by_digest, "r.test", "the scope"),
            (EITHER, "r.test/x:1", "r.test/x", "no tag"),
            (EITHER, "r.test/x:1", "r.test/x:1", "no tag"),
            (EXACT, &by_digest, "r.test/x", ""),
            (EXACT, "r.test/x:1", "r.test/x", "no tag"),
            (one, "r.test/x:1", "r.test/x", "another"),
            (all, "r.test/x:1", "r.test/x", "another"),
            (copies, "r.test/x:1", "r.test/x", "another"),
        ];
        for (json, asked, scope, refused) in table {
            let asked: Reference = asked.parse().unwrap();
            match identity(json).check_unnamed(&asked, scope) {
                Ok(()) => assert_eq!(*refused, "", "{json} {asked} {scope}"),
                Err(why) => assert!(
                    !refused.is_empty() && why.contains(refused),
                    "{json} {asked} {scope}: {why}"
                ),
            }
        }
    }

    #[test]
    fn an_identity_that_could_match_nothing_or_too_much_is_refused() {
        for json in [
            r#"{"type": "matchAnything"}"#,
            r#"{"type": "matchExact", "dockerReference": "r.test/x:1"}"#,
            r#"{"type": "exactReference"}"#,
            r#"{"type": "exactReference", "dockerReference": "r.test/x"}"#,
            r#"{"type": "exactRepository", "dockerRepository": "r.test/x:1"}"#,
            r#"{"type": "remapIdentity", "prefix": "r.test"}"#,
            r#"{"type": "remapIdentity", "prefix": "", "signedPrefix": "r.test"}"#,
            r#"{"type": "remapIdentity", "prefix": "r.test/", "signedPrefix": "r.test"}"#,
        ] {
            assert!(serde_json::from_str::<Identity>(json).is_err(), "{json}");
        }
    }
}
