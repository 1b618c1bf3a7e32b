//! Finds the listeners of a service again that another supervisor, which died, had put into their groups.
//! They need no record: whom they belong to is told by their uid and by who has them open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::key::Key;
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
        for process in Hierarchy::open()?.at(side.cgroup).processes()? {
            for (descriptor, inode) in sockets::descriptors(process) {
                let known = self.held.iter().any(|it| it.inode == inode);
                let Some(socket) = wanted.iter().find(|socket| socket.inode == inode && !known) else {
                    continue;
                };
                // Processes end, and close descriptors, while they are looked at.
                let Ok(found) = duplicate(process, descriptor) else { continue };
                if inode_of(found.as_fd()) == Ok(inode) {
                    let key = Key::of(found.as_fd(), socket.local)?;
                    let generation = side.generation;
                    self.held.push(Held {
                        generation,
                        key,
                        socket: found,
                        inode,
                        index: None,
                        foreign: false,
                    });
                }
            }
        }
        self.look();
        Ok(())
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

pub(super) fn duplicate(process: i32, descriptor: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(process).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(pidfd_getfd(&pidfd, descriptor, PidfdGetfdFlags::empty())?)
}
