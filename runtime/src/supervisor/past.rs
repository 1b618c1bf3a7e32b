//! What the supervisor notes in the service's history: from when a generation serves, and how it ends.
//! Each note may be made again at any time; it knows nothing of what the history is read for.

use super::Supervisor;
use crate::error::{Error, Failure};
use crate::folders::ServiceFolders;
use crate::history::{End, History};
use crate::record::{Process, State};

impl Supervisor {
    /// The generation serves.
    pub(super) fn note_serving(&mut self, generation: u32) {
        let noted = History::of(&self.folders).serves(generation);
        self.noted(noted);
    }

    /// The generation has ended in this way.
    pub(super) fn note_ended(&mut self, generation: u32, end: End) {
        let noted = History::of(&self.folders).ended(generation, end);
        self.noted(noted);
    }

    /// The generation has come to its end, if it has.
    pub(super) fn note_end(&mut self, generation: u32) {
        let Some(running) = self.get(generation) else { return };
        let reason = || running.life.last_failure().cloned().unwrap_or_else(|| Failure::new("it ended"));
        let end = match running.life.state() {
            _ if running.life.start_failed() => End::NeverHealthy { reason: reason() },
            State::CrashLoop => End::CrashLoop { reason: reason() },
            State::Stopped => self.ending.clone().unwrap_or(End::ByItself {
                status: running.record.last_exit.map(|exit| exit.status).filter(|status| *status >= 0),
            }),
            State::Starting | State::Running | State::BackingOff | State::Stopping => return,
        };
        self.note_ended(generation, end);
    }

    /// A history that cannot be written is no reason to leave a service alone.
    fn noted(&mut self, noted: Result<(), Error>) {
        if let Err(error) = noted {
            self.trouble(&Failure::of(&error));
        }
    }
}

/// A generation whose supervisor was lost, and whose remains are cleared away.
pub(super) fn note_lost(folders: &ServiceFolders, generation: u32, process: &Process) -> Result<(), Error> {
    let end = if process.is_of_this_boot() { End::SupervisorLost } else { End::HostDown };
    History::of(folders).ended(generation, end)
}
