//! inro: a Kubernetes CRI v1 runtime daemon.
//!
//! A module uses lower rows only; `tests/layering.rs` holds this table.
//!
//! | row | modules |
//! |---|---|
//! | assembly | [`cli`] [`daemon`] [`config`] |
//! | faces | [`cri`] [`stream`] [`metrics`] |
//! | domain | [`pod`] |
//! | mechanisms | [`spec`] [`lockdown`] [`cgroup`] [`net`] [`image`] [`zygote`] [`shim`] [`store`] [`checkpoint`] [`resctrl`] |
//! | ground | [`model`] [`sys`] [`durable`] |

pub mod cgroup;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod cri;
pub mod daemon;
pub mod durable;
pub mod image;
pub mod lockdown;
pub mod metrics;
pub mod model;
pub mod net;
pub mod pod;
pub mod resctrl;
pub mod shim;
pub mod spec;
pub mod store;
pub mod stream;
#[allow(unsafe_code)]
pub mod sys;
pub mod zygote;
