//! `logs`: the output of a service, as it was written or as it comes.
//! It does not know how the files are laid out.

use runtime::folders::ServiceFolders;
use runtime::log::{self, Options};
use runtime::record::Record;

use crate::arguments::Logs;
use crate::commands::unknown;
use crate::error::Error;
use crate::exit::Exit;
use crate::generation;
use crate::hooks;
use crate::layout::Layout;
use crate::print;

/// Shows the output of a service; also of one whose only start failed, when there is no record.
///
/// # Errors
/// [`Error::NoService`], [`Error::Runtime`].
pub(crate) fn logs(layout: &Layout, arguments: &Logs) -> Result<Exit, Error> {
    let folders = layout.service(&arguments.service);
    if !folders.log.is_dir() {
        return Err(unknown(layout, &arguments.service)?);
    }
    if arguments.hooks {
        return output_of_hooks(&folders, arguments);
    }
    let options = Options {
        follow: arguments.follow,
        last: arguments.last,
        timestamps: arguments.timestamps,
        generation: arguments.generation,
    };
    log::read(&folders, &options, &mut print::stream())?;
    Ok(Exit::Done)
}

/// Shows what the hooks of a generation have written, of the active one when none is named. With none run that is nothing.
fn output_of_hooks(folders: &ServiceFolders, arguments: &Logs) -> Result<Exit, Error> {
    let active = Record::read(folders)?.map(|record| record.generation);
    let Some(generation) = arguments.generation.or(active) else { return Ok(Exit::Done) };
    generation::find(folders, &arguments.service, generation)?;
    match fs_err::read(hooks::output(&folders.generation(generation))) {
        Ok(text) => print::data(&String::from_utf8_lossy(&text))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("show the output of the hooks", error)),
    }
    Ok(Exit::Done)
}
