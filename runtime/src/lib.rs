//! Bundle in, living service out.
#![allow(missing_docs)]

pub mod definition;
pub mod error;
pub mod folders;
pub mod record;
mod replace;

pub use error::{Error, Failure};
