//! HTTP face: exec, attach and port-forward, as kubelet and crictl stream them.
//!
//! `spdy` and `websocket` are the protocols without sockets, `wire` what they have in common.

pub mod spdy;
pub mod websocket;
pub mod wire;
