//! `logs`: the output of a service, as it was written or as it comes.
//! It does not know how the files are laid out.

use runtime::log::{self, Options};

use crate::arguments::Logs;
use crate::commands::unknown;
use crate::error::Error;
use crate::exit::Exit;
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
    let options = Options {
        follow: arguments.follow,
        last: arguments.last,
        timestamps: arguments.timestamps,
        generation: arguments.generation,
    };
    log::read(&folders, &options, &mut print::stream())?;
    Ok(Exit::Done)
}
