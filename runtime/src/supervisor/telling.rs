//! Says which of a service's steps are events that an operator looks for later, and writes them down.
//! It decides nothing about the service.

use crate::error::Failure;
use crate::events::{By, Entry, EventFile, Kind, VERSION, causes};
use crate::folders::ServiceFolders;
use crate::lifecycle::{Action, Event, Life, Millis, Outcome, signal_name};
use crate::record::{Health, Record, STATUS_UNSEEN, State};

use super::{Supervisor, now_unix_ms};

/// Who has asked for what.
#[derive(Debug)]
pub(super) struct Askers {
    /// Who had it started.
    pub(super) start: By,
    /// Who had it stopped, or has the host going down.
    pub(super) stop: By,
}

/// A step of the life cycle.
pub(super) struct Step<'a> {
    pub(super) before: &'a Life,
    pub(super) event: &'a Event,
    pub(super) after: &'a Life,
    pub(super) actions: &'a [Action],
    pub(super) now: Millis,
    /// Process 1 of the container, where there is one.
    pub(super) process: i32,
}

/// To whom an event goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Who had it started.
    Start,
    /// Who had it stopped.
    Stop,
    /// Opsrun.
    Own,
}

impl Step<'_> {
    /// The events of this step in their order.
    pub(super) fn events(&self) -> Vec<(Kind, Origin)> {
        let (before, after) = (self.before.state(), self.after.state());
        let asked_to_end = matches!(self.event, Event::Stop | Event::Halt | Event::GiveWay);
        let mut events = Vec::new();
        if let (Event::Exited(status), State::Starting | State::Running) = (self.event, before) {
            let status = (*status != STATUS_UNSEEN).then_some(*status);
            events.push((Kind::Exited { status, signal: status.and_then(signal_name) }, Origin::Own));
        }
        match self.event {
            Event::Adopted => events.push((Kind::Adopted { process: self.process }, Origin::Start)),
            Event::Executed if before == State::Starting => {
                events.push((Kind::Started { process: self.process }, Origin::Own));
            }
            Event::OutOfMemory { processes, message } => {
                events.push((Kind::Oom { processes: *processes, message: message.clone() }, Origin::Own));
            }
            _ => {}
        }
        let failed = self.actions.iter().find_map(|action| match action {
            Action::Report(Outcome::StartFailed(failure)) => Some(failure),
            _ => None,
        });
        if let Some(failure) = failed {
            let origin = if asked_to_end { Origin::Stop } else { Origin::Own };
            events.push((Kind::StartFailed { causes: causes(&failure.causes) }, origin));
        }
        if self.actions.contains(&Action::Make) {
            let asked = matches!(self.event, Event::Start | Event::Park | Event::Resume);
            events.push((Kind::Starting {}, if asked { Origin::Start } else { Origin::Own }));
        }
        events.extend(self.health().map(|kind| (kind, Origin::Own)));
        if before != after {
            events.extend(self.turned(after, asked_to_end || before == State::Stopping));
        }
        events
    }

    fn health(&self) -> Option<Kind> {
        match (self.before.health(), self.after.health(), self.event) {
            (Health::Unknown | Health::Unhealthy, Health::Healthy, Event::Probed(_)) => {
                Some(Kind::Healthy {})
            }
            (Health::Healthy, Health::Unhealthy, _) => {
                Some(Kind::Unhealthy { causes: self.failure_causes() })
            }
            _ => None,
        }
    }

    /// What a new state means.
    fn turned(&self, state: State, asked: bool) -> Option<(Kind, Origin)> {
        let origin = if asked { Origin::Stop } else { Origin::Own };
        let kind = match state {
            State::BackingOff => Kind::Restarting {
                attempt: self.after.restarts().saturating_add(1),
                backoff_ms: self.backoff_ms(),
                causes: self.failure_causes(),
            },
            State::CrashLoop => {
                Kind::CrashLoop { failures: self.after.failures_in_a_row(), causes: self.failure_causes() }
            }
            State::Stopping => Kind::Stopping {
                signal: self.after.rules().stop.signal.clone(),
                grace_ms: self.after.rules().stop.grace_ms,
                host_down: *self.event == Event::Halt,
            },
            // What was never healthy and ended by itself is told as a start that failed.
            State::Stopped if asked || !self.after.start_failed() => Kind::Stopped {
                status: match self.event {
                    Event::Exited(status) if *status != STATUS_UNSEEN => Some(*status),
                    _ => None,
                },
            },
            State::Starting | State::Running | State::Stopped => return None,
        };
        Some((kind, origin))
    }

    fn failure_causes(&self) -> Vec<String> {
        self.after.last_failure().map(|failure| causes(&failure.causes)).unwrap_or_default()
    }

    fn backoff_ms(&self) -> u64 {
        let until = self.actions.iter().find_map(|action| match action {
            Action::Deadline(until) => *until,
            _ => None,
        });
        until.map_or(0, |until| until.saturating_sub(self.now))
    }
}

impl Supervisor {
    /// Writes an event of a generation down.
    pub(super) fn tell(&mut self, generation: u32, kind: Kind, origin: Origin) {
        let by = match origin {
            Origin::Start => self.askers.start.clone(),
            Origin::Stop => self.askers.stop.clone(),
            Origin::Own => By::Opsrun {},
        };
        self.tell_of(generation, kind, by);
    }

    /// The same of the active generation, for somebody who has asked for neither a start nor a stop.
    pub(super) fn tell_by(&mut self, kind: Kind, by: By) {
        self.tell_of(self.active.as_ref().map_or(0, super::Running::generation), kind, by);
    }

    /// The same of any generation.
    pub(super) fn tell_of(&mut self, generation: u32, kind: Kind, by: By) {
        if self.lock.is_none() {
            // The service is another supervisor's by now.
            return;
        }
        let entry = match self.get(generation) {
            Some(running) => entry(&running.record, kind, by),
            None => entry_without_record(self.folders.name(), kind, by),
        };
        self.event_file.append(&entry);
    }

    /// Writes down what could not be done, although the supervisor goes on.
    pub(super) fn trouble(&mut self, failure: &Failure) {
        self.tell_by(Kind::Trouble { causes: causes(&failure.causes) }, By::Opsrun {});
    }
}

/// A supervisor in the background has no standard error, and its end would be a riddle.
pub(super) fn tell_of_panics(folders: &ServiceFolders) {
    let folders = folders.clone();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.to_string().replace('\n', " ");
        let failure = Failure::new(text).within("the supervisor ended by a fault of opsrun's own");
        trouble_of(&folders, &failure);
        usual(panic);
    }));
}

/// Writes down what could not be done where there is no supervisor to do so.
pub(super) fn trouble_of(folders: &ServiceFolders, failure: &Failure) {
    let kind = Kind::Trouble { causes: causes(&failure.causes) };
    EventFile::of(folders).append(&entry_without_record(folders.name(), kind, By::Opsrun {}));
}

/// An event of a service that has a record.
pub(crate) fn entry(record: &Record, kind: Kind, by: By) -> Entry {
    Entry {
        release: Some(record.release.clone()),
        generation: Some(record.generation),
        ..entry_without_record(&record.service, kind, by)
    }
}

fn entry_without_record(service: &str, kind: Kind, by: By) -> Entry {
    let at_ms = now_unix_ms();
    Entry { version: VERSION, at_ms, service: service.to_owned(), release: None, generation: None, kind, by }
}
