//! The daemon as its users see it: real processes, a real registry, the real kernel, one file per behaviour.
//!
//! Needs root and what `tests/run` prepares; `tests/run it NAME` runs those whose names contain NAME.

mod bad_input;
mod config;
mod crictl_session;
mod exec_sync;
mod exit_codes;
mod harness;
mod images;
mod lifecycle;
mod logs;
mod pods;
mod port_forward;
mod registries;
mod security;
mod stream_server;
mod streaming;
mod survive_kill9;
