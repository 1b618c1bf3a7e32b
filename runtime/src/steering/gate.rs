//! The listeners of a generation that ends, kept for the one that waits in bind(2) to take its place: who connects in between
//! waits in their queues. It does not know when either happens.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;

use super::again::Side;
use super::key::Key;
use super::notified::{Bind, Notified};
use super::{Binder, Steering, asked, has_ties, inode_of, sockets, takes_datagrams};

/// What waits at a closed gate, and what is kept behind it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Calls that are not answered yet.
    pub(crate) waiting: Vec<Waiting>,
    /// The sockets that change hands, by number.
    pub(super) passed: HashSet<u64>,
}

/// A bind that is not answered yet.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) bind: Bind,
    /// Of a listener; none of a socket of datagrams, which waits for its port to be free.
    key: Option<Key>,
    /// Whether the program has the socket in more than one place, so that another one cannot be put in its stead.
    tied: bool,
}

impl Waiting {
    /// A call that is to wait. One that is none of the service's ports is let through.
    pub(crate) fn of(notified: &Notified, bind: Bind, by: Binder<'_>) -> Option<Self> {
        let (key, tied) = match asked(&bind, by) {
            Some((socket, _, key)) => {
                (Some(key), inode_of(socket.as_fd()).map_or(true, |inode| has_ties(&bind, inode)))
            }
            None if takes_datagrams(&bind, by).is_some() => (None, true),
            None => {
                notified.let_through(&bind);
                return None;
            }
        };
        notified.waits(&bind).then_some(Self { bind, key, tied })
    }

    /// Whether it stands in the way of a listener of this key, or that in its.
    fn overlaps(&self, key: &Key) -> bool {
        self.key.is_some_and(|own| own.overlaps(key))
    }

    /// Whether a listener of this key can take the place of the socket that is to be bound.
    fn takes(&self, key: &Key) -> bool {
        self.key == Some(*key) && !self.tied
    }
}

impl Steering {
    /// Readies what a generation listens with for the one that waits: what that cannot take is closed with the generation's
    /// own, so that nobody waits there in vain.
    pub(crate) fn keep_for(&mut self, old: Side<'_>, gate: &Gate, ports: &[u16]) -> io::Result<()> {
        self.look();
        self.take_foreign(old, ports)?;
        let is_in_vain = |key: &Key| {
            !ports.contains(&key.port) || gate.waiting.iter().any(|it| it.overlaps(key) && !it.takes(key))
        };
        self.held.retain(|it| it.generation != old.generation || !is_in_vain(&it.key));
        Ok(())
    }

    /// What one generation, which is gone, listened with is another's from now on, as if that had bound it and closed it
    /// again: its bind gets it.
    pub(crate) fn pass_on(&mut self, gate: &mut Gate, from: u32, to: u32) {
        let own: Vec<Key> = self.of(to).map(|it| it.key).collect();
        for held in &mut self.held {
            if held.generation == from && !own.iter().any(|key| key.overlaps(&held.key)) {
                held.generation = to;
                gate.passed.insert(held.inode);
            }
        }
        self.forget(from);
    }

    /// The same the other way round, for a generation that is started again.
    pub(crate) fn pass_back(&mut self, gate: &mut Gate, from: u32, to: u32) {
        for held in &mut self.held {
            if held.generation == from && gate.passed.remove(&held.inode) {
                held.generation = to;
            }
        }
    }

    /// Closes what was passed on to a generation that does not listen with it. Whether all of it is listened with: nobody who
    /// has waited was refused then.
    pub(crate) fn close_unused(&mut self, gate: &mut Gate, by: Side<'_>) -> bool {
        let open = sockets::open_in(by.cgroup).unwrap_or_default();
        let all = !gate.passed.is_empty() && gate.passed.is_subset(&open);
        while let Some(at) = self.held.iter().position(|it| {
            it.generation == by.generation && gate.passed.contains(&it.inode) && !open.contains(&it.inode)
        }) {
            self.leave(at);
        }
        // In no group, they cannot be steered: the next swap is to find them as the strangers that they are.
        self.held.retain(|it| it.generation != by.generation || !it.foreign);
        all
    }
}
