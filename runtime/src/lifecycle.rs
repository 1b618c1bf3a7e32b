//! The life of a service as a pure function: what it is and what happened give what it becomes and what is to be done.
//! It touches nothing; the supervisor's loop performs the actions and reports back as events.
//!
//! ```text
//!             Start            Executed           healthy
//!   Down ───────────▶ Creating ─────────▶ Starting ──────▶ Running ──┐ probes go on;
//!                        ▲  │ failed         │ ended, or too  │  ▲───┘ unhealthy is shown
//!                        │  │                │ long unhealthy │ ended
//!              backed off│  ▼                ▼                ▼
//!                        └─ BackingOff ◀── proven once? ──no──▶ Ended: start failed
//!                              │ too often in a row
//!                              ▼                          Stop, from anywhere:
//!                        Ended: crash loop                Stopping ──ended, or killed after its grace──▶ Ended
//! ```
//!
//! The candidate of a swap lives the same life *on trial* (`swap/`): its container can be made and parked until the old
//! one is down, and whatever goes wrong before it is accepted ends it, healthy or not.

use std::rc::Rc;

use crate::definition::{Definition, Probe, RestartPolicy};
use crate::error::Failure;
use crate::record::{self, Health, State, Wanted};

/// While a service starts it is probed this often, milliseconds, if its interval is not shorter still.
const START_PROBE_INTERVAL_MS: u64 = 100;
/// The first failed probe of a start is followed so soon, milliseconds, and each further one after twice the time, until it is
/// [`START_PROBE_INTERVAL_MS`]: most programs listen soon after the first probe has been refused.
const FIRST_PROBE_INTERVAL_MS: u64 = 10;
/// The same for a probe that costs a process each time.
const START_COMMAND_INTERVAL_MS: u64 = 1000;

/// One that is watched closely is probed at least this often, milliseconds.
const CLOSE_INTERVAL_MS: u64 = 1000;

/// An end that comes so soon after a kill for want of memory comes from it: a program that has lost a worker may give up.
const OUT_OF_MEMORY_BLAMED_MS: u64 = 5_000;

/// Milliseconds of a clock that never goes back.
pub(crate) type Millis = u64;

/// A service's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    /// Each step has a copy of all this: these are the largest part, and never change.
    rules: Rc<Definition>,
    phase: Phase,
    /// Whether it has been healthy since a person started it.
    proven: bool,
    /// Whether it is the candidate of a swap: nothing that goes wrong is forgiven until it is accepted.
    trial: bool,
    /// Whether a single failed probe counts.
    closely: bool,
    /// Whether its start stands still, since it waits for another generation's end.
    waits: bool,
    unhealthy: bool,
    /// So many probes must succeed in a row until it is healthy: of several workers each may be ready at a time of its own.
    proofs: u32,
    probe_successes: u32,
    /// Probes that failed while it started, of this start.
    start_failures: u32,
    probe_failures: u32,
    last_probe: Option<String>,
    failures_in_a_row: u32,
    restarts: u32,
    last_failure: Option<Failure>,
    /// When something of this container was last killed for want of memory, and the sentence about it.
    out_of_memory: Option<(Millis, String)>,
    /// Whether somebody waits for it to be up again, and is to hear of the first failure.
    resuming: bool,
    /// What is wanted once it has ended as asked for.
    wanted_then: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Down,
    Creating,
    Parked,
    Starting,
    Running { since: Millis },
    BackingOff,
    Stopping,
    Ended(End),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    StartFailed,
    Stopped { wanted: Wanted },
    CrashLoop,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A person wants it up.
    Start,
    /// It is up already, proven healthy by a supervisor that died.
    Adopted,
    /// It is to be up again: it was proven healthy before the host or its supervisor went down.
    Resume,
    /// It is wanted up and about to be started in place of another generation; its container is made, and waits.
    Park,
    /// It has been started, and waits for another generation's end.
    Wait,
    /// What it was parked for, or waits for, has come.
    Release,
    /// Clients are sent to it although it is on trial: it is probed more often, and one failed probe is too many. Or that is
    /// over.
    Watch {
        /// Whether it begins.
        closely: bool,
    },
    /// The trial is over, and it has stood it.
    Accept,
    /// A person wants it down.
    Stop,
    /// The host goes down: it ends, and is still wanted.
    Halt,
    /// Another generation takes its place: it ends, and the service is still wanted.
    GiveWay,
    /// Its container exists and waits.
    Created,
    /// Its program was executed.
    Executed,
    /// Its container could not be made, or its program not be executed.
    NotMade(Failure),
    /// Its process 1 has ended, with this status.
    Exited(i32),
    /// The kernel killed something of it for want of memory.
    OutOfMemory {
        /// How many processes.
        processes: u32,
        /// The sentence about it.
        message: String,
    },
    /// A probe has ended; why not, if not well.
    Probed(Result<(), String>),
    /// The time asked for by [`Action::Deadline`] has come.
    Deadline,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Begin to make the container.
    Make,
    /// Let the created container execute its program.
    Go,
    /// Send the stop signal.
    Signal,
    /// Send SIGKILL to all of it.
    Kill,
    /// Kill and remove whatever there is of the container.
    Clear,
    /// Probe, after so many milliseconds.
    Probe(u64),
    /// Stop probing.
    NoProbe,
    /// Wake up at this time, or not at all; replaces the last one.
    Deadline(Option<Millis>),
    /// Tell who waits for it.
    Report(Outcome),
    /// The supervisor has nothing left to do.
    End,
}

