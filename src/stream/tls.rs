//! TLS of the streaming server: one certificate, read again when its files change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;

/// Where certificate and key are, both in PEM.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The certificate, and those that lead to its root.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", path.display())]
    Pem {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("use {} with {}", cert.display(), key.display())]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
}

/// What connections are accepted with.
pub struct Tls {
    config: Config,
    stamp: [Stamp; 2],
    acceptor: TlsAcceptor,
}

/// What tells a file's old content from a new one.
type Stamp = (u64, u64, i64, i64);

impl Tls {
    /// # Errors
    /// [`TlsError`] naming the file that is missing or holds something else.
    pub fn open(config: Config) -> Result<Self, TlsError> {
        let (stamp, acceptor) = read(&config)?;
        Ok(Self {
            config,
            stamp,
            acceptor,
        })
    }

    /// With what the files hold now. What cannot be used is said and not used: the last good pair goes on.
    pub fn acceptor(&mut self) -> TlsAcceptor {
        if stamps(&self.config).is_ok_and(|stamp| stamp == self.stamp) {
            return self.acceptor.clone();
        }
        match read(&self.config) {
            Ok((stamp, acceptor)) => {
                tracing::info!(cert = %self.config.cert.display(), "certificate read again");
                (self.stamp, self.acceptor) = (stamp, acceptor);
            }
            Err(error) => tracing::warn!(error = crate::model::chain(&error), "the old certificate is used on"),
        }
        self.acceptor.clone()
    }
}

fn read(config: &Config) -> Result<([Stamp; 2], TlsAcceptor), TlsError> {
    // Before the content: a change in between is found next time.
    let stamp = stamps(config)?;
    let certs: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&config.cert).and_then(Iterator::collect);
    let certs = certs.map_err(|source| pem(&config.cert, source))?;
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|source| pem(&config.key, source))?;
    let pair = |source| TlsError::Pair {
        cert: config.cert.clone(),
        key: config.key.clone(),
        source,
    };
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .map_err(pair)?;
    Ok((stamp, Arc::new(server).into()))
}

fn pem(path: &Path, source: rustls::pki_types::pem::Error) -> TlsError {
    TlsError::Pem {
        path: path.into(),
        source,
    }
}

fn stamps(config: &Config) -> Result<[Stamp; 2], TlsError> {
    let stamp = |path: &PathBuf| match fs::metadata(path) {
        Ok(file) => Ok((file.ino(), file.size(), file.mtime(), file.mtime_nsec())),
        Err(source) => Err(TlsError::Read {
            path: path.clone(),
            source,
        }),
    };
    Ok([stamp(&config.cert)?, stamp(&config.key)?])
}

#[cfg(test)]
mod test {
    use super::*;

    fn write(config: &Config, name: &str) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(&config.cert, made.cert.pem()).unwrap();
        fs::write(&config.key, made.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn files_that_change_are_read_again_and_bad_ones_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
        };
        let error = Tls::open(config.clone()).err().unwrap();
        assert!(error.to_string().contains("cert.pem"), "{error}");
        write(&config, "one");
        let mut tls = Tls::open(config.clone()).unwrap();
        let same = |a: &TlsAcceptor, b: &TlsAcceptor| Arc::ptr_eq(a.config(), b.config());
        let first = tls.acceptor();
        assert!(same(&first, &tls.acceptor()));
        write(&config, "two");
        let second = tls.acceptor();
        assert!(!same(&first, &second));
        fs::write(&config.key, "nonsense").unwrap();
        assert!(same(&second, &tls.acceptor()));
    }
}
