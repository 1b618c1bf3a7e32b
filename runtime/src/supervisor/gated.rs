//! What a supervisor does for a candidate that waits in bind(2) until the old generation has ended: keeps what that listened
//! with, and lets the candidate have it. It decides nothing; how it is done is in `steering/gate.rs`.

use std::os::fd::OwnedFd;

use super::{Supervisor, find};
use crate::definition::Definition;
use crate::error::{Error, Failure};
use crate::lifecycle;
use crate::record::Way;
use crate::steering::{Binder, Bound, Side};
use crate::swap::Event;

impl Supervisor {
    /// What a generation's program is to be started with to listen, where it is one that asks for that.
    pub(super) fn listeners_for(&mut self, generation: u32) -> Result<Vec<OwnedFd>, Error> {
        let Some(running) = self.get(generation) else { return Ok(Vec::new()) };
        let addresses = running.definition.listen_stream.clone();
        let makes_way = self.swap.as_ref().and_then(|swap| swap.makes_way_for(generation));
        self.steering.sockets_for(generation, makes_way, &addresses).map_err(|error| Error::Io {
            doing: "make the sockets that the program listens with",
            source: error,
        })
    }

    /// Where a candidate that gets its listeners handed would not listen just where the old generation does.
    pub(super) fn listens_elsewhere(&self, old: u32, candidate: &Definition) -> Option<String> {
        match self.steering.differs(old, &candidate.listen_stream) {
            Ok(difference) => difference,
            Err(error) => Some(format!("the sockets that it is to listen with cannot be made: {error}")),
        }
    }

    /// Before the old generation is asked to end: those who connect from then on wait where the candidate can serve them.
    pub(super) fn keep_listeners_of(&mut self, old: u32, candidate: u32) {
        let Some(ports) = self.get(candidate).map(|running| running.definition.ports.clone()) else { return };
        let Some(cgroup) = self.get(old).map(|running| running.cgroup.clone()) else { return };
        let Some(swap) = &self.swap else { return };
        let side = Side { generation: old, cgroup: &cgroup };
        if let Err(error) = self.steering.keep_for(side, &swap.gate, &ports) {
            let failure = Failure::new(error.to_string());
            self.trouble(&failure.within("could not keep the listeners of the generation that ends"));
        }
        self.keep_listeners();
        // Where the candidate listens already, whoever connects waits for it, and not at what is about to be closed.
        self.turn_to(candidate);
    }

    /// The old generation is down: the candidate's binds are answered, with its listeners where they fit.
    pub(super) fn let_in(&mut self, old: u32, candidate: u32) {
        let Some(swap) = &mut self.swap else { return };
        self.steering.pass_on(&mut swap.gate, old, candidate);
        let waiting = std::mem::take(&mut swap.gate.waiting);
        self.turn_to(candidate);
        let Some(running) = find(&self.active, &self.other, candidate) else { return };
        let by = Binder { generation: candidate, ports: &running.definition.ports, cgroup: &running.cgroup };
        for call in waiting {
            let Some(notified) = &running.notified else { break };
            if let Bound::Collides(_) = self.steering.answer(notified, &call.bind, by) {
                notified.answer(&call.bind, Err(rustix::io::Errno::ADDRINUSE));
            }
        }
        self.events.push_back((candidate, lifecycle::Event::Release));
    }

    /// The candidate is healthy: nobody is to wait any more at what it has not taken.
    pub(super) fn end_waiting(&mut self, candidate: u32) {
        let Some(cgroup) = self.get(candidate).map(|running| running.cgroup.clone()) else { return };
        let Some(swap) = self.swap.as_mut().filter(|swap| swap.way() == Way::Gated) else { return };
        let side = Side { generation: candidate, cgroup: &cgroup };
        if self.steering.close_unused(&mut swap.gate, side) {
            self.swap_happens(Event::Waited);
        }
    }

    /// The candidate is to be removed: what it got is the old generation's again, which is started onto it.
    pub(super) fn give_back(&mut self, candidate: u32) {
        let Some(swap) = self.swap.as_mut().filter(|swap| swap.way() == Way::Gated) else { return };
        let old = swap.old;
        swap.gate.waiting.clear();
        self.steering.pass_back(&mut swap.gate, candidate, old);
        if self.steering.active() == candidate {
            self.turn_to(old);
        }
    }
}