/// What those who wait are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its container exists, and waits.
    Parked,
    /// It has become healthy.
    Healthy,
    /// It was started in vain. Nothing of it is left, unless it is on trial: then it is another's to clear.
    StartFailed(Failure),
    /// It is down, as wanted.
    Stopped,
}

impl Life {
    /// A service that is down.
    pub(crate) fn new(rules: Definition) -> Self {
        Self {
            rules: Rc::new(rules),
            phase: Phase::Down,
            proven: false,
            trial: false,
            closely: false,
            waits: false,
            unhealthy: false,
            proofs: 1,
            probe_successes: 0,
            start_failures: 0,
            probe_failures: 0,
            last_probe: None,
            failures_in_a_row: 0,
            restarts: 0,
            last_failure: None,
            out_of_memory: None,
            resuming: false,
            wanted_then: Wanted::Down,
        }
    }

    /// The candidate of a swap; it may take so long until it is healthy, milliseconds, when that is said, and is so when so
    /// many probes in a row have succeeded.
    pub(crate) fn on_trial(mut rules: Definition, start_timeout_ms: Option<u64>, proofs: u32) -> Self {
        if let Some(timeout) = start_timeout_ms {
            rules.health.start_timeout_ms = timeout;
        }
        Self { trial: true, proofs, ..Self::new(rules) }
    }

    /// The same with the restarts that were counted before.
    pub(crate) fn with_restarts(self, restarts: u32) -> Self {
        Self { restarts, ..self }
    }

