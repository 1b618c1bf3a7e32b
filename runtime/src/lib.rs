//! Bundle in, living service out: this room makes containers, keeps them up, proves them healthy and stops them.
//! It knows neither images, archives and registries nor what a person types.
//!
//! ```text
//!   a command                    the supervisor of a service            the throw-away process
//!   client ───── control ──────▶ supervisor ───── channel ────────────▶ create ─ libcontainer
//!   status ◀──── record ──────── │ lifecycle   (what follows from what) │  confine, init, seccomp, devices
//!   log    ◀──── log files ───── │ health      (probes)                 ▼
//!   events ◀──── event files ─── │
//!   exec, foreground ─ attend    │ host_files  (resolv.conf, hosts)     the container: a child of who asked
//!            └──── channel ──────┼──────────────────────────────────▶
//! ```
//!
//! What passes between this room and the one that makes bundles is the path of an OCI bundle. Opsrun's own facts about
//! it travel in `config.json` as the annotation [`definition::ANNOTATION`], and in the bundle's folder: where there
//! is a `lower/`, the root file system is an overlay of the layers it points at.

pub mod abilities;
pub mod attend;
mod cgroup;
mod channel;
pub mod client;
mod confine;
mod container;
mod control;
pub mod crash_point;
#[cfg(not(fuzzing))]
pub mod create;
pub mod definition;
mod devices;
mod enter;
pub mod error;
pub mod events;
pub mod exec;
pub mod folders;
pub mod foreground;
pub mod freeze;
mod handover;
mod health;
pub mod history;
pub mod hook;
pub mod host;
mod host_files;
mod init;
pub mod keep;
pub mod lacking;
mod lifecycle;
pub mod limits;
mod lock;
pub mod log;
mod memory;
mod one_shot;
mod os;
pub mod port;
pub mod record;
pub mod replace;
mod seccomp;
pub mod share;
mod small_file;
pub mod stats;
pub mod status;
mod steering;
pub mod stop_signal;
pub mod supervisor;
pub mod swap;
pub mod systemd;
mod terminal;
mod title;
mod trace;
mod watch;
pub mod way;

pub use error::{Error, Failure};
pub use steering::{UID_FIRST, UID_MASK};
