//! The supervisor of one service: one thread, one loop that waits for whatever comes first, turns it into an event of
//! the life cycle and performs the actions that follow. It knows no image and no command line.
//!
//! ```text
//!   signals (children that ended, SIGTERM) ─┐
//!   control socket and its clients ─────────┤             ┌─▶ container made, let go, signalled, killed, cleared
//!   the throw-away process's reports ───────┼─▶ event ─▶ life cycle ─▶ actions ─▶ record replaced, clients told
//!   the probe under way ────────────────────┤             └─▶ probe begun, deadline set
//!   deadlines ──────────────────────────────┘
//!   stdout and stderr of the service ─────────▶ log, with no event
//! ```
//!
//! There is one generation, `active`, and during a swap another one beside it, each with a life of its own (`running.rs`);
//! `swapping.rs` has what goes on between the two.
//!
//! A failing disk or system call never ends the loop while the service runs: it is told as an event.

mod actions;
mod adopt;
mod children;
mod clients;
mod corrupt;
mod freezing;
mod past;
mod running;
mod swapping;
mod telling;
mod update;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};

use self::adopt::clear_leftovers;
use self::clients::Client;
pub use self::corrupt::set_corrupt_record_aside;
use self::running::{Part, Running};
use self::swapping::Swapping;
pub(crate) use self::telling::entry;
use self::telling::{Askers, Origin, Step};
use crate::control::{self, Answer, Conversation};
use crate::error::{Error, Failure};
use crate::events::{By, EventFile, Kind};
use crate::folders::ServiceFolders;
use crate::history::End;
use crate::host_files::HostFiles;
use crate::lifecycle::{Action, Event};
use crate::lock::{Lock, Tried};
use crate::os;
use crate::record::{self, Record};
use crate::systemd::{self, Stage, Unit};
use crate::{crash_point, swap};

/// Runs the hidden command `supervise`: the first client is its standard input.
///
/// Returns the exit status: 0 when the service was stopped, 1 when it could not be supervised or is left alone.
#[must_use]
pub fn run(folders: &ServiceFolders) -> i32 {
    let Ok(mut first) = take_first_client() else { return 1 };
    match Supervisor::begin(folders, None) {
        Ok(Begun::Supervisor(mut supervisor)) => {
            supervisor.clients.push(Client::new(first));
            supervisor.supervise()
        }
        Ok(Begun::Busy(holder)) => {
            let _ = first.say(&Answer::Busy { holder });
            1
        }
        Err(error) => {
            let _ = first.say(&Answer::Refused(Failure::of(&error)));
            1
        }
    }
}

/// Runs the hidden command `supervise --unit`: this process is the service's unit of systemd's. It starts what a command
/// that waits for it names, and otherwise what the record says.
///
/// Returns the exit status, as [`run`].
///
/// # Errors
/// [`Error::Busy`], [`Error::NotRunning`] when the service was never started, [`Error::Io`].
pub fn run_unit(folders: &ServiceFolders) -> Result<i32, Error> {
    let failed = |error| Error::Io { doing: "begin to supervise", source: error };
    let unit = Unit::of_this_process();
    settle().map_err(failed)?;
    let mut supervisor = match Supervisor::begin(folders, Some(unit))? {
        Begun::Supervisor(supervisor) => supervisor,
        Begun::Busy(holder) => return Err(Error::Busy { service: folders.name().to_owned(), holder }),
    };
    match control::connect(&folders.next()) {
        Ok(stream) => {
            stream.set_nonblocking(true).map_err(failed)?;
            supervisor.cleared |= clear_leftovers(folders)?;
            supervisor.clients.push(Client::new(Conversation::new(stream)));
        }
        // Nobody waits, or the one who did is gone.
        Err(_) => supervisor.take_up(By::Systemd {})?,
    }
    Ok(supervisor.supervise())
}

/// Removes what is left of a service whose supervisor is gone for good, as systemd wants it.
///
/// # Errors
/// [`Error::Busy`] when it has one, [`Error::Io`].
pub fn clear(folders: &ServiceFolders) -> Result<(), Error> {
    clear_by(folders, By::Systemd {}, false)
}