    /// What becomes of it when `event` happens at `now`, and what is to be done, in this order.
    #[must_use]
    pub(crate) fn step(mut self, event: Event, now: Millis) -> (Self, Vec<Action>) {
        let event = match event {
            Event::Stop => {
                self.wanted_then = Wanted::Down;
                Event::Stop
            }
            Event::Halt | Event::GiveWay => {
                self.wanted_then = Wanted::Up;
                Event::Stop
            }
            event => event,
        };
        let actions = match (self.phase.clone(), event) {
            (_, Event::OutOfMemory { message, .. }) => {
                self.last_failure = Some(Failure::new(message.clone()));
                self.out_of_memory = Some((now, message));
                Vec::new()
            }
            (Phase::Down, Event::Start) => self.create(),
            (Phase::Down, Event::Park) => {
                self.phase = Phase::Parked;
                vec![Action::Deadline(None), Action::Make]
            }
            (Phase::Parked, Event::Created) => vec![Action::Report(Outcome::Parked)],
            (Phase::Parked, Event::Release) => {
                self.phase = Phase::Creating;
                vec![Action::Go]
            }
            (Phase::Creating | Phase::Starting, Event::Wait) => {
                self.waits = true;
                vec![Action::NoProbe, Action::Deadline(None)]
            }
            (Phase::Creating, Event::Release) => {
                self.waits = false;
                Vec::new()
            }
            (Phase::Starting, Event::Release) => {
                self.waits = false;
                self.prove(now)
            }
            (Phase::Parked, Event::NotMade(failure)) => self.fail(failure, now),
            (Phase::Down, Event::Resume) => {
                self.proven = true;
                self.resuming = true;
                self.create()
            }
            (Phase::Down, Event::Adopted) => {
                self.proven = true;
                self.phase = Phase::Running { since: now };
                self.probe_again()
            }
            (Phase::Creating, Event::Created) => vec![Action::Go],
            (Phase::Creating, Event::Executed) => {
                self.phase = Phase::Starting;
                if self.waits { Vec::new() } else { self.prove(now) }
            }
            (Phase::Creating, Event::NotMade(failure)) => self.fail(failure, now),
            // A probe that had begun before.
            (Phase::Starting, Event::Probed(_)) if self.waits => Vec::new(),
            (Phase::Starting, Event::Probed(result)) => self.probed_while_starting(result, now),
            (Phase::Starting, Event::Deadline) => {
                let failure = self.too_late();
                self.fail(failure, now)
            }
            (Phase::Starting, Event::Exited(status)) => {
                let failure = self.why(format!("{} before it was healthy", ended_with(status)), now);
                self.fail(failure, now)
            }
            (Phase::Running { .. }, Event::Probed(result)) => self.probed_while_running(result, now),
            (Phase::Running { .. }, Event::Watch { closely }) => {
                self.closely = closely;
                self.probe_again()
            }
            (Phase::Running { .. }, Event::Accept) => {
                (self.trial, self.closely) = (false, false);
                self.proven = true;
                self.proofs = 1;
                Vec::new()
            }
            (Phase::Running { since }, Event::Exited(status)) => self.ended(status, since, now),
            (Phase::BackingOff, Event::Deadline) => {
                self.restarts += 1;
                self.create()
            }
            // Whether it is wanted is all that changes.
            (Phase::Ended(End::Stopped { .. }), Event::Stop) => self.stopped(),
            (Phase::Creating | Phase::Parked | Phase::BackingOff, Event::Stop) => {
                let mut actions = vec![Action::Clear];
                if !self.proven {
                    let failure = Failure::new("it was stopped before it was healthy");
                    actions.push(Action::Report(Outcome::StartFailed(failure)));
                }
                actions.extend(self.stopped());
                actions
            }
            (Phase::Starting | Phase::Running { .. }, Event::Stop) => {
                self.phase = Phase::Stopping;
                let deadline = now.saturating_add(self.rules.stop.grace_ms);
                let mut actions = vec![Action::NoProbe, Action::Signal, Action::Deadline(Some(deadline))];
                if !self.proven {
                    let failure = Failure::new("it was stopped before it was healthy");
                    actions.push(Action::Report(Outcome::StartFailed(failure)));
                }
                actions
            }
            (Phase::Stopping, Event::Deadline) => vec![Action::Deadline(None), Action::Kill],
            (Phase::Stopping, Event::Exited(_)) => {
                let mut actions = vec![Action::Clear];
                actions.extend(self.stopped());
                actions
            }
            // Everything else has come too late to matter, like the probe that ends after its service.
            _ => Vec::new(),
        };
        (self, actions)
    }

    /// Its time to become healthy begins.
    fn prove(&self, now: Millis) -> Vec<Action> {
        let deadline = now.saturating_add(self.rules.health.start_timeout_ms);
        vec![Action::Deadline(Some(deadline)), Action::Probe(0)]
    }

    fn create(&mut self) -> Vec<Action> {
        self.phase = Phase::Creating;
        self.out_of_memory = None;
        self.probe_failures = 0;
        self.start_failures = 0;
        self.probe_successes = 0;
        self.last_probe = None;
        self.unhealthy = false;
        vec![Action::Deadline(None), Action::Make]
    }

