//! The nouns of inro: what a sandbox, a container and an image *are*, as values that cannot be wrong.
//!
//! `cri::parse` makes these from wire messages with every default applied; behind it nobody checks for an empty
//! string again. They are also what the run folder's records hold, so every type here is `serde`-able and a change of
//! shape is a change of record version.

mod base_mount;
mod container;
mod error;
mod event;
mod id;
mod image;
mod resources;
mod sandbox;
mod security;
mod stages;
mod time;
mod usage;
mod vendor;

pub use base_mount::BaseMount;
pub use container::*;
pub use error::*;
pub use event::*;
pub use id::*;
pub use image::*;
pub use resources::*;
pub use sandbox::*;
pub use security::*;
pub use stages::*;
pub use time::*;
pub use usage::*;
pub use vendor::*;
