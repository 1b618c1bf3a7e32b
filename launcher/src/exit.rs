//! The exit statuses of opsrun: one type for them, so that no number stands anywhere else.
//! It knows nothing of what was done.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It is done: 0.
    Done,
    /// It could not be done, and nothing was changed: 1.
    Failed,
    /// The command line makes no sense: 2.
    Usage,
    /// It was tried, failed, and what was there before is there again: 3.
    WentBack,
    /// Neither the new nor the old serves; a person is needed: 4.
    NeitherServes,
    /// It is done, and a hook that was to be run after it failed: 5.
    HookFailed,
    /// A supervisor of systemd's could not begin, or leaves the service alone: 70. The unit's `RestartPreventExitStatus=`; no
    /// program that is broken ends so by chance.
    LeftAlone,
    /// `exec` and `run`: opsrun itself failed before the command began: 125, as Docker has it.
    BeforeCommand,
    /// `exec` and `run`: the command cannot be executed: 126, as Docker and sh(1) have it.
    CannotExecute,
    /// `exec` and `run`: the command does not exist: 127, as Docker and sh(1) have it.
    NoSuchCommand,
    /// `exec` and `run`: the command's own status; 128 + N when signal N ended it.
    Command(u8),
}

impl Exit {
    /// The number a shell sees.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::WentBack => 3,
            Self::NeitherServes => 4,
            Self::HookFailed => 5,
            Self::LeftAlone => 70,
            Self::BeforeCommand => 125,
            Self::CannotExecute => 126,
            Self::NoSuchCommand => 127,
            Self::Command(status) => status,
        }
    }

    /// The end of `exec` and `run` when the command ended with `status`.
    pub(crate) fn of_command(status: i32) -> Self {
        // A wait status is 0 to 255; anything else is opsrun's own fault and must not look like success.
        u8::try_from(status).map_or(Self::BeforeCommand, Self::Command)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_status_is_passed_on_and_never_turned_into_success() {
        assert_eq!(Exit::of_command(0).status(), 0);
        assert_eq!(Exit::of_command(143).status(), 143);
        assert_eq!(Exit::of_command(256).status(), 125);
        assert_eq!(Exit::of_command(-1).status(), 125);
    }
}