    fn probed_while_starting(&mut self, result: Result<(), String>, now: Millis) -> Vec<Action> {
        self.probe_successes = if result.is_ok() { self.probe_successes + 1 } else { 0 };
        match result {
            Ok(()) if self.probe_successes < self.proofs => vec![self.probe_soon(START_PROBE_INTERVAL_MS)],
            Ok(()) => {
                self.phase = Phase::Running { since: now };
                self.proven = !self.trial;
                self.resuming = false;
                let mut actions = vec![Action::Deadline(None)];
                actions.extend(self.probe_again());
                actions.push(Action::Report(Outcome::Healthy));
                actions
            }
            Err(reason) => {
                self.last_probe = Some(reason);
                let wait_ms = FIRST_PROBE_INTERVAL_MS << self.start_failures.min(4);
                self.start_failures = self.start_failures.saturating_add(1);
                vec![self.probe_soon(wait_ms.min(START_PROBE_INTERVAL_MS))]
            }
        }
    }

    /// The next probe of a start, in `wait_ms` if it costs little.
    fn probe_soon(&self, wait_ms: u64) -> Action {
        let costly = matches!(self.rules.health.probe, Probe::Command { .. });
        let often = if costly { START_COMMAND_INTERVAL_MS } else { wait_ms };
        Action::Probe(often.min(self.rules.health.interval_ms))
    }

    fn probed_while_running(&mut self, result: Result<(), String>, now: Millis) -> Vec<Action> {
        match result {
            Ok(()) => {
                self.probe_failures = 0;
                self.unhealthy = false;
            }
            Err(reason) => {
                self.probe_failures = self.probe_failures.saturating_add(1);
                let too_many = if self.closely { 1 } else { self.rules.health.retries };
                if self.probe_failures >= too_many && !self.unhealthy {
                    self.unhealthy = true;
                    let verdict = match self.probe_failures {
                        1 => "its health check failed".to_owned(),
                        times => format!("its health check failed {times} times in a row"),
                    };
                    let failure = Failure::new(reason).within(verdict);
                    if self.trial {
                        return self.fail(failure, now);
                    }
                    self.last_failure = Some(failure);
                }
            }
        }
        self.probe_again()
    }

    /// A service whose health is that it runs needs no probe: its end is an event.
    fn probe_again(&self) -> Vec<Action> {
        match self.rules.health.probe {
            Probe::Runs { .. } => Vec::new(),
            _ if self.closely => vec![Action::Probe(self.rules.health.interval_ms.min(CLOSE_INTERVAL_MS))],
            _ => vec![Action::Probe(self.rules.health.interval_ms)],
        }
    }

