//! One file for each command: it looks up, has things done in their order, and has the outcome said.
//! None of them prints by itself, and none knows libcontainer or layers.

pub(crate) mod bench_swap;
pub(crate) mod boot;
pub(crate) mod commit;
pub(crate) mod config_init;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod enable;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod fsck;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod reexec;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod supervise;
pub(crate) mod swap;
pub(crate) mod texts;
pub(crate) mod update;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use runtime::folders::ServiceFolders;
use runtime::record::Record;
use runtime::status::Status;

use crate::error::Error;
use crate::layout::Layout;
use crate::print::{self, sentence};
use crate::service_name::ServiceName;

/// The services that have a record or at least a folder for one, by name.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn services(layout: &Layout) -> Result<Vec<ServiceName>, Error> {
    service_names(&layout.services())
}

/// The services that have a folder in this one, by name.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn service_names(folder: &Path) -> Result<Vec<ServiceName>, Error> {
    let failed = |error| Error::io("list the services", error);
    let entries = match fs_err::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        // What is no service's name was not made by opsrun.
        if let Some(name) = entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse().ok()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What is known of a service that must exist.
///
/// # Errors
/// [`Error::NoService`], [`Error::Runtime`].
pub(crate) fn look(layout: &Layout, name: &ServiceName) -> Result<(ServiceFolders, Status), Error> {
    let folders = layout.service(name);
    match runtime::status::look(&folders)? {
        Some(status) => Ok((folders, status)),
        None => Err(unknown(layout, name)?),
    }
}

/// Frees a service whose record cannot be read, and says so; whether it was one.
///
/// # Errors
/// [`Error::Runtime`].
pub(crate) fn set_corrupt_record_aside(folders: &ServiceFolders) -> Result<bool, Error> {
    let aside = runtime::supervisor::set_corrupt_record_aside(folders)?;
    if let Some(aside) = &aside {
        print::warning(&sentence::record_set_aside(folders.name(), aside));
    }
    Ok(aside.is_some())
}

/// The error for a service without a record.
fn unknown(layout: &Layout, name: &ServiceName) -> Result<Error, Error> {
    let mut have = Vec::new();
    for other in services(layout)? {
        // One that cannot be read exists all the same.
        if !matches!(Record::read(&layout.service(&other)), Ok(None)) {
            have.push(other.to_string());
        }
    }
    Ok(Error::NoService { service: name.to_string(), have })
}

/// Milliseconds since 1970; 0 on a clock set before.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