/// The same for somebody, who may want it down from now on.
pub(crate) fn clear_by(folders: &ServiceFolders, by: By, wanted_down: bool) -> Result<(), Error> {
    let tried = Lock::try_hold(&folders.lock())
        .map_err(|error| Error::Io { doing: "lock the service", source: error })?;
    let _lock = match tried {
        Tried::Held(lock) => lock,
        Tried::By(holder) => return Err(Error::Busy { service: folders.name().to_owned(), holder }),
    };
    adopt::settle_swap(folders)?;
    let cleared = clear_leftovers(folders)?;
    let Some(mut record) = Record::read(folders)? else { return Ok(()) };
    if wanted_down {
        record.state = record::State::Stopped;
        record.wanted = record::Wanted::Down;
        record.write(folders)?;
    }
    if cleared || wanted_down {
        EventFile::of(folders).append(&entry(&record, Kind::Stopped { status: None }, by));
    }
    Ok(())
}

fn take_first_client() -> std::io::Result<Conversation> {
    // A login that ends takes its session along; a supervisor must not be part of it.
    let _ = nix::unistd::setsid();
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    settle()?;
    let stream = UnixStream::from(stdin);
    stream.set_nonblocking(true)?;
    Ok(Conversation::new(stream))
}

/// Nothing of who started this process shows in what it starts.
fn settle() -> std::io::Result<()> {
    os::close_on_exec_from(3);
    std::env::set_current_dir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

enum Begun {
    Supervisor(Box<Supervisor>),
    Busy(i32),
}

struct Supervisor {
    folders: ServiceFolders,
    lock: Option<Lock>,
    listener: Option<UnixListener>,
    signals: SignalFd,
    clients: Vec<Client>,
    /// The generation that the record is about.
    active: Option<Running>,
    /// Another one beside it, during a swap: the candidate, or the one that was active before.
    other: Option<Running>,
    /// What has happened, and to which generation.
    events: VecDeque<(u32, Event)>,
    swap: Option<Swapping>,
    /// The record as it is on disk, once it was written.
    written: Option<Record>,
    /// What the record said before: a start in vain changes nothing.
    before: Option<Record>,
    began: Instant,
    ended: Option<i32>,
    /// What is to be said of the generation's end once it was asked to end.
    ending: Option<End>,
    /// When this process is a unit of systemd's.
    unit: Option<Unit>,
    /// Scopes that were made.
    scopes: u32,
    event_file: EventFile,
    askers: Askers,
    /// Whether a supervisor that died had left something.
    cleared: bool,
}

/// What the loop waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Listener,
    Client(usize),
    Of(u32, Part),
}

