//! Takes up what the record says: a container that outlived its supervisor is watched on, anything else is started anew.
//! It knows no command; nobody needs to ask for it.
//!
//! A container can be watched on when the read ends of its output are there: it would get SIGPIPE at its next word
//! otherwise. They are among what was kept (`keep/`), with the state of the log that was being written, so that no line is
//! lost or doubled. Where the keeper has died too, they are opened anew by way of process 1, which writes to them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};
use rustix::process::{PidfdFlags, pidfd_open};

use super::running::{Running, inode};
use super::{Supervisor, find, now_unix_ms, past};
use crate::cgroup::Hierarchy;
use crate::container;
use crate::control::Answer;
use crate::definition::Definition;
use crate::error::{Error, Failure};
use crate::events::By;
use crate::folders::ServiceFolders;
use crate::history::{End, History};
use crate::keep::Kept;
use crate::lifecycle::Event;
use crate::log::{LogWriter, Staging, Stream};
use crate::memory::MemoryWatch;
use crate::record::{Health, Other, Process, Record, State, Swapping, Wanted, Way};
use crate::steering::kept::is_listener;
use crate::steering::notified::Notified;
use crate::steering::{Side, Steering};
use crate::systemd::{self, Stage};

use super::clients::Awaited;

/// The outputs, as they are kept, and their descriptors in the container.
const OUTPUTS: [(Stream, &str, u8); 2] = [(Stream::Stdout, "stdout", 1), (Stream::Stderr, "stderr", 2)];

/// A process as it is found: its end, and its outputs.
type Found = (OwnedFd, Vec<(Stream, OwnedFd)>);

/// The process of a service that was healthy and lives, or that was asked to end and has not yet.
pub(super) fn adoptable(folders: &ServiceFolders) -> Result<Option<Process>, Error> {
    let Some(record) = Record::read(folders)? else { return Ok(None) };
    let process = record.process.filter(|_| {
        matches!(
            (record.state, record.wanted),
            (State::Running, Wanted::Up) | (State::Stopping, Wanted::Down)
        )
    });
    Ok(process.filter(|process| process.is_alive() && process.is_in_its_cgroup()))
}

/// Takes what a supervisor before has had kept of what the service listens with.
pub(super) fn inherit_listeners(kept: &Kept, steering: &mut Steering) {
    let listeners = kept.all().filter(|(name, _)| is_listener(name));
    steering.inherit(listeners.filter_map(|(_, socket)| socket.try_clone_to_owned().ok()));
}

/// As [`settle_swap`]. Where two generations were steered, what one listened with that is gone is closed at once.
pub(super) fn settle_swap_of(folders: &ServiceFolders, steering: &mut Steering) -> Result<(), Error> {
    let swap = Record::read(folders)?.and_then(|record| record.swap);
    let is_steered = swap.is_some_and(|swap| swap.way == Way::Steered);
    if is_steered {
        close_deserted(folders, steering)?;
    }
    settle_swap(folders)?;
    if is_steered { close_deserted(folders, steering) } else { Ok(()) }
}

fn close_deserted(folders: &ServiceFolders, steering: &mut Steering) -> Result<(), Error> {
    let Some(record) = Record::read(folders)? else { return Ok(()) };
    let both = [record.process, record.swap.and_then(|swap| swap.process)];
    let cgroups: Vec<&Path> = both.iter().flatten().map(|process| Path::new(&process.cgroup)).collect();
    steering.close_deserted(&cgroups);
    Ok(())
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
    if swap.way == Way::Steered
        && let (Some(served), Some(other)) = (&record.process, &swap.process)
    {
        settle_connections(folders, &record, served, &swap, other, back);
    }
    clear_container(folders, loser, loser_process.as_ref())?;
    let reason = || Failure::new("its supervisor died in the middle of the swap");
    let history = History::of(folders);
    match (back, swap.other) {
        (true, _) => history.ended(loser, End::WentBack { reason: reason() })?,
        (false, Other::Candidate) => history.ended(loser, End::NeverHealthy { reason: reason() })?,
        // The record went over to the candidate, and after that the history does.
        (false, Other::Previous) => {
            history.ended(loser, End::Replaced { by: record.generation })?;
            history.serves(record.generation)?;
        }
    }
    if back {
        record = Running::prepare(folders, swap.generation)?.record;
        record.process = swap.process;
        record.changed_at_ms = now_unix_ms();
        if record.process.as_ref().is_some_and(Process::is_alive) {
            record.state = State::Running;
            history.serves(swap.generation)?;
        }
    }
    if !record.process.as_ref().is_some_and(Process::is_alive) && record.wanted == Wanted::Up {
        // It was stopped to give way, and is to serve again.
        record.state = State::BackingOff;
    }
    record.write(folders)
}

