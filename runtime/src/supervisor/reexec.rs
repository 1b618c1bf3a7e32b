//! A supervisor becomes another version of itself: the same process executes another program, which goes on with what it
//! is handed. It knows no service.
//!
//! The process keeps its number, its children and its lock, so there is no moment at which another supervisor could come,
//! and the container stays a child. What it holds is handed over by inheritance: each descriptor under a name in the
//! environment. Should the program not be able to go on, it ends, and what was kept is still kept: the keeper or systemd
//! starts the next one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use super::Supervisor;
use crate::error::{Error, Failure};
use crate::lock::Lock;
use crate::os;
use crate::record::State;

/// `PROCESS NAME=DESCRIPTOR …`: whoever else finds it in its environment is not meant.
const VARIABLE: &str = "OPSRUN_HANDED_OVER";
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
        let text = std::env::var(VARIABLE).ok()?;
        let (process, items) = text.split_once(' ')?;
        if process != std::process::id().to_string() {
            return None;
        }
        let mut handed = Self::default();
        for item in items.split(' ') {
            let Some((name, number)) = item.split_once('=') else { continue };
            let Ok(number) = number.parse() else { continue };
            let descriptor = os::take_inherited(number);
            match name {
                LOCK => handed.lock = Some(Lock::inherited(File::from(descriptor))),
                LINK => handed.link = Some(descriptor),
                name => handed.kept.push((name.to_owned(), descriptor)),
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
        let why = self.execute(program);
        // It goes on as what it is: its next check comes when it would have.
        if let Some(active) = &mut self.active {
            active.probe_after(active.definition.health.interval_ms);
        }
        Error::Io { doing: "execute the program", source: why }
    }

    fn execute(&self, program: &Path) -> io::Error {
        let lock = self.lock.as_ref().map(|lock| (LOCK, lock.file().as_fd()));
        let link = self.kept.link().map(|link| (LINK, link));
        // A keeper hands over what it keeps by itself.
        let kept = self.kept.all().filter(|_| link.is_none());
        let handed: Vec<(&str, BorrowedFd<'_>)> = kept.chain(lock).chain(link).collect();
        let mut text = std::process::id().to_string();
        for (name, descriptor) in &handed {
            text.push_str(&format!(" {name}={}", descriptor.as_raw_fd()));
        }
        let mut command = Command::new(program);
        command.arg0("opsrun").arg("supervise");
        command.args(if self.unit.is_some() { ["--unit"] } else { ["--again"] });
        command.arg(self.folders.name()).env(VARIABLE, text);
        for (_, descriptor) in &handed {
            stay_open(*descriptor, true);
        }
        let why = command.exec();
        for (_, descriptor) in &handed {
            stay_open(*descriptor, false);
        }
        why
    }
}

fn stay_open(descriptor: BorrowedFd<'_>, open: bool) {
    let Ok(mut flags) = fcntl_getfd(descriptor) else { return };
    flags.set(FdFlags::CLOEXEC, !open);
    // OK to fail: it cannot, for a descriptor that is open.
    let _ = fcntl_setfd(descriptor, flags);
}
