//! The CRI v1 wire format, and what inro has beside it: the types generated from `api.proto` and `images.proto`, checked
//! in so that no build needs protoc.
//!
//! `INRO_BLESS=1 cargo test -p inro-proto` generates them anew.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

mod listed;

pub use listed::{EncodedContainer, ListContainersResponse};

include!("runtime.v1.rs");

/// inro's own calls for images.
pub mod images {
    include!("inro.v1.rs");
}
