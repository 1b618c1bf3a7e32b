//! `supervise`: the process that keeps one service up, in the background or as a unit of systemd's.
//! It knows nothing of what that process does.

use runtime::folders::ServiceFolders;
use runtime::supervisor;

use crate::error::Error;
use crate::exit::Exit;

/// How a unit's main process ended that was killed or hung: systemd starts the next one, which takes the container over
/// (systemd.exec(5), `$SERVICE_RESULT`).
const RESTARTED_AFTER: [&str; 3] = ["signal", "core-dump", "watchdog"];

/// Whom it is started by, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// By a command, which is its first client.
    InBackground,
    /// By systemd.
    Unit,
    /// By a keeper, after another one has died.
    Again,
    /// By systemd, to clear what is left.
    Clear,
}

impl Role {
    /// As the flags say it.
    pub(crate) fn of(unit: bool, clear: bool, again: bool) -> Self {
        match (unit, clear, again) {
            (true, ..) => Self::Unit,
            (_, true, _) => Self::Clear,
            (.., true) => Self::Again,
            _ => Self::InBackground,
        }
    }
}

/// Supervises the service, or clears what a supervisor left.
///
/// # Errors
/// [`Error::Runtime`].
pub(crate) fn supervise(folders: &ServiceFolders, role: Role) -> Result<Exit, Error> {
    if role == Role::Clear {
        let result = std::env::var("SERVICE_RESULT").unwrap_or_default();
        if !RESTARTED_AFTER.contains(&result.as_str()) {
            supervisor::clear(folders)?;
        }
        return Ok(Exit::Done);
    }
    let status = match role {
        Role::Unit => supervisor::run_unit(folders)?,
        Role::Again => supervisor::run_again(folders),
        _ => supervisor::run(folders),
    };
    Ok(Exit::of_command(status))
}
