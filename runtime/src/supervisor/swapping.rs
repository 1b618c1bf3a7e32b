//! What a supervisor does when one generation takes another's place: one action of `swap/` after the other.
//! It decides nothing; what follows from what is said there.

use std::mem;

use super::clients::Awaited;
use super::running::Running;
use super::steered::{Draining, PROOFS, milliseconds};
use super::telling::Askers;
use super::{Supervisor, now_unix_ms};
use crate::control::Answer;
use crate::crash_point;
use crate::error::{Error, Failure};
use crate::events::{By, Kind, causes};
use crate::history::End;
use crate::lifecycle::{self, Life, Outcome};
use crate::record::{self, Other, State, Way};
use crate::steering::gate::Gate;
use crate::swap::{Action, Canary, DRAIN, Event, Request, Swap, Verdict};
use crate::way;

/// A swap under way, and between whom.
pub(super) struct Swapping {
    swap: Swap,
    pub old: u32,
    candidate: u32,
    /// Whether the candidate has been the active generation.
    served: bool,
    /// The candidate's last words.
    output: Vec<String>,
    began_at_ms: u64,
    /// When the swap wants to be woken, on the supervisor's clock.
    pub wakes: Option<u64>,
    /// The share of the connections that the candidate gets, as the record has it.
    canary: Option<record::Canary>,
    /// The generation that is waited for until it has no connections left.
    pub draining: Option<Draining>,
    /// How long it is waited for.
    pub drain_ms: u64,
    /// What the candidate waits for when it goes gated.
    pub gate: Gate,
    start_timeout_ms: Option<u64>,
}

impl Swapping {
    /// How it is done.
    pub fn way(&self) -> Way {
        self.swap.way()
    }

    /// Whether nothing but the end of connections is waited for.
    pub fn only_drains(&self) -> bool {
        self.swap.only_drains()
    }

    /// When something is to be looked at, on the supervisor's clock.
    pub fn wakes_at(&self) -> Option<u64> {
        let drain = self.draining.as_ref().map(|draining| draining.next);
        self.wakes.into_iter().chain(drain).min()
    }

    /// Whether a generation is the candidate, and is to wait when it binds a port of the service's.
    pub fn is_shut_out(&self, generation: u32) -> bool {
        generation == self.candidate && self.swap.is_shut()
    }

    /// Whether a generation is the old one, and its listeners are kept for the candidate.
    pub fn is_kept_for(&self, generation: u32) -> bool {
        generation == self.old && self.way() == Way::Gated
    }

    /// The generation that leaves its listeners to this one, when this is the candidate and they do not run beside each other.
    pub fn makes_way_for(&self, generation: u32) -> Option<u32> {
        (generation == self.candidate && self.way() == Way::Gated).then_some(self.old)
    }

    /// Whether a generation is the candidate, beside one that serves, and has not taken over.
    pub fn is_made_steered(&self, generation: u32) -> bool {
        generation == self.candidate && self.way() == Way::Steered && !self.served
    }
}

