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
mod allowance;
mod begin;
mod children;
mod clients;
mod corrupt;
mod freezing;
mod gated;
mod past;
mod proof;
mod reexec;
mod running;
mod steered;
mod swapping;
mod telling;
mod update;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};

pub use self::begin::{clear, is_reexecuted, run, run_again, run_unit};
pub(crate) use self::begin::{clear_by, lives, make_private_folder};
use self::clients::Client;
pub use self::corrupt::set_corrupt_record_aside;
pub use self::proof::prove;
use self::running::{Part, Running};
use self::swapping::Swapping;
pub(crate) use self::telling::entry;
use self::telling::{Askers, Origin, Step};
use crate::error::Failure;
use crate::events::{By, EventFile, Kind};
use crate::folders::ServiceFolders;
use crate::history::End;
use crate::host_files::HostFiles;
use crate::keep::Kept;
use crate::lifecycle::{Action, Event};
use crate::lock::Lock;
use crate::record::{self, Record};
use crate::steering::Steering;
use crate::systemd::{self, Stage, Unit};
use crate::{crash_point, swap};

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
    host_files: HostFiles,
    /// Who gets the connections to the service's ports.
    steering: Steering,
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
    /// What outlives this process.
    kept: Kept,
    /// The state on the record that a supervisor before has left.
    found: Option<record::State>,
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
    Keeper,
    Client(usize),
    Of(u32, Part),
}

impl Supervisor {
    fn supervise(&mut self) -> i32 {
        telling::tell_of_panics(&self.folders);
        let status = self.turn();
        // Whoever cannot go on with something that lives leaves that to the next one.
        if matches!(adopt::adoptable(&self.folders), Ok(None)) {
            self.kept.bye();
        }
        status
    }

    fn turn(&mut self) -> i32 {
        loop {
            while let Some((generation, event)) = self.events.pop_front() {
                self.happen(generation, event);
            }
            self.tell_unit();
            self.keep_listeners();
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
        find(&self.active, &self.other, generation)
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
        let mut awaited = Vec::with_capacity(16);
        awaited.push((Source::Signals, self.signals.as_fd(), PollFlags::IN));
        if let Some(listener) = &self.listener {
            awaited.push((Source::Listener, listener.as_fd(), PollFlags::IN));
        }
        if let Some(link) = self.kept.link() {
            awaited.push((Source::Keeper, link, PollFlags::IN));
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
        let swap = self.swap.as_ref().and_then(Swapping::wakes_at);
        let refusals = self.both().filter_map(Running::refuses_at);
        let deadlines = self.both().filter_map(|running| running.deadline).chain(swap).chain(refusals);
        let deadlines =
            deadlines.map(|at| Duration::from_millis(at.saturating_sub(self.now()).saturating_add(1)));
        let probes = self.both().filter_map(|running| running.prober.wakes_at());
        let unit = self.unit.as_ref().and_then(Unit::wakes_at);
        let binds = self.both().filter_map(Running::hears_again_at);
        let instants = probes
            .chain(binds)
            .chain(unit)
            .chain(self.kept.wakes_at())
            .map(|at| at.saturating_duration_since(Instant::now()));
        deadlines.chain(instants).min()
    }

    fn serve(&mut self, source: Source) {
        match source {
            Source::Signals => self.read_signals(),
            Source::Listener => self.accept(),
            Source::Keeper => self.kept.lost(),
            Source::Client(index) => self.listen_to(index),
            Source::Of(generation, Part::Bind) => {
                let began = Instant::now();
                self.answer_bind(generation);
                if let Some(running) = self.of(generation) {
                    running.binds.take(began.elapsed(), Instant::now());
                }
            }
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
                    Part::Bind => None,
                    Part::Probe => running.turn_probe(true),
                    Part::Output(index) => {
                        running.drain(index);
                        None
                    }
                };
                self.events.extend(event.map(|event| (generation, event)));
                self.look_whether_heard(generation);
            }
        }
    }

    fn look_at_the_clock(&mut self) {
        let now = self.now();
        if let Err(error) = self.kept.tend() {
            self.trouble(&Failure::new(error.to_string()).within("could not start the keeper"));
        }
        let mut events = Vec::new();
        if self.swap.is_some() {
            self.steer_probes();
        }
        for running in self.both_mut() {
            let generation = running.generation();
            events.extend(running.turn_probe(false).map(|event| (generation, event)));
            if running.deadline.is_some_and(|at| now >= at) {
                running.deadline = None;
                events.push((generation, Event::Deadline));
            }
        }
        self.events.extend(events);
        self.look_at_drain();
        self.look_at_silence();
        if let Some(swap) = self.swap.as_mut().filter(|swap| swap.wakes.is_some_and(|at| now >= at)) {
            swap.wakes = None;
            self.swap_happens(swap::Event::TimeIsUp);
        }
    }

    /// From here on there is a service to keep up.
    fn begin_to_run(&mut self, running: Running, event: Event, by: By) {
        let generation = running.generation();
        self.active = Some(running);
        if !matches!(event, Event::Adopted | Event::Resume) {
            self.steering.close_left();
        }
        self.turn_to(generation);
        self.askers.start = by;
        let process = i32::try_from(std::process::id()).unwrap_or(0);
        self.tell(generation, Kind::Supervised { process, cleared: self.cleared }, Origin::Start);
        self.events.push_back((generation, event));
    }

    /// One step of a generation's life cycle. What happened is written down before anything is done about it, and that
    /// nothing runs any more once that is so.
    fn happen(&mut self, generation: u32, event: Event) {
        let now = self.now();
        let event = match event {
            Event::Probed(verdict) => Event::Probed(self.listens_too(generation, verdict)),
            event => event,
        };
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

/// The one of the two that is this generation: for who changes other parts of the supervisor meanwhile.
fn find<'a>(active: &'a Option<Running>, other: &'a Option<Running>, generation: u32) -> Option<&'a Running> {
    [active, other].into_iter().flatten().find(|running| running.generation() == generation)
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
