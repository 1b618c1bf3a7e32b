//! What a supervisor does about the ports of its service: answers binds, turns connections over, waits until a generation
//! has done with those it had. It decides nothing; how it is done is in `steering/`.

use std::time::Duration;

use super::running::Running;
use super::swapping::Swapping;
use super::{Supervisor, find};
use crate::crash_point;
use crate::definition::Probe;
use crate::error::Failure;
use crate::health::To;
use crate::lifecycle;
use crate::record::{State, Way};
use crate::steering::gate::Waiting;
use crate::steering::notified::{Bind, Heard};
use crate::steering::{Binder, Bound, Drain, Looked, Remaining};
use crate::swap::{Canary, DRAIN_INTERVAL, Event, Left};

/// A generation that still has connections after this time is looked at less often, milliseconds.
const SLOW_AFTER_MS: u64 = 1000;
const SLOW_INTERVAL_MS: u64 = 200;
/// So many probes in a row, each on a connection of its own, must be answered by the candidate.
pub(super) const PROOFS: u32 = 3;

/// A generation that gets no new connections, and until when it is waited for.
#[derive(Debug)]
pub(super) struct Draining {
    drain: Drain,
    since: u64,
    until: u64,
    pub next: u64,
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Supervisor {
    /// Answers the bind that a generation's program waits for, if it does.
    pub(super) fn answer_bind(&mut self, generation: u32) {
        let running = find(&self.active, &self.other, generation);
        let Some(notified) = running.and_then(|running| running.notified.as_ref()) else { return };
        let bind = match self.steering.hear(notified, generation) {
            Ok(Heard::Bind(bind)) => bind,
            Ok(Heard::Nothing) => return,
            // No process is left, or nothing can be heard any more. Waited for, it would be ready for ever.
            Ok(Heard::End) | Err(_) => {
                if let Some(running) = self.of(generation) {
                    running.notified = None;
                }
                self.kept.forget(&format!("binds-{generation}"));
                return;
            }
        };
        crash_point::here();
        self.answer_this(generation, bind);
        crash_point::here();
        self.steering.answered();
    }

    /// Answers the bind that a supervisor before has died over, if there is one and it waits still.
    pub(super) fn answer_what_was_left(&mut self, generation: u32) {
        let running = find(&self.active, &self.other, generation);
        let Some(notified) = running.and_then(|running| running.notified.as_ref()) else { return };
        if let Some(bind) = self.steering.unanswered(notified, generation) {
            self.answer_this(generation, bind);
            self.steering.answered();
        }
    }

    fn answer_this(&mut self, generation: u32, bind: Bind) {
        let shut_out = self.swap.as_ref().is_some_and(|swap| swap.is_shut_out(generation));
        let Some(running) = find(&self.active, &self.other, generation) else { return };
        let Some(notified) = &running.notified else { return };
        let by = Binder { generation, ports: &running.definition.ports, cgroup: &running.cgroup };
        let event = match shut_out {
            true => Event::Waits,
            false => match self.steering.answer(notified, &bind, by) {
                Bound::Collides(reason) => Event::Collides(reason),
                _ => return,
            },
        };
        let Some(swap) = self.swap.as_mut().filter(|swap| shut_out || swap.is_made_steered(generation))
        else {
            return notified.answer(&bind, Err(rustix::io::Errno::ADDRINUSE));
        };
        if let Some(waiting) = Waiting::of(notified, bind, by) {
            swap.gate.waiting.push(waiting);
            self.swap_happens(event);
        }
    }

    /// Whether a container's binds are heard of, which is known now. A candidate's must be, to be steered.
    pub(super) fn look_whether_heard(&mut self, generation: u32) {
        let heard = self.of(generation).is_some_and(|running| std::mem::take(&mut running.heard_anew));
        if heard {
            self.keep_binds(generation);
        }
        let Some(why) = self.of(generation).and_then(|running| running.unheard.take()) else { return };
        if self
            .swap
            .as_ref()
            .is_some_and(|swap| swap.is_made_steered(generation) || swap.is_shut_out(generation))
        {
            self.swap_happens(Event::Unheard(format!("its binds cannot be notified here: {why}")));
        }
    }

    /// A candidate that answers on one port counts as well only when it listens wherever the old one does.
    pub(super) fn listens_too(&mut self, generation: u32, verdict: Result<(), String>) -> Result<(), String> {
        let made_steered = self.swap.as_ref().is_some_and(|swap| swap.is_made_steered(generation));
        let Some(old) = self.swap.as_ref().filter(|_| made_steered).map(|swap| swap.old) else {
            return verdict;
        };
        verdict.and_then(|()| match self.steering.missing(generation, old) {
            Some(key) => Err(format!("it does not listen on {key}, where the one that serves does")),
            None => Ok(()),
        })
    }

    /// Whether the active generation's listeners can be steered; else the way to go, and why.
    pub(super) fn steerable(&mut self) -> Result<(), (Way, String)> {
        let Some(active) = &self.active else { return Err((Way::StopFirst, "nothing runs".to_owned())) };
        // What listens although its binds are heard of has found a way past that, and its next release will.
        let past = active.notified.is_some() && !self.steering.has_foreign(active.generation());
        let lower = if past { Way::StopFirst } else { Way::Gated };
        match self.steering.owns(active.generation(), &active.definition.ports) {
            Ok(owns) => owns.map_err(|reason| (lower, reason)),
            Err(error) => Err((Way::StopFirst, format!("the kernel does not tell who listens: {error}"))),
        }
    }

    /// Sends a share of new connections to the candidate.
    pub(super) fn share_with(&mut self, candidate: u32, canary: Canary) {
        let share = canary.share.ppm();
        let shared = self.steering.widen(candidate).and_then(|()| self.steering.share(share));
        if let Err(error) = shared {
            let failure = Failure::new(error.to_string());
            return self.swap_happens(Event::Failed(failure.within("no connections could be sent to it")));
        }
        self.tell_of_share(candidate, canary);
        self.happen(candidate, lifecycle::Event::Watch { closely: true });
        self.swap_happens(Event::Shared);
    }

    /// Sends new connections to the candidate; probes of the old one are steered from here on.
    pub(super) fn turn_over(&mut self, candidate: u32) {
        let turned = self.steering.widen(candidate).and_then(|()| self.steering.turn_to(candidate));
        self.steer_probes();
        self.swap_happens(match turned {
            Ok(()) => Event::Turned,
            Err(error) => {
                let failure = Failure::new(error.to_string());
                Event::Failed(failure.within("connections could not be sent to it"))
            }
        });
    }

    /// Sends new connections to the generation that serves.
    pub(super) fn turn_to(&mut self, generation: u32) {
        if let Err(error) = self.steering.turn_to(generation) {
            let failure = Failure::new(error.to_string());
            self.trouble(&failure.within("connections could not be sent to the generation that serves"));
        }
        self.steer_probes();
    }

    /// Of two that listen the one that clients do not reach is probed past the other, and the other one past any share of theirs.
    pub(super) fn steer_probes(&mut self) {
        let clients = self.steering.active();
        let steered = self.swap.as_ref().is_some_and(|swap| swap.way() == Way::Steered);
        let Self { steering, active, other, swap, .. } = self;
        for running in [active, other].into_iter().flatten() {
            let generation = running.generation();
            let shut_out = swap.as_ref().is_some_and(|swap| swap.is_shut_out(generation));
            running.prober.steer(match &running.definition.health.probe {
                // Another would answer.
                Probe::Tcp { .. } | Probe::Http { .. } if shut_out => To::Nobody,
                Probe::Tcp { .. } | Probe::Http { .. } if steered && generation == clients => To::Serving,
                Probe::Tcp { port, .. } | Probe::Http { port, .. } if steered => {
                    if steering.listens(generation, *port) { To::Itself } else { To::Nobody }
                }
                _ => To::Whoever,
            });
        }
    }

    /// Begins to wait until a generation has no connections left. It is not probed meanwhile: a probe is one.
    pub(super) fn drain_of(&mut self, generation: u32) {
        let now = self.now();
        if let Some(running) = self.of(generation) {
            running.prober.cancel();
        }
        let drain = Drain::of(&self.steering, generation);
        if let Some(swap) = &mut self.swap {
            let until = now.saturating_add(swap.drain_ms);
            swap.draining = Some(Draining { drain, since: now, until, next: now });
        }
    }

    pub(super) fn look_at_drain(&mut self) {
        let now = self.now();
        let Some(mut draining) =
            self.swap.as_mut().and_then(|swap| swap.draining.take_if(|draining| now >= draining.next))
        else {
            return;
        };
        let running = self.get(draining.drain.generation());
        let cgroup = running.map(|running| running.cgroup.clone());
        let Looked { left: Remaining { connections, idle }, done } =
            draining.drain.look(&self.steering, cgroup.as_deref());
        let after_ms = now.saturating_sub(draining.since);
        let must_end = self.swap.as_ref().is_some_and(Swapping::only_drains) && now >= draining.until;
        if done || must_end {
            let unhandled = running.filter(|_| connections > 0).and_then(Running::unhandled_stop);
            self.swap_happens(Event::Drained(Left { connections, idle, after_ms, unhandled }));
            return;
        }
        // In a long soak some connections may stay: nobody waits for the moment in which they end.
        let is_slow = connections > 0 && after_ms > SLOW_AFTER_MS;
        draining.next = now + if is_slow { SLOW_INTERVAL_MS } else { milliseconds(DRAIN_INTERVAL) };
        if let Some(swap) = &mut self.swap {
            swap.draining = Some(draining);
        }
    }

    /// A generation that is to end while it is the only one: who connects is refused as soon as it has closed its port.
    pub(super) fn release(&mut self, generation: u32) {
        let kept = self.swap.as_ref().is_some_and(|swap| swap.is_kept_for(generation));
        if !kept && !self.steering.is_shared(generation) {
            self.steering.release(generation);
            self.keep_listeners();
        }
    }

    /// What the port keeps when a container is gone: those who connect wait for the one that is started in its place, for as
    /// long as a start may take. A service that is not coming back refuses them.
    pub(super) fn keep_or_forget(&mut self, generation: u32) {
        if self.swap.as_ref().is_some_and(|swap| swap.is_kept_for(generation)) {
            return;
        }
        let now = self.now();
        let Some(running) = self.of(generation) else { return };
        let comes_back = running.life.state() == State::BackingOff;
        let budget = running.definition.health.start_timeout_ms;
        let since = *running.silent_since.get_or_insert(now);
        if !comes_back || now.saturating_sub(since) >= budget {
            self.steering.forget(generation);
        }
    }

    /// Refuses those who have waited for as long as a start may take.
    pub(super) fn look_at_silence(&mut self) {
        let now = self.now();
        let late: Vec<u32> = self
            .both()
            .filter(|running| running.refuses_at().is_some_and(|at| now >= at))
            .map(Running::generation)
            .collect();
        for generation in late {
            self.steering.forget(generation);
            if let Some(running) = self.of(generation) {
                running.refusing = true;
            }
        }
    }
}
