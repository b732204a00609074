//! Classes of service for cache and memory bandwidth (Intel RDT, AMD QoS), through the kernel's resctrl file system.
//!
//! A class is a folder; a process is of it once its id was written to the folder's `tasks`, and its children with it.
//! Source: kernel, `Documentation/filesystems/resctrl.rst`; OCI runtime specification, "IntelRdt".

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::model::{ContainerId, ErrorKind, Rdt};

/// Why a container has no class.
#[derive(Debug, thiserror::Error)]
pub enum ResctrlError {
    #[error("config.CDI_devices: intelRdt: no resctrl file system is mounted here")]
    Unavailable,
    #[error("config.CDI_devices: intelRdt: closID: there is no class {0:?}, and nothing says what it would be")]
    NoClass(String),
    #[error("config.CDI_devices: intelRdt: closID: class {class:?} is {found:?}, not {wanted:?}")]
    Different {
        class: String,
        found: String,
        wanted: String,
    },
    #[error("config.CDI_devices: intelRdt: {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl ResctrlError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable | Self::NoClass(_) | Self::Different { .. } => ErrorKind::FailedPrecondition,
            // The kernel says EINVAL to lines of `schemata` that this hardware does not have.
            Self::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput => ErrorKind::InvalidArgument,
            Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// What is made for a container, and taken away with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The folder of its class.
    class: PathBuf,
    /// The class exists for this container only.
    own: bool,
    /// What the class is to say.
    schemata: Vec<String>,
    /// Its monitoring group, below the class.
    monitoring: Option<PathBuf>,
}

/// Where resctrl is mounted.
///
/// # Errors
/// [`ResctrlError::Unavailable`], [`ResctrlError::Io`].
pub fn mounted() -> Result<PathBuf, ResctrlError> {
    let path = Path::new("/proc/self/mounts");
    let mounts = fs::read_to_string(path).map_err(during("read", path))?;
    let place = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (place, kind) = (words.nth(1)?, words.next()?);
        (kind == "resctrl").then(|| PathBuf::from(place))
    });
    place.ok_or(ResctrlError::Unavailable)
}

impl Group {
    /// What `rdt` means for a container, with resctrl at `root`: a class that is there already stays when the container
    /// goes. Makes nothing.
    ///
    /// # Errors
    /// [`ResctrlError::NoClass`].
    pub fn plan(root: &Path, id: &ContainerId, rdt: &Rdt) -> Result<Self, ResctrlError> {
        let class = root.join(rdt.class.as_deref().unwrap_or(id.as_str()));
        let there = class.is_dir();
        if let Some(name) = &rdt.class
            && rdt.schemata.is_empty()
            && !there
        {
            return Err(ResctrlError::NoClass(name.clone()));
        }
        let monitoring = rdt.monitoring.then(|| class.join("mon_groups").join(id.as_str()));
        Ok(Self {
            class,
            own: !there,
            schemata: rdt.schemata.clone(),
            monitoring,
        })
    }

