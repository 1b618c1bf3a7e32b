//! `supervise`: the process that keeps one service up, in the background or as a unit of systemd's.
//! It knows nothing of what that process does.

use runtime::folders::ServiceFolders;
use runtime::supervisor;

use crate::error::Error;
use crate::exit::Exit;

/// How a unit's main process ended that was killed or hung: systemd starts the next one, which takes the container over
/// (systemd.exec(5), `$SERVICE_RESULT`).
const RESTARTED_AFTER: [&str; 3] = ["signal", "core-dump", "watchdog"];

/// Supervises the service, or clears what a supervisor left.
///
/// # Errors
/// [`Error::Runtime`].
pub(crate) fn supervise(folders: &ServiceFolders, unit: bool, clear: bool) -> Result<Exit, Error> {
    if clear {
        let result = std::env::var("SERVICE_RESULT").unwrap_or_default();
        if !RESTARTED_AFTER.contains(&result.as_str()) {
            supervisor::clear(folders)?;
        }
        return Ok(Exit::Done);
    }
    let status = if unit { supervisor::run_unit(folders)? } else { supervisor::run(folders) };
    Ok(Exit::of_command(status))
}
