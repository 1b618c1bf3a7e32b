//! Image in, OCI bundle out.

pub mod digest;
pub mod error;

pub use error::{Error, Result};
