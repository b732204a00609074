//! Credentials of one session, and the token that they buy.
//!
//! Sources: CRI `AuthConfig`; Distribution "Token Authentication" and "OAuth2 Token Authentication".

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::RegistryError;
use crate::model::Auth;

/// What a session may show to its registry.
#[derive(Debug, Clone)]
pub enum Credentials {
    Password {
        user: String,
        password: crate::model::Secret,
    },
    /// A refresh token for the token server.
    Identity(crate::model::Secret),
    /// A bearer token to be sent as it is.
    Registry(crate::model::Secret),
}

impl Credentials {
    /// From the CRI's six fields; `None` when they are for another host or empty.
    ///
    /// # Errors
    /// [`RegistryError::Login`] when `auth` is not base64 of `user:password`.
    pub fn of(auth: Option<&Auth>, registry: &str) -> Result<Option<Self>, RegistryError> {
        let Some(auth) = auth else { return Ok(None) };
        if !auth.server_address.is_empty() && host_of(&auth.server_address) != hub(registry) {
            return Ok(None);
        }
        let bad = || RegistryError::BadAuth;
        if !auth.registry_token.0.is_empty() {
            return Ok(Some(Self::Registry(auth.registry_token.clone())));
        }
        if !auth.identity_token.0.is_empty() {
            return Ok(Some(Self::Identity(auth.identity_token.clone())));
        }
        if !auth.username.is_empty() || !auth.password.0.is_empty() {
            return Ok(Some(Self::Password {
                user: auth.username.clone(),
                password: auth.password.clone(),
            }));
        }
        if auth.auth.0.is_empty() {
            return Ok(None);
        }
        let decoded = STANDARD.decode(auth.auth.0.trim_end_matches('\0')).map_err(|_| bad())?;
        let text = String::from_utf8(decoded).map_err(|_| bad())?;
        let (user, password) = text.trim_end_matches('\0').split_once(':').ok_or_else(bad)?;
        Ok(Some(Self::Password {
            user: user.to_owned(),
            password: crate::model::Secret(password.to_owned()),
        }))
    }
}

/// `https://index.docker.io/v1/` names Docker Hub in configuration files of old.
pub fn host_of(address: &str) -> &str {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    hub(bare.split('/').next().unwrap_or(bare))
}

/// Docker Hub's one name.
pub fn hub(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// What a registry asks for with a 401.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: String,
        scope: String,
    },
}

impl Challenge {
    /// From `WWW-Authenticate` headers; a bearer challenge wins.
    pub fn parse<'a>(headers: impl Iterator<Item = &'a HeaderValue>) -> Option<Self> {
        let mut basic = None;
        for header in headers.filter_map(|header| header.to_str().ok()) {
            let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let value = |key: &str| {
                    parameters(rest)
                        .find(|(k, _)| k.eq_ignore_ascii_case(key))
                        .map(|(_, v)| v)
                };
                return Some(Self::Bearer {
                    realm: value("realm")?,
                    service: value("service").unwrap_or_default(),
                    scope: value("scope").unwrap_or_default(),
                });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Self::Basic);
            }
        }
        basic
    }
}

/// `key="value"` pairs; a quoted value may have commas in it.
fn parameters(text: &str) -> impl Iterator<Item = (String, String)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (key, after) = rest.trim_start_matches([' ', ',']).split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        rest = after;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    })
}

/// A token server's answer.
#[derive(Deserialize)]
pub struct TokenJson {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl TokenJson {
    pub fn into_token(self) -> Option<crate::model::Secret> {
        let token = if self.token.is_empty() {
            self.access_token
        } else {
            self.token
        };
        (!token.is_empty()).then_some(crate::model::Secret(token))
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::model::Secret;

    #[test]
    fn every_field_of_the_cri_counts() {
        let of = |auth: Auth| Credentials::of(Some(&auth), "r.test:5000");
        let password = |auth: Auth| match of(auth).unwrap() {
            Some(Credentials::Password { user, password }) => format!("{user}:{}", password.0),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            password(Auth {
                username: "u".into(),
                password: Secret("p".into()),
                ..Auth::default()
            }),
            "u:p"
        );
        assert_eq!(
            password(Auth {
                auth: Secret(STANDARD.encode("u:p:q")),
                ..Auth::default()
            }),
            "u:p:q"
        );
        assert!(
            of(Auth {
                auth: Secret("%%%".into()),
                ..Auth::default()
            })
            .is_err()
        );
        assert!(of(Auth::default()).unwrap().is_none());
        assert!(matches!(
            of(Auth {
                identity_token: Secret("t".into()),
                ..Auth::default()
            }),
            Ok(Some(Credentials::Identity(_)))
        ));
        assert!(matches!(
            of(Auth {
                registry_token: Secret("t".into()),
                ..Auth::default()
            }),
            Ok(Some(Credentials::Registry(_)))
        ));
        let elsewhere = Auth {
            username: "u".into(),
            server_address: "https://other.test/v2/".into(),
            ..Auth::default()
        };
        assert!(of(elsewhere.clone()).unwrap().is_none());
        assert!(
            of(Auth {
                server_address: "https://r.test:5000/v2/".into(),
                ..elsewhere
            })
            .unwrap()
            .is_some()
        );
    }

    #[test]
    fn challenges_are_read() {
        let header = HeaderValue::from_static(
            r#"Bearer realm="https://auth.test/token",service="r",scope="repository:a/b:pull,push""#,
        );
        let Some(Challenge::Bearer { realm, service, scope }) = Challenge::parse([&header].into_iter()) else {
            panic!()
        };
        assert_eq!(
            (realm.as_str(), service.as_str(), scope.as_str()),
            ("https://auth.test/token", "r", "repository:a/b:pull,push")
        );
        assert_eq!(
            Challenge::parse([&HeaderValue::from_static("Basic realm=\"x\"")].into_iter()),
            Some(Challenge::Basic)
        );
        assert_eq!(
            Challenge::parse([&HeaderValue::from_static("Negotiate")].into_iter()),
            None
        );
    }
}
