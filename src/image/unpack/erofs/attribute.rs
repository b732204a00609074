//! Extended attributes as an inode of the image has them: those that the kernel would have let the worker set, and no other.

use rustix::io::Errno;

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Stands for the name's beginning.
    prefix: u8,
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Attribute {
    /// `None` for one that no file of an image has.
    ///
    /// # Errors
    /// What fsetxattr(2) would say to it.
    pub fn new(name: &str, value: &[u8], of_folder: bool) -> rustix::io::Result<Option<Self>> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Errno::RANGE);
        }
        let (prefix, name) = match name {
            // A list without entries is none.
            acl if acl.starts_with("system.posix_acl_") && value == NO_ENTRIES => return Ok(None),
            "security.capability" => (SECURITY, "capability"),
            "system.posix_acl_access" => (ACL_ACCESS, ""),
            "system.posix_acl_default" if of_folder => (ACL_DEFAULT, ""),
            "system.posix_acl_default" => return Err(Errno::ACCESS),
            // Labels of whoever packed the image are not this node's.
            other if other.starts_with("security.") => return Err(Errno::PERM),
            other => match other.strip_prefix("user.") {
                Some("") => return Err(Errno::INVAL),
                Some(name) => (USER, name),
                None => return Ok(None),
            },
        };
        let honest = match prefix {
            SECURITY => is_capability(value),
            ACL_ACCESS | ACL_DEFAULT => is_acl(value),
            _ => true,
        };
        if !honest {
            return Err(Errno::INVAL);
        }
        Self::with(prefix, name, value).map(Some)
    }

    /// The mark of a folder that hides what lower layers have in it.
    pub fn opaque() -> Self {
        Self {
            prefix: TRUSTED,
            name: (*b"overlay.opaque").into(),
            value: (*b"y").into(),
        }
    }

    fn with(prefix: u8, name: &str, value: &[u8]) -> rustix::io::Result<Self> {
        if value.len() > VALUE_MAX {
            return Err(Errno::TOOBIG);
        }
        Ok(Self {
            prefix,
            name: name.as_bytes().into(),
            value: value.into(),
        })
    }

    pub fn is_named_as(&self, other: &Self) -> bool {
        (self.prefix, &self.name) == (other.prefix, &other.name)
    }

    /// Bytes of it in the image.
    fn size(&self) -> usize {
        (4 + self.name.len() + self.value.len()).next_multiple_of(4)
    }
}

/// Bytes of all attributes of an inode in the image.
pub fn size(attributes: &[Attribute]) -> usize {
    match attributes {
        [] => 0,
        some => HEADER + some.iter().map(Attribute::size).sum::<usize>(),
    }
}

/// What an inode has as `i_xattr_icount`.
pub fn count(attributes: &[Attribute]) -> u16 {
    let units = match size(attributes) {
        0 => 0,
        size => (size - HEADER) / 4 + 1,
    };
    u16::try_from(units).expect("fewer than MOST bytes")
}

/// `struct erofs_xattr_ibody_header`, and a `struct erofs_xattr_entry` with name and value for each.
pub fn bytes(attributes: &[Attribute]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size(attributes));
    if attributes.is_empty() {
        return bytes;
    }
    bytes.resize(HEADER, 0);
    for attribute in attributes {
        bytes.push(u8::try_from(attribute.name.len()).expect("no longer than NAME_MAX"));
        bytes.push(attribute.prefix);
        let size = u16::try_from(attribute.value.len()).expect("no longer than VALUE_MAX");
        bytes.extend(size.to_le_bytes());
        bytes.extend(&attribute.name);
        bytes.extend(&attribute.value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// `struct vfs_cap_data` with one or two words of revision 2 or 3. Source: linux/capability.h.
fn is_capability(value: &[u8]) -> bool {
    let revision = value.get(3).copied();
    matches!((value.len(), revision), (20, Some(2)) | (24, Some(3)))
}

/// Version, and entries of tag, rights and id. Source: linux/posix_acl_xattr.h.
fn is_acl(value: &[u8]) -> bool {
    let Some(entries) = value.strip_prefix(&NO_ENTRIES) else {
        return false;
    };
    let honest = |entry: &[u8]| matches!(entry, [1 | 2 | 4 | 8 | 0x10 | 0x20, 0, 0..=7, 0, ..]);
    let chunks = entries.chunks_exact(8);
    chunks.remainder().is_empty() && !entries.is_empty() && chunks.into_iter().all(honest)
}

/// The version of an access control list, and nothing else.
const NO_ENTRIES: [u8; 4] = [2, 0, 0, 0];
/// `EROFS_XATTR_INDEX_*`.
const USER: u8 = 1;
const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;
const TRUSTED: u8 = 4;
const SECURITY: u8 = 6;
/// Of `struct erofs_xattr_ibody_header`.
const HEADER: usize = 12;
/// Source: xattr(7).
const NAME_MAX: usize = 255;
/// The field has 16 bits; xattr(7) has one byte more.
const VALUE_MAX: usize = u16::MAX as usize;
/// Bytes of all attributes of one inode.
pub const MOST: usize = 128 << 10;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_the_kernel_would_not_let_the_worker_set_is_in_no_image() {
        let capability = |bytes: usize, revision| {
            let mut value = vec![0; bytes];
            value[3] = revision;
            value
        };
        let acl = [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255];
        for (name, value, expected) in [
            ("user.x", vec![1], Ok(true)),
            ("user.", vec![1], Err(Errno::INVAL)),
            ("user.x", vec![1; 65536], Err(Errno::TOOBIG)),
            ("security.capability", capability(20, 2), Ok(true)),
            ("security.capability", capability(24, 3), Ok(true)),
            ("security.capability", capability(24, 2), Err(Errno::INVAL)),
            ("security.capability", vec![], Err(Errno::INVAL)),
            ("security.selinux", vec![1], Err(Errno::PERM)),
            ("system.posix_acl_access", acl.to_vec(), Ok(true)),
            ("system.posix_acl_access", acl[..11].to_vec(), Err(Errno::INVAL)),
            (
                "system.posix_acl_access",
                [&acl[..6], &[8], &acl[7..]].concat(),
                Err(Errno::INVAL),
            ),
            ("system.posix_acl_default", acl.to_vec(), Err(Errno::ACCESS)),
            ("system.posix_acl_access", acl[..4].to_vec(), Ok(false)),
            ("trusted.overlay.redirect", vec![1], Ok(false)),
            ("lustre.lov", vec![1], Ok(false)),
        ] {
            let made = Attribute::new(name, &value, false).map(|made| made.is_some());
            assert_eq!(made, expected, "{name} of {} bytes", value.len());
        }
        assert_eq!(Attribute::new(&"n".repeat(256), b"", false), Err(Errno::RANGE));
        assert!(
            Attribute::new("system.posix_acl_default", &acl, true)
                .unwrap()
                .is_some()
        );
    }
}
