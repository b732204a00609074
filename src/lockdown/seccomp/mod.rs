//! Seccomp profiles: from the OCI's JSON to a BPF program, compiled once per profile and capability set.

mod emit;
mod profile;
mod project;

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, LazyLock, Mutex},
};

use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};

use super::LockdownError;
use crate::{
    model::{CapabilitySets, Profile, Security},
    sys::seccomp::Instruction,
};

/// The profile that this build ships for `RuntimeDefault`.
const DEFAULT: &str = include_str!("../../../seccomp-profiles/default.json");
const EVERYTHING: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
/// Compiled programs kept; more distinct profiles than this on one node are compiled again.
const CACHED: usize = 64;

/// A compiled filter.
#[derive(Debug)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// Its instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// A memfd with its instructions, as the zygote takes it.
    ///
    /// # Errors
    /// Those of memfd_create(2).
    pub fn to_memfd(&self) -> std::io::Result<OwnedFd> {
        let file = memfd_create("inro-seccomp", MemfdFlags::CLOEXEC)?;
        let bytes: Vec<u8> = self.0.iter().flat_map(|instruction| instruction.to_bytes()).collect();
        let mut file = fs::File::from(file);
        file.write_all(&bytes)?;
        Ok(file.into())
    }
}

/// Keyed by the digest of the profile's text, the capabilities that its rules may ask for, and whether projects are kept.
type Cache = Mutex<HashMap<([u8; 32], u64, bool), Arc<Program>>>;
static CACHE: LazyLock<Cache> = LazyLock::new(Cache::default);

/// The filter of a container; `None` when it is privileged, or unconfined. One that must keep the project of its files has a
/// filter for that at least.
///
/// # Errors
/// [`LockdownError::Profile`] when the file is missing or not a profile, [`LockdownError::Invalid`] when it is not named.
pub fn compile(
    security: &Security,
    capabilities: &CapabilitySets,
    keeps_project: bool,
) -> Result<Option<Arc<Program>>, LockdownError> {
    if security.privileged {
        return Ok(None);
    }
    let (path, text) = match &security.seccomp {
        Profile::Unconfined if !keeps_project => return Ok(None),
        Profile::Unconfined => (Path::new("Unconfined"), EVERYTHING.to_owned()),
        Profile::RuntimeDefault => (Path::new("RuntimeDefault"), DEFAULT.to_owned()),
        Profile::Localhost(path) if !path.starts_with('/') => {
            let why = format!("{path:?} is not an absolute path");
            return Err(LockdownError::Invalid {
                field: "seccomp.localhost_ref",
                why,
            });
        }
        Profile::Localhost(path) => {
            let path = Path::new(path);
            let unreadable = |e: std::io::Error| LockdownError::Profile {
                path: path.into(),
                why: e.to_string(),
            };
            (path, fs::read_to_string(path).map_err(unreadable)?)
        }
    };
    let digest = Sha256::digest(text.as_bytes()).into();
    let key = (digest, capabilities.bounding, keeps_project);
    let lock = || CACHE.lock().expect("no panic while the cache is held");
    if let Some(program) = lock().get(&key) {
        return Ok(Some(program.clone()));
    }
    let mut rules = profile::parse(&text, capabilities.bounding).map_err(|why| LockdownError::Profile {
        path: path.to_owned(),
        why,
    })?;
    if keeps_project {
        project::keep_projects(&mut rules);
    }
    let program = Arc::new(Program(emit::program(&rules)));
    if program.0.len() > 4096 {
        let why = format!("{} instructions are more than the kernel takes", program.0.len());
        return Err(LockdownError::Profile {
            path: path.to_owned(),
            why,
        });
    }
    let mut cache = lock();
    if cache.len() >= CACHED {
        cache.clear();
    }
    cache.insert(key, program.clone());
    Ok(Some(program))
}

#[cfg(test)]
mod test;
