//! Image in, OCI bundle out.

pub mod account;
pub mod bundle;
pub mod digest;
pub mod error;
pub mod tree;
pub mod seccomp;
pub mod rootfs;
pub mod reference;
mod tape;
pub mod store;
mod layer;
pub mod archive;

pub use error::{Error, Result};
