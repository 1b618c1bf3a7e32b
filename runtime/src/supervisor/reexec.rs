//! A supervisor becomes another version of itself: the same process executes another program, which goes on with what it
//! is handed. It knows no service.
//!
//! The process keeps its number, its children and its lock, so there is no moment at which another supervisor could come,
//! and the container stays a child. What it holds is handed over by inheritance: each descriptor under a name in the
//! environment. Should the program not be able to go on, it ends, and what was kept is still kept: the keeper or systemd
//! starts the next one. Before any of that the program is tried (`proof.rs`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::Supervisor;
use crate::error::{Error, Failure};
use crate::handover;
use crate::lock::Lock;
use crate::record::State;

/// The names of what is not kept.
const LOCK: &str = "lock";
const LINK: &str = "link";

/// What the program before this one has handed over.
#[derive(Debug, Default)]
pub(super) struct HandedOver {
    /// The service's lock.
    pub lock: Option<Lock>,
    /// The connection to the keeper.
    pub link: Option<OwnedFd>,
    /// What is kept, by name.
    pub kept: Vec<(String, OwnedFd)>,
}

impl HandedOver {
    /// To be asked once, before anything is opened.
    pub fn to_this_process() -> Option<Self> {
        let mut handed = Self::default();
        for (name, descriptor) in handover::by(std::process::id())? {
            match name.as_str() {
                LOCK => handed.lock = Some(Lock::inherited(File::from(descriptor))),
                LINK => handed.link = Some(descriptor),
                _ => handed.kept.push((name, descriptor)),
            }
        }
        Some(handed)
    }
}

impl Supervisor {
    /// Becomes `program`; returns only when it cannot.
    ///
    /// # Errors
    /// [`Error::Supervisor`] while the service starts, stops or is swapped; [`Error::Io`].
    pub(super) fn reexec(&mut self, program: &Path) -> Error {
        let steady = self.swap.is_none()
            && self.active.as_ref().is_some_and(|active| {
                active.life.state() == State::Running && active.making.is_none() && active.pid.is_some()
            });
        if !steady {
            let source = Failure::new("it starts, stops or is swapped; ask again when it runs");
            return Error::Supervisor { service: self.folders.name().to_owned(), source };
        }
        if let Some(active) = &mut self.active {
            active.prober.cancel();
        }
        self.write_record();
        let why = match self.try_out(program) {
            Ok(()) => Error::Io { doing: "execute the program", source: self.execute(program) },
            Err(source) => Error::Supervisor { service: self.folders.name().to_owned(), source },
        };
        // It goes on as what it is: its next check comes when it would have.
        if let Some(active) = &mut self.active {
            active.probe_after(active.definition.health.interval_ms);
        }
        why
    }

    fn execute(&self, program: &Path) -> io::Error {
        let lock = self.lock.as_ref().map(|lock| (LOCK, lock.file().as_fd()));
        let link = self.kept.link().map(|link| (LINK, link));
        // A keeper hands over what it keeps by itself.
        let kept = self.kept.all().filter(|_| link.is_none());
        let handed: Vec<(&str, BorrowedFd<'_>)> = kept.chain(lock).chain(link).collect();
        let mut command = Command::new(program);
        command.arg0("opsrun").arg("supervise");
        command.args(if self.unit.is_some() { ["--unit"] } else { ["--again"] });
        command.arg(self.folders.name()).env(handover::VARIABLE, handover::begin(&handed));
        // What systemd has handed to this process: those numbers mean something else by now.
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"] {
            command.env_remove(name);
        }
        let why = command.exec();
        handover::end(&handed);
        why
    }
}
