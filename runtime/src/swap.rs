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

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::lifecycle::Millis;
use crate::record::Way;
use crate::share::Share;

/// How long a generation may take with the connections that it has when new ones go elsewhere, when nothing else is said.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How often it is looked whether it has any left.
pub(crate) const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The candidate: its bundle is ready at [`generation`](crate::folders::ServiceFolders::generation).
    pub generation: u32,
    /// How long it is watched, once it serves, before the old generation is given up, milliseconds.
    pub soak_ms: u64,
    /// How long a generation may take to end what connections it has when new ones go elsewhere, milliseconds, when not
    /// [`DRAIN`].
    #[serde(default)]
    pub drain_ms: Option<u64>,
    /// How long it may take until it is healthy, milliseconds, when not as its definition says.
    pub start_timeout_ms: Option<u64>,
    /// Whether the old generation is to be stopped first, also where another way would do.
    #[serde(default)]
    pub stop_first: bool,
    /// The share of connections that goes to it first. Where there can be none, nothing is done.
    #[serde(default)]
    pub canary: Option<Canary>,
}

/// What a generation had left when it was not waited for any longer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Connections that were open, or waited to be accepted.
    pub connections: usize,
    /// Those of them on which nothing was asked that had not been answered: on which the last word was the server's.
    pub idle: usize,
    /// For how long new ones had gone elsewhere by then, milliseconds.
    pub after_ms: u64,
    /// The signal that it is asked to end by, when its main process has nothing that handles it.
    #[serde(default)]
    pub unhandled: Option<String>,
}

/// A share of clients' new connections that goes to a healthy candidate before all do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Of the connections.
    #[serde(rename = "share_ppm")]
    pub share: Share,
    /// For so long, milliseconds.
    pub for_ms: u64,
}

/// A swap under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Swap {
    way: Way,
    /// Why this way.
    reason: String,
    soak_ms: u64,
    canary: Option<Canary>,
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

