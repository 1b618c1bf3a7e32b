//! How a prepared generation takes the place of the one that runs, and how its outcome is seen: for `swap` and `rollback`.
//! It does not know how the supervisor does it, and believes no outcome that it has not seen.

use runtime::Failure;
use runtime::client;
use runtime::folders::ServiceFolders;
use runtime::history::{Cause, End, History, Kind};
use runtime::record::{Record, State};
use runtime::swap::{Canary, Request, Step};
use runtime::{status, systemd};

use crate::arguments::Terms;
use crate::commands::look;
use crate::commands::start::{begin, healthy, keep};
use crate::error::Error;
use crate::exit::Exit;
use crate::generation::Candidate;
use crate::hooks::Hooked;
use crate::layout::Layout;
use crate::print::{self, sentence};
use crate::put_back::PutBack;
use crate::service_name::ServiceName;

/// One generation that is to take another's place.
pub(crate) struct Replacement<'a> {
    /// Where everything lies.
    pub layout: &'a Layout,
    /// Of which service.
    pub service: &'a ServiceName,
    /// What runs.
    pub before: &'a Record,
    /// Whether it runs; else it fell into a crash loop, and nothing is to be stopped or to go back to.
    pub is_up: bool,
    /// Whether what runs is replaced also by its like.
    pub even_if_alike: bool,
    /// What is to run, prepared: kept when it serves, removed when it does not.
    pub candidate: Candidate,
    /// Which command it is for.
    pub by: Cause,
    /// The generation that the candidate was made from.
    pub from: Option<u32>,
    /// Whether the operator's configuration becomes the candidate's.
    pub put_back: Option<PutBack<'a>>,
    /// On which terms.
    pub terms: &'a Terms,
    /// The share of the connections that it gets first.
    pub canary: Option<Canary>,
    /// How long the old one may take to end the connections that it has left, milliseconds.
    pub drain_ms: u64,
    /// Whose hooks are run around it: none for a rollback, since an older release's tools may not understand what the newer
    /// one has done.
    pub hooked: Option<Hooked<'a>>,
}

