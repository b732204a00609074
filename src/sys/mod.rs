//! System calls that rustix does not offer, what /proc tells of a process, and what more than one server needs; with the shim's
//! start-up module the only `unsafe` code.

pub mod accept;
pub mod arena;
pub mod bpf;
pub mod capset;
pub mod device;
pub mod fdpass;
pub mod fork;
pub mod inherited;
pub mod mount;
pub mod oom;
pub mod own;
pub mod process;
pub mod program;
pub mod project;
pub mod quota;
pub mod reactor;
pub mod seccomp;
pub mod stat;
pub mod thread;
pub mod verity;
pub mod within;
