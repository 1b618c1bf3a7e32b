//! How one generation takes another's place, as a pure function: how far it is and what happened give what is to be done.
//! It touches nothing and knows no container; the two generations live their lives in `lifecycle.rs`.
//!
//! ```text
//! stop-first     Making ─parked─▶ StoppingOld ─down─▶ Proving ─healthy─▶ Soaking ─over─▶ swapped
//! side by side   Making ──────────── healthy, while the old one serves ─▶ Soaking ─over─▶ Retiring ─down─▶ swapped
//! gated          Making ─ waits in bind(2) ─▶ StoppingOld ─down, let in─▶ Proving ─healthy─▶ Soaking ─over─▶ swapped
//! steered        Making ─ healthy, seen by probes alone ─▶ (Sharing) ─▶ Turning ─▶ Soaking ─over─▶ (Draining) ─▶ Retiring ─down─▶ swapped
//!                   │ it would take clients before it is proven                │ failed     │
//!                   ▼                                                          └──────┬─────┘
//!                 gated                                             Withdrawing ◀─────┘ turned back, then cleared
//!
//! Steered, the old one has no new connections from the soak's beginning on; Draining is what it needs beyond that to end
//! those it has.
//!
//! Sharing, where it is asked for: a share of the connections goes to the candidate first, for a time; one failed probe ends it.
//!
//! anything wrong before the soak: the candidate is cleared without grace, and the old one, where it was stopped, is
//! started again (Returning). In the soak: the record goes back to the old generation first, then the same.
//! ```
//!
//! The commit is the record's going over to the candidate, at the beginning of the soak. So the record says at any moment
//! which generation it is that serves, or is to serve.

mod asked;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::error::Failure;
use crate::lifecycle::Millis;
use crate::record::Way;
pub use asked::{Canary, DRAIN, Left, Request, Step};

/// How often it is looked whether it has any left.
pub(crate) const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

/// A swap under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Swap {
    way: Way,
    /// Why this way.
    reason: String,
    soak_ms: u64,
    canary: Option<Canary>,
    /// Whether the candidate gets its listeners handed when it starts, and need not be heard of.
    handed: bool,
    stage: Stage,
    /// Whether the old generation has no connections left.
    drained: bool,
    /// What it had left when it was asked to end.
    left: Left,
    failure: Option<Failure>,
    /// When the old generation was asked to end, and for how long nothing served.
    silent_since: Option<Millis>,
    gap_ms: u64,
    /// Whether those who connected meanwhile had to wait, and were not refused.
    waited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Making,
    StoppingOld,
    Proving,
    Sharing,
    Turning,
    Soaking,
    Draining,
    Retiring,
    Withdrawing,
    Returning,
    Over,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A person asked for it.
    Begin,
    /// The candidate's container exists, and waits.
    Parked,
    /// The candidate is healthy.
    Healthy,
    /// The candidate could not be made, has ended, or is not healthy.
    Failed(Failure),
    /// The candidate would take connections that are the old one's, and waits with that; why.
    Collides(String),
    /// A share of new connections goes to the candidate.
    Shared,
    /// The candidate waits in bind(2) until the port is its own.
    Waits,
    /// Nobody hears of the candidate's binds; why.
    Unheard(String),
    /// Whoever has connected since the old generation was asked to end is served by the candidate.
    Waited,
    /// New connections go to the candidate.
    Turned,
    /// The generation that no connection is sent to any more has done with those it had, or has had its time.
    Drained(Left),
    /// The old generation has ended as asked for.
    OldDown,
    /// The old generation, started again, is healthy.
    OldHealthy,
    /// The old generation could not be started again.
    OldFailed(Failure),
    /// The time asked for by [`Action::Wake`] has come.
    TimeIsUp,
    /// The service is to end, or the host goes down.
    Cancel,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make the candidate's container; parked, or started at once.
    MakeCandidate {
        /// Whether it waits for [`Action::ReleaseCandidate`].
        parked: bool,
    },
    /// Have the old generation end, with its grace.
    StopOld,
    /// Let the parked candidate execute its program.
    ReleaseCandidate,
    /// Let the candidate's start take as long as the old one's end does.
    HoldCandidate,
    /// Give the candidate, which waits in bind(2), the old one's listeners, or its port.
    LetIn,
    /// Make ready a candidate again after it was cleared.
    PrepareCandidate,
    /// Send a share of new connections to the candidate, and watch it closely.
    Share(Canary),
    /// Send new connections to the candidate.
    Turn,
    /// Send new connections to the old generation, as before.
    TurnBack,
    /// Wait until the generation that no connection is sent to has done with those it has.
    Drain {
        /// Whether that is the candidate.
        candidate: bool,
    },
    /// The candidate is the active generation from now on.
    Commit,
    /// The old generation is the active one again.
    Uncommit,
    /// Wake up at this time.
    Wake(Millis),
    /// The candidate is not on trial any more.
    Accept,
    /// Kill the candidate and remove all of it.
    ClearCandidate,
    /// Start the old generation again.
    StartOld,
    /// Tell who asked how far it is.
    Tell(Step),
    /// It is over.
    End(Verdict),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The candidate serves.
    Swapped {
        /// For so long nothing served.
        gap_ms: u64,
        /// Whether those who connected meanwhile have waited; else they were refused.
        waited: bool,
        /// What the old one had left.
        left: Left,
    },
    /// The old generation serves, as before.
    WentBack {
        /// Why the candidate does not.
        failure: Failure,
        /// For so long nothing served.
        gap_ms: u64,
    },
    /// Neither does; the old generation is tried further by its own rules.
    NeitherServes {
        /// Why the candidate does not.
        failure: Failure,
        /// Why the old one does not.
        back: Failure,
    },
    /// The service was asked to end in the middle.
    Cancelled,
}

