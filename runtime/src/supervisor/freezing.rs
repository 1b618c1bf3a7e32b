//! Holds a container still for as long as somebody who reads its files is there: a connection, whose end the kernel tells
//! of in whatever way its process ends. It does not know what is read.

use std::io;

use super::Supervisor;
use super::running::Running;
use crate::cgroup::{self, Hierarchy};
use crate::control::Answer;
use crate::error::{Error, Failure};

impl Supervisor {
    /// Has a generation's container come to stand still until the client is gone, or says that it may go on.
    pub(super) fn freeze(&mut self, index: usize, generation: u32) -> Answer {
        let Some(running) = self.of(generation).filter(|running| running.pid.is_some()) else {
            return Answer::Stopped;
        };
        match running.freeze() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Answer::CannotFreeze,
            Err(source) => {
                return Answer::Refused(Failure::of(&Error::Io {
                    doing: "hold the container still",
                    source,
                }));
            }
        }
        let cgroup = running.cgroup.clone();
        if let Some(client) = self.clients.get_mut(index) {
            client.freezes = Some(generation);
        }
        Answer::Freezing { cgroup }
    }

    /// Lets go on what no client wants to stand still any more.
    pub(super) fn thaw(&mut self) {
        let held: Vec<u32> = self.clients.iter().filter_map(|client| client.freezes).collect();
        let free = self.both_mut().filter(|running| running.frozen && !held.contains(&running.generation()));
        let failed: Vec<_> = free.filter_map(|running| running.thaw().err()).collect();
        for source in failed {
            self.trouble(&Failure::of(&Error::Io { doing: "let the container go on", source }));
        }
    }
}

impl Running {
    /// What stands still answers no probe, and is not unwell for that.
    fn freeze(&mut self) -> io::Result<()> {
        Hierarchy::open()?.at(&self.cgroup).write("cgroup.freeze", "1")?;
        self.frozen = true;
        self.prober.cancel();
        Ok(())
    }

    pub(super) fn thaw(&mut self) -> io::Result<()> {
        self.frozen = false;
        self.probe_after(0);
        match Hierarchy::open()?.at(&self.cgroup).write("cgroup.freeze", "0") {
            // It has ended meanwhile, and its cgroup with it.
            Err(error) if cgroup::is_gone(&error) => Ok(()),
            other => other,
        }
    }
}
