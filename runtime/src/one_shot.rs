//! Has a one-shot container made from its bundle and somebody stay with it, and leaves nothing of it afterwards.
//! It knows neither what is run in it nor who stays.

use std::path::{Path, PathBuf};

use crate::channel::{Purpose, Request};
use crate::error::Error;
use crate::{container, host_files};

/// Has `attend` make the container of a bundle and stay with it until it ends. The copies of the host's files are made by then.
///
/// # Errors
/// Those of `attend`, which come first: what was left of the container is said only when all else went well.
pub(crate) fn run<T>(
    bundle: &Path,
    run_folder: &Path,
    init: bool,
    attend: impl FnOnce(&Request) -> Result<T, Error>,
) -> Result<T, Error> {
    let spec = container::read_spec(bundle)?;
    host_files::copy(&copies(run_folder)).map_err(not_copied)?;
    let request = Request::Create {
        bundle: bundle.to_owned(),
        run: run_folder.to_owned(),
        cgroup: container::cgroup_of(&spec).to_owned(),
        roomy: container::is_roomy(&spec),
        init,
        purpose: Purpose::OneShot,
        notified: false,
    };
    let attended = attend(&request);
    let cleared = container::clear(run_folder, container::cgroup_of(&spec));
    let attended = attended?;
    cleared.map(|()| attended)
}

/// Where the copies of the host's files are.
pub(crate) fn copies(run_folder: &Path) -> PathBuf {
    run_folder.join("host")
}

pub(crate) fn not_copied(source: std::io::Error) -> Error {
    Error::Io { doing: "copy the host's resolv.conf and hosts", source }
}
