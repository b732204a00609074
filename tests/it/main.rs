//! The daemon as its users see it: real processes, a real registry, the real kernel, one file per behaviour.
//!
//! Needs root and what `tests/run` prepares; `tests/run it NAME` runs those whose names contain NAME.

mod bad_input;
mod cdi;
mod cgroups;
mod config;
mod crictl_session;
mod exec_sync;
mod exit_codes;
mod harness;
mod image_volumes;
mod images;
mod lifecycle;
mod logs;
mod permissions;
mod pods;
mod registries;
mod security;
mod survive_kill9;
mod systemd;
mod userns;