    /// It ended by itself after it had been healthy.
    fn ended(&mut self, status: i32, since: Millis, now: Millis) -> Vec<Action> {
        if now.saturating_sub(since) >= self.rules.restart.stable_after_ms {
            self.failures_in_a_row = 0;
        }
        let again = match self.rules.restart.policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => status != 0,
            RestartPolicy::No => false,
        };
        let failure = self.why(ended_with(status), now);
        if again || self.trial {
            return self.fail(failure, now);
        }
        if status != 0 {
            self.last_failure = Some(failure);
        }
        self.phase = Phase::Ended(End::Stopped { wanted: Wanted::Up });
        vec![Action::NoProbe, Action::Clear, Action::Deadline(None), Action::End]
    }

    /// It could not be brought up, or ended and is to be brought up again.
    fn fail(&mut self, failure: Failure, now: Millis) -> Vec<Action> {
        self.last_failure = Some(failure.clone());
        if self.trial {
            self.phase = Phase::Ended(End::StartFailed);
            return vec![
                Action::NoProbe,
                Action::Deadline(None),
                Action::Report(Outcome::StartFailed(failure)),
            ];
        }
        let mut actions = vec![Action::NoProbe, Action::Clear];
        if !self.proven {
            self.phase = Phase::Ended(End::StartFailed);
            actions.extend([
                Action::Deadline(None),
                Action::Report(Outcome::StartFailed(failure)),
                Action::End,
            ]);
            return actions;
        }
        if std::mem::take(&mut self.resuming) {
            actions.push(Action::Report(Outcome::StartFailed(failure.clone())));
        }
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if self.failures_in_a_row >= self.rules.restart.crash_loop_failures {
            self.phase = Phase::Ended(End::CrashLoop);
            let verdict = format!("it failed {} times in a row and is left alone", self.failures_in_a_row);
            self.last_failure = Some(failure.within(verdict));
            actions.extend([Action::Deadline(None), Action::End]);
            return actions;
        }
        self.phase = Phase::BackingOff;
        actions.push(Action::Deadline(Some(now.saturating_add(self.backoff_ms()))));
        actions
    }

    /// Doubled with each failure in a row, up to the limit.
    fn backoff_ms(&self) -> u64 {
        let doublings = self.failures_in_a_row.saturating_sub(1).min(32);
        let wait = self.rules.restart.backoff_first_ms.saturating_mul(1 << doublings);
        wait.min(self.rules.restart.backoff_max_ms)
    }

    /// An end, and the want of memory that it follows from when it came right before.
    fn why(&self, ended: String, now: Millis) -> Failure {
        match &self.out_of_memory {
            Some((at, sentence)) if now.saturating_sub(*at) <= OUT_OF_MEMORY_BLAMED_MS => {
                Failure::new(sentence.clone()).within(ended)
            }
            _ => Failure::new(ended),
        }
    }

    fn stopped(&mut self) -> Vec<Action> {
        self.phase = Phase::Ended(End::Stopped { wanted: self.wanted_then });
        vec![Action::Deadline(None), Action::Report(Outcome::Stopped), Action::End]
    }

    fn too_late(&self) -> Failure {
        let outer = format!("it was not healthy after {} s", seconds(self.rules.health.start_timeout_ms));
        match &self.last_probe {
            Some(reason) => Failure::new(reason.clone()).within(outer),
            None => Failure::new(outer),
        }
    }

    /// As the record shows it.
    pub(crate) fn state(&self) -> State {
        match &self.phase {
            Phase::Creating | Phase::Parked | Phase::Starting => State::Starting,
            Phase::Running { .. } => State::Running,
            Phase::BackingOff => State::BackingOff,
            Phase::Stopping => State::Stopping,
            Phase::Ended(End::CrashLoop) => State::CrashLoop,
            Phase::Down | Phase::Ended(_) => State::Stopped,
        }
    }

    /// As the record shows it.
    pub(crate) fn health(&self) -> Health {
        match &self.phase {
            Phase::Running { .. } if self.unhealthy => Health::Unhealthy,
            Phase::Running { .. } => Health::Healthy,
            _ => Health::Unknown,
        }
    }

    /// Whether a person wants it up.
    pub(crate) fn wanted(&self) -> Wanted {
        match &self.phase {
            Phase::Stopping => self.wanted_then,
            Phase::Ended(End::Stopped { wanted }) => *wanted,
            _ => Wanted::Up,
        }
    }

    /// How often it was started again by itself.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// What went wrong last.
    pub(crate) fn last_failure(&self) -> Option<&Failure> {
        self.last_failure.as_ref()
    }

    /// How often it has failed since it was last up for long enough.
    pub(crate) fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// The rules it follows.
    pub(crate) fn rules(&self) -> &Definition {
        &self.rules
    }

    /// Whether it has come to its end and nothing of it will happen any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Whether its start has failed, so that nothing of it is to be recorded.
    pub(crate) fn start_failed(&self) -> bool {
        self.phase == Phase::Ended(End::StartFailed)
            || (!self.proven && matches!(self.phase, Phase::Ended(End::Stopped { .. })))
    }
}

/// The end of a process as a sentence without a subject.
fn ended_with(status: i32) -> String {
    match status {
        record::STATUS_UNSEEN => "it ended after its supervisor had died, so how is not known".to_owned(),
        status => match signal_name(status) {
            Some(name) => format!("it was ended by {name}"),
            None => format!("it exited with status {status}"),
        },
    }
}

/// The name of the signal that a status as a shell gives it tells of.
pub(crate) fn signal_name(status: i32) -> Option<String> {
    let number = status.checked_sub(128).filter(|number| (1..=64).contains(number))?;
    let name = nix::sys::signal::Signal::try_from(number);
    Some(name.map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned()))
}

fn seconds(milliseconds: u64) -> String {
    format!("{:.1}", std::time::Duration::from_millis(milliseconds).as_secs_f64())
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
