//! Whether a generation that gets no new connections has done with those it had.
//! It knows no clock: who asks decides how often, and for how long.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

use super::{Remaining, Steering, sockets};

/// A connection is nowhere for a moment between the queue and the process that accepts it: so many looks must agree.
const LOOKS: u32 = 3;

/// A generation, and what it has left.
#[derive(Debug)]
pub(crate) struct Drain {
    generation: u32,
    half_open: HashSet<SocketAddr>,
    /// Looks in a row that have found nothing.
    empty: u32,
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Looked {
    /// What it has.
    pub(crate) left: Remaining,
    /// Whether it has done with all.
    pub(crate) done: bool,
}

impl Drain {
    /// To be called when new connections go elsewhere: what is half open by then belongs to it still.
    pub(crate) fn of(steering: &Steering, generation: u32) -> Self {
        let half_open = steering.half_open(generation).unwrap_or_default();
        Self { generation, half_open, empty: 0 }
    }

    /// The generation.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Looks once. What nobody can accept any more is counted and not waited for; what cannot be counted, since its container
    /// is gone, is nothing.
    pub(crate) fn look(&mut self, steering: &Steering, cgroup: Option<&Path>) -> Looked {
        let Some(cgroup) = cgroup else { return self.found(Remaining::default()) };
        let open = sockets::open_in(cgroup).unwrap_or_default();
        if steering.is_deserted(self.generation, &open) {
            let connections = steering.queued(self.generation).unwrap_or(0);
            return Looked { left: Remaining { connections, idle: 0 }, done: true };
        }
        let left = steering.remaining(self.generation, &open, &self.half_open).unwrap_or_default();
        self.found(left)
    }

    fn found(&mut self, left: Remaining) -> Looked {
        self.empty = if left.connections == 0 { self.empty + 1 } else { 0 };
        Looked { left, done: self.empty >= LOOKS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_several_empty_looks_in_a_row() {
        let mut drain = Drain { generation: 1, half_open: HashSet::new(), empty: 0 };
        let done = |drain: &mut Drain, connections| drain.found(Remaining { connections, idle: 0 }).done;
        let looks = [0, 0, 1, 0, 0, 0].map(|left| done(&mut drain, left));
        assert_eq!(looks, [false, false, false, false, false, true]);
    }
}
