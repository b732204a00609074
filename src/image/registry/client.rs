//! HTTP to one endpoint of one repository: login, retries, redirects.

use std::{
    error::Error,
    fs,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{
        ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, IF_RANGE, LOCATION, RANGE, RETRY_AFTER,
        WWW_AUTHENTICATE,
    },
    redirect,
};

use super::{
    RegistryError, STALL,
    auth::{Challenge, Credentials, TokenJson},
    auth_file::{Entry, Held},
    hosts::{ClientCertificate, Endpoint},
    traffic::Traffic,
};
use crate::{image::reference::Reference, model::Secret};

/// Tries of one request that fails for reasons that pass.
const TRIES: u32 = 4;
const REDIRECTS: usize = 10;
/// Longest wait that a `Retry-After` may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The host's certificate bundle, wherever the distribution keeps it.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where something is asked for.
pub struct Place {
    /// The image as it is called there.
    pub reference: Reference,
    pub endpoint: Endpoint,
    /// Which file made it this one; `None`: none did, it is the image's own name.
    pub rule: Option<String>,
}

/// An endpoint as one session uses it.
pub struct Client {
    pub endpoint: Endpoint,
    /// The image as it is called here.
    pub reference: Reference,
    /// Which file made it this one.
    pub rule: Option<String>,
    pub credentials: Option<Entry>,
    http: reqwest::Client,
    /// Whether it speaks no TLS, where it need not; known after the first request.
    is_plain: OnceLock<bool>,
    /// What the last login gave. Guards the slot only.
    authorization: Mutex<Option<HeaderValue>>,
    traffic: Arc<Traffic>,
    /// It did not answer this session.
    is_silent: AtomicBool,
}

/// A part of a blob.
pub struct Part {
    pub begin: u64,
    /// The first byte after it; `None`: all the rest.
    pub end: Option<u64>,
    /// Only if it still is what it was; the whole of it else.
    pub if_range: Option<HeaderValue>,
}

impl Part {
    fn header(&self) -> HeaderValue {
        let last = self.end.map_or_else(String::new, |end| (end - 1).to_string());
        let text = format!("bytes={}-{last}", self.begin);
        HeaderValue::try_from(text).expect("digits are a header's value")
    }
}

impl Client {
    pub fn new(place: Place, credentials: Option<Entry>, traffic: Arc<Traffic>) -> Result<Self, RegistryError> {
        let Place {
            reference,
            endpoint,
            rule,
        } = place;
        let invalid = |why: String| RegistryError::Invalid {
            what: endpoint.url.to_string(),
            why,
        };
        // Installing it twice fails harmlessly: the first one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            // Followed here: a redirect must not carry the credentials to another host.
            .redirect(redirect::Policy::none())
            .connect_timeout(endpoint.dial_timeout.unwrap_or(STALL))
            .read_timeout(STALL)
            .user_agent(concat!("inro/", env!("CARGO_PKG_VERSION")))
            .pool_idle_timeout(Duration::from_secs(10));
        let mut roots = Vec::new();
        if let Some(bundle) = BUNDLES.iter().find_map(|path| fs::read(path).ok()) {
            roots.extend(reqwest::Certificate::from_pem_bundle(&bundle).unwrap_or_default());
        }
        for path in &endpoint.ca {
            let read = fs::read(path).map_err(|error| invalid(format!("ca {}: {error}", path.display())))?;
            let own = reqwest::Certificate::from_pem_bundle(&read)
                .map_err(|error| invalid(format!("ca {}: {}", path.display(), why(&error))))?;
            roots.extend(own);
        }
        builder = builder.tls_certs_only(roots);
        if let Some(own) = &endpoint.client {
            builder = builder.identity(identity(own).map_err(invalid)?);
        }
        if endpoint.skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let http = builder.build().map_err(|error| invalid(why(&error)))?;
        let authorization = match &credentials {
            Some(Entry {
                credentials: Held::Ready(Credentials::Registry(token)),
                ..
            }) => Some(bearer(token).map_err(invalid)?),
            _ => None,
        };
        Ok(Self {
            reference,
            rule,
            credentials,
            http,
            is_plain: OnceLock::new(),
            authorization: Mutex::new(authorization),
            traffic,
            is_silent: AtomicBool::new(false),
            endpoint,
        })
    }