/// Sends clients to the generation that is going to serve, and lets the other one finish what it has begun. Where that
/// cannot be done, the group's program finds the one that is left by itself.
fn settle_connections(
    folders: &ServiceFolders,
    record: &Record,
    served: &Process,
    swap: &Swapping,
    other: &Process,
    back: bool,
) {
    let recorded = Side { generation: record.generation, cgroup: Path::new(&served.cgroup) };
    let beside = Side { generation: swap.generation, cgroup: Path::new(&other.cgroup) };
    let (old, candidate) = match swap.other {
        Other::Previous => (beside, recorded),
        Other::Candidate => (recorded, beside),
    };
    let winner = if back { beside.generation } else { recorded.generation };
    // OK to ignore: the loser's connections are lost then, and no others.
    let _ = Steering::new(&folders.run).settle(old, candidate, winner, &record.ports);
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

/// Kills and removes what a supervisor that died left behind; whether it lived. Its last words are written down.
pub(super) fn clear_leftovers(folders: &ServiceFolders, kept: Option<&mut Kept>) -> Result<bool, Error> {
    let alive = clear_process(folders)?;
    if let Some(kept) = kept {
        for generation in kept.generations() {
            salvage(folders, kept, generation);
            kept.forget_generation(generation);
        }
    }
    Ok(alive)
}

fn clear_process(folders: &ServiceFolders) -> Result<bool, Error> {
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

/// Writes what a generation that is no more has said and nobody has written yet.
fn salvage(folders: &ServiceFolders, kept: &Kept, generation: u32) {
    let output = folders.output(generation);
    if !output.exists() {
        // Nobody reads it any more.
        return;
    }
    let definition = container::read_spec(&folders.generation(generation));
    let rotation = definition.and_then(|spec| Definition::of(&spec)).map(|definition| definition.log);
    let rotation = rotation.unwrap_or_default();
    let log = match staging(kept, generation) {
        Some(staging) => LogWriter::resume(&output, rotation, staging),
        None => LogWriter::open(&output, rotation),
    };
    // OK to ignore: there is nobody to tell, and the service matters more than its last words.
    let Ok(mut log) = log else { return };
    for (stream, name, _) in OUTPUTS {
        if let Some(pipe) = kept.take(&format!("{name}-{generation}")) {
            let _ = log.drain_rest(stream, pipe.as_fd());
        }
    }
    log.finish();
}

/// What the log of a generation was being written by.
pub(super) fn staging(kept: &Kept, generation: u32) -> Option<Staging> {
    let pipe = kept.take(&format!("staging-{generation}"))?;
    let cursor = kept.take(&format!("cursor-{generation}"))?;
    Staging::of(&pipe, cursor).ok()
}

impl Supervisor {
    /// Goes on where a supervisor died, if there is anything to go on with; nobody has asked for it.
    pub(super) fn go_on(&mut self) -> Result<(), Error> {
        let Some(record) = Record::read(&self.folders)? else { return Ok(()) };
        if adoptable(&self.folders)?.is_some() {
            return self.take_up(By::Opsrun {});
        }
        if self.found.is_none_or(|state| matches!(state, State::Stopped | State::CrashLoop))
            || record.wanted == Wanted::Down
        {
            return self.be_down(record);
        }
        // What was started in vain so far is not tried again.
        if !History::of(&self.folders).has_served(record.generation)? {
            return Ok(());
        }
        self.take_up(By::Opsrun {})
    }

    /// Goes on with what the record says, because of somebody.
    pub(super) fn take_up(&mut self, by: By) -> Result<(), Error> {
        let mut found = None;
        if let Some(process) = adoptable(&self.folders)? {
            found = self.find(&process);
        }
        if found.is_none() {
            self.cleared |= clear_leftovers(&self.folders, Some(&mut self.kept))?;
        }
        let record = Record::read(&self.folders)?
            .ok_or_else(|| Error::NotRunning { service: self.folders.name().to_owned() })?;
        let generation = record.generation;
        self.before = Some(record.clone());
        let staging = found.as_ref().and_then(|_| staging(&self.kept, generation));
        let mut running = Running::prepare_with(&self.folders, generation, staging)?;
        running.record.last_exit = record.last_exit;
        running.record.oom_kills = record.oom_kills;
        running.record.unenforced = record.unenforced.clone();
        let Some((pidfd, output)) = found else {
            let event = match record.wanted {
                Wanted::Up => {
                    running.life = running.life.with_restarts(record.restarts);
                    let side = Side { generation, cgroup: &running.cgroup };
                    if self.steering.take_left(side, &running.definition.ports) {
                        // Not for longer than if it had crashed now.
                        running.silent_since = Some(self.now());
                    }
                    Event::Resume
                }
                // A person wants it up who did not want it before.
                Wanted::Down => Event::Start,
            };
            self.begin_to_run(running, event, by);
            return Ok(());
        };
        running.output = output;
        running.adopted = Some(pidfd);
        self.adopt(running, record, by);
        Ok(())
    }

    /// Goes on with what lives, in order to end it, as it was or is to be by systemd; whether there is something.
    pub(super) fn take_up_to_end(&mut self) -> Result<bool, Error> {
        let found = adoptable(&self.folders)?;
        if found.is_none_or(|process| self.find(&process).is_none()) {
            return Ok(false);
        }
        self.take_up(By::Systemd {})?;
        let halted = systemd::is_stopping();
        self.askers.stop = By::Systemd {};
        self.ending = Some(if halted { End::HostDown } else { End::Stopped { person: None } });
        self.end_by(if halted { Event::Halt } else { Event::Stop });
        Ok(true)
    }

    /// Whether this supervisor follows one that died, by systemd's own will, and the service was down or on its way there.
    pub(super) fn is_to_stay_down(&self) -> Result<bool, Error> {
        let Some(record) = Record::read(&self.folders)? else { return Ok(false) };
        let down = record.wanted == Wanted::Down
            || self.found.is_none_or(|state| matches!(state, State::Stopped | State::CrashLoop));
        Ok(down && adoptable(&self.folders)?.is_none() && systemd::is_restarted(self.folders.name()))
    }

    /// Nothing is to be started, and that is no failure of the unit.
    pub(super) fn stay_down(&mut self) -> Result<(), Error> {
        if let Some(record) = Record::read(&self.folders)? {
            self.be_down(record)?;
        }
        if let Some(unit) = &mut self.unit {
            unit.tell(Stage::Up, "nothing to start: it was to be down when its supervisor died");
        }
        Ok(())
    }

    /// Watches on a container that was found alive.
    fn adopt(&mut self, mut running: Running, record: Record, by: By) {
        let Some(process) = record.process else { return };
        let (generation, pid) = (record.generation, Pid::from_raw(process.pid));
        running.cgroup = process.cgroup.clone().into();
        running.prober.moved_to(&running.cgroup);
        running.pid = Some(pid);
        running.record.process = Some(process);
        running.record.started_at_ms = record.started_at_ms;
        running.memory = MemoryWatch::begin(&running.cgroup);
        running.life = running.life.with_restarts(record.restarts);
        // Whoever had the dead supervisor hold it still can have died as well. OK to fail: then it does not.
        let _ = running.thaw();
        if is_own_child(pid) {
            // Its end is told as a child's is.
            running.adopted = None;
        }
        self.begin_to_run(running, Event::Adopted, by);
        while let Some((generation, event)) = self.events.pop_front() {
            self.happen(generation, event);
        }
        self.keep_output(generation);
        if self.kept.take(&format!("pidfd-{generation}")).is_none() {
            self.keep_end(generation);
        }
        self.hear_again(generation);
        let cgroup = self.of(generation).map(|running| running.cgroup.clone());
        if let Err(error) = clear_unrecorded(&self.folders, cgroup.as_deref()) {
            self.trouble(&Failure::of(&error));
        }
        for other in self.kept.generations().into_iter().filter(|other| *other != generation) {
            salvage(&self.folders, &self.kept, other);
            self.kept.forget_generation(other);
        }
        // The record first: what a client is told must be what it finds when it looks.
        self.write_record();
        self.answer(Awaited::Up, &Answer::Healthy { pid: pid.as_raw() });
        // It was up: a unit that has never been so could not end well.
        self.tell_unit();
        if record.state == State::Stopping {
            self.events.push_back((generation, Event::Stop));
        }
    }

    /// It was down already, or being stopped when the supervisor died: nothing of it runs any more.
    fn be_down(&self, mut record: Record) -> Result<(), Error> {
        if !matches!(record.state, State::Stopped | State::CrashLoop) {
            record.state = State::Stopped;
            record.changed_at_ms = now_unix_ms();
            record.write(&self.folders)?;
        }
        Ok(())
    }

    /// Has the outputs of the container that is being made outlive this process, and what its log is written by.
    pub(super) fn keep_output(&mut self, generation: u32) {
        let Some(running) = find(&self.active, &self.other, generation) else { return };
        let outputs = running.output.iter().filter_map(|(stream, pipe)| {
            let (_, name, _) = OUTPUTS.iter().find(|(known, ..)| known == stream)?;
            Some((*name, pipe.as_fd()))
        });
        let mut failure = None;
        for (name, descriptor) in outputs.chain(running.log.descriptors()) {
            failure = self.kept.keep(&format!("{name}-{generation}"), descriptor).err().or(failure);
        }
        self.not_kept(failure);
    }

    /// The same of the end of the container's process 1: how it ended can be asked of its pidfd.
    pub(super) fn keep_end(&mut self, generation: u32) {
        let pid = self.get(generation).and_then(|running| running.pid);
        let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(pid.as_raw()));
        let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(pidfd) = pidfd {
            let kept = self.kept.keep(&format!("pidfd-{generation}"), pidfd.as_fd());
            self.not_kept(kept.err());
        }
    }

    fn not_kept(&mut self, failure: Option<std::io::Error>) {
        if let Some(error) = failure {
            let failure = Failure::new(error.to_string());
            self.trouble(&failure.within("would lose sight of the service if the supervisor died"));
        }
    }

    /// Goes on hearing of the binds of a container, and steering what it listens with.
    fn hear_again(&mut self, generation: u32) {
        let binds = self.kept.take(&format!("binds-{generation}"));
        let Some(running) = self.of(generation) else { return };
        running.notified = binds.map(Notified::by);
        let (cgroup, ports) = (running.cgroup.clone(), running.definition.ports.clone());
        if let Err(error) = self.steering.find_again(Side { generation, cgroup: &cgroup }, &ports) {
            let failure = Failure::new(error.to_string());
            self.trouble(&failure.within("could not find what the service listens with"));
        }
        self.steering.take_left(Side { generation, cgroup: &cgroup }, &ports);
        self.turn_to(generation);
        self.answer_what_was_left(generation);
    }

    /// Has what tells of a container's binds outlive this process: a bind waits then for the next one, and would fail
    /// otherwise.
    pub(super) fn keep_binds(&mut self, generation: u32) {
        let running = find(&self.active, &self.other, generation);
        let Some(notified) = running.and_then(|running| running.notified.as_ref()) else { return };
        let kept = self.kept.keep(&format!("binds-{generation}"), notified.as_fd());
        self.not_kept(kept.err());
    }

    /// Has what the service listens with outlive this process, and no longer what it does not listen with any more.
    pub(super) fn keep_listeners(&mut self) {
        let Self { steering, kept, .. } = self;
        if steering.is_kept() {
            return;
        }
        let wanted = steering.be_kept();
        let is_wanted = |name: &str| wanted.iter().any(|(wanted, _)| wanted == name);
        let names = kept.all().map(|(name, _)| name.to_owned()).filter(|name| is_listener(name));
        let (there, gone): (Vec<_>, Vec<_>) = names.partition(|name| is_wanted(name));
        for (name, socket) in wanted.iter().filter(|(name, _)| !there.contains(name)) {
            // OK to ignore: it is lost with this process then, as it would be without.
            let _ = kept.keep(name, *socket);
        }
        gone.iter().for_each(|name| kept.forget(name));
    }

    /// Nothing of a container is left, but its log goes on with the next one.
    pub(super) fn forget_container(&mut self, generation: u32) {
        for name in ["stdout", "stderr", "pidfd", "binds"] {
            self.kept.forget(&format!("{name}-{generation}"));
        }
    }

    /// A living process's end, and its outputs, when all of it can be had.
    fn find(&self, process: &Process) -> Option<Found> {
        let generation = Record::read(&self.folders).ok().flatten()?.generation;
        let pid = rustix::process::Pid::from_raw(process.pid)?;
        // The one that was kept since the process was made may tell how it ends, even if it was reaped before.
        let kept = self.kept.take(&format!("pidfd-{generation}"));
        let pidfd = kept.or_else(|| pidfd_open(pid, PidfdFlags::empty()).ok())?;
        let mut output = Vec::new();
        for (index, (stream, name, number)) in OUTPUTS.into_iter().enumerate() {
            let inode = process.outputs.get(index).copied();
            let kept = self.kept.take(&format!("{name}-{generation}"));
            output.push((stream, kept.or_else(|| reopened(process.pid, number, inode?))?));
        }
        // Looked at again behind the descriptor: the number may have changed hands before.
        process.is_alive().then_some((pidfd, output))
    }
}

/// A new read end of the pipe of this inode that a process writes to (proc_pid_fd(5)).
fn reopened(pid: i32, number: u8, wanted: u64) -> Option<OwnedFd> {
    let path = format!("/proc/{pid}/fd/{number}");
    // Looked at before it is opened: a device might do something when it is.
    let found = rustix::fs::stat(&path).ok()?;
    let is_it = rustix::fs::FileType::from_raw_mode(found.st_mode).is_fifo() && found.st_ino == wanted;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let pipe = is_it.then(|| rustix::fs::open(&path, flags, Mode::empty()).ok())??;
    (inode(&pipe) == Some(wanted)).then_some(pipe)
}

/// Whether this process is the parent: it has become another version of itself.
fn is_own_child(pid: Pid) -> bool {
    let only_look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(pid), only_look).is_ok()
}