impl Supervisor {
    /// Begins to put a generation in place of the active one.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Swapping`], [`Error::BeingStarted`], [`Error::NoCanary`], and when the candidate's
    /// bundle cannot be read.
    pub(super) fn begin_swap(&mut self, request: &Request, by: By) -> Result<(), Error> {
        let &Request { generation: candidate, start_timeout_ms, soak_ms, drain_ms, stop_first, canary } =
            request;
        let service = self.folders.name().to_owned();
        if self.swap.is_some() {
            return Err(self.already_swapping());
        }
        let Some(active) = self.active.as_ref().filter(|active| !active.life.is_over()) else {
            return Err(Error::NotRunning { service });
        };
        // Who waits for the start is to be told how it ends.
        if active.life.state() == State::Starting && self.is_awaited(Awaited::Up) {
            return Err(Error::BeingStarted { service });
        }
        let old = active.generation();
        let running = Running::prepare(&self.folders, candidate)?;
        let (mut way, reason) = way::choose(&active.definition, &running.definition);
        let mut reason = reason.to_owned();
        if stop_first && way != Way::StopFirst {
            (way, reason) = (Way::StopFirst, "it was asked for".to_owned());
        }
        let promised = way;
        let handed = way::is_handed(&active.definition, &running.definition);
        (way, reason) = way::on_this_host(&self.folders, way, reason, handed);
        if promised == Way::Steered
            && way != Way::StopFirst
            && let Err((lower, obstacle)) = self.steerable()
        {
            (way, reason) = (lower, obstacle);
        }
        if !running.definition.listen_stream.is_empty()
            && matches!(way, Way::Steered | Way::Gated)
            && let Some(difference) = self.listens_elsewhere(old, &running.definition)
        {
            (way, reason) = (Way::StopFirst, difference);
        }
        if canary.is_some() && way != Way::Steered {
            let source = Failure::new(reason).within(format!("it would go {}", way.text()));
            return Err(Error::NoCanary { service, source });
        }
        self.other = Some(running);
        self.swap = Some(Swapping {
            swap: Swap::new(way, reason, soak_ms).sharing_first(canary).handed(handed),
            old,
            candidate,
            served: false,
            output: Vec::new(),
            began_at_ms: now_unix_ms(),
            wakes: None,
            canary: None,
            draining: None,
            drain_ms: drain_ms.unwrap_or_else(|| milliseconds(DRAIN)),
            gate: Gate::default(),
            start_timeout_ms,
        });
        self.put_on_trial(candidate);
        self.askers = Askers { start: by.clone(), stop: by.clone() };
        self.tell_of(candidate, Kind::SwapBegan { from: old, way }, by);
        // The intent is on disk before anything is done.
        self.write_record();
        self.swap_happens(Event::Begin);
        Ok(())
    }

    /// Readies the life of a candidate that is about to be made.
    fn put_on_trial(&mut self, candidate: u32) {
        let Some(swap) = &self.swap else { return };
        let (timeout, steered) = (swap.start_timeout_ms, swap.way() == Way::Steered);
        if let Some(running) = self.of(candidate) {
            let proofs = if steered { PROOFS } else { 1 };
            running.life = Life::on_trial(running.definition.clone(), timeout, proofs);
        }
        self.steer_probes();
    }

    pub(super) fn already_swapping(&self) -> Error {
        let candidate = self.swap.as_ref().and_then(|swap| self.get(swap.candidate));
        let release = candidate.map(|running| running.definition.release.clone()).unwrap_or_default();
        Error::Swapping { service: self.folders.name().to_owned(), release }
    }

    /// One step of the swap.
    pub(super) fn swap_happens(&mut self, event: Event) {
        let now = self.now();
        let Some(swapping) = &mut self.swap else { return };
        let (swap, actions) = swapping.swap.clone().step(event, now);
        swapping.swap = swap;
        for action in actions {
            crash_point::here();
            self.act_swap(action);
        }
    }

    /// What a generation's life has come to, when that is the swap's business. Whether it is.
    pub(super) fn is_of_swap(&mut self, generation: u32, outcome: &Outcome) -> bool {
        let Some(swap) = &self.swap else { return false };
        let event = match (generation == swap.candidate, outcome.clone()) {
            (true, Outcome::Parked) => Event::Parked,
            (true, Outcome::Healthy) => {
                self.end_waiting(generation);
                Event::Healthy
            }
            (true, Outcome::StartFailed(failure)) => Event::Failed(failure),
            (true, Outcome::Stopped) => Event::Failed(Failure::new("it was stopped")),
            (false, Outcome::Stopped) => Event::OldDown,
            (false, Outcome::Healthy) => Event::OldHealthy,
            (false, Outcome::StartFailed(failure)) => Event::OldFailed(failure),
            (false, Outcome::Parked) => return true,
        };
        self.swap_happens(event);
        true
    }