impl Replacement<'_> {
    /// Replaces what runs, unless it is the same.
    ///
    /// # Errors
    /// [`Error::WentBack`] when the old generation serves, [`Error::NeitherServes`] when it does not; any other: nothing
    /// has changed.
    pub(crate) fn perform(self) -> Result<Exit, Error> {
        if let Some(release) = self.before.swapped_to() {
            let (service, release) = (self.service.to_string(), release.to_owned());
            return Err(runtime::Error::Swapping { service, release }.into());
        }
        if self.is_up && !self.even_if_alike && self.candidate.is_like(self.before.generation)? {
            return self.stay();
        }
        let before = self.before.generation;
        self.candidate.note(Kind::Run, self.by, self.from)?;
        let folders = self.layout.service(self.service);
        if let Some(hooked) = &self.hooked
            && let Err(error) = hooked.before()
        {
            let end = End::NeverHealthy { reason: Failure::of(&error) };
            History::of(&folders).ended(self.candidate.number(), end)?;
            return Err(error);
        }
        if let Some(put_back) = &self.put_back {
            put_back.keep(before)?;
        }
        let outcome = if self.is_up { self.switch()? } else { self.start()? };
        print::note(&outcome);
        if let Some(put_back) = &self.put_back {
            put_back.put(before, self.candidate.number());
        }
        keep(self.candidate);
        let exit = seen_to_serve(&folders);
        match &self.hooked {
            Some(hooked) if exit == Exit::Done => hooked.after().map(|_| exit),
            _ => Ok(exit),
        }
    }

    /// What runs is what is asked for: only what was left undone before is done.
    fn stay(self) -> Result<Exit, Error> {
        let Record { generation, ref release, .. } = *self.before;
        let service = self.service.to_string();
        match &self.put_back {
            Some(put_back) if put_back.is_needed(generation)? => put_back.put(generation, generation),
            _ => {
                if let Some(hooked) = self.hooked
                    && (Hooked { generation, ..hooked }).after()?
                {
                    return Ok(Exit::Done);
                }
                print::note(&sentence::nothing_to_swap(&service, release, generation));
            }
        }
        Ok(Exit::Done)
    }

    /// Starts the candidate where nothing runs. What to say of it.
    fn start(&self) -> Result<String, Error> {
        Ok(healthy(self.service, &begin(self.layout, self.service, self.candidate.number())?))
    }

    /// Has the supervisor do it. What to say when the candidate serves.
    fn switch(&self) -> Result<String, Error> {
        let (service, before) = (self.service.as_str(), &self.before.release);
        let folders = self.layout.service(self.service);
        let (number, wanted) = (self.candidate.number(), self.candidate.release());
        let request = Request {
            generation: number,
            soak_ms: self.terms.soak.ms,
            drain_ms: Some(self.drain_ms),
            start_timeout_ms: self.terms.timeout.map(|timeout| timeout.ms),
            stop_first: self.terms.stop_first,
            canary: self.canary,
        };
        let mut on = |step| {
            let text = match (self.by, &step) {
                (Cause::Restart, Step::Returning) => {
                    Some(sentence::going_back(service, before, self.before.generation))
                }
                (Cause::Restart, _) => None,
                _ => sentence::swap_step(service, &wanted, before, step),
            };
            if let Some(text) = text {
                print::note(&text);
            }
        };
        match client::swap(&folders, request, &mut on) {
            Ok(swapped) if self.by == Cause::Restart => {
                Ok(sentence::restarted(service, &wanted, number, &swapped))
            }
            Ok(swapped) => Ok(sentence::swapped(service, &wanted, before, number, &swapped)),
            Err(runtime::Error::CandidateFailed { service, source, output, gap, back: Some(back) }) => {
                let source = runtime::Error::CandidateFailed { service, source, output, gap, back: None };
                let back = runtime::Error::Supervisor { service: folders.name().to_owned(), source: back };
                Err(self.neither_serves(source.into(), back.into()))
            }
            Err(error @ runtime::Error::CandidateFailed { .. }) => Err(self.went_back(error.into())),
            Err(error @ runtime::Error::SwapCancelled { .. }) => {
                // It may serve for a moment yet, and is not to be brought back.
                let back = runtime::Error::NotRunning { service: self.service.to_string() };
                Err(self.neither_serves(error.into(), back.into()))
            }
            Err(error @ runtime::Error::SupervisorGone { .. }) => {
                // The record tells which side the swap went to.
                let back = supervise_again(&folders);
                if Record::read(&folders)?.is_some_and(|record| record.generation == number) {
                    print::warning(&error.to_string());
                    if let Err(back) = back {
                        // No reason to give up what is on record: whether it serves is seen next.
                        print::warning(&back.to_string());
                    }
                    return Ok(sentence::taken_over(service, &wanted, number));
                }
                Err(match back {
                    Ok(()) => self.went_back(error.into()),
                    Err(back) => self.neither_serves(error.into(), back),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The error for a candidate that failed, when the old generation is said to serve: if it is seen to.
    fn went_back(&self, failure: Error) -> Error {
        let folders = self.layout.service(self.service);
        match status::probe(&folders) {
            Ok(Ok(())) => {
                if let Error::Runtime(runtime::Error::CandidateFailed { gap, .. }) = &failure
                    && !gap.is_zero()
                {
                    print::note(&sentence::serves_again(self.service.as_str(), &self.before.release, *gap));
                }
                Error::WentBack {
                    service: self.service.to_string(),
                    wanted: self.candidate.release(),
                    serves: self.before.release.clone(),
                    generation: self.before.generation,
                    source: Box::new(failure),
                }
            }
            Ok(Err(reason)) => {
                let source = runtime::Failure::new(reason);
                let back = runtime::Error::Supervisor { service: self.service.to_string(), source };
                self.neither_serves(failure, back.into())
            }
            Err(back) => self.neither_serves(failure, back.into()),
        }
    }

    fn neither_serves(&self, source: Error, back: Error) -> Error {
        Error::NeitherServes {
            service: self.service.to_string(),
            wanted: self.candidate.release(),
            before: self.before.release.clone(),
            source: Box::new(source),
            back: Box::new(back),
        }
    }
}

/// The record of a service that runs and is supervised, or is from now on.
///
/// # Errors
/// [`Error::NoService`]; [`runtime::Error::NotRunning`].
pub(crate) fn running(layout: &Layout, service: &ServiceName) -> Result<Record, Error> {
    let (folders, status) = look(layout, service)?;
    if status.supervisor.is_some() {
        return Ok(status.record);
    }
    if !status.alive {
        return Err(runtime::Error::NotRunning { service: service.to_string() }.into());
    }
    // It lost its supervisor, and a swap needs one.
    supervise_again(&folders)?;
    Ok(look(layout, service)?.1.record)
}

/// The record of a service that runs, supervised or not: nothing is changed about that.
///
/// # Errors
/// As [`running`].
fn alive(layout: &Layout, service: &ServiceName) -> Result<Record, Error> {
    let (_, status) = look(layout, service)?;
    match status.alive || status.supervisor.is_some() {
        true => Ok(status.record),
        false => Err(runtime::Error::NotRunning { service: service.to_string() }.into()),
    }
}

/// The record of a service that is to be replaced on these terms: as [`running`], but a plan changes nothing, so it gives no
/// service a supervisor either.
///
/// # Errors
/// As [`running`].
pub(crate) fn before(layout: &Layout, service: &ServiceName, terms: &Terms) -> Result<Record, Error> {
    if terms.plan { alive(layout, service) } else { running(layout, service) }
}

/// The same, or the record of a service that was given up by its supervisor. Whether it runs.
///
/// # Errors
/// As [`running`].
pub(crate) fn before_or_given_up(
    layout: &Layout,
    service: &ServiceName,
    terms: &Terms,
) -> Result<(Record, bool), Error> {
    match before(layout, service, terms) {
        Err(error @ Error::Runtime(runtime::Error::NotRunning { .. })) => {
            let record = look(layout, service)?.1.record;
            if record.state == State::CrashLoop { Ok((record, false)) } else { Err(error) }
        }
        found => Ok((found?, true)),
    }
}

/// Has a service supervised whose supervisor died; systemd does that by itself.
fn supervise_again(folders: &ServiceFolders) -> Result<(), Error> {
    if systemd::keeps(folders) {
        return Ok(systemd::systemctl("start", folders.name())?);
    }
    match client::resume(folders) {
        // Another command was faster.
        Ok(_) | Err(runtime::Error::AlreadyRunning { .. } | runtime::Error::Busy { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What was reported is looked at once more, from outside the supervisor.
fn seen_to_serve(folders: &ServiceFolders) -> Exit {
    let reason = match status::probe(folders) {
        Ok(Ok(())) => return Exit::Done,
        Ok(Err(reason)) => reason,
        Err(error) => error.to_string(),
    };
    print::warning(&sentence::not_seen_to_serve(folders.name(), &reason));
    Exit::NeitherServes
}
