//! `enable` and `disable`: whether the host starts a service at boot. With systemd that is its unit's business, without it
//! a file that `boot` looks for. They start and stop nothing.

use runtime::folders::ServiceFolders;
use runtime::systemd;

use crate::arguments::ServiceOnly;
use crate::commands::look;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::prepare::Said;
use crate::print::{self, sentence};
use crate::service_name::ServiceName;

/// Has a service started at boot.
///
/// # Errors
/// [`Error::NoService`], [`Error::Settings`], [`Error::Runtime`], [`Error::Io`].
pub(crate) fn enable(layout: &Layout, arguments: ServiceOnly) -> Result<Exit, Error> {
    let service = arguments.service;
    let (folders, _) = look(layout, &service)?;
    if systemd::keeps(&folders) {
        let after = Said::about(layout, &service)?.both.after.unwrap_or_default();
        systemd::order_after(service.as_str(), &after.iter().map(ServiceName::as_str).collect::<Vec<_>>())?;
        systemd::systemctl("enable", service.as_str())?;
    } else {
        fs_err::write(folders.enabled(), "")
            .map_err(|error| Error::io(format!("have {service} started at boot"), error))?;
    }
    print::note(&sentence::enabled(service.as_str()));
    Ok(Exit::Done)
}

/// Has a service not started at boot any more.
///
/// # Errors
/// As [`enable`].
pub(crate) fn disable(layout: &Layout, arguments: ServiceOnly) -> Result<Exit, Error> {
    let service = arguments.service;
    let (folders, _) = look(layout, &service)?;
    forget(&folders, &service)?;
    print::note(&sentence::disabled(service.as_str()));
    Ok(Exit::Done)
}

/// Whether the host starts a service at boot.
pub(crate) fn is_enabled(folders: &ServiceFolders) -> bool {
    if systemd::keeps(folders) { systemd::is_enabled(folders.name()) } else { folders.enabled().exists() }
}

/// Takes a service out of the boot; one that is not in it is fine.
///
/// # Errors
/// [`Error::Runtime`], [`Error::Io`].
pub(crate) fn forget(folders: &ServiceFolders, service: &ServiceName) -> Result<(), Error> {
    if systemd::keeps(folders) && systemd::is_enabled(service.as_str()) {
        systemd::systemctl("disable", service.as_str())?;
        systemd::order_after(service.as_str(), &[])?;
    }
    match fs_err::remove_file(folders.enabled()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("no longer have {service} started at boot"), error))
        }
        _ => Ok(()),
    }
}
