//! The daemon as its users see it: real processes, a real registry, the real kernel, one file per behaviour.
//!
//! Needs root and what `tests/run` prepares; `tests/run it NAME` runs those whose names contain NAME.

mod bad_input;
mod config;
mod crictl_session;
mod events;
mod exec_sync;
mod exit_codes;
mod harness;
mod images;
mod lifecycle;
mod lists;
mod logs;
mod pods;
mod registries;
mod security;
mod stats;
mod survive_kill9;