/// How far it is, for who asked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It goes this way, or goes on this way.
    Way {
        /// Which.
        way: Way,
        /// Why, as in "…, since …".
        reason: String,
    },
    /// The candidate's container exists.
    Made,
    /// The old generation is asked to end: from here on nothing serves.
    StoppingOld,
    /// The candidate was started.
    Proving,
    /// The candidate is healthy, and gets a share of the connections first.
    Sharing(Canary),
    /// The candidate is healthy and serves; it is watched for a while.
    Soaking {
        /// For so long nothing served, milliseconds; 0 when the old one served until the candidate did.
        gap_ms: u64,
        /// Whether those who connected meanwhile have waited; else they were refused.
        #[serde(default)]
        waited: bool,
        /// The soak, milliseconds.
        soak_ms: u64,
    },
    /// The old generation is asked to end, with what it has left; the candidate serves.
    Retiring(Left),
    /// The candidate has failed, and the old generation serves: new connections go there.
    Withdrawing,
    /// The candidate has failed and is killed, with what it has left.
    Cut(Left),
    /// The candidate has failed, and the old generation is started again.
    Returning,
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
                vec![self.tell_way(), Action::MakeCandidate { parked: self.way == Way::StopFirst }]
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
            (Stage::Making, Event::Unheard(reason)) if steered || gated => {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn after(way: Way, events: &[Event]) -> (Swap, Vec<Action>) {
        let mut swap = Swap::new(way, "why".into(), 30_000);
        let mut actions = Vec::new();
        for (second, event) in events.iter().enumerate() {
            (swap, actions) = swap.step(event.clone(), second as u64 * 1000);
        }
        (swap, actions)
    }

    fn broken() -> Failure {
        Failure::new("it exited with status 1")
    }

    fn swapped(gap_ms: u64, left: Left) -> Verdict {
        Verdict::Swapped { gap_ms, waited: false, left }
    }

    const STOPPED_FIRST: [Event; 4] = [Event::Begin, Event::Parked, Event::OldDown, Event::Healthy];

    #[test]
    fn the_old_one_is_stopped_only_when_the_candidates_container_exists() {
        let (_, actions) = after(Way::StopFirst, &[Event::Begin]);
        assert_eq!(actions.last(), Some(&Action::MakeCandidate { parked: true }));
        let (_, actions) = after(Way::StopFirst, &[Event::Begin, Event::Failed(broken())]);
        assert_eq!(
            actions,
            [Action::ClearCandidate, Action::End(Verdict::WentBack { failure: broken(), gap_ms: 0 })]
        );
        let (_, actions) = after(Way::StopFirst, &STOPPED_FIRST[..2]);
        assert_eq!(actions.last(), Some(&Action::StopOld));
    }

    #[test]
    fn the_gap_is_from_the_stop_to_the_candidates_health() {
        let (swap, actions) = after(Way::StopFirst, &STOPPED_FIRST);
        assert_eq!(actions[0], Action::Commit);
        assert!(actions.contains(&Action::Tell(Step::Soaking {
            gap_ms: 2000,
            waited: false,
            soak_ms: 30_000
        })));
        assert!(swap.is_committed());
        let (_, actions) = swap.step(Event::TimeIsUp, 60_000);
        assert_eq!(actions, [Action::Accept, Action::End(swapped(2000, Left::default()))]);
    }

    #[test]
    fn side_by_side_the_old_one_serves_until_the_soak_is_over() {
        let (swap, actions) = after(Way::SideBySide, &[Event::Begin, Event::Healthy]);
        assert_eq!(actions[0], Action::Commit);
        let (swap, actions) = swap.step(Event::TimeIsUp, 40_000);
        assert_eq!(actions.last(), Some(&Action::StopOld));
        let (_, actions) = swap.step(Event::OldDown, 41_000);
        assert_eq!(actions, [Action::End(swapped(0, Left::default()))]);
    }

    const STEERED: [Event; 3] = [Event::Begin, Event::Healthy, Event::Turned];

    #[test]
    fn steered_the_record_goes_over_when_connections_do_and_the_old_one_ends_when_it_has_none() {
        assert_eq!(after(Way::Steered, &STEERED[..2]).1, [Action::Turn]);
        let (swap, actions) = after(Way::Steered, &STEERED);
        assert_eq!(actions[0], Action::Commit);
        assert_eq!(actions[1], Action::Drain { candidate: false });
        // What it has begun it may finish for as long as the soak takes, and longer if it was given more.
        let (late, actions) = swap.clone().step(Event::TimeIsUp, 40_000);
        assert!(actions.is_empty() && late.only_drains());
        let left = Left { connections: 2, idle: 1, after_ms: 38_000, unhandled: None };
        let (late, actions) = late.step(Event::Drained(left.clone()), 41_000);
        assert_eq!(actions, [Action::Accept, Action::Tell(Step::Retiring(left.clone())), Action::StopOld]);
        let (_, actions) = late.step(Event::OldDown, 41_000);
        assert_eq!(actions, [Action::End(swapped(0, left))]);
        // And it lives on without connections until the soak is over.
        let (early, actions) = swap.step(Event::Drained(Left::default()), 4000);
        assert_eq!(actions, []);
        let (_, actions) = early.step(Event::TimeIsUp, 40_000);
        assert_eq!(actions.last(), Some(&Action::StopOld));
    }

    #[test]
    fn steered_a_failure_in_the_soak_turns_connections_back_before_the_candidate_is_killed() {
        let mut events = STEERED.to_vec();
        events.push(Event::Failed(broken()));
        let (swap, actions) = after(Way::Steered, &events);
        assert_eq!(actions[..2], [Action::Uncommit, Action::TurnBack]);
        assert_eq!(actions.last(), Some(&Action::Drain { candidate: true }));
        assert!(!actions.contains(&Action::ClearCandidate));
        let back = Action::End(Verdict::WentBack { failure: broken(), gap_ms: 0 });
        let (_, actions) = swap.clone().step(Event::Drained(Left::default()), 9000);
        assert_eq!(actions, [Action::ClearCandidate, back.clone()]);
        let left = Left { connections: 3, ..Left::default() };
        let (_, actions) = swap.step(Event::Drained(left.clone()), 9000);
        assert_eq!(actions, [Action::ClearCandidate, Action::Tell(Step::Cut(left)), back]);
    }

    fn canary() -> Canary {
        Canary { share: "10%".parse().expect("a share"), for_ms: 60_000 }
    }

    fn shared(events: &[Event]) -> (Swap, Vec<Action>) {
        let mut swap = Swap::new(Way::Steered, "why".into(), 30_000).sharing_first(Some(canary()));
        let mut actions = Vec::new();
        for event in events {
            (swap, actions) = swap.step(event.clone(), 1000);
        }
        (swap, actions)
    }

    #[test]
    fn a_share_goes_to_the_candidate_first_and_all_when_its_time_is_over() {
        assert_eq!(shared(&[Event::Begin, Event::Healthy]).1, [Action::Share(canary())]);
        let (swap, actions) = shared(&[Event::Begin, Event::Healthy, Event::Shared]);
        assert_eq!(actions, [Action::Tell(Step::Sharing(canary())), Action::Wake(61_000)]);
        assert!(swap.is_shared() && !swap.is_committed());
        let (swap, actions) = swap.step(Event::TimeIsUp, 61_000);
        assert_eq!(actions, [Action::Turn]);
        let (swap, actions) = swap.step(Event::Turned, 61_000);
        assert_eq!(actions[0], Action::Commit);
        assert!(swap.is_committed());
    }

    #[test]
    fn a_candidate_that_fails_with_its_share_is_taken_back_and_nothing_was_committed() {
        let failed = [Event::Begin, Event::Healthy, Event::Shared, Event::Failed(broken())];
        let (swap, actions) = shared(&failed);
        assert_eq!(
            actions,
            [Action::TurnBack, Action::Tell(Step::Withdrawing), Action::Drain { candidate: true }]
        );
        // The time that was asked for comes all the same, and means nothing any more.
        let (swap, actions) = swap.step(Event::TimeIsUp, 61_000);
        assert_eq!(actions, []);
        let (_, actions) = swap.step(Event::Drained(Left::default()), 61_000);
        let back = Verdict::WentBack { failure: broken(), gap_ms: 0 };
        assert_eq!(actions, [Action::ClearCandidate, Action::End(back)]);
    }

    #[test]
    fn a_candidate_that_cannot_get_a_share_does_not_get_all_instead() {
        let (swap, actions) = shared(&[Event::Begin, Event::Collides("it listens elsewhere".into())]);
        assert_eq!(actions[0], Action::ClearCandidate);
        let Some(Action::End(Verdict::WentBack { failure, .. })) = actions.last() else {
            panic!("{actions:?}")
        };
        assert_eq!(failure.causes.last().map(String::as_str), Some("it listens elsewhere"));
        assert_eq!(swap.stage, Stage::Over);
    }
    const GATED: [Event; 5] = [Event::Begin, Event::Waits, Event::OldDown, Event::Waited, Event::Healthy];

    #[test]
    fn gated_the_candidate_is_let_in_when_the_old_one_is_down() {
        let (swap, actions) = after(Way::Gated, &GATED[..1]);
        assert_eq!(actions.last(), Some(&Action::MakeCandidate { parked: false }));
        assert!(swap.is_shut());
        let (swap, actions) = after(Way::Gated, &GATED[..2]);
        assert_eq!(actions, [Action::HoldCandidate, Action::Tell(Step::StoppingOld), Action::StopOld]);
        assert!(swap.is_shut(), "a second port waits as well");
        assert!(swap.clone().step(Event::Waits, 1500).1.is_empty(), "the old one is stopped once");
        let (swap, actions) = after(Way::Gated, &GATED[..3]);
        assert_eq!(actions, [Action::Tell(Step::Proving), Action::LetIn]);
        assert!(!swap.is_shut());
        let (swap, actions) = after(Way::Gated, &GATED);
        assert_eq!(actions[0], Action::Commit);
        assert!(actions.contains(&Action::Tell(Step::Soaking {
            gap_ms: 3000,
            waited: true,
            soak_ms: 30_000
        })));
        let (_, actions) = swap.step(Event::TimeIsUp, 60_000);
        assert_eq!(
            actions,
            [
                Action::Accept,
                Action::End(Verdict::Swapped { gap_ms: 3000, waited: true, left: Left::default() })
            ]
        );
    }

    #[test]
    fn gated_the_old_one_is_touched_only_when_the_candidate_waits_for_its_port() {
        for failure in [Event::Failed(broken()), Event::Healthy] {
            let (_, actions) = after(Way::Gated, &[Event::Begin, failure]);
            assert_eq!(actions[0], Action::ClearCandidate);
            assert!(matches!(actions[1], Action::End(Verdict::WentBack { gap_ms: 0, .. })), "{actions:?}");
        }
    }

    #[test]
    fn gated_a_failure_brings_the_old_one_back() {
        let failed = Event::Failed(broken());
        let events = [Event::Begin, Event::Waits, failed.clone()];
        let (swap, actions) = after(Way::Gated, &events);
        assert!(!actions.contains(&Action::StartOld), "it is still on its way down");
        assert_eq!(swap.step(Event::OldDown, 4000).1, [Action::StartOld]);
        let (swap, actions) = after(Way::Gated, &[&GATED[..3], std::slice::from_ref(&failed)].concat());
        assert_eq!(
            actions,
            [Action::ClearCandidate, Action::Tell(Step::Returning), Action::StartOld],
            "{swap:?}"
        );
        let (_, actions) = swap.step(Event::OldHealthy, 8000);
        assert_eq!(actions, [Action::End(Verdict::WentBack { failure: broken(), gap_ms: 7000 })]);
        let (_, actions) = after(Way::Gated, &[&GATED[..], &[failed]].concat());
        assert_eq!(actions[..2], [Action::Uncommit, Action::ClearCandidate]);
        assert_eq!(actions.last(), Some(&Action::StartOld));
    }

    #[test]
    fn a_candidate_that_would_take_clients_waits_where_it_is_until_the_old_one_has_ended() {
        let events = [Event::Begin, Event::Collides("it listens elsewhere".into())];
        let (swap, actions) = after(Way::Steered, &events);
        assert_eq!(swap.way(), Way::Gated);
        assert!(swap.is_shut() && !actions.contains(&Action::ClearCandidate));
        assert_eq!(actions[1..], [Action::HoldCandidate, Action::Tell(Step::StoppingOld), Action::StopOld]);
        let reason = "it listens elsewhere".to_owned();
        assert_eq!(actions[0], Action::Tell(Step::Way { way: Way::Gated, reason }));
    }

    #[test]
    fn a_candidate_whose_binds_nobody_hears_of_is_made_again_and_waits_for_the_old_one_to_end() {
        for way in [Way::Steered, Way::Gated] {
            unheard(way);
        }
    }

    fn unheard(way: Way) {
        let events = [Event::Begin, Event::Unheard("the kernel cannot".into())];
        let (swap, actions) = after(way, &events);
        assert_eq!(actions[0], Action::ClearCandidate);
        assert_eq!(actions.last(), Some(&Action::MakeCandidate { parked: true }));
        assert_eq!(swap.way(), Way::StopFirst);
        let (_, actions) = swap.step(Event::Parked, 5000);
        assert_eq!(actions.last(), Some(&Action::StopOld));
    }

    #[test]
    fn a_failure_in_the_soak_goes_back_on_record_before_anything_is_killed() {
        for way in [Way::StopFirst, Way::SideBySide] {
            let mut events = STOPPED_FIRST.to_vec();
            events.push(Event::Failed(broken()));
            let (_, actions) = after(way, &events);
            assert_eq!(actions[..2], [Action::Uncommit, Action::ClearCandidate], "{way:?}");
        }
    }

    #[test]
    fn when_neither_serves_both_reasons_are_told() {
        let mut events = STOPPED_FIRST[..3].to_vec();
        let back = Failure::new("its port is taken");
        events.extend([Event::Failed(broken()), Event::OldFailed(back.clone())]);
        let (_, actions) = after(Way::StopFirst, &events);
        assert_eq!(actions, [Action::End(Verdict::NeitherServes { failure: broken(), back })]);
    }

    /// Every sequence of events, up to a length: what was begun is undone or ended, exactly once.
    #[test]
    fn whatever_happens_it_ends_once_and_commits_are_in_balance() {
        let all = [
            Event::Begin,
            Event::Parked,
            Event::Healthy,
            Event::Failed(broken()),
            Event::OldDown,
            Event::OldHealthy,
            Event::OldFailed(broken()),
            Event::TimeIsUp,
            Event::Collides("why".into()),
            Event::Shared,
            Event::Waits,
            Event::Unheard("why".into()),
            Event::Waited,
            Event::Turned,
            Event::Drained(Left::default()),
            Event::Cancel,
        ];
        let ways = [Way::StopFirst, Way::SideBySide, Way::Gated, Way::Steered].map(|way| (way, None));
        for (way, canary) in ways.into_iter().chain([(Way::Steered, Some(canary()))]) {
            let mut paths = vec![(Swap::new(way, "why".into(), 1).sharing_first(canary), 0, 0)];
            for _ in 0..7 {
                let mut next = Vec::new();
                for (swap, commits, ends) in paths {
                    for event in &all {
                        let (swap, actions) = swap.clone().step(event.clone(), 1);
                        let count = |wanted: &dyn Fn(&Action) -> bool| {
                            i32::try_from(actions.iter().filter(|action| wanted(action)).count())
                                .expect("few")
                        };
                        let commits = commits + count(&|action| *action == Action::Commit)
                            - count(&|action| *action == Action::Uncommit);
                        let ends = ends + count(&|action| matches!(action, Action::End(_)));
                        assert!((0..=1).contains(&commits) && ends <= 1, "{way:?} {event:?} {swap:?}");
                        assert!(ends == 0 || swap.stage == Stage::Over);
                        next.push((swap, commits, ends));
                    }
                }
                next.sort_by_key(|path| format!("{path:?}"));
                next.dedup();
                paths = next;
            }
            assert!(paths.iter().any(|(swap, commits, _)| swap.stage == Stage::Over && *commits == 1));
        }
    }
}
