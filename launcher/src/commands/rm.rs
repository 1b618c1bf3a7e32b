//! `rm`: forgets a service. What opsrun keeps of it goes; what the service itself keeps in /opt stays.
//! It does not know what those folders hold.

use runtime::{client, crash_point};

use crate::arguments::Rm;
use crate::commands::{enable, look, set_corrupt_record_aside};
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::print::{self, sentence};

/// Forgets a service.
///
/// # Errors
/// [`Error::StillRunning`] without `--force`, [`Error::NoService`], [`Error::Runtime`], [`Error::Io`].
pub(crate) fn rm(layout: &Layout, arguments: Rm) -> Result<Exit, Error> {
    let service = arguments.service;
    let folders = layout.service(&service);
    set_corrupt_record_aside(&folders)?;
    let (folders, status) = look(layout, &service)?;
    if status.alive || status.supervisor.is_some() {
        if !arguments.force {
            let (service, release) = (service.to_string(), status.record.release);
            return Err(Error::StillRunning { service, release });
        }
        match client::stop(&folders) {
            // It ended by itself in between.
            Ok(_) | Err(runtime::Error::NotRunning { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // What a supervisor that died has left would have no record that tells of it any more.
    client::clear(&folders)?;
    enable::forget(&folders, &service)?;
    // The record last but for its folder: a removal that was cut short can be repeated, as `rm` still knows the name.
    for folder in [&folders.run, &folders.log, &folders.generations(), &folders.state] {
        crash_point::here();
        match fs_err::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove what is kept of {service}"), error));
            }
            _ => {}
        }
    }
    let home = layout.own(&service).home;
    print::note(&sentence::removed_service(service.as_str(), home.exists().then_some(home.as_path())));
    Ok(Exit::Done)
}
