//! Takes up what the record says: a container that outlived its supervisor is watched on, anything else is started anew.
//! It knows no command; nobody needs to ask for it.
//!
//! Only a container whose output systemd has kept for this supervisor can be watched on: it would get SIGPIPE at its next
//! word otherwise.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::{Supervisor, now_unix_ms};
use crate::error::Error;
use crate::events::By;
use crate::folders::ServiceFolders;
use crate::lifecycle::Event;
use crate::log::Stream;
use crate::memory::MemoryWatch;
use crate::record::{self, Exit, Process, Record, State, Wanted};

/// Names of the outputs as systemd keeps them.
const OUTPUTS: [(Stream, &str); 2] = [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")];

/// The process of a service that was healthy and lives.
pub(super) fn adoptable(folders: &ServiceFolders) -> Result<Option<Process>, Error> {
    let Some(record) = Record::read(folders)? else { return Ok(None) };
    let process = record.process.filter(|_| record.state == State::Running && record.wanted == Wanted::Up);
    Ok(process.filter(Process::is_alive))
}

impl Supervisor {
    /// Goes on with what the record says, because of somebody.
    pub(super) fn take_up(&mut self, by: By) -> Result<(), Error> {
        let alive = adoptable(&self.folders)?;
        let adopted = alive.and_then(|process| Some((self.kept(&process)?, process)));
        if adopted.is_none() {
            self.cleared |= super::clear_leftovers(&self.folders)?;
        }
        let record = Record::read(&self.folders)?
            .ok_or_else(|| Error::NotRunning { service: self.folders.name().to_owned() })?;
        let mut running = self.prepare(record.generation)?;
        running.record.last_exit = record.last_exit;
        running.record.oom_kills = record.oom_kills;
        running.record.unenforced = record.unenforced;
        let event = match adopted {
            Some(((pidfd, output), process)) => {
                running.cgroup = process.cgroup.clone().into();
                running.prober.moved_to(&running.cgroup);
                running.pid = Some(Pid::from_raw(process.pid));
                running.record.process = Some(process);
                running.record.started_at_ms = record.started_at_ms;
                running.adopted = Some(pidfd);
                running.memory = MemoryWatch::begin(&running.cgroup);
                running.output = output;
                running.life = running.life.with_restarts(record.restarts);
                Event::Adopted
            }
            None if record.wanted == Wanted::Up => {
                running.life = running.life.with_restarts(record.restarts);
                Event::Resume
            }
            // A person wants it up who did not want it before.
            None => Event::Start,
        };
        self.begin_to_run(running, event, by);
        Ok(())
    }

    /// Has systemd keep the outputs of the container that is being made.
    pub(super) fn keep_output(&self) {
        let (Some(unit), Some(running)) = (&self.unit, &self.running) else { return };
        for (stream, pipe) in &running.output {
            if let Some((_, name)) = OUTPUTS.iter().find(|(known, _)| known == stream) {
                unit.keep(name, std::os::fd::AsFd::as_fd(pipe));
            }
        }
    }

    /// A living process's end, and its outputs, when all of it could be had.
    fn kept(&mut self, process: &Process) -> Option<(OwnedFd, Vec<(Stream, OwnedFd)>)> {
        let pid = rustix::process::Pid::from_raw(process.pid)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let unit = self.unit.as_mut()?;
        let output = OUTPUTS.map(|(stream, name)| unit.take(name).map(|pipe| (stream, pipe)));
        let output = output.into_iter().collect::<Option<Vec<_>>>()?;
        // Looked at again behind the descriptor: the number may have changed hands before.
        process.is_alive().then_some((pidfd, output))
    }

    pub(super) fn adopted_ended(&mut self) {
        self.look_at_memory();
        let Some(running) = &mut self.running else { return };
        running.adopted = None;
        running.pid = None;
        running.record.last_exit = Some(Exit { at_ms: now_unix_ms(), status: record::STATUS_UNSEEN });
        self.events.push_back(Event::Exited(record::STATUS_UNSEEN));
    }
}