    fn act_swap(&mut self, action: Action) {
        let Some(Swapping { old, candidate, .. }) = self.swap else { return };
        match action {
            Action::MakeCandidate { parked } => {
                let event = if parked { lifecycle::Event::Park } else { lifecycle::Event::Start };
                self.events.push_back((candidate, event));
            }
            Action::ReleaseCandidate => self.events.push_back((candidate, lifecycle::Event::Release)),
            Action::HoldCandidate => {
                self.events.push_back((candidate, lifecycle::Event::Wait));
                self.keep_listeners_of(old, candidate);
            }
            Action::LetIn => self.let_in(old, candidate),
            Action::StopOld => match self.of(old).is_none_or(|running| running.life.is_over()) {
                true => self.swap_happens(Event::OldDown),
                false => self.events.push_back((old, lifecycle::Event::GiveWay)),
            },
            Action::PrepareCandidate => match Running::prepare(&self.folders, candidate) {
                Ok(running) => {
                    self.other = Some(running);
                    self.put_on_trial(candidate);
                }
                Err(error) => self.swap_happens(Event::Failed(Failure::of(&error))),
            },
            Action::Share(canary) => self.share_with(candidate, canary),
            Action::Turn => self.turn_over(candidate),
            Action::TurnBack => {
                self.turn_to(old);
                if let Some(running) = self.of(old) {
                    running.probe_after(0);
                }
            }
            Action::Drain { candidate: of_candidate } => {
                self.drain_of(if of_candidate { candidate } else { old });
            }
            Action::Commit => {
                mem::swap(&mut self.active, &mut self.other);
                self.write_record();
                self.turn_to(candidate);
                if let Some(swap) = &mut self.swap {
                    swap.served = true;
                }
                self.happen(candidate, lifecycle::Event::Watch { closely: false });
                self.note_ended(old, End::Replaced { by: candidate });
                self.note_serving(candidate);
            }
            Action::Uncommit => {
                mem::swap(&mut self.active, &mut self.other);
                self.write_record();
                self.turn_to(old);
            }
            Action::Wake(at) => {
                if let Some(swap) = &mut self.swap {
                    swap.wakes = Some(at);
                }
            }
            Action::Accept => self.happen(candidate, lifecycle::Event::Accept),
            Action::ClearCandidate => self.clear_candidate(candidate),
            Action::StartOld => {
                if let Err(error) = self.start_old(old) {
                    self.swap_happens(Event::OldFailed(Failure::of(&error)));
                }
            }
            Action::Tell(step) => self.answer(Awaited::Swap, &Answer::Step(step)),
            Action::End(verdict) => self.end_swap(verdict),
        }
    }

    /// Without grace: nobody was served by it, or it failed to serve.
    fn clear_candidate(&mut self, candidate: u32) {
        let folders = self.folders.clone();
        let Some(mut running) = self.other.take_if(|other| other.generation() == candidate) else { return };
        let cleared = running.clear(&folders);
        self.kept.forget_generation(candidate);
        self.give_back(candidate);
        self.steering.forget(candidate);
        if let Some(swap) = &mut self.swap {
            swap.wakes = None;
            swap.draining = None;
            swap.output = running.log.last_lines();
        }
        if let Err(error) = cleared {
            self.trouble(&Failure::of(&error));
        }
        self.write_record();
    }

    /// The same bundle in a new container, by its own rules, as after a crash.
    fn start_old(&mut self, old: u32) -> Result<(), Error> {
        let mut running = Running::prepare(&self.folders, old)?;
        if let Some(before) = self.active.take() {
            running.life = running.life.with_restarts(before.life.restarts());
            running.record = before.record;
            running.record.process = None;
        }
        self.active = Some(running);
        self.events.push_back((old, lifecycle::Event::Resume));
        Ok(())
    }

