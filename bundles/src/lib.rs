//! Image in, OCI bundle out: takes what other tools built into a store, and makes of it what a runtime can run.
//! Knows no processes, cgroups or supervisors; a path to a bundle is all that leaves this room.
//!
//! ```text
//! archive, layout folder, stdin ──▶ archive ──▶ layer ──▶ store ──▶ rootfs ──▶ bundle ──▶ a folder with config.json
//!                                     │           │         │         └─ account    └─ seccomp
//!                                     └── tape ───┘     reference, digest                  (tree: copies of folders)
//! ```
//! `archive` finds the images in what was given and knows where their bytes are; `layer` unpacks one of their layers
//! and checks it; `tape` reads tars for both. `store` keeps unpacked layers, each once, and says what a name means.
//! `rootfs` puts an image's layers on top of each other; `bundle` writes how it is to be run, as the user that
//! `account` finds in it and with the system calls that `seccomp` allows.

#![cfg_attr(fuzzing, allow(dead_code, unused_imports, reason = "what speaks to registries is left out"))]

#[cfg(fuzzing)]
pub mod fuzzing;
mod layer;
mod spill;
mod tape;

pub mod account;
pub mod archive;
pub mod bundle;
pub mod digest;
pub mod error;
pub mod reference;
#[cfg(not(fuzzing))]
pub mod registry;
pub mod rootfs;
pub mod seccomp;
pub mod store;
pub mod tree;

pub use error::{Error, Result};