impl Supervisor {
    fn begin(folders: &ServiceFolders, unit: Option<Unit>) -> Result<Begun, Error> {
        let failed = |doing| move |error: std::io::Error| Error::Io { doing, source: error };
        for folder in [&folders.state, &folders.log] {
            fs_err::create_dir_all(folder).map_err(failed("make the service's folders"))?;
        }
        make_private_folder(&folders.run).map_err(failed("make the service's folders"))?;
        let lock = match Lock::try_hold(&folders.lock()).map_err(failed("lock the service"))? {
            Tried::Held(lock) => lock,
            Tried::By(holder) => return Ok(Begun::Busy(holder)),
        };
        adopt::settle_swap(folders)?;
        let left_alone = unit.is_some() && adopt::adoptable(folders)?.is_some();
        let cleared = !left_alone && clear_leftovers(folders)?;
        let listener = control::listen(&folders.control()).map_err(failed("make the supervisor's socket"))?;
        let mut wanted = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            wanted.add(signal);
        }
        let blocked = wanted.thread_block().map_err(std::io::Error::from);
        blocked.map_err(failed("block signals"))?;
        let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|error| failed("receive signals")(error.into()))?;
        Ok(Begun::Supervisor(Box::new(Self {
            folders: folders.clone(),
            lock: Some(lock),
            listener: Some(listener),
            signals,
            clients: Vec::new(),
            active: None,
            other: None,
            events: VecDeque::new(),
            swap: None,
            written: None,
            before: None,
            began: Instant::now(),
            ended: None,
            ending: None,
            unit,
            scopes: 0,
            event_file: EventFile::of(folders),
            askers: Askers { start: By::Opsrun {}, stop: By::Opsrun {} },
            cleared,
        })))
    }

    fn supervise(&mut self) -> i32 {
        telling::tell_of_panics(&self.folders);
        loop {
            while let Some((generation, event)) = self.events.pop_front() {
                self.happen(generation, event);
            }
            self.tell_unit();
            if let Some(status) = self.ended {
                return status;
            }
            if self.active.is_none() && self.clients.is_empty() {
                // Whoever started this supervisor went away before it said what for.
                return 1;
            }
            for source in self.wait() {
                self.serve(source);
            }
            self.look_at_the_clock();
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn both(&self) -> impl Iterator<Item = &Running> {
        [&self.active, &self.other].into_iter().flatten()
    }

    fn both_mut(&mut self) -> impl Iterator<Item = &mut Running> {
        [&mut self.active, &mut self.other].into_iter().flatten()
    }

    fn get(&self, generation: u32) -> Option<&Running> {
        self.both().find(|running| running.generation() == generation)
    }

    fn of(&mut self, generation: u32) -> Option<&mut Running> {
        self.both_mut().find(|running| running.generation() == generation)
    }

    /// Waits until something is ready or a time has come; what is ready.
    fn wait(&self) -> Vec<Source> {
        let awaited = self.awaited();
        let mut fds: Vec<_> =
            awaited.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = self.sleeps_at_most().map(|time| {
            rustix::time::Timespec::try_from(time).expect("OK because no deadline is centuries away")
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            // Nothing is ready then; the signal itself is read from its descriptor.
            Err(_) => return Vec::new(),
        }
        let ready = awaited.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|((source, ..), _)| *source).collect()
    }

    fn awaited(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut awaited = vec![(Source::Signals, self.signals.as_fd(), PollFlags::IN)];
        if let Some(listener) = &self.listener {
            awaited.push((Source::Listener, listener.as_fd(), PollFlags::IN));
        }
        for (index, client) in self.clients.iter().enumerate() {
            awaited.push((Source::Client(index), client.as_fd(), PollFlags::IN));
        }
        for running in self.both() {
            let parts = running.awaited().into_iter();
            awaited
                .extend(parts.map(|(part, fd, flags)| (Source::Of(running.generation(), part), fd, flags)));
        }
        awaited
    }

    fn sleeps_at_most(&self) -> Option<Duration> {
        let soak = self.swap.as_ref().and_then(|swap| swap.soak_until);
        let deadlines = self.both().filter_map(|running| running.deadline).chain(soak);
        let deadlines =
            deadlines.map(|at| Duration::from_millis(at.saturating_sub(self.now()).saturating_add(1)));
        let probes = self.both().filter_map(|running| running.prober.wakes_at());
        let unit = self.unit.as_ref().and_then(Unit::wakes_at);
        let instants = probes.chain(unit).map(|at| at.saturating_duration_since(Instant::now()));
        deadlines.chain(instants).min()
    }

    fn serve(&mut self, source: Source) {
        match source {
            Source::Signals => self.read_signals(),
            Source::Listener => self.accept(),
            Source::Client(index) => self.listen_to(index),
            Source::Of(generation, part) => {
                let Some(running) = self.of(generation) else { return };
                let event = match part {
                    Part::Making => running.continue_making(),
                    Part::Adopted => {
                        // Why it ended comes before that it did.
                        let memory = running.look_at_memory();
                        let ended = running.adopted_ended();
                        self.events.extend(memory.map(|event| (generation, event)));
                        Some(ended)
                    }
                    Part::Memory => running.look_at_memory(),
                    Part::Probe => running.turn_probe(true),
                    Part::Output(index) => {
                        running.drain(index);
                        None
                    }
                    Part::HostFiles => {
                        if let Some(Err(error)) = running.host_files.as_ref().map(HostFiles::refresh) {
                            let failure = Failure::new(error.to_string());
                            self.trouble(
                                &failure.within("could not follow the host's resolv.conf and hosts"),
                            );
                        }
                        None
                    }
                };
                self.events.extend(event.map(|event| (generation, event)));
            }
        }
    }

    fn look_at_the_clock(&mut self) {
        let now = self.now();
        let mut events = Vec::new();
        for running in self.both_mut() {
            let generation = running.generation();
            events.extend(running.turn_probe(false).map(|event| (generation, event)));
            if running.deadline.is_some_and(|at| now >= at) {
                running.deadline = None;
                events.push((generation, Event::Deadline));
            }
        }
        self.events.extend(events);
        if let Some(swap) = self.swap.as_mut().filter(|swap| swap.soak_until.is_some_and(|at| now >= at)) {
            swap.soak_until = None;
            self.swap_happens(swap::Event::SoakOver);
        }
    }

    /// From here on there is a service to keep up.
    fn begin_to_run(&mut self, running: Running, event: Event, by: By) {
        let generation = running.generation();
        self.active = Some(running);
        self.askers.start = by;
        let process = i32::try_from(std::process::id()).unwrap_or(0);
        self.tell(generation, Kind::Supervised { process, cleared: self.cleared }, Origin::Start);
        self.events.push_back((generation, event));
    }

    /// One step of a generation's life cycle. What happened is written down before anything is done about it, and that
    /// nothing runs any more once that is so.
    fn happen(&mut self, generation: u32, event: Event) {
        let now = self.now();
        let Some(running) = self.of(generation) else { return };
        let (life, actions) = running.life.clone().step(event.clone(), now);
        let before = std::mem::replace(&mut running.life, life);
        let process = running.pid.map_or(0, Pid::as_raw);
        let step =
            Step { before: &before, event: &event, after: &running.life, actions: &actions, now, process };
        let (last, first): (Vec<_>, Vec<_>) =
            step.events().into_iter().partition(|(kind, _)| matches!(kind, Kind::Stopped { .. }));
        for (kind, origin) in first {
            self.tell(generation, kind, origin);
        }
        let mut last = last.into_iter();
        for action in actions {
            if matches!(action, Action::Report(_) | Action::End) {
                last.by_ref().for_each(|(kind, origin)| self.tell(generation, kind, origin));
            }
            crash_point::here();
            self.act(generation, action);
        }
        self.write_record();
    }

    /// The service is to end: because a person says so, or because the host goes down.
    fn end_by(&mut self, event: Event) {
        if self.swap.is_some() {
            self.swap_happens(swap::Event::Cancel);
        }
        if let Some(active) = &self.active {
            self.events.push_back((active.generation(), event));
        }
    }

    /// What a signal to end means. It is nobody's wish that the service be down when the whole host goes down; without
    /// systemd that is the only one who sends it.
    fn asked_to_end(&self) -> Event {
        match &self.unit {
            Some(_) if !systemd::is_stopping() => Event::Stop,
            _ => Event::Halt,
        }
    }

    fn tell_unit(&mut self) {
        let Some(unit) = &mut self.unit else { return };
        let Some(running) = &self.active else { return };
        let state = running.life.state();
        let stage = match state {
            record::State::Running => Stage::Up,
            record::State::Starting | record::State::BackingOff => Stage::Starting,
            record::State::Stopping | record::State::Stopped | record::State::CrashLoop => Stage::Stopping,
        };
        let mut status =
            format!("{} {}: {}", running.definition.service, running.definition.release, state.text());
        if state == record::State::Running {
            status = format!("{status}, {}", running.life.health().text());
        }
        if let (false, Some(failure)) = (state == record::State::Running, running.life.last_failure()) {
            status = format!("{status}; {failure}");
        }
        unit.tell(stage, &status);
    }
}

pub(crate) fn make_private_folder(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(parent) = folder.parent() {
        fs_err::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn now_unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A child that has ended, and its status as a shell gives it.
fn exit_status(status: WaitStatus) -> Option<(Pid, i32)> {
    match status {
        WaitStatus::Exited(pid, code) => Some((pid, code)),
        WaitStatus::Signaled(pid, signal, _) => Some((pid, 128 + signal as i32)),
        _ => None,
    }
}