    fn end_swap(&mut self, verdict: Verdict) {
        let Some(Swapping { swap, output, old, candidate, served, .. }) = self.swap.take() else { return };
        self.tell_verdict(old, candidate, served, &verdict);
        if let Some(other) = self.other.take_if(|other| other.life.is_over()) {
            self.kept.forget_generation(other.generation());
            self.steering.forget(other.generation());
        }
        self.steer_probes();
        let pid = self.active.as_ref().and_then(|active| active.pid).map_or(0, nix::unistd::Pid::as_raw);
        let cancelled = verdict == Verdict::Cancelled;
        let answer = match verdict {
            Verdict::Swapped { gap_ms, waited, left } => {
                let way = Some((swap.way(), swap.reason().to_owned()));
                Answer::Swapped { pid, gap_ms, waited, way, left }
            }
            Verdict::WentBack { failure, gap_ms } => Answer::WentBack { failure, output, gap_ms },
            Verdict::NeitherServes { failure, back } => Answer::NeitherServes { failure, output, back },
            Verdict::Cancelled => Answer::Cancelled,
        };
        // The record first: what a client is told must be what it finds when it looks.
        self.write_record();
        self.answer(Awaited::Swap, &answer);
        if !cancelled && self.active.as_ref().is_some_and(|active| active.life.is_over()) {
            // The old one fell into a crash loop while the candidate was tried.
            self.end();
        }
    }

    /// How the swap ended, as events and in the history.
    fn tell_verdict(&mut self, old: u32, candidate: u32, served: bool, verdict: &Verdict) {
        let (kind, failure) = match verdict {
            Verdict::Swapped { gap_ms, left, .. } => {
                (Kind::Swapped { from: old, gap_ms: *gap_ms, left: left.clone() }, None)
            }
            Verdict::WentBack { failure, gap_ms } => {
                let kind =
                    Kind::WentBack { from: candidate, gap_ms: *gap_ms, causes: causes(&failure.causes) };
                (kind, Some(failure))
            }
            Verdict::NeitherServes { failure, back } => {
                let kind = Kind::NeitherServes {
                    candidate,
                    causes: causes(&failure.causes),
                    back: causes(&back.causes),
                };
                (kind, Some(failure))
            }
            Verdict::Cancelled => (Kind::SwapCancelled { candidate }, None),
        };
        let of = if matches!(verdict, Verdict::Swapped { .. }) { candidate } else { old };
        self.tell_of(of, kind, By::Opsrun {});
        if let Some(reason) = failure.cloned() {
            let end = if served { End::WentBack { reason } } else { End::NeverHealthy { reason } };
            self.note_ended(candidate, end);
        }
        if matches!(verdict, Verdict::WentBack { .. }) {
            self.note_serving(old);
        }
    }

    /// What the candidate gets from now on is on record before anybody is told.
    pub(super) fn tell_of_share(&mut self, candidate: u32, canary: Canary) {
        let Some(swap) = &mut self.swap else { return };
        let (from, Canary { share, for_ms }) = (swap.old, canary);
        swap.canary = Some(record::Canary { share, until_ms: now_unix_ms().saturating_add(for_ms) });
        self.tell_of(candidate, Kind::Canary { from, share_ppm: share, for_ms }, By::Opsrun {});
        self.write_record();
    }

    /// The swap as the record has it.
    pub(super) fn swap_on_record(&self) -> Option<record::Swapping> {
        let swap = self.swap.as_ref()?;
        let committed = swap.swap.is_committed();
        let generation = if committed { swap.old } else { swap.candidate };
        let running = self.get(generation);
        Some(record::Swapping {
            way: swap.swap.way(),
            other: if committed { Other::Previous } else { Other::Candidate },
            generation,
            release: running.map(|running| running.definition.release.clone()).unwrap_or_default(),
            process: running.and_then(|running| running.record.process.clone()),
            began_at_ms: swap.began_at_ms,
            canary: swap.canary.filter(|_| swap.swap.is_shared()),
        })
    }
}
