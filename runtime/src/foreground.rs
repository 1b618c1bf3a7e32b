//! A one-shot container in the foreground: made, attended to, and gone without a trace.
//! It knows no service; the bundle says everything.

use std::path::{Path, PathBuf};

use crate::attend::{Attachment, attend};
use crate::error::Error;
use crate::{container, host_files, one_shot};

/// What to run.
#[derive(Debug, Clone)]
pub struct Request {
    /// The bundle's folder; whether it has a terminal is in its `config.json`.
    pub bundle: PathBuf,
    /// A folder of its own for what is gone after the run; made when missing, removed by who gave it. The copies of
    /// the host's resolv.conf and hosts are in its `host/`.
    pub run_folder: PathBuf,
    /// Whether opsrun's init is process 1.
    pub init: bool,
    /// What its input is.
    pub attachment: Attachment,
}

/// Runs it and waits; the command's exit status as a shell gives it.
///
/// When this process is killed, the container is too.
///
/// # Errors
/// [`Error::Container`], [`Error::Execute`]; nothing of the container is left then.
pub fn run(request: &Request) -> Result<i32, Error> {
    one_shot::run(&request.bundle, &request.run_folder, request.init, |create| {
        host_files::keep_following(one_shot::copies(&request.run_folder)).map_err(one_shot::not_copied)?;
        attend(create, request.attachment)
    })
}

/// Removes what a run left behind whose process was killed: its container, where the kernel has not ended that already,
/// its cgroup and libcontainer's state. Nothing left is fine. `cgroup` is the bundle's `linux.cgroupsPath`.
///
/// # Errors
/// [`Error::Io`].
pub fn clear(run_folder: &Path, cgroup: &Path) -> Result<(), Error> {
    container::clear(run_folder, cgroup)
}
