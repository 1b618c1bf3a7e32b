//! Image in, OCI bundle out.

pub mod digest;
pub mod error;
pub mod reference;
mod tape;

pub use error::{Error, Result};
