//! The zygote: the single-threaded process that forks containers; libcontainer lives only here.
//!
//! ```text
//! daemon ── client.rs ──SEQPACKET + SCM_RIGHTS──▶ server.rs (zygote: own small mount namespace, dies on EOF)
//!                                                    ├─ create.rs      S ─▶ the shim, H ─▶ init
//!                                                    │    ├─ init.rs   H becomes libcontainer's init
//!                                                    │    └─ halt.rs   init's stop for the hooks of devices
//!                                                    ├─ exec.rs        S' = parent of one exec'd process
//!                                                    ├─ namespaces.rs  a pod's net, ipc and uts
//!                                                    ├─ pod_init.rs    pid 1 of a shared pid namespace
//!                                                    └─ hold.rs        keeps a new cgroup from being empty
//! daemon ── start.rs ──▶ init's notify socket
//! ```
//! Every request carries a reply socket of its own, so that whoever does the work answers the daemon directly and a
//! dead worker is an end of file. The zygote itself only receives and forks; nothing it does can block.

mod client;
mod confine;
mod create;
mod diary;
mod error;
mod exec;
mod executor;
mod furnish;
mod halt;
mod hierarchies;
mod hold;
mod home;
mod init;
mod killing;
mod namespaces;
mod pod_init;
mod protocol;
mod server;
mod start;

pub use client::{Beginning, Created, Exec, Hold, Launch, PodInit, PodNamespaces, Zygote};
pub use error::{Failure, Stage, ZygoteError};
pub use halt::{HALT_PROGRAM, Halt, Outcome, main as halt_main};
pub use protocol::{
    BeginRequest, CgroupJoin, ClosedPaths, CreateRequest, ExecProcess, ExecRequest, ExecStdio, HaltRequest, HookState,
    NamespaceFds, NamespaceKind, NamespacesRequest, Place, PodInitRequest, Stdio, namespace_path,
};
pub use server::main;
pub use start::start;
