//! WebSocket (RFC 6455), the serving side, without a socket.
//!
//! `frame` is bytes to pieces of messages and back, `channels` the Kubernetes form of a remote command, where the first
//! byte of a message names its channel. Made here because a payload is handed on as it arrives: a library gathers whole
//! messages first, and how long one is the client decides.

pub mod channels;
pub mod frame;

use base64::{Engine, prelude::BASE64_STANDARD};

/// `Sec-WebSocket-Accept` for a client's key. Source: RFC 6455, section 4.2.2.
pub fn accept_key(key: &str) -> String {
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        salted.as_bytes(),
    ))
}

/// Whether this is a `Sec-WebSocket-Key`: 16 bytes in base64.
pub fn is_key(key: &str) -> bool {
    BASE64_STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_key_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(!is_key("dGhlIHNhbXBsZSBub25jZQ") && !is_key("AAAA") && !is_key(""));
    }
}
