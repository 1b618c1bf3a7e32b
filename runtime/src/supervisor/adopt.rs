//! Takes up what the record says: a container that outlived its supervisor is watched on, anything else is started anew.
//! It knows no command; nobody needs to ask for it.
//!
//! Only a container whose output systemd has kept for this supervisor can be watched on: it would get SIGPIPE at its next
//! word otherwise.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::running::Running;
use super::{Supervisor, now_unix_ms, past};
use crate::cgroup::Hierarchy;
use crate::container;
use crate::error::{Error, Failure};
use crate::events::By;
use crate::folders::ServiceFolders;
use crate::history::{End, History};
use crate::lifecycle::Event;
use crate::log::Stream;
use crate::memory::MemoryWatch;
use crate::record::{Health, Other, Process, Record, State, Wanted};
use crate::systemd;

/// Names of the outputs as systemd keeps them.
const OUTPUTS: [(Stream, &str); 2] = [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")];

/// The process of a service that was healthy and lives.
pub(super) fn adoptable(folders: &ServiceFolders) -> Result<Option<Process>, Error> {
    let Some(record) = Record::read(folders)? else { return Ok(None) };
    let process = record.process.filter(|_| record.state == State::Running && record.wanted == Wanted::Up);
    Ok(process.filter(Process::is_alive))
}

/// Ends the swap that a supervisor which died has left half done: the record says which generation it is that serves, and
/// a candidate that did not stand its soak does not. What is left of the other one is removed.
pub(super) fn settle_swap(folders: &ServiceFolders) -> Result<(), Error> {
    let Some(mut record) = Record::read(folders)? else { return Ok(()) };
    let Some(swap) = record.swap.take() else { return Ok(()) };
    let died = |process: Option<&Process>| {
        // After a reboot nothing is alive; that tells nothing of the candidate.
        process.is_none_or(|process| process.is_of_this_boot() && !process.is_alive())
    };
    let back = swap.other == Other::Previous && died(record.process.as_ref());
    let (loser, loser_process) = if back {
        (record.generation, record.process.clone())
    } else {
        (swap.generation, swap.process.clone())
    };
    clear_container(folders, loser, loser_process.as_ref())?;
    let reason = || Failure::new("its supervisor died in the middle of the swap");
    let history = History::of(folders);
    match (back, swap.other) {
        (true, _) => history.ended(loser, End::WentBack { reason: reason() })?,
        (false, Other::Candidate) => history.ended(loser, End::NeverHealthy { reason: reason() })?,
        (false, Other::Previous) => {}
    }
    if back {
        record = Running::prepare(folders, swap.generation)?.record;
        record.state = match swap.process.as_ref().is_some_and(Process::is_alive) {
            true => State::Running,
            false => State::Stopped,
        };
        record.process = swap.process;
        record.changed_at_ms = now_unix_ms();
    }
    record.write(folders)
}

/// Removes what there is of a generation's container, whether or not it got as far as the record.
pub(super) fn clear_container(
    folders: &ServiceFolders,
    generation: u32,
    process: Option<&Process>,
) -> Result<(), Error> {
    if let Some(process) = process {
        container::clear(&folders.run, Path::new(&process.cgroup))?;
    }
    match container::read_spec(&folders.generation(generation)) {
        Ok(spec) => container::clear(&folders.run, container::cgroup_of(&spec)),
        // Its bundle is gone, and so was its container before that.
        Err(_) => Ok(()),
    }
}

/// Kills and removes containers of the service beside the recorded one: a supervisor that died before its record named
/// them has left them, and nobody else knows of them. Where its containers are, any of its bundles says.
fn clear_unrecorded(folders: &ServiceFolders, recorded: Option<&Path>) -> Result<(), Error> {
    let failed = |source| Error::Io { doing: "look for containers that are on no record", source };
    let bundles = fs_err::read_dir(folders.generations()).into_iter().flatten().flatten();
    let spec = bundles.filter_map(|entry| container::read_spec(&entry.path()).ok()).next();
    let Some(parent) = spec.as_ref().and_then(|spec| container::cgroup_of(spec).parent()) else {
        return Ok(());
    };
    let hierarchy = Hierarchy::open().map_err(failed)?;
    let is_its = |id: &str| {
        let number = id.strip_prefix(folders.name()).and_then(|rest| rest.strip_prefix("-g"));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let mut found: Vec<PathBuf> =
        hierarchy.at(parent).names().map_err(failed)?.iter().map(|name| parent.join(name)).collect();
    if folders.is_of_host() {
        found.extend(systemd::scopes(&hierarchy).map_err(failed)?);
    }
    for cgroup in found.iter().filter(|cgroup| is_its(&container::id_of(cgroup))) {
        if Some(cgroup.as_path()) != recorded {
            container::clear(&folders.run, cgroup)?;
        }
    }
    hierarchy.at(parent).remove_if_empty();
    Ok(())
}

/// Kills and removes what a supervisor that died left behind; whether it lived.
pub(super) fn clear_leftovers(folders: &ServiceFolders) -> Result<bool, Error> {
    let record = Record::read(folders)?;
    let recorded = record.as_ref().and_then(|record| record.process.as_ref());
    clear_unrecorded(folders, recorded.map(|process| Path::new(&process.cgroup)))?;
    let Some(mut record) = record else { return Ok(false) };
    let Some(process) = record.process.take() else { return Ok(false) };
    let alive = process.is_alive();
    container::clear(&folders.run, Path::new(&process.cgroup))?;
    past::note_lost(folders, record.generation, &process)?;
    record.state = State::Stopped;
    record.health = Health::Unknown;
    record.started_at_ms = None;
    record.changed_at_ms = now_unix_ms();
    record.write(folders)?;
    Ok(alive)
}

impl Supervisor {
    /// Goes on with what the record says, because of somebody.
    pub(super) fn take_up(&mut self, by: By) -> Result<(), Error> {
        let alive = adoptable(&self.folders)?;
        let adopted = alive.and_then(|process| Some((self.kept(&process)?, process)));
        if adopted.is_none() {
            self.cleared |= clear_leftovers(&self.folders)?;
        }
        let record = Record::read(&self.folders)?
            .ok_or_else(|| Error::NotRunning { service: self.folders.name().to_owned() })?;
        self.before = Some(record.clone());
        let mut running = Running::prepare(&self.folders, record.generation)?;
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
                // Whoever had the dead supervisor hold it still can have died as well. OK to fail: then it does not.
                let _ = running.thaw();
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
    pub(super) fn keep_output(&mut self, generation: u32) {
        let Some(running) = self.get(generation) else { return };
        let Some(unit) = &self.unit else { return };
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
}