    /// Makes what is missing, and makes the process `pid` one of it. A class that others made must say what is asked for.
    ///
    /// # Errors
    /// [`ResctrlError::Different`], [`ResctrlError::Io`]. What was made is taken away by [`Group::remove`].
    pub fn apply(&self, pid: u32) -> Result<(), ResctrlError> {
        let file = self.class.join("schemata");
        if self.own {
            make(&self.class)?;
            for line in &self.schemata {
                // One write for each: the kernel stops at the first that it refuses.
                write(&file, &format!("{line}\n"))?;
            }
        } else {
            let text = fs::read_to_string(&file).map_err(during("read", &file))?;
            let found: Vec<_> = text.lines().flat_map(settings).collect();
            let wanted = self.schemata.iter().flat_map(|line| settings(line));
            if let Some(missing) = wanted.into_iter().find(|setting| !found.contains(setting)) {
                return Err(ResctrlError::Different {
                    class: self
                        .class
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned(),
                    found: text.trim().to_owned(),
                    wanted: missing,
                });
            }
        }
        write(&self.class.join("tasks"), &pid.to_string())?;
        if let Some(group) = &self.monitoring {
            make(group)?;
            write(&group.join("tasks"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Takes away what [`Group::apply`] made; nothing to do when it is gone.
    ///
    /// # Errors
    /// [`ResctrlError::Io`].
    pub fn remove(&self) -> Result<(), ResctrlError> {
        // A class goes with its monitoring groups.
        for group in self.monitoring.iter().chain(self.own.then_some(&self.class)) {
            match fs::remove_dir(group) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(during("remove", group)(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A line of `schemata` as comparable parts: `L3:0=f;1=0f` is `L3:0=f` and `L3:1=f`.
fn settings(line: &str) -> Vec<String> {
    let Some((kind, values)) = line.split_once(':') else {
        return vec![line.trim().to_owned()];
    };
    let part = |value: &str| {
        let (domain, mask) = value.trim().split_once('=').unwrap_or((value.trim(), ""));
        let mask = mask
            .trim()
            .trim_start_matches("0x")
            .trim_start_matches('0')
            .to_ascii_lowercase();
        format!("{}:{}={mask}", kind.trim(), domain.trim())
    };
    values.split(';').map(part).collect()
}

fn make(folder: &Path) -> Result<(), ResctrlError> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(during("make", folder)(error)),
        _ => Ok(()),
    }
}

fn write(file: &Path, text: &str) -> Result<(), ResctrlError> {
    fs::write(file, text).map_err(during("write", file))
}

fn during(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResctrlError {
    let path = path.to_owned();
    move |source| ResctrlError::Io { action, path, source }
}

#[cfg(test)]
mod test {
    //! A folder stands in for the file system, as no machine for tests has one: which files are written, and what with.

    use super::*;

    fn rdt(class: Option<&str>, schemata: &[&str], monitoring: bool) -> Rdt {
        Rdt {
            class: class.map(str::to_owned),
            schemata: schemata.iter().map(|&line| line.to_owned()).collect(),
            monitoring,
        }
    }

    /// The kernel makes a group's files with its folder.
    fn class(root: &Path, name: &str, schemata: &str) {
        fs::create_dir_all(root.join(name).join("mon_groups")).unwrap();
        fs::write(root.join(name).join("schemata"), schemata).unwrap();
    }

    #[test]
    fn a_class_of_its_own_is_made_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::random();
        let group = Group::plan(root.path(), &id, &rdt(None, &["MB:0=70"], true)).unwrap();
        assert!(group.own);
        class(root.path(), id.as_str(), "");
        group.apply(4711).unwrap();
        let folder = root.path().join(id.as_str());
        assert_eq!(fs::read_to_string(folder.join("schemata")).unwrap(), "MB:0=70\n");
        assert_eq!(fs::read_to_string(folder.join("tasks")).unwrap(), "4711");
        let monitoring = folder.join("mon_groups").join(id.as_str());
        assert_eq!(fs::read_to_string(monitoring.join("tasks")).unwrap(), "4711");

        // The kernel's folders go with their files; those here do not.
        fs::remove_file(monitoring.join("tasks")).unwrap();
        for file in ["schemata", "tasks"] {
            fs::remove_file(folder.join(file)).unwrap();
        }
        assert!(group.remove().is_err(), "mon_groups is not the kernel's here");
        assert!(!monitoring.exists());
        fs::remove_dir_all(&folder).unwrap();
        group.remove().unwrap();
    }

    #[test]
    fn a_class_of_the_nodes_is_taken_as_it_is_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::random();
        class(root.path(), "gold", "    L3:0=000ff;1=000ff\n    MB:0=100\n");
        let plan = |line| Group::plan(root.path(), &id, &rdt(Some("gold"), &[line], false)).unwrap();
        let group = plan("L3:0=ff");
        group.apply(1).unwrap();
        let error = plan("L3:1=f").apply(1).unwrap_err();
        assert!(error.to_string().contains("\"L3:1=f\""), "{error}");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        group.remove().unwrap();
        assert!(root.path().join("gold").exists());

        let error = Group::plan(root.path(), &id, &rdt(Some("silver"), &[], false)).unwrap_err();
        assert!(error.to_string().contains("closID") && error.to_string().contains("\"silver\""));
        assert!(
            Group::plan(root.path(), &id, &rdt(Some("silver"), &["L3:0=f"], false))
                .unwrap()
                .own
        );
    }
}
