//! SPDY/3.1 as kubelet and crictl speak it: the serving side of a connection, without a socket.
//!
//! `frame` is bytes to frames and back, `headers` the compressed header blocks, `connection` what a sequence of frames
//! means: which streams there are, and what a client may not do.

pub mod connection;
pub mod frame;
pub mod headers;
