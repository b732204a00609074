//! File systems that every container finds in its root.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A new file system at a place in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseMount {
    /// As in /proc/filesystems.
    pub kind: String,
    /// Absolute, in the container.
    pub place: PathBuf,
    /// Keys and values for fsconfig(2); an empty value is a flag.
    pub options: Vec<(String, String)>,
    /// `MOUNT_ATTR_*` of mount_setattr(2).
    pub attributes: u32,
}