    /// Whether it did not answer lately, and is to be asked after those that did.
    pub fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed) || self.traffic.is_silent(&self.endpoint.url)
    }

    pub fn did_not_answer(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
        self.traffic.did_not_answer(&self.endpoint.url);
    }

    /// GETs what is at [`Self::url`], or a part of what is there. Answers a success; everything else is an error.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn get(&self, path: &str, accept: Option<&str>, part: Option<Part>) -> Result<Response, RegistryError> {
        let got = self.try_get(path, accept, part).await;
        match &got {
            Ok(_) => self.is_silent.store(false, Ordering::Relaxed),
            Err(RegistryError::Unavailable { .. }) => self.did_not_answer(),
            Err(_) => {}
        }
        got
    }

    async fn try_get(&self, path: &str, accept: Option<&str>, part: Option<Part>) -> Result<Response, RegistryError> {
        let mut url = self.url(path)?;
        let mut what = url.to_string();
        let mut headers = self.endpoint.headers.clone();
        if let Some(accept) = accept.and_then(|accept| HeaderValue::from_str(accept).ok()) {
            headers.insert(ACCEPT, accept);
        }
        if let Some(part) = part {
            headers.insert(RANGE, part.header());
            headers.extend(part.if_range.map(|etag| (IF_RANGE, etag)));
        }
        let mut logged_in = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let patience = Duration::from_millis(100 << tries);
            let response = match self.send(&url, &headers).await {
                Ok(response) => {
                    self.is_plain.get_or_init(|| false);
                    response
                }
                Err(error) if !error.is_builder() && self.turns_plain() => {
                    url = self.url(path)?;
                    what = url.to_string();
                    continue;
                }
                Err(error) if tries < TRIES && !error.is_builder() && !error.is_connect() => {
                    tokio::time::sleep(patience).await;
                    continue;
                }
                Err(error) => return Err(RegistryError::Unavailable { what, why: why(&error) }),
            };
            let status = response.status();
            match status {
                _ if status.is_success() => return Ok(response),
                StatusCode::UNAUTHORIZED if !logged_in => {
                    logged_in = true;
                    self.log_in(&what, &response).await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(RegistryError::Denied {
                        what,
                        status: status.as_u16(),
                    });
                }
                StatusCode::NOT_FOUND => return Err(RegistryError::NotFound { what }),
                _ if tries < TRIES && passes(status) => {
                    tokio::time::sleep(retry_after(&response).unwrap_or(patience)).await;
                }
                _ if passes(status) => {
                    return Err(RegistryError::Unavailable {
                        what,
                        why: status.to_string(),
                    });
                }
                _ => {
                    return Err(RegistryError::Invalid {
                        what,
                        why: format!("the registry answers {status}"),
                    });
                }
            }
        }
    }

    /// One request with its redirects. Credentials and configured headers stay with the endpoint's own origin.
    async fn send(&self, url: &Url, headers: &HeaderMap) -> reqwest::Result<Response> {
        let mut at = url.clone();
        let mut hops = 0;
        loop {
            let mut headers = headers.clone();
            if at.origin() == url.origin() {
                let authorization = self
                    .authorization
                    .lock()
                    .expect("no panic while the slot is held")
                    .clone();
                headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
            } else {
                for name in self.endpoint.headers.keys() {
                    headers.remove(name);
                }
            }
            let response = self
                .http
                .request(Method::GET, at.clone())
                .headers(headers)
                .send()
                .await?;
            let to = response
                .headers()
                .get(LOCATION)
                .and_then(|to| at.join(to.to_str().ok()?).ok());
            match to {
                Some(to) if response.status().is_redirection() && hops < REDIRECTS && safe(&at, &to) => {
                    hops += 1;
                    at = to;
                }
                _ => return Ok(response),
            }
        }
    }

    /// Answers a challenge. A login that fails is an error, never an anonymous request.
    async fn log_in(&self, what: &str, response: &Response) -> Result<(), RegistryError> {
        let login = |why: String| RegistryError::Login {
            what: what.to_owned(),
            why,
        };
        let denied = || RegistryError::Denied {
            what: what.to_owned(),
            status: 401,
        };
        let challenge = Challenge::parse(response.headers().get_all(WWW_AUTHENTICATE).iter()).ok_or_else(denied)?;
        let credentials = self.credentials().await.map_err(login)?;
        let value = match (challenge, &credentials) {
            (_, Some(Credentials::Registry(_))) => return Err(denied()),
            (Challenge::Basic, Some(Credentials::Password { user, password })) => {
                use base64::Engine;
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{}", password.0));
                secret(&format!("Basic {pair}")).map_err(login)?
            }
            (Challenge::Basic, _) => return Err(denied()),
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let scope = if scope.is_empty() {
                    format!("repository:{}:pull", self.reference.repository)
                } else {
                    scope
                };
                let token = self
                    .token(&realm, &service, &scope, credentials.as_ref())
                    .await
                    .map_err(login)?;
                bearer(&token).map_err(login)?
            }
        };
        *self.authorization.lock().expect("no panic while the slot is held") = Some(value);
        Ok(())
    }

    /// A helper is asked at each login, and by a registry that asks only: what it knows may be good for minutes.
    async fn credentials(&self) -> Result<Option<Credentials>, String> {
        match self.credentials.as_ref().map(|entry| &entry.credentials) {
            None => Ok(None),
            Some(Held::Ready(credentials)) => Ok(Some(credentials.clone())),
            Some(Held::Helper(helper)) => {
                let helper = helper.clone();
                let asked = tokio::task::spawn_blocking(move || helper.ask()).await;
                asked.unwrap_or_else(|_| Err("the helper was abandoned".into()))
            }
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: &str,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Secret, String> {
        let realm = Url::parse(realm).map_err(|error| format!("realm {realm:?}: {error}"))?;
        if !safe(self.base(), &realm) {
            return Err(format!("realm {realm} is not safe to log in at"));
        }
        let request = match credentials {
            Some(Credentials::Identity(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", "inro"),
                    ("scope", scope),
                    ("refresh_token", token.0.as_str()),
                ];
                let body = url_encoded(&form);
                self.http
                    .post(realm.clone())
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(body)
            }
            other => {
                let mut url = realm.clone();
                url.query_pairs_mut()
                    .append_pair("service", service)
                    .append_pair("scope", scope);
                let request = self.http.get(url);
                match other {
                    Some(Credentials::Password { user, password }) => request.basic_auth(user, Some(&password.0)),
                    _ => request,
                }
            }
        };
        let mut response = request.send().await.map_err(|error| why(&error))?;
        if !response.status().is_success() {
            return Err(format!(
                "the token server at {} answers {}",
                realm.host_str().unwrap_or("?"),
                response.status()
            ));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| why(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > 1 << 20 {
                return Err("the token server's answer has more than 1 MiB".into());
            }
        }
        let answer: TokenJson =
            serde_json::from_slice(&bytes).map_err(|_| "the token server's answer is not JSON".to_owned())?;
        answer
            .into_token()
            .ok_or_else(|| "the token server's answer has no token".into())
    }

    fn base(&self) -> &Url {
        match &self.endpoint.or_plain {
            Some(plain) if self.is_plain.get() == Some(&true) => plain,
            _ => &self.endpoint.url,
        }
    }

    /// Whether plain HTTP is to be tried now that TLS was not to be had.
    fn turns_plain(&self) -> bool {
        self.endpoint.or_plain.is_some() && self.is_plain.set(true).is_ok()
    }

    /// A path of the repository; with a `/` at its beginning one of the endpoint.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] when it makes no URL.
    pub fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let base = self.base().as_str().trim_end_matches('/');
        let prefix = if self.endpoint.override_path { "" } else { "/v2" };
        let text = match path.starts_with('/') {
            true => format!("{base}{path}"),
            false => format!("{base}{prefix}/{}/{path}", self.reference.repository),
        };
        let mut url = Url::parse(&text).map_err(|error| RegistryError::Invalid {
            what: text,
            why: error.to_string(),
        })?;
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }
}

/// The certificate and the key, from one file or two.
fn identity(own: &ClientCertificate) -> Result<reqwest::Identity, String> {
    let mut pem = Vec::new();
    for path in std::iter::once(&own.certificate).chain(&own.key) {
        pem.extend(fs::read(path).map_err(|error| format!("client {}: {error}", path.display()))?);
        pem.push(b'\n');
    }
    reqwest::Identity::from_pem(&pem).map_err(|error| format!("client {}: {}", own.certificate.display(), why(&error)))
}

/// Whether a URL that a server names may be followed: never from TLS to plain HTTP, never to another scheme.
fn safe(from: &Url, to: &Url) -> bool {
    to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http")
}

fn passes(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

fn bearer(token: &Secret) -> Result<HeaderValue, String> {
    secret(&format!("Bearer {}", token.0))
}

/// A header that no log shows.
fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "the credentials cannot be sent in a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn url_encoded(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form").expect("a constant");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

/// An HTTP error's causes in one line, without its URL: that may have a token in it.
pub fn why(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let part = cause.to_string();
        if !text.contains(&part) {
            text = if text.is_empty() {
                part
            } else {
                format!("{text}: {part}")
            };
        }
        source = cause.source();
    }
    if text.is_empty() {
        "the request failed".into()
    } else {
        text
    }
}

/// A header of `hosts.toml`.
pub fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((
        HeaderName::from_bytes(name.as_bytes()).ok()?,
        HeaderValue::from_str(value).ok()?,
    ))
}