impl Swap {
    /// A swap in this way, for this reason, with a soak of so many milliseconds.
    pub(crate) fn new(way: Way, reason: String, soak_ms: u64) -> Self {
        Self {
            way,
            reason,
            soak_ms,
            canary: None,
            handed: false,
            stage: Stage::Making,
            drained: false,
            left: Left::default(),
            failure: None,
            silent_since: None,
            gap_ms: 0,
            waited: false,
        }
    }

    /// The same with a share of the connections for the candidate before it gets all.
    pub(crate) fn sharing_first(self, canary: Option<Canary>) -> Self {
        Self { canary, ..self }
    }

    /// The same of a candidate that gets its listeners handed when it starts.
    pub(crate) fn handed(self, handed: bool) -> Self {
        Self { handed, ..self }
    }

    /// The way it goes.
    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// Why it goes that way.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether a candidate that binds a port of the service's has to wait.
    pub(crate) fn is_shut(&self) -> bool {
        self.way == Way::Gated && matches!(self.stage, Stage::Making | Stage::StoppingOld)
    }

    /// Whether the candidate is the active generation.
    pub(crate) fn is_committed(&self) -> bool {
        matches!(self.stage, Stage::Soaking | Stage::Draining | Stage::Retiring)
    }

    /// Whether nothing is waited for but the end of connections, so that the wait has an end of its own.
    pub(crate) fn only_drains(&self) -> bool {
        matches!(self.stage, Stage::Draining | Stage::Withdrawing)
    }

    /// Whether the candidate gets a share of the connections, or is about to.
    pub(crate) fn is_shared(&self) -> bool {
        self.stage == Stage::Sharing
    }

