//! The listeners of a service that outlive its supervisor, so that those who have connected while no program of the service's
//! accepts, after a crash or in a gated swap, wait for the next one under the next supervisor, too.
//! It does not know who keeps them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::sockopt;

use super::again::Side;
use super::key::Key;
use super::{Held, Steering, inode_of, sockets};

/// What the names begin with by which they are kept. There is no generation in it: a listener may change hands.
const NAME: &str = "listener.";

/// Whether something is kept under this name as a listener.
pub(crate) fn is_listener(name: &str) -> bool {
    name.starts_with(NAME)
}

impl Steering {
    /// Whether all that is to outlive this process was asked for since it has changed.
    pub(crate) fn is_kept(&self) -> bool {
        self.inodes().eq(self.kept.iter().copied())
    }

    /// What is to outlive this process, by name; all else of that kind is not.
    pub(crate) fn be_kept(&mut self) -> Vec<(String, BorrowedFd<'_>)> {
        self.kept = self.inodes().collect();
        let sockets = self.held.iter().map(|it| it.socket.as_fd()).chain(self.left.iter().map(AsFd::as_fd));
        self.kept.iter().zip(sockets).map(|(inode, socket)| (format!("{NAME}{inode}"), socket)).collect()
    }

    fn inodes(&self) -> impl Iterator<Item = u64> {
        let left = self.left.iter().map(|socket| inode_of(socket.as_fd()).unwrap_or(0));
        self.held.iter().map(|it| it.inode).chain(left)
    }

    /// What a supervisor that is no more has kept.
    pub(crate) fn inherit(&mut self, left: impl Iterator<Item = OwnedFd>) {
        self.left.extend(left);
    }

    /// Closes what is left of programs that are gone, of all but the processes of these cgroups: in a group it would get
    /// connections beside one that lives.
    pub(crate) fn close_deserted(&mut self, cgroups: &[&Path]) {
        let open: HashSet<u64> =
            cgroups.iter().flat_map(|cgroup| sockets::open_in(cgroup).unwrap_or_default()).collect();
        self.left.retain(|socket| {
            let lives = inode_of(socket.as_fd()).is_ok_and(|inode| open.contains(&inode));
            if !lives {
                shut(socket);
            }
            lives
        });
    }

    /// Has what is left be the one generation's that there is from now on, as if that had crashed under this supervisor; whether
    /// there is something. What its processes have open was found already, and is theirs.
    pub(crate) fn take_left(&mut self, side: Side<'_>, ports: &[u16]) -> bool {
        let open = sockets::open_in(side.cgroup).unwrap_or_default();
        let mut any = false;
        for socket in std::mem::take(&mut self.left) {
            let Ok(found) = rustix::fs::fstat(&socket) else { continue };
            let listens = sockopt::socket_acceptconn(&socket).unwrap_or(false);
            if !listens || open.contains(&found.st_ino) || self.held.iter().any(|it| it.inode == found.st_ino)
            {
                continue;
            }
            let local = rustix::net::getsockname(&socket).ok().and_then(|it| SocketAddr::try_from(it).ok());
            let key = local.and_then(|local| Key::of(socket.as_fd(), local).ok());
            let key = key
                .filter(|key| ports.contains(&key.port) && !self.held.iter().any(|it| it.key.overlaps(key)));
            let Some(key) = key else {
                shut(&socket);
                continue;
            };
            let foreign = found.st_uid != self.uid.as_raw();
            let (generation, inode, index) = (side.generation, found.st_ino, foreign.then_some(0));
            self.held.push(Held { generation, key, socket, inode, index, foreign });
            any = true;
        }
        self.look();
        any
    }

    /// Refuses those who wait at what is left.
    pub(crate) fn close_left(&mut self) {
        self.left.drain(..).for_each(|socket| shut(&socket));
    }

    /// Whether a generation listens with something that was bound without anybody hearing of it.
    pub(crate) fn has_foreign(&self, generation: u32) -> bool {
        self.of(generation).any(|it| it.foreign)
    }
}

/// At once, whoever else has a duplicate.
fn shut(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}
