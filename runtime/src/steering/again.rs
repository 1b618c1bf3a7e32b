//! Finds the listeners of a service again that another supervisor, which died, had put into their groups.
//! They need no record: whom they belong to is told by their uid and by who has them open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::key::Key;
use super::sockets::Socket;
use super::{Drain, Held, Steering, inode_of, sockets};
use crate::cgroup::Hierarchy;
use crate::swap::{DRAIN, DRAIN_INTERVAL};

/// A generation, and the cgroup that its processes are in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side<'a> {
    /// Its number.
    pub(crate) generation: u32,
    /// Its cgroup.
    pub(crate) cgroup: &'a Path,
}

impl Steering {
    /// Takes up what the processes of a generation listen with. Of two generations the one that has listened for longer is to
    /// be found first: it is the first in its groups.
    pub(crate) fn find_again(&mut self, side: Side<'_>, ports: &[u16]) -> io::Result<()> {
        let mut wanted = Vec::new();
        for port in ports {
            let uid = self.uid.as_raw();
            wanted.extend(sockets::listeners(*port)?.into_iter().filter(|socket| socket.uid == uid));
        }
        wanted.retain(|socket| !self.holds(socket.inode));
        self.take_duplicates(side, wanted, false)?;
        self.look();
        Ok(())
    }

    fn holds(&self, inode: u64) -> bool {
        self.held.iter().any(|it| it.inode == inode)
    }

    /// Takes duplicates of these sockets from the processes of a generation, of those that have them. One that is foreign
    /// is in no group, and listens.
    fn take_duplicates(&mut self, side: Side<'_>, mut wanted: Vec<Socket>, foreign: bool) -> io::Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        for process in Hierarchy::open()?.at(side.cgroup).processes()? {
            for (descriptor, inode) in sockets::descriptors(process) {
                let Some(at) = wanted.iter().position(|it| it.inode == inode) else { continue };
                // Processes end, and close descriptors, while they are looked at.
                let Ok(socket) = duplicate(process, descriptor) else { continue };
                if inode_of(socket.as_fd()) == Ok(inode) {
                    let key = Key::of(socket.as_fd(), wanted.remove(at).local)?;
                    let (generation, index) = (side.generation, foreign.then_some(0));
                    self.held.push(Held { generation, key, socket, inode, index, foreign });
                }
            }
        }
        Ok(())
    }

    /// Duplicates also of listeners that were bound without anybody hearing of it.
    pub(super) fn take_foreign(&mut self, side: Side<'_>, ports: &[u16]) -> io::Result<()> {
        let mut wanted = Vec::new();
        for port in ports {
            wanted.extend(sockets::listeners(*port)?.into_iter().filter(|it| !self.holds(it.inode)));
        }
        self.take_duplicates(side, wanted, true)
    }

    /// Sends clients to one of two generations, and waits until the other has done with what it has.
    pub(crate) fn settle(
        &mut self,
        old: Side<'_>,
        candidate: Side<'_>,
        winner: u32,
        ports: &[u16],
    ) -> io::Result<()> {
        self.find_again(old, ports)?;
        self.find_again(candidate, ports)?;
        self.turn_to(winner)?;
        let loser = if winner == old.generation { candidate } else { old };
        let mut drain = Drain::of(self, loser.generation);
        let deadline = Instant::now() + DRAIN;
        while !drain.look(self, Some(loser.cgroup)).done && Instant::now() < deadline {
            std::thread::sleep(DRAIN_INTERVAL);
        }
        Ok(())
    }
}

fn duplicate(process: i32, descriptor: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(process).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(pidfd_getfd(&pidfd, descriptor, PidfdGetfdFlags::empty())?)
}
