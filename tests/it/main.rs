//! The daemon as its users see it: real processes, a real registry, the real kernel, one file per behaviour.
//!
//! Needs root and what `tests/run` prepares; `tests/run it NAME` runs those whose names contain NAME.

mod addresses;
mod apparmor;
mod attach_slow;
mod bad_fields;
mod bad_input;
mod bench;
mod cdi;
mod cgroups;
mod checkpoint;
mod config;
mod crictl_session;
mod events;
mod exec_sync;
mod exit_codes;
mod harness;
mod hooks;
mod host_ports;
mod image_names;
mod image_volumes;
mod images;
mod lifecycle;
mod lists;
mod logs;
mod messages;
mod metrics;
mod net_devices;
mod oom;
mod permissions;
mod pods;
mod port_forward;
mod reboot;
mod registries;
mod security;
mod service;
mod slow_unmount;
mod stats;
mod stream_server;
mod streaming;
mod survive_kill9;
mod systemd;
mod systemd_driver;
mod update;
mod userns;
mod volumes;