    /// What becomes of it when `event` happens at `now`, and what is to be done, in this order.
    #[must_use]
    pub(crate) fn step(mut self, event: Event, now: Millis) -> (Self, Vec<Action>) {
        let (steered, gated) = (self.way == Way::Steered, self.way == Way::Gated);
        let overlap = self.overlap();
        let actions = match (self.stage, event) {
            (Stage::Making, Event::Begin) => {
                // Gated, what it gets is another's until that has ended.
                let parked = self.way == Way::StopFirst || gated && self.handed;
                vec![self.tell_way(), Action::MakeCandidate { parked }]
            }
            (Stage::Making, Event::Collides(reason) | Event::Unheard(reason))
                if steered && self.canary.is_some() =>
            {
                // Whoever wants to try it on a few does not want it for all at once.
                let failure = Failure::new(reason).within("it cannot get a share of the connections");
                self.give_up(failure)
            }
            (Stage::Making, Event::Collides(reason)) if steered => {
                (self.way, self.reason) = (Way::Gated, reason);
                let mut actions = vec![self.tell_way()];
                actions.extend(self.make_way(now));
                actions
            }
            (Stage::Making, Event::Waits) if gated => self.make_way(now),
            (Stage::Making, Event::Unheard(reason)) if (steered || gated) && !self.handed => {
                (self.way, self.reason) = (Way::StopFirst, reason);
                vec![
                    Action::ClearCandidate,
                    self.tell_way(),
                    Action::PrepareCandidate,
                    Action::MakeCandidate { parked: true },
                ]
            }
            (Stage::Making, Event::Healthy) if steered => match self.canary {
                Some(canary) => {
                    self.stage = Stage::Sharing;
                    vec![Action::Share(canary)]
                }
                None => self.turn(),
            },
            (Stage::Sharing, Event::Shared) => {
                let Some(canary) = self.canary else { return (self, Vec::new()) };
                let until = now.saturating_add(canary.for_ms);
                vec![Action::Tell(Step::Sharing(canary)), Action::Wake(until)]
            }
            (Stage::Sharing, Event::TimeIsUp) => self.turn(),
            (Stage::Sharing, Event::Failed(failure)) => self.withdraw(failure),
            (Stage::Sharing, Event::Cancel) => {
                let mut actions = vec![Action::TurnBack, Action::ClearCandidate];
                actions.extend(self.end(Verdict::Cancelled));
                actions
            }
            (Stage::Making, Event::Healthy) if gated => {
                let failure = Failure::new("it is healthy, and has not bound its port");
                self.give_up(failure)
            }
            (Stage::Turning, Event::Turned) => self.commit(now),
            (Stage::Turning, Event::Failed(failure)) => {
                let mut actions = vec![Action::TurnBack];
                actions.extend(self.give_up(failure));
                actions
            }
            (Stage::Making, Event::Parked) => {
                self.stage = Stage::StoppingOld;
                self.silent_since = Some(now);
                vec![Action::Tell(Step::Made), Action::Tell(Step::StoppingOld), Action::StopOld]
            }
            (Stage::StoppingOld, Event::OldDown) => {
                self.stage = Stage::Proving;
                let go = if gated { Action::LetIn } else { Action::ReleaseCandidate };
                vec![Action::Tell(Step::Proving), go]
            }
            (Stage::Proving, Event::Waited) => {
                self.waited = true;
                Vec::new()
            }
            (Stage::Making | Stage::Proving, Event::Healthy) => self.commit(now),
            (Stage::Soaking, Event::TimeIsUp) => self.soaked(),
            (Stage::Soaking, Event::Drained(left)) => {
                (self.drained, self.left) = (true, left);
                Vec::new()
            }
            (Stage::Draining, Event::Drained(left)) => {
                self.left = left;
                self.accept()
            }
            (Stage::Withdrawing, Event::Drained(left)) => {
                let failure = self.failure.take().unwrap_or_else(no_reason);
                let mut actions = vec![Action::ClearCandidate];
                actions.extend((left.connections > 0).then_some(Action::Tell(Step::Cut(left))));
                actions.extend(self.end(Verdict::WentBack { failure, gap_ms: 0 }));
                actions
            }
            (Stage::Retiring, Event::OldDown) => self.end(self.swapped()),
            (Stage::Making, Event::Failed(failure)) => self.give_up(failure),
            // The old one is on its way down; it is brought back when it is.
            (Stage::StoppingOld, Event::Failed(failure)) => {
                self.failure = Some(failure);
                self.stage = Stage::Returning;
                vec![Action::ClearCandidate, Action::Tell(Step::Returning)]
            }
            (Stage::Returning, Event::OldDown) => vec![Action::StartOld],
            (Stage::Proving, Event::Failed(failure)) => {
                self.failure = Some(failure);
                self.stage = Stage::Returning;
                vec![Action::ClearCandidate, Action::Tell(Step::Returning), Action::StartOld]
            }
            (Stage::Soaking | Stage::Draining, Event::Failed(failure)) => self.go_back(failure, now),
            (Stage::Returning, Event::OldHealthy) => {
                let failure = self.failure.take().unwrap_or_else(no_reason);
                let gap_ms = self.silence(now);
                self.end(Verdict::WentBack { failure, gap_ms })
            }
            (Stage::Returning, Event::OldFailed(back)) => {
                let failure = self.failure.take().unwrap_or_else(no_reason);
                self.end(Verdict::NeitherServes { failure, back })
            }
            // Too late to be undone: both are asked to end.
            (Stage::Soaking | Stage::Draining, Event::Cancel) => {
                let mut actions = vec![Action::Accept];
                actions.extend(overlap.then_some(Action::StopOld));
                actions.extend(self.end(Verdict::Cancelled));
                actions
            }
            (
                Stage::Making | Stage::StoppingOld | Stage::Proving | Stage::Turning | Stage::Withdrawing,
                Event::Cancel,
            ) => {
                let mut actions = vec![Action::ClearCandidate];
                actions.extend(self.end(Verdict::Cancelled));
                actions
            }
            (Stage::Retiring | Stage::Returning, Event::Cancel) => self.end(Verdict::Cancelled),
            _ => Vec::new(),
        };
        (self, actions)
    }

