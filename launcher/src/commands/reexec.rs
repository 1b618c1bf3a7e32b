//! `reexec`: has supervisors go on as the program that this is, after another version was installed, or as any other.
//! It does not know what a supervisor hands over.

use std::path::Path;

use runtime::client;

use crate::arguments::Reexec;
use crate::commands::services;
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::print::{self, sentence};
use crate::service_name::ServiceName;

/// Has the supervisor of a service, or of each, go on as a program.
///
/// # Errors
/// [`Error::Runtime`]; [`Error::Some`] when some of all could not.
pub(crate) fn reexec(layout: &Layout, arguments: &Reexec) -> Result<Exit, Error> {
    let program = match &arguments.program {
        Some(program) => {
            fs_err::canonicalize(program).map_err(|error| Error::io("find the program", error))?
        }
        None => std::env::current_exe().map_err(|error| Error::io("find this program", error))?,
    };
    if let Some(service) = &arguments.service {
        one(layout, service, &program)?;
        return Ok(Exit::Done);
    }
    let (mut asked, mut failed) = (0, 0);
    for service in services(layout)? {
        if !client::is_supervised(&layout.service(&service)) {
            continue;
        }
        asked += 1;
        if let Err(error) = one(layout, &service, &program) {
            failed += 1;
            print::failure(&error);
        }
    }
    if failed > 0 { Err(Error::Some { failed, asked }) } else { Ok(Exit::Done) }
}

fn one(layout: &Layout, service: &ServiceName, program: &Path) -> Result<(), Error> {
    let process = client::reexec(&layout.service(service), program)?;
    print::note(&sentence::reexecuted(service.as_str(), process));
    Ok(())
}
