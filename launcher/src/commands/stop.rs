//! `stop`: has a service ended, and says how long that took.
//! It does not know how a process is ended.

use runtime::client;

use crate::arguments::ServiceOnly;
use crate::commands::look;
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
    let (folders, _) = look(layout, &service)?;
    let stopped = client::stop(&folders)?;
    let took_ms = u64::try_from(stopped.took.as_millis()).unwrap_or(u64::MAX);
    print::note(&sentence::stopped(service.as_str(), &stopped.release, took_ms));
    Ok(Exit::Done)
}
