//! `policy.json`: what is demanded of an image, by its name.
//!
//! As strict as containers/image: a key that is unknown or comes twice, or a list that is empty, is an error, since
//! what is passed over in a policy is a hole in it. Source: containers-policy.json(5).

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

use super::requirement::Requirement;
use crate::image::reference::Reference;

/// A policy that was read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    #[serde(deserialize_with = "default")]
    default: Requirements,
    /// By transport, and there by scope. Images of registries are of `docker`; of the others only the form matters.
    #[serde(default)]
    transports: Table<Table<Requirements>>,
}

/// What is demanded of one image: all of `requirements`.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The part of the policy that says so.
    pub scope: &'a str,
    pub requirements: &'a [Requirement],
}

impl Policy {
    /// # Errors
    /// What is wrong with it, with the way to the key at fault.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// The most special scope that has the reference in it: one of its own, the transport's default `""`, or the policy's.
    pub fn demand(&self, reference: &Reference) -> Demand<'_> {
        let docker = self.transports.0.get("docker");
        let found = docker.and_then(|scopes| {
            let mut of_it = reference.scopes();
            of_it.push(String::new());
            of_it.iter().find_map(|scope| scopes.0.get_key_value(scope))
        });
        match found {
            Some((scope, requirements)) => Demand {
                scope,
                requirements: &requirements.0,
            },
            None => Demand {
                scope: "default",
                requirements: &self.default.0,
            },
        }
    }
}

/// All of these are demanded.
#[derive(Debug)]
struct Requirements(Vec<Requirement>);

impl<'de> Deserialize<'de> for Requirements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RequirementsVisitor)
    }
}

/// Says the key of what is wrong, which a table does for its own.
fn default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Requirements, D::Error> {
    Requirements::deserialize(deserializer).map_err(|error| {
        let why = error.to_string();
        let separator = if why.starts_with('[') { "" } else { ": " };
        D::Error::custom(format!("default{separator}{why}"))
    })
}

struct RequirementsVisitor;

impl<'de> Visitor<'de> for RequirementsVisitor {
    type Value = Requirements;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of requirements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Requirements, A::Error> {
        let mut all = Vec::new();
        loop {
            let next = list.next_element();
            match next.map_err(|error| A::Error::custom(format!("[{}]: {error}", all.len())))? {
                Some(requirement) => all.push(requirement),
                None if all.is_empty() => return Err(A::Error::custom("the list is empty")),
                None => return Ok(Requirements(all)),
            }
        }
    }
}

/// A JSON object whose keys come once; what is wrong with a value is told with its key.
#[derive(Debug)]
pub struct Table<T>(pub BTreeMap<String, T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TableVisitor(PhantomData))
    }
}

struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
    type Value = Table<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table<T>, A::Error> {
        let mut table = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value();
            let value = value.map_err(|error| A::Error::custom(format!("{key:?}: {error}")))?;
            if table.contains_key(&key) {
                return Err(A::Error::custom(format!("{key:?} is there twice")));
            }
            table.insert(key, value);
        }
        Ok(Table(table))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const REJECT: &str = r#"{"type": "reject"}"#;
    const ACCEPT: &str = r#"{"type": "insecureAcceptAnything"}"#;
    const FULCIO: &str = r#""fulcio": {"caPath": "/a", "oidcIssuer": "i", "subjectEmail": "e"}"#;

    #[test]
    fn the_most_special_scope_counts() {
        let scopes = [
            "",
            "*.test",
            "*.r.test",
            "r.test",
            "r.test:5000",
            "r.test/x",
            "r.test/x/y",
            "r.test/x/y:1",
            "docker.io/library",
        ];
        let scopes: Vec<String> = scopes.iter().map(|scope| format!("{scope:?}: [{REJECT}]")).collect();
        let digest = format!("sha256:{}", "ab".repeat(32));
        let (by_digest, both) = (format!("r.test/x/y@{digest}"), format!("r.test/x/y:1@{digest}"));
        let policy = format!(
            r#"{{"default": [{ACCEPT}], "transports": {{"docker": {{{}, {by_digest:?}: [{REJECT}]}}, "atomic": {{}}}}}}"#,
            scopes.join(", ")
        );
        let policy = Policy::parse(policy.as_bytes()).unwrap();
        for (reference, scope) in [
            ("r.test/x/y:1", "r.test/x/y:1"),
            ("r.test/x/y:2", "r.test/x/y"),
            (by_digest.as_str(), by_digest.as_str()),
            (both.as_str(), by_digest.as_str()),
            ("r.test/x/yy", "r.test/x"),
            ("r.test/xx", "r.test"),
            ("r.test:5000/x", "r.test:5000"),
            ("r.test:6000/x", "*.test"),
            ("a.r.test/x", "*.r.test"),
            ("a.b.r.test:1/x", "*.r.test"),
            ("rr.test/x", "*.test"),
            ("busybox", "docker.io/library"),
            ("docker.io/other/x", ""),
            ("localhost:5000/x", ""),
        ] {
            assert_eq!(policy.demand(&reference.parse().unwrap()).scope, scope, "{reference}");
        }
        let other = format!(r#"{{"default": [{ACCEPT}], "transports": {{"atomic": {{"": [{REJECT}]}}}}}}"#);
        let other = Policy::parse(other.as_bytes()).unwrap();
        assert_eq!(other.demand(&"r.test/x".parse().unwrap()).scope, "default");
    }

    #[test]
    fn what_the_policy_does_not_say_clearly_is_an_error_with_its_key() {
        let scope = |requirement: &str| {
            format!(r#"{{"default": [{ACCEPT}], "transports": {{"docker": {{"r.test": [{ACCEPT}, {requirement}]}}}}}}"#)
        };
        let signed = |rest: &str| scope(&format!(r#"{{"type": "sigstoreSigned"{rest}}}"#));
        let gpg = |rest: &str| scope(&format!(r#"{{"type": "signedBy", "keyType": "GPGKeys"{rest}}}"#));
        let table: &[(String, &str)] = &[
            ("".into(), "EOF"),
            ("{}".into(), "missing field `default`"),
            (r#"{"default": []}"#.into(), "default: the list is empty"),
            (
                r#"{"default": [{"type": "rejekt"}]}"#.into(),
                "default[0]: unknown variant `rejekt`",
            ),
            (r#"{"default": 1}"#.into(), "default: invalid type"),
            (
                r#"{"default": [{"type": "reject"}], "transports": {"docker": {"a": []}}}"#.into(),
                r#""a": the list is empty"#,
            ),
            (format!(r#"{{"default": [{ACCEPT}], "Default": []}}"#), "`Default`"),
            (
                format!(r#"{{"default": [{ACCEPT}], "default": [{ACCEPT}]}}"#),
                "duplicate field `default`",
            ),
            (format!(r#"{{"default": [{ACCEPT}]}} x"#), "trailing"),
            (
                format!(
                    r#"{{"default": [{ACCEPT}], "transports": {{"docker": {{"a": [{REJECT}], "a": [{ACCEPT}]}}}}}}"#
                ),
                r#""docker": "a" is there twice"#,
            ),
            (
                scope(r#"{"type": "rejekt"}"#),
                r#""docker": "r.test": [1]: unknown variant `rejekt`"#,
            ),
            (
                scope(r#"{"type": "reject", "keyPath": "/k"}"#),
                "unknown field `keyPath`",
            ),
            (
                scope(r#"{"type": "reject", "type": "reject"}"#),
                "duplicate field `type`",
            ),
            (scope("{}"), "missing field `type`"),
            (signed(""), "one of keyPath"),
            (signed(r#", "keyPath": "/a", "keyPaths": ["/b"]"#), "one of keyPath"),
            (
                signed(r#", "keyPath": "/a", "fulcio": {"caPath": "/a"}"#),
                "missing field `oidcIssuer`",
            ),
            (signed(&format!(r#", "keyPath": "/a", {FULCIO}"#)), "one of keyPath"),
            (
                signed(&format!(", {FULCIO}")),
                "fulcio: a log's key has to be there too",
            ),
            (
                signed(r#", "fulcio": {"caPath": "/a", "caData": "YQ==", "oidcIssuer": "i", "subjectEmail": "e"}"#),
                "fulcio: one of caPath and caData",
            ),
            (
                signed(r#", "fulcio": {"caPath": "/a", "oidcIssuer": "", "subjectEmail": "e"}"#),
                "fulcio: oidcIssuer and subjectEmail",
            ),
            (
                signed(r#", "keyPath": "/a", "rekorPublicKeyPath": "/a", "rekorPublicKeyDatas": ["YQ=="]"#),
                "more than one of rekorPublicKeyPath",
            ),
            (
                signed(r#", "keyPath": "/a", "rekorPublicKeyPaths": []"#),
                "rekorPublicKeyPaths: it is empty",
            ),
            (
                signed(r#", "keyPath": "/a", "pki": {"caRootsPath": "/a", "subjectEmail": "e"}"#),
                "one of keyPath",
            ),
            (
                signed(r#", "pki": {"subjectEmail": "e"}"#),
                "pki: one of caRootsPath and caRootsData",
            ),
            (
                signed(r#", "pki": {"caRootsPath": "/a", "subjectEmail": ""}"#),
                "pki: subjectEmail or subjectHostname",
            ),
            (
                signed(r#", "pki": {"caRootsPath": "/a", "subjectHostname": "a b"}"#),
                r#"pki.subjectHostname: "a b""#,
            ),
            (
                signed(
                    r#", "pki": {"caRootsPath": "/a", "caIntermediatesPath": "/b", "caIntermediatesData": "YQ==", "subjectEmail": "e"}"#,
                ),
                "pki: both caIntermediatesPath",
            ),
            (
                signed(r#", "pki": {"caRootsPath": "/a", "subjectEmail": "e"}, "rekorPublicKeyPath": "/l""#),
                "pki: a log is not asked",
            ),
            (
                signed(r#", "pki": {"caRootsPath": "/a", "subjectMail": "e"}"#),
                "unknown field `subjectMail`",
            ),
            (signed(r#", "keyPath": """#), "keyPath: it is empty"),
            (signed(r#", "keyPaths": []"#), "keyPaths: it is empty"),
            (signed(r#", "keyData": "%""#), "keyData: it is not base64"),
            (
                signed(r#", "keyPath": "/a", "keypath": "/b""#),
                "unknown field `keypath`",
            ),
            (
                signed(r#", "keyPath": "/a", "keyPath": "/b""#),
                "duplicate field `keyPath`",
            ),
            (
                signed(r#", "keyPath": "/a", "signedIdentity": {"type": "matchAll"}"#),
                r#""r.test": [1]: unknown variant `matchAll`"#,
            ),
            (
                scope(r#"{"type": "signedBy", "keyPath": "/a"}"#),
                "missing field `keyType`",
            ),
            (
                scope(r#"{"type": "signedBy", "keyType": "GPG", "keyPath": "/a"}"#),
                r#"keyType: "GPG" is unknown"#,
            ),
            (gpg(""), "one of keyPath, keyPaths and keyData must"),
            (gpg(r#", "keyPath": "/a", "keyData": "YQ==""#), "one of keyPath"),
            (gpg(r#", "keyDatas": ["YQ=="]"#), "unknown field `keyDatas`"),
            (gpg(r#", "keyPaths": []"#), "keyPaths: it is empty"),
        ];
        for (text, why) in table {
            let refused = Policy::parse(text.as_bytes()).expect_err(text);
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn what_gpg_signs_is_verified_unless_the_build_is_without_it() {
        let requirement = r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/a"}"#;
        match (cfg!(feature = "gpg"), serde_json::from_str(requirement)) {
            (true, Ok(Requirement::Signed(_))) => {}
            (false, Ok(Requirement::Unsupported(what))) => assert!(what.contains("without GPG"), "{what}"),
            (_, other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_verified_is_read_and_named() {
        for (requirement, named) in [
            (
                r#"{"type": "signedBy", "keyType": "signedByX509CAs", "keyPath": "/a"}"#,
                "signedBy",
            ),
            (
                r#"{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}"#,
                "signedBaseLayer",
            ),
        ] {
            match serde_json::from_str(requirement) {
                Ok(Requirement::Unsupported(what)) => assert!(what.contains(named), "{requirement}: {what}"),
                other => panic!("{requirement}: {other:?}"),
            }
        }
    }
}
