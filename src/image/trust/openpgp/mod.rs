//! OpenPGP: keyrings, and messages that one of their keys has signed.
//!
//! The crate `pgp` parses packets and verifies one signature at a time. What a key's signatures mean together is decided
//! here, as GnuPG does it, whose word containers/image takes: a key that expired or was revoked vouches for nothing, not
//! even for what it signed before. Stricter than that: hashes older than SHA-2 are taken in what a key says of itself
//! only, and no DSA nor RSA of less than 2048 bits is.
//!
//! Sources: RFC 9580; containers/image, `signature/mechanism_gpgme.go`; GnuPG, `g10/getkey.c` and `g10/sig-check.c`.

mod certificate;
mod keyring;
mod message;
#[cfg(test)]
mod test;

use std::fmt::Display;

pub use keyring::Keyring;

use crate::image::reference::shortened;

/// Whether keyrings can be read.
pub const IS_BUILT_IN: bool = true;

/// What `pgp` says, in few words: it adds how it came there.
fn told(error: &dyn Display) -> String {
    shortened(&error.to_string())
}