    fn commit(&mut self, now: Millis) -> Vec<Action> {
        self.stage = Stage::Soaking;
        self.gap_ms = self.silence(now);
        let mut actions = vec![Action::Commit];
        if self.way == Way::Steered {
            actions.push(Action::Drain { candidate: false });
        }
        if self.soak_ms == 0 {
            actions.extend(self.soaked());
        } else {
            let (gap_ms, waited) = (self.gap_ms, self.waited);
            let step = Step::Soaking { gap_ms, waited, soak_ms: self.soak_ms };
            actions.extend([Action::Tell(step), Action::Wake(now.saturating_add(self.soak_ms))]);
        }
        actions
    }

    /// The candidate has all it needs but the port.
    fn make_way(&mut self, now: Millis) -> Vec<Action> {
        self.stage = Stage::StoppingOld;
        self.silent_since = Some(now);
        vec![Action::HoldCandidate, Action::Tell(Step::StoppingOld), Action::StopOld]
    }

    /// What the old generation has begun it is let finish, before it is asked to end.
    fn soaked(&mut self) -> Vec<Action> {
        if self.way != Way::Steered || self.drained {
            return self.accept();
        }
        self.stage = Stage::Draining;
        Vec::new()
    }

    fn accept(&mut self) -> Vec<Action> {
        let mut actions = vec![Action::Accept];
        if self.overlap() {
            self.stage = Stage::Retiring;
            actions.extend([Action::Tell(Step::Retiring(self.left.clone())), Action::StopOld]);
        } else {
            actions.extend(self.end(self.swapped()));
        }
        actions
    }

    /// The candidate goes, and the old one has served all along.
    fn give_up(&mut self, failure: Failure) -> Vec<Action> {
        let mut actions = vec![Action::ClearCandidate];
        actions.extend(self.end(Verdict::WentBack { failure, gap_ms: 0 }));
        actions
    }

    fn turn(&mut self) -> Vec<Action> {
        self.stage = Stage::Turning;
        vec![Action::Turn]
    }

    /// Clients are taken from the candidate, and what it has begun it is let finish.
    fn withdraw(&mut self, failure: Failure) -> Vec<Action> {
        self.stage = Stage::Withdrawing;
        self.failure = Some(failure);
        vec![Action::TurnBack, Action::Tell(Step::Withdrawing), Action::Drain { candidate: true }]
    }

    fn go_back(&mut self, failure: Failure, now: Millis) -> Vec<Action> {
        if self.way == Way::Steered {
            let mut actions = vec![Action::Uncommit];
            actions.extend(self.withdraw(failure));
            return actions;
        }
        let mut actions = vec![Action::Uncommit, Action::ClearCandidate];
        if self.way == Way::SideBySide {
            actions.extend(self.end(Verdict::WentBack { failure, gap_ms: 0 }));
        } else {
            self.stage = Stage::Returning;
            self.failure = Some(failure);
            self.silent_since = Some(now);
            actions.extend([Action::Tell(Step::Returning), Action::StartOld]);
        }
        actions
    }

    /// Whether both run at the same time.
    fn overlap(&self) -> bool {
        matches!(self.way, Way::SideBySide | Way::Steered)
    }

    fn swapped(&self) -> Verdict {
        Verdict::Swapped { gap_ms: self.gap_ms, waited: self.waited, left: self.left.clone() }
    }

    fn tell_way(&self) -> Action {
        Action::Tell(Step::Way { way: self.way, reason: self.reason.clone() })
    }

    fn silence(&mut self, now: Millis) -> u64 {
        self.silent_since.take().map_or(0, |since| now.saturating_sub(since))
    }

    fn end(&mut self, verdict: Verdict) -> Vec<Action> {
        self.stage = Stage::Over;
        vec![Action::End(verdict)]
    }
}

fn no_reason() -> Failure {
    Failure::new("it gave no reason")
}
