//! `supervise`: the process that keeps one service up, in the background or as a unit of systemd's.
//! It knows nothing of what that process does.

use runtime::folders::ServiceFolders;
use runtime::{supervisor, systemd};

use crate::error::Error;
use crate::exit::Exit;
use crate::print;

/// How a unit's main process ended that was killed or hung: systemd starts the next one, which takes the container over
/// (systemd.exec(5), `$SERVICE_RESULT`).
const RESTARTED_AFTER: [&str; 4] = ["signal", "core-dump", "watchdog", "oom-kill"];

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
    /// By the supervisor, to say whether it could go on as this program.
    Prove,
}

impl Role {
    /// As the flags say it.
    pub(crate) fn of(unit: bool, clear: bool, again: bool, prove: bool) -> Self {
        match (unit, clear, again, prove) {
            (true, ..) => Self::Unit,
            (_, true, ..) => Self::Clear,
            (.., true, _) => Self::Again,
            (.., true) => Self::Prove,
            _ => Self::InBackground,
        }
    }
}

/// Supervises the service, or clears what a supervisor left, or says whether it could be supervised.
///
/// # Errors
/// [`Error::Runtime`].
pub(crate) fn supervise(folders: &ServiceFolders, role: Role) -> Result<Exit, Error> {
    let status = match role {
        Role::InBackground => supervisor::run(folders),
        Role::Again => supervisor::run_again(folders),
        Role::Unit => {
            return Ok(match supervisor::run_unit(folders) {
                Ok(0) => Exit::Done,
                Ok(_) => Exit::LeftAlone,
                Err(error) => {
                    print::failure(&error.into());
                    // What lives is not to suffer from a program that was to go on with it.
                    if supervisor::is_reexecuted() { Exit::Failed } else { Exit::LeftAlone }
                }
            });
        }
        Role::Clear => {
            if !is_followed(folders) {
                supervisor::clear(folders)?;
            }
            0
        }
        Role::Prove => {
            print::data(&supervisor::prove(folders)?)?;
            0
        }
    };
    Ok(Exit::of_command(status))
}

/// Whether systemd starts another supervisor in place of the one that has just ended: as the unit's `Restart=` says, unless
/// somebody wants the unit to end.
fn is_followed(folders: &ServiceFolders) -> bool {
    let said = |variable| std::env::var(variable).unwrap_or_default();
    let result = said("SERVICE_RESULT");
    let restarted = RESTARTED_AFTER.contains(&result.as_str())
        || result == "exit-code" && said("EXIT_STATUS") != Exit::LeftAlone.status().to_string();
    restarted && !systemd::is_to_end(folders.name())
}
