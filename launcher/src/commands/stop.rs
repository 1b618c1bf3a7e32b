//! `stop`: has a service ended, and says how long that took.
//! It does not know how a process is ended.

use runtime::client;

use crate::arguments::ServiceOnly;
use crate::commands::{look, set_corrupt_record_aside};
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::print::{self, sentence};

/// Stops a service.
///
/// # Errors
/// [`Error::NoService`], [`Error::Runtime`].
pub(crate) fn stop(layout: &Layout, arguments: ServiceOnly) -> Result<Exit, Error> {
    let service = arguments.service;
    let stopped = match look(layout, &service) {
        Ok((folders, _)) => client::stop(&folders)?,
        Err(Error::Runtime(runtime::Error::RecordCorrupt { .. })) => {
            let folders = layout.service(&service);
            match client::stop(&folders) {
                // Its supervisor knew better than the record.
                Ok(stopped) => stopped,
                Err(error) => {
                    return if set_corrupt_record_aside(&folders)? {
                        Ok(Exit::Done)
                    } else {
                        Err(error.into())
                    };
                }
            }
        }
        Err(error) => return Err(error),
    };
    let took_ms = u64::try_from(stopped.took.as_millis()).unwrap_or(u64::MAX);
    print::note(&sentence::stopped(service.as_str(), &stopped.release, took_ms));
    Ok(Exit::Done)
}
