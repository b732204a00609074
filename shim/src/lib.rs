//! What the shim and the daemon have in common: how a shim is launched, what it is told, what it writes down, and the
//! pure parts of its work. `no_std` and without allocation, so that the supervisor itself stays a few pages large.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod events;
pub mod exit;
pub mod launch;
pub mod log;
pub mod patience;
pub mod protocol;
pub mod record;
pub mod state;
pub mod terminal;
mod text;
